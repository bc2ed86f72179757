"""Masks from images: any image gives a mask of its own shape, and any file that is not the network's is refused."""

import hashlib
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy import ndimage
from torch import nn

from cxrdist.errors import UserError
from cxrdist.lungs.inputs import SIDE, Frame, Standard, find_frame
from cxrdist.lungs.network import build_lung_net
from cxrdist.lungs.segmenter import (
    BATCH,
    BUILT_IN_FILE,
    LungWeights,
    Segmenter,
    load_lung_net,
    place,
    save_lung_net,
)

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
STANDARD = Standard(0.1 + 0.2, 1 / 3)
SHAPE = (96, 120)


@pytest.fixture(scope="module")
def network():
    return build_lung_net(1)


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_lung_net(path, network, STANDARD, "f")
    return path


class Bright(nn.Module):
    """Calls lung what is brighter than the standard's mean, and keeps the sizes of what it was shown."""

    def __init__(self):
        super().__init__()
        self.batches: list[tuple[int, ...]] = []

    def forward(self, images):
        self.batches.append(tuple(images.shape))
        return images


class Answers(nn.Module):
    """Gives the same logit everywhere."""

    def __init__(self, logit):
        super().__init__()
        self.logit = logit

    def forward(self, images):
        return torch.full_like(images, self.logit)


def segmenter(network, standard=None, precision="fp32"):
    return Segmenter(network, standard or Standard(0.5, 0.25), CPU, precision)


