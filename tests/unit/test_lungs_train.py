"""Training the lung network: a plain loop's numbers, the same bytes after any interruption, no answer where ignored."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from cxrdist.learn.checkpoint import load_progress, save_progress
from cxrdist.lungs.inputs import Standard, equalized
from cxrdist.lungs.network import build_lung_net
from cxrdist.lungs.targets import IGNORED, LUNG, OUTSIDE
from cxrdist.lungs.train import (
    LungEpoch,
    LungExamples,
    LungRecipe,
    LungsDivergedError,
    fit_lungs,
    lung_autocast,
    lung_precision,
    lung_training_layout,
)
from cxrdist.study.seeds import derive_seed

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SIDE = 32
RECIPE = LungRecipe(epochs=3, batch_size=4, learning_rate=1e-2, precision="fp32")


@pytest.fixture(autouse=True)
def _tiny_images(monkeypatch):
    monkeypatch.setattr("cxrdist.lungs.train.SIDE", SIDE)


@pytest.fixture
def as_they_are(monkeypatch):
    """Training without augmentation."""
    monkeypatch.setattr("cxrdist.lungs.train.augment", lambda image, target, *_, **__: (image, target))


def recipe(**changed):
    return replace(RECIPE, **changed)


def examples(n=9, seed=0):
    """Bright rectangles, the lungs, on a dark and uneven ground."""
    rng = np.random.default_rng(seed)
    images = rng.integers(10, 60, (n, SIDE, SIDE), dtype=np.uint8)
    targets = np.zeros_like(images)
    for image, target in zip(images, targets, strict=True):
        top, left, height, width = rng.integers((3, 3, 14, 14), (8, 8, 24, 24))
        box = np.s_[top : top + height, left : left + width]
        image[box] += 180
        target[box] = LUNG
    return LungExamples([f"image-{number}" for number in range(n)], images, targets)


def tiny_network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
    return network.to(memory_format=torch.channels_last)


def train(network, plan=RECIPE, given=None, seed=5, stream="fold-0", **options):
    given = given or examples()
    return fit_lungs(network, given, given.standard(), plan, seed=seed, stream=stream, device=CPU, **options)


def bytes_of(network):
    return {key: value.detach().contiguous().numpy().tobytes() for key, value in network.state_dict().items()}


def measures(history):
    return [replace(epoch, seconds=0.0) for epoch in history]


class StopError(Exception):
    pass


@pytest.fixture(params=["AVX2", "AVX512"])
def cpu(request, monkeypatch):
    """What the CPU is taken for, which decides the order of dimensions in memory."""
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: request.param)
    return request.param


def test_channels_come_last_in_training_where_their_gradients_are_fast(cpu):
    network = tiny_network()
    train(network)
    order = torch.channels_last if cpu == "AVX512" else torch.contiguous_format
    assert all(layer.weight.is_contiguous(memory_format=order) for layer in network if isinstance(layer, nn.Conv2d))
    assert lung_training_layout(torch.device("cuda")) is torch.channels_last


@pytest.mark.parametrize(
    "changes",
    [
        {"augmentation": "paper", "schedule": "constant"},
        {"augmentation": "strong", "schedule": "cosine", "small_epochs": 2},
    ],
    ids=["paper", "strong-small-cosine"],
)
def test_training_interrupted_after_any_epoch_continues_to_the_same_bytes(tmp_path, changes, cpu):
    plan = recipe(epochs=4, **changes)
    whole = tiny_network()
    history = train(whole, plan)
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4]
    for last in range(1, plan.epochs + 1):
        path = tmp_path / f"{last}.safetensors"

        def stop(epoch, snapshot, last=last, path=path):
            if epoch.epoch == last:
                save_progress(path, snapshot(), "f")
                raise StopError

        with pytest.raises(StopError):
            train(tiny_network(), plan, on_epoch=stop)
        torch.manual_seed(last)
        continued = tiny_network(seed=last)
        resumed = train(continued, plan, progress=load_progress(path, "f", LungEpoch))
        assert measures(resumed) == measures(history)
        assert bytes_of(continued) == bytes_of(whole)


def test_one_seed_gives_the_same_bytes_and_another_seed_or_fold_others():
    def trained(**options):
        network = tiny_network()
        train(network, **options)
        return bytes_of(network)

    first = trained()
    assert trained() == first
    assert trained(seed=6) != first
    assert trained(stream="fold-1") != first
    assert trained(plan=recipe(augmentation="strong")) != first


def test_training_draws_from_no_global_generator():
    before = torch.get_rng_state(), str(np.random.get_state())
    train(tiny_network())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]


def test_the_examples_stay_as_they_are():
    given = examples()
    train(tiny_network(), recipe(small_epochs=1), given)
    assert np.array_equal(given.images, examples().images)
    assert np.array_equal(given.targets, examples().targets)


@pytest.mark.parametrize("augmentation", ["paper", "strong"])
@pytest.mark.parametrize("small_epochs", [0, 4])
def test_the_loss_falls_and_the_overlap_rises(augmentation, small_epochs):
    plan = recipe(epochs=8, small_epochs=small_epochs, augmentation=augmentation, learning_rate=5e-2, batch_size=2)
    history = train(tiny_network(), plan)
    assert history[-1].train_loss < 0.6 * history[0].train_loss
    assert history[-1].train_dice > max(0.7, history[0].train_dice + 0.1)


@pytest.mark.usefixtures("as_they_are")
def test_losses_and_dice_are_those_of_a_plain_loop():
    given = examples()
    network, reference = tiny_network(), tiny_network()
    history = train(network, recipe(epochs=2), given)
    optimizer = torch.optim.Adam(reference.parameters(), lr=RECIPE.learning_rate)
    grey = np.stack([equalized(image) for image in given.images]) / 255
    inputs = torch.from_numpy(((grey - grey.mean()) / grey.std()).astype(np.float32))[:, None]
    truth = torch.from_numpy(given.targets).float()
    for number, epoch in enumerate(history, 1):
        generator = torch.Generator().manual_seed(derive_seed(5, "order", "fold-0", number))
        order = torch.randperm(9, generator=generator)
        losses, both, called, lung = [], 0, 0, 0
        # 9 images are batches of 4 and 5.
        for rows in (order[:4], order[4:]):
            logits = reference(inputs[rows])[:, 0]
            each = nn.functional.binary_cross_entropy(logits.sigmoid(), truth[rows], reduction="none")
            optimizer.zero_grad()
            each.mean().backward()
            optimizer.step()
            losses += each.mean(dim=(1, 2)).tolist()
            found = logits > 0
            both += int((found & (truth[rows] == 1)).sum())
            called += int(found.sum())
            lung += int(truth[rows].sum())
        assert epoch.epoch == number
        assert epoch.train_loss == pytest.approx(np.mean(losses), rel=1e-4)
        assert epoch.train_dice == pytest.approx(2 * both / (called + lung), abs=1e-3)
    for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


class PixelByPixel(nn.Module):
    """A network whose answer at each pixel is a number of its own, whatever the image."""

    def __init__(self, start=0.0):
        super().__init__()
        self.answers = nn.Parameter(torch.full((1, 1, SIDE, SIDE), start))

    def forward(self, images):
        return self.answers.repeat(len(images), 1, 1, 1)


def undecided(n=8):
    """Targets with a column of each kind, the same in all images."""
    given = examples(n)
    given.targets[:] = OUTSIDE
    given.targets[:, :, 8:16] = LUNG
    given.targets[:, :, 16:24] = IGNORED
    return given


@pytest.mark.usefixtures("as_they_are")
def test_what_is_ignored_teaches_nothing():
    network = PixelByPixel()
    train(network, given=undecided())
    answers = network.answers.detach()[0, 0]
    assert (answers[:, 16:24] == 0).all()
    assert (answers[:, 8:16] > 0).all()
    assert (answers[:, :8] < 0).all()
    assert (answers[:, 24:] < 0).all()


@pytest.mark.usefixtures("as_they_are")
def test_what_is_ignored_counts_neither_as_right_nor_as_wrong():
    def measured(ignored):
        network = PixelByPixel(-1.0)
        with torch.no_grad():
            network.answers[..., 8:12] = 2
            network.answers[..., 16:24] = ignored
        return measures(train(network, recipe(epochs=1, learning_rate=1e-9), undecided()))[0]

    def cost(margin):
        return math.log1p(math.exp(-margin))

    assert measured(-9) == measured(9)
    # Of 24 columns with an answer, 4 are rightly called lung, 4 wrongly not, and 16 rightly not.
    assert measured(9).train_loss == pytest.approx((4 * cost(2) + 4 * cost(-1) + 16 * cost(1)) / 24, rel=1e-5)
    assert measured(9).train_dice == pytest.approx(2 * 4 / (4 + 8))


@pytest.mark.usefixtures("as_they_are")
def test_images_without_any_answer_do_no_harm():
    given = examples()
    given.targets[:] = IGNORED
    network = tiny_network()
    history = train(network, given=given)
    assert [epoch.train_loss for epoch in history] == [0, 0, 0]
    assert bytes_of(network) == bytes_of(tiny_network())


class Watcher(nn.Module):
    """Keeps the sizes of what it is shown."""

    def __init__(self):
        super().__init__()
        self.inner = tiny_network()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        return self.inner(images)


def test_the_first_epochs_see_images_of_half_the_side_and_every_epoch_all_images():
    network = Watcher()
    train(network, recipe(epochs=3, small_epochs=1))
    assert network.seen == [(n, 1, side, side) for side in (16, 32, 32) for n in (4, 5)]


def test_half_the_side_shows_means_and_what_most_of_each_block_is(monkeypatch, as_they_are):
    shown = []

    class Keeps(nn.Conv2d):
        def forward(self, images):
            shown.append(images.detach().clone())
            return super().forward(images)

    given = examples(2)
    given.images[:] = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) // 8 % 256
    monkeypatch.setattr("cxrdist.lungs.train.equalized", lambda image: image)
    fit_lungs(
        Keeps(1, 1, 1), given, Standard(0, 1 / 255), recipe(epochs=2, small_epochs=1), seed=0, stream="s", device=CPU
    )
    small, whole = shown[0][0, 0].numpy(), shown[1][0, 0].numpy()
    assert whole == pytest.approx(given.images[0].astype(float), abs=1e-3)
    means = given.images[0].reshape(16, 2, 16, 2).mean(axis=(1, 3))
    assert np.abs(small - means).max() <= 0.5 + 1e-3


@pytest.mark.usefixtures("as_they_are")
@pytest.mark.parametrize(
    ("block", "answer"),
    [
        ([0, 0, 0, 1], OUTSIDE),
        ([1, 1, 0, 0], LUNG),
        ([2, 1, 1, 0], LUNG),
        ([2, 2, 1, 1], IGNORED),
        ([2, 2, 0, 0], IGNORED),
        ([2, 0, 0, 0], OUTSIDE),
    ],
)
def test_a_block_of_the_target_is_what_half_of_it_is(block, answer):
    """Seen by which way the answers of a network go that has one of its own for each pixel."""
    given = examples(2)
    given.targets[:] = np.tile(np.array(block, dtype=np.uint8).reshape(2, 2), (16, 16))

    class Small(PixelByPixel):
        def forward(self, images):
            return super().forward(images)[..., : images.shape[2], : images.shape[3]]

    def stop(*_):
        raise StopError

    network = Small()
    with pytest.raises(StopError):
        train(network, recipe(small_epochs=1), given, on_epoch=stop)
    way = network.answers.detach()[0, 0, :16, :16].sign()
    assert (way == {OUTSIDE: -1, LUNG: 1, IGNORED: 0}[answer]).all()


@pytest.mark.parametrize("cause", ["learning rate", "weights"])
def test_a_loss_that_is_no_number_ends_training_with_the_epoch(cause):
    network = tiny_network()
    if cause == "weights":
        with torch.no_grad():
            network[0].weight[0] = torch.nan
    told = []
    with pytest.raises(LungsDivergedError, match=r"^the loss was (nan|inf) in epoch \d+; a lower learning rate may"):
        train(
            network,
            recipe(epochs=30, learning_rate=1e30 if cause == "learning rate" else 1e-3),
            on_epoch=lambda epoch, _: told.append(epoch),
        )
    assert all(math.isfinite(epoch.train_loss) for epoch in told)
    assert len(told) < 30


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("small_epochs", [0, 4])
def test_the_optimiser_goes_by_the_schedule_of_each_stage(monkeypatch, schedule, small_epochs):
    plan = recipe(epochs=10, small_epochs=small_epochs, schedule=schedule)
    rates, step = [], torch.optim.Adam.step

    def watched(optimizer, *args, **kwargs):
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    train(tiny_network(), plan)
    # Two batches an epoch.
    small = [plan.rate(number, 2 * small_epochs, continued=False) for number in range(2 * small_epochs)]
    rest = 2 * (plan.epochs - small_epochs)
    assert rates == small + [plan.rate(number, rest, continued=small_epochs > 0) for number in range(rest)]


def test_a_constant_rate_is_the_published_recipes():
    plan = LungRecipe()
    assert (plan.epochs, plan.batch_size, plan.learning_rate, plan.augmentation) == (100, 8, 1e-3, "paper")
    assert (plan.schedule, plan.small_epochs) == ("constant", 0)
    assert {plan.rate(step, 50, continued=continued) for step in range(50) for continued in (False, True)} == {1e-3}


@pytest.mark.parametrize("steps", [100, 1000])
def test_a_cosine_warms_up_falls_to_nothing_and_starts_again_from_a_third(steps):
    plan = LungRecipe(schedule="cosine", learning_rate=2e-3)
    first, again = (
        [plan.rate(step, steps, continued=continued) for step in range(steps)] for continued in (False, True)
    )
    top = first.index(max(first))
    assert 0 < first[0] < 0.1 * plan.learning_rate
    assert 0 < top <= 20
    assert all(later > earlier for earlier, later in pairwise(first[: top + 1]))
    assert all(later < earlier for earlier, later in pairwise(first[top:]))
    assert 0.85 * plan.learning_rate < max(first) <= plan.learning_rate
    assert 0 < first[-1] < 0.001 * plan.learning_rate
    assert again == pytest.approx([rate / 3 for rate in first])


def test_stages_are_of_half_the_side_and_then_of_all_of_it():
    plan = LungRecipe(epochs=10, small_epochs=4)
    assert [plan.stage(epoch) for epoch in range(1, 11)] == [(SIDE // 2, 0, 4)] * 4 + [(SIDE, 4, 6)] * 6
    assert {LungRecipe(epochs=10).stage(epoch) for epoch in range(1, 11)} == {(SIDE, 0, 10)}


def test_half_precision_is_used_where_it_was_asked_for():
    kinds = {}
    for precision in ("fp32", "bf16"):
        with lung_autocast(precision, CPU):
            kinds[precision] = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        assert lung_precision(precision, CPU) is kinds[precision]
    assert kinds == {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.mark.parametrize(
    ("cpu", "kind"),
    [
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, torch.bfloat16),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, torch.float32),
        ({"cpu_name": "AMD EPYC 9R14", "avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"cpu_name": "AMD EPYC 7763", "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"architecture": "arm64", "bf16": True}, torch.float32),
    ],
)
def test_by_itself_a_processor_uses_half_precision_only_where_it_is_faster(monkeypatch, cpu, kind):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    assert lung_precision("auto", CPU) is kind


def test_what_decides_on_half_precision_is_known_of_this_processor():
    cpu = torch.cpu.get_capabilities()
    if cpu["architecture"] != "x86_64":
        pytest.skip("only x86-64 processors are asked for more than their architecture")
    assert {"cpu_name", "avx512_bf16", "amx_bf16"} <= set(cpu)


def test_the_real_network_takes_a_step():
    network = build_lung_net(0)
    before = bytes_of(network)
    history = train(network, recipe(epochs=1, batch_size=2), examples(2))
    assert math.isfinite(history[0].train_loss)
    assert all(now != then for now, then in zip(bytes_of(network).values(), before.values(), strict=True))
