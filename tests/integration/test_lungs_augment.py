"""Augmentation: a draw belongs to its seed, epoch and image for ever, and the target goes where the image goes."""

import hashlib
import random
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from cxrdist.lungs.augment import augment

SIDE = 256
KINDS = ["paper", "strong"]
DRAWS = [(seed, epoch, image_id) for seed in (0, 1) for epoch in (1, 2) for image_id in ("a", "b")]


def picture():
    """A bright rectangle, lung on the left and undecided on the right, on a dark and uneven ground."""
    rng = np.random.default_rng(0)
    image = rng.integers(10, 50, (SIDE, SIDE), dtype=np.uint8)
    target = np.zeros_like(image)
    image[60:200, 80:180] = rng.integers(190, 230, (140, 100), dtype=np.uint8)
    target[60:200, 80:130], target[60:200, 130:180] = 1, 2
    return image, target


def moved(kind, draw, given=None):
    seed, epoch, image_id = draw
    image, target = given or picture()
    return augment(image, target, kind, seed=seed, epoch=epoch, image_id=image_id)


def digest(kind, draw):
    image, target = moved(kind, draw)
    return hashlib.sha256(image.tobytes() + target.tobytes()).hexdigest()


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


@pytest.fixture(scope="module")
def elsewhere():
    """What a fresh process draws, from the last to the first: it starts before this one imports what it needs."""
    code = (
        "from tests.integration.test_lungs_augment import DRAWS, KINDS, digest\n"
        "for kind in KINDS:\n    for draw in reversed(DRAWS):\n        print(kind, *draw, digest(kind, draw))"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_is_the_same_in_any_order(elsewhere, kind):
    first = [digest(kind, draw) for draw in DRAWS]
    shuffled = random.Random(0).sample(range(len(DRAWS)), len(DRAWS))
    assert {number: digest(kind, DRAWS[number]) for number in shuffled} == dict(enumerate(first))


def test_a_draw_is_the_same_in_a_fresh_process(elsewhere):
    output, complaints = elsewhere.communicate(timeout=120)
    assert elsewhere.returncode == 0, complaints
    drawn = {tuple(line.split()[:4]): line.split()[4] for line in output.splitlines()}
    assert drawn == {(kind, *map(str, draw)): digest(kind, draw) for kind in KINDS for draw in DRAWS}


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_epoch_or_image_is_another_draw(kind):
    assert len({digest(kind, draw) for draw in DRAWS}) == len(DRAWS)


@pytest.mark.parametrize("kind", KINDS)
def test_image_and_target_move_together(kind):
    overlaps, places = [], set()
    for epoch in range(40):
        image, target = moved(kind, (5, epoch, "x"))
        overlaps.append(dice(image > 120, target > 0))
        places.add(tuple(int(value) for value in ndimage.center_of_mass(target > 0)))
    assert min(overlaps) > 0.9
    assert np.mean(overlaps) > 0.98
    assert len(places) > 30


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_keeps_its_values_and_left_stays_left(kind):
    for epoch in range(40):
        _, target = moved(kind, (6, epoch, "x"))
        assert np.unique(target).tolist() == [0, 1, 2]
        assert ndimage.center_of_mass(target == 1)[1] < ndimage.center_of_mass(target == 2)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_in_from_outside_is_black_and_no_lung(kind):
    full = np.full((SIDE, SIDE), 200, dtype=np.uint8), np.ones((SIDE, SIDE), dtype=np.uint8)
    came_in, alike = [], []
    for epoch in range(40):
        image, target = moved(kind, (7, epoch, "x"), full)
        came_in.append((target == 0).mean())
        alike.append(((image < 100) == (target == 0)).mean())
    assert min(alike) > 0.95
    assert np.mean(alike) > 0.99
    assert max(came_in) > 0.2
    assert min(came_in) < 0.02


def bars(kind, draws):
    """Angle in degrees, zoom and shift in sides of a long bar in the middle, of many draws."""
    bar = np.zeros((SIDE, SIDE), dtype=np.uint8)
    bar[118:138, 64:192] = 1
    measured = []
    for epoch in range(draws):
        _, target = moved(kind, (8, epoch, "x"), (200 * bar, bar))
        rows, columns = np.nonzero(target)
        angle = np.degrees(np.arctan(np.polyfit(columns, rows, 1)[0]))
        shift = max(abs(rows.mean() - (SIDE - 1) / 2), abs(columns.mean() - (SIDE - 1) / 2)) / SIDE
        measured.append((abs(angle), np.sqrt(len(rows) / bar.sum()), shift))
    return np.array(measured)


def test_the_papers_turns_zooms_and_shifts_reach_their_bounds_and_keep_to_them():
    angle, zoom, shift = bars("paper", 150).T
    assert 8 < angle.max() < 10.5
    assert 0.78 < zoom.min() < 0.84
    assert 1.16 < zoom.max() < 1.22
    assert 0.08 < shift.max() < 0.11


def test_the_strong_kind_turns_and_zooms_further():
    angle, zoom, _ = bars("strong", 150).T
    assert angle.max() > 11
    assert zoom.min() < 0.7
    assert zoom.max() > 1.24


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_stay_as_they_are_and_outputs_have_their_form(kind):
    given = picture()
    image, target = moved(kind, (9, 1, "x"), given)
    assert all(np.array_equal(one, kept) for one, kept in zip(given, picture(), strict=True))
    assert image.shape == target.shape == (SIDE, SIDE)
    assert image.dtype == target.dtype == np.uint8
    assert not np.shares_memory(image, given[0])


@pytest.mark.parametrize("kind", KINDS)
def test_drawing_leaves_every_generator_as_it_was(kind):
    moved(kind, DRAWS[0])
    before = str(np.random.get_state()), random.getstate()
    moved(kind, DRAWS[1])
    assert (str(np.random.get_state()), random.getstate()) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_does_not_depend_on_the_generators_of_others(kind):
    first, state, legacy = digest(kind, DRAWS[0]), random.getstate(), np.random.get_state()
    random.seed(1)
    np.random.seed(1)
    again = digest(kind, DRAWS[0])
    random.setstate(state)
    np.random.set_state(legacy)
    assert again == first
