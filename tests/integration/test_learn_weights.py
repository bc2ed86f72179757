"""Weights and checkpoints from files: exactly torchvision's, and nothing in a file is ever executed."""

import os
import pickle
import random
import warnings
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save, save_file
from torch import nn

from cxrdist.errors import UserError
from cxrdist.learn.checkpoint import load_progress, save_progress
from cxrdist.learn.models import build_trunk
from cxrdist.learn.train import Epoch, Progress
from cxrdist.learn.weights import find_weights, hash_weights, load_trunk, read_state_dict

EPOCH = Epoch(1, 0.1, 0.9, 0.1 + 0.2, 1 / 3, 2.5)


def torchvision_state(model):
    """A state dict of torchvision's with random weights; VGG16's large classifier is two small tensors."""
    if model == "resnet34":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(9)
            return torchvision.models.resnet34(weights=None).state_dict()
    features = build_trunk("vgg16", seed=9).state_dict()
    old_head = {"classifier.0.weight": torch.ones(2, 2), "classifier.6.bias": torch.ones(2)}
    return {f"features.{key}": value for key, value in features.items()} | old_head


@pytest.fixture(scope="module")
def states():
    return {model: torchvision_state(model) for model in ("resnet34", "vgg16")}


@pytest.fixture(scope="module")
def trunks():
    """Filled by several tests; none of them needs what was there before."""
    return {model: build_trunk(model, seed=0) for model in ("resnet34", "vgg16")}


def tiny(state):
    """The same keys and shapes in a file of a few kilobytes: every tensor is one zero, repeated."""
    return {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in state.items()}


def write(path, state):
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("model", "first", "suffix"),
    [
        ("resnet34", "conv1.weight", ".pth"),
        ("resnet34", "conv1.weight", ".safetensors"),
        ("vgg16", "features.0.weight", ".pt"),
    ],
)
def test_torchvisions_state_dicts_fill_the_trunk(tmp_path, states, trunks, model, first, suffix):
    state, trunk = states[model], trunks[model]
    with torch.no_grad():
        for value in trunk.state_dict().values():
            value.zero_()
    load_trunk(trunk, model, write(tmp_path / f"w{suffix}", state))
    own = list(trunk.state_dict().values())
    theirs = [value for key, value in state.items() if not key.startswith(("fc.", "classifier."))]
    assert torch.equal(own[0], state[first])
    assert all(torch.equal(ours, given) for ours, given in zip(own, theirs, strict=True))


def test_counts_of_batches_may_be_missing_as_in_old_files(tmp_path, states, trunks):
    old = {key: value for key, value in states["resnet34"].items() if not key.endswith("num_batches_tracked")}
    load_trunk(trunks["resnet34"], "resnet34", write(tmp_path / "old.pth", tiny(old)))
    assert not trunks["resnet34"].state_dict()["0.weight"].any()


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (
            "resnet34",
            lambda s: {k.replace("layer2.0.conv1.weight", "layer2.0.conv1.wieght"): v for k, v in s.items()},
            r"weights of resnet34 have no key 'layer2\.0\.conv1\.weight' \(the nearest is "
            r"'layer2\.0\.conv1\.wieght'\); torchvision's state dict of resnet34 is expected\.$",
        ),
        (
            "resnet34",
            lambda s: s | {"conv1.weight": torch.zeros(64, 1, 7, 7), "bn1.bias": torch.zeros(3)},
            r"key 'conv1\.weight' has shape \[64, 1, 7, 7\], but resnet34 needs \[64, 3, 7, 7\]\.$",
        ),
        ("resnet34", lambda s: s | {"layer5.0.weight": torch.zeros(1)}, r"resnet34 has no key layer5\.0\.weight; "),
        ("resnet34", lambda s: s | {"9.weight": torch.zeros(1)}, r"resnet34 has no key 9\.weight; "),
        ("resnet34", lambda s: s | {"².weight": torch.zeros(1)}, r"resnet34 has no key ².weight; "),
        ("vgg16", lambda s: s | {"features.31.weight": torch.zeros(1)}, r"vgg16 has no key features\.31\.weight; "),
        ("vgg16", lambda s: {"conv1.weight": torch.zeros(1)}, r"weights of vgg16 have no key 'features\.0\.weight'; "),
        ("vgg16", lambda s: {}, r"weights of vgg16 have no key 'features\.0\.weight'; "),
    ],
    ids=["renamed", "shape", "unknown", "number", "superscript", "vgg-unknown", "vgg-other", "vgg-empty"],
)
def test_a_state_dict_of_another_network_is_refused_by_its_first_wrong_key(
    tmp_path, states, trunks, model, change, message
):
    path = write(tmp_path / "w.pth", change(tiny(states[model])))
    with pytest.raises(UserError, match=message) as caught:
        load_trunk(trunks[model], model, path)
    assert str(caught.value).startswith(str(path))