def two_boxes(shape=SHAPE):
    """A picture with two bright rectangles and where they are."""
    height, width = shape
    mask = np.zeros(shape, dtype=np.uint8)
    mask[height // 4 : -height // 5, width // 8 : width // 2 - 5] = 1
    mask[height // 5 : -height // 4, width // 2 + 5 : -width // 9] = 1
    return (40 + 160 * mask).astype(np.uint8), mask


def test_what_was_saved_is_read_in_half_precision_with_its_standard(network, saved):
    read, standard = load_lung_net(saved)
    assert standard == STANDARD
    ours, theirs = read.state_dict(), network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(value.dtype == torch.float32 and torch.equal(value, theirs[key].half()) for key, value in ours.items())
    with safe_open(saved, framework="pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118 - not a mapping
        assert file.metadata()["fingerprint"] == "f"
    assert saved.stat().st_size < 11_100_000


def test_a_network_that_was_read_can_be_saved_to_the_same_weights(saved, tmp_path):
    read, standard = load_lung_net(saved)
    save_lung_net(tmp_path / "again.safetensors", read, standard, "f")
    again, same = load_lung_net(tmp_path / "again.safetensors")
    assert same == standard
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in read.state_dict().items())


def test_saving_leaves_the_network_as_it_was(tmp_path):
    network = build_lung_net(1).train()
    save_lung_net(tmp_path / "m.safetensors", network, STANDARD, "f")
    assert network.training
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def tiny(state, **changes):
    """The same keys and shapes in a file of a few kilobytes: every tensor is one zero, repeated."""
    return {
        key: torch.zeros(()).expand(changes.get(key.replace(".", "_"), value.shape)) for key, value in state.items()
    }


def of_something_else(kind, path, network):
    state = {key: value.half() for key, value in network.state_dict().items()}
    match kind:
        case "text":
            path.write_text("version https://git-lfs.github.com/spec/v1\n")
        case "empty":
            path.touch()
        case "pickle":
            path.write_bytes(pickle.dumps({"out.weight": 1}))
        case "absent":
            pass
        case "folder":
            path.mkdir()
        case "other":
            save_file({"conv1.weight": torch.randn(4, 3)}, path, metadata={"standard": "[0.5, 0.25]"})
        case "no tensors":
            save_file({}, path, metadata={"standard": "[0.5, 0.25]"})
        case "no metadata":
            save_file(state, path)
        case "no standard":
            save_file(state, path, metadata={"fingerprint": "f"})
        case _:
            save_file(state, path, metadata={"standard": kind})
    return path


KINDS = [
    *("text", "empty", "pickle", "absent", "folder", "other", "no tensors", "no metadata", "no standard"),
    *("not json", "[0.5]", "null", "{}", '["a", 1]', "[0.5, 0.25, 1]"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_something_else_is_one_sentence_that_names_it(tmp_path, network, kind):
    path = of_something_else(kind, tmp_path / "w.safetensors", network)
    with pytest.raises(UserError, match=r"^The weight file ") as caught:
        load_lung_net(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["shape", "more", "less", "standard"])
def test_a_state_dict_that_is_not_quite_the_networks_is_refused(tmp_path, network, fault):
    state = tiny(network.state_dict(), **({"out_weight": (1, 64, 5, 5)} if fault == "shape" else {}))
    if fault == "more":
        state["more.weight"] = torch.zeros(1)
    if fault == "less":
        del state["out.bias"]
    # A file of torch's has no room for the standard.
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth is not of the lung network; `cxrdist lungs train` writes such files"):
        Segmenter.load(tmp_path / "w.pth", CPU)


@pytest.fixture(scope="module")
def odd_images():
    rng = np.random.default_rng(0)
    picture, _ = two_boxes()
    return np.stack(
        [np.zeros(SHAPE, np.uint8), np.full(SHAPE, 255, np.uint8), 255 - picture, rng.integers(0, 256, SHAPE, np.uint8)]
    )


@pytest.fixture(scope="module")
def odd_masks(saved, odd_images):
    """The masks that the saved network makes of them, together."""
    return Segmenter.load(saved, CPU, "fp32").masks(odd_images)


def test_black_white_inverted_and_noisy_images_have_masks_of_their_shape(odd_images, odd_masks):
    assert odd_masks.shape == odd_images.shape
    assert odd_masks.dtype == np.uint8
    assert set(np.unique(odd_masks).tolist()) <= {0, 1}


def test_a_mask_of_the_real_network_is_the_same_bytes_alone_as_together(saved, odd_images, odd_masks):
    assert 0.01 < odd_masks[2].mean() < 0.99
    alone = Segmenter.load(saved, CPU, "fp32").masks(odd_images[2:3])
    assert np.array_equal(alone, odd_masks[2:3])


def test_masks_do_not_depend_on_the_batch():
    rng = np.random.default_rng(1)
    picture, _ = two_boxes()
    n = 2 * BATCH + 3
    images = (picture + rng.integers(0, 40, (n, 1, 1)) + rng.integers(0, 15, (n, *SHAPE))).astype(np.uint8)
    for number, image in enumerate(images):
        image[: 3 * (number % 4)] = 0
    together = Bright()
    masks = segmenter(together).masks(images)
    assert [size[0] for size in together.batches] == [BATCH, BATCH, 3]
    one_by_one = [segmenter(Bright()).masks(image[None])[0] for image in images]
    assert np.array_equal(masks, one_by_one)
    order = rng.permutation(n)
    assert np.array_equal(segmenter(Bright()).masks(images[order]), masks[order])
    assert len({mask.tobytes() for mask in masks}) > 1


@pytest.mark.parametrize("shape", [(SIDE, SIDE), (224, 224), (90, 300), (400, 130)])
def test_a_mask_lies_on_what_the_network_called_lung(shape):
    picture, truth = two_boxes(shape)
    kept = picture.copy()
    network = Bright()
    mask = segmenter(network).masks(picture[None])[0]
    assert network.batches == [(1, 1, SIDE, SIDE)]
    assert np.array_equal(picture, kept)
    band = np.ones((5, 5))
    assert not (mask.astype(bool) & ~ndimage.binary_dilation(truth, band)).any()
    assert not (ndimage.binary_erosion(truth, band) & ~mask.astype(bool)).any()


@pytest.mark.parametrize(
    "frame", [Frame(0, 96, 20, 101), Frame(13, 80, 0, 120), Frame(7, 90, 11, 120), Frame(0, 96, 0, 120)]
)
def test_black_borders_are_no_lung_whatever_the_network_says(frame):
    image = np.zeros(SHAPE, dtype=np.uint8)
    frame.cut(image)[:] = 100
    mask = segmenter(Answers(1.0)).masks(image[None])[0]
    assert find_frame(image) == frame
    assert frame.cut(mask).all()
    assert mask.sum() == (frame.bottom - frame.top) * (frame.right - frame.left)


def test_the_network_sees_no_black_borders():
    picture, truth = two_boxes()
    bordered = np.zeros((SHAPE[0], SHAPE[1] + 60), dtype=np.uint8)
    bordered[:, 40:-20] = picture
    mask = segmenter(Bright()).masks(bordered[None])[0]
    assert np.array_equal(mask[:, 40:-20], segmenter(Bright()).masks(picture[None])[0])
    assert truth.any()


@pytest.mark.parametrize(("logit", "lung"), [(-1.0, 0), (0.0, 0), (1e-3, 1)])
def test_lung_is_what_is_more_likely_lung_than_not(logit, lung):
    picture, _ = two_boxes()
    assert (segmenter(Answers(logit)).masks(picture[None]) == lung).all()


def test_specks_and_pinholes_of_the_network_are_gone():
    picture, truth = two_boxes((SIDE, SIDE))
    picture[5:15, 5:15] = 200
    picture[100:110, 50:60] = 40
    mask = segmenter(Bright()).masks(picture[None])[0]
    assert not mask[:20, :20].any()
    assert mask[98:112, 48:62].all()
    assert (mask != truth).mean() < 0.001


def test_small_is_a_share_of_what_the_network_saw_and_not_of_the_borders_around_it():
    found = np.zeros((SIDE, SIDE), dtype=bool)
    found[50:100, 50:100] = True
    assert place(found, Frame(0, 60, 0, 60), (200, 200)).any()
    found[50:100, 70:100] = False
    assert not place(found, Frame(0, 60, 0, 60), (200, 200)).any()


def test_no_images_have_no_masks():
    assert segmenter(Bright()).masks(np.zeros((0, 7, 9), dtype=np.uint8)).shape == (0, 7, 9)


def test_a_network_is_asked_without_dropout_and_without_gradients():
    class Watched(nn.Dropout):
        def forward(self, images):
            assert not torch.is_grad_enabled()
            return super().forward(images)

    picture, _ = two_boxes()
    one = segmenter(Watched(0.9))
    assert np.array_equal(one.masks(picture[None]), one.masks(picture[None]))
    assert one.masks(picture[None]).any()


@pytest.mark.parametrize(("precision", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_network_computes_in_the_precision_that_was_asked_for(precision, kind):
    class Watched(nn.Conv2d):
        def forward(self, images):
            answer = super().forward(images)
            kinds.append(answer.dtype)
            return answer

    kinds: list[torch.dtype] = []
    picture, _ = two_boxes()
    segmenter(Watched(1, 1, 3, padding=1), precision=precision).masks(picture[None])
    assert kinds == [kind]


def test_the_standard_of_the_file_is_the_one_that_is_applied():
    shown = []

    class Watched(Bright):
        def forward(self, images):
            shown.append(images.numpy().copy())
            return images

    picture, _ = two_boxes()
    for standard in (Standard(0.0, 1.0), Standard(0.25, 0.5)):
        segmenter(Watched(), standard).masks(picture[None])
    assert shown[0].min() == 0
    assert shown[0].max() == 1
    np.testing.assert_allclose(shown[1], (shown[0] - 0.25) / 0.5, atol=1e-6)


def test_weights_are_named_by_their_bytes(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"abc")
    found = LungWeights.find(str(path))
    assert (found.path, found.sha256) == (path.resolve(), hashlib.sha256(b"abc").hexdigest())


def test_a_name_of_masks_changes_with_the_weights_and_the_precision():
    first, other = (LungWeights(BUILT_IN_FILE, hashlib.sha256(name).hexdigest()) for name in (b"a", b"b"))
    keys = [weights.key(precision, CPU) for weights in (first, other) for precision in ("fp32", "bf16")]
    assert len(set(keys)) == 4
    assert first.key("fp32", CPU) == LungWeights(BUILT_IN_FILE.parent, first.sha256).key("fp32", CPU)
    # By itself it is one of the two: masks of the same numbers are found again.
    assert first.key("auto", CPU) in keys[:2]


@pytest.mark.parametrize("name", ["absent.safetensors", "folder"])
def test_weights_that_are_not_there_are_one_sentence_that_says_what_would_be(tmp_path, name):
    (tmp_path / "folder").mkdir()
    path = str(tmp_path / name)
    with pytest.raises(
        UserError, match=r"^lungs\.weights is .* cannot be read \(.+\); it should be 'builtin' or"
    ) as caught:
        LungWeights.find(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_built_in_weights_are_of_this_network_and_lie_beside_it():
    found = LungWeights.find("builtin")
    assert found.path == BUILT_IN_FILE.resolve()
    network, standard = load_lung_net(found.path)
    assert 0.3 < standard.mean < 0.7
    assert 0.1 < standard.sd < 0.5
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())
    with safe_open(found.path, framework="pt") as file:
        assert json.loads(file.metadata()["standard"]) == [standard.mean, standard.sd]