class Malicious:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("kind", ["pickle", "torch", "inside", "text", "empty", "list", "nested", "no-tensors"])
def test_what_is_no_file_of_named_tensors_is_refused_and_not_executed(tmp_path, kind):
    path, victim = tmp_path / "w.pth", tmp_path / "made-by-the-file"
    match kind:
        case "pickle":
            path.write_bytes(pickle.dumps(Malicious(victim), protocol=2))
        case "torch":
            torch.save(Malicious(victim), path)
        case "inside":
            torch.save({"conv1.weight": Malicious(victim)}, path)
        case "text":
            path.write_text("version https://git-lfs.github.com/spec/v1\n")
        case "empty":
            path.touch()
        case "list":
            torch.save([torch.ones(1)], path)
        case "nested":
            torch.save({"state_dict": {"conv1.weight": torch.ones(1)}}, path)
        case "no-tensors":
            torch.save({"conv1.weight": 5}, path)
    with pytest.raises(
        UserError, match=r"^The weight file .*w\.pth (cannot be read as named|is not a state dict)"
    ) as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    assert not victim.exists()


def test_damaged_files_are_refused_in_one_sentence(tmp_path):
    rng = random.Random(0)
    state = {"a": torch.ones(3), "b": torch.zeros(2, 2)}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save(state, tmp_path / "new.pth")
    for number in range(90):
        source = ("old.pth", "new.pth", None)[number % 3]
        data = bytearray((tmp_path / source).read_bytes() if source else save(state))
        for _ in range(rng.choice([1, 3])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if number % 4 == 0:
            del data[rng.randrange(len(data)) :]
        path = tmp_path / ("damaged.pth" if source else "damaged.safetensors")
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            try:
                read_state_dict(path)
            except UserError as error:
                assert "\n" not in str(error)


def test_a_folder_holds_one_file_a_model(tmp_path):
    write(tmp_path / "resnet34.pth", {})
    wanted = write(tmp_path / "resnet34.safetensors", {"a": torch.ones(1)})
    assert find_weights(str(tmp_path), "resnet34") == wanted
    assert find_weights(str(wanted), "vgg16") == wanted
    with pytest.raises(
        UserError, match=r"no file vgg16\.safetensors or vgg16\.pth or vgg16\.pt; 'imagenet' and 'none'"
    ):
        find_weights(str(tmp_path), "vgg16")
    with pytest.raises(UserError, match=r"model\.weights is .*absent\.pth., but there is no file absent\.pth; "):
        find_weights(str(tmp_path / "absent.pth"), "vgg16")


def test_weights_are_named_by_their_bytes_and_random_ones_by_none(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(b"abc")
    assert hash_weights(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert find_weights("none", "vgg16") is None
    assert hash_weights(None) == "none"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Torch's cache in an empty folder, and a network that refuses every connection."""
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    # It keeps the proxies of its first request, for this test and for those that follow it in this process.
    monkeypatch.setattr("urllib.request._opener", None)
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    yield tmp_path / "hub"
    torch.hub.set_dir(before)


@pytest.mark.parametrize("model", ["resnet34", "vgg16"])
def test_imagenet_weights_without_a_network_are_one_sentence_with_the_folder_to_put_them_in(hub, model):
    with pytest.raises(UserError, match=rf"^model\.weights is 'imagenet', but {model}-\w+\.pth could not be") as caught:
        find_weights("imagenet", model)
    assert str(hub / "checkpoints") in str(caught.value)
    assert "refused" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((hub / "checkpoints").iterdir()) == []


def test_imagenet_weights_that_are_there_need_no_network(hub):
    (hub / "checkpoints").mkdir(parents=True)
    name = Path(torchvision.models.ResNet34_Weights.IMAGENET1K_V1.url).name
    (hub / "checkpoints" / name).write_bytes(b"weights")
    assert find_weights("imagenet", "resnet34") == hub / "checkpoints" / name


def test_a_cache_that_cannot_be_written_is_one_sentence(hub):
    hub.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"could not be fetched .*put the file into"):
        find_weights("imagenet", "resnet34")


def progress():
    layer = nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last)
    return Progress(
        history=[EPOCH],
        model={"0.weight": layer.weight.detach(), "0.count": torch.tensor(7)},
        optimizer={"exp_avg.0": torch.randn(3), "step.0": torch.tensor(4.0)},
        best={"0.weight": torch.zeros(1)},
    )


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    written = progress()
    save_progress(tmp_path / "c.safetensors", written, "f")
    read = load_progress(tmp_path / "c.safetensors", "f", Epoch)
    assert read is not None
    assert read.history == [EPOCH]
    for part in ("model", "optimizer", "best"):
        ours, theirs = getattr(read, part), getattr(written, part)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype for key in ours)


def test_a_checkpoint_of_another_job_or_none_at_all_is_not_continued(tmp_path):
    path = tmp_path / "c.safetensors"
    assert load_progress(path, "f", Epoch) is None
    save_progress(path, progress(), "f")
    assert load_progress(path, "other", Epoch) is None
    data = path.read_bytes()
    for broken in (data[: len(data) // 2], data[:4], b"", b"not safetensors at all", pickle.dumps(progress().history)):
        path.write_bytes(broken)
        assert load_progress(path, "f", Epoch) is None


@pytest.mark.parametrize(
    ("names", "history"),
    [(["other.weight"], "[]"), (["history.0"], "[]"), (["model.w"], "[{}]"), (["model.w"], "{"), (["model.w"], None)],
)
def test_a_checkpoint_of_another_form_is_not_continued(tmp_path, names, history):
    metadata = {"fingerprint": "f"} | ({} if history is None else {"history": history})
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "c.safetensors", metadata=metadata)
    assert load_progress(tmp_path / "c.safetensors", "f", Epoch) is None
