"""Looking at decoded images: what cannot be a radiograph is named with the reason, and a radiograph is not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.cohort.anatomy import brightness as chest_brightness
from cxrdist.cohort.anatomy import draw_chest
from cxrdist.cohort.looks import THUMB, Looks, correlations, find_odd, look_at

SIDE = 64


def chests(count, seed=0):
    """[count, SIDE, SIDE] uint8, phantoms of healthy chests, each of its own exposure."""
    y, x = (axis.astype(np.float32) for axis in np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j])
    images = []
    for row in range(count):
        rng = np.random.default_rng([seed, row])
        image = chest_brightness(draw_chest("normal", rng), x, y, 0.0)[0]
        images.append(np.clip(image * rng.uniform(120, 240) + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8))
    return np.stack(images)


CHESTS = chests(20)


def odd(images):
    return [(one.row, one.kind) for one in find_odd(Looks.of([look_at(image) for image in images]))]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_measures_are_those_of_the_pixels(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    look = look_at(image)
    values, counts = np.unique(image, return_counts=True)
    assert look.mean == pytest.approx(image.mean())
    assert look.sd == pytest.approx(image.std())
    assert look.black == pytest.approx((image <= 8).mean())
    assert look.white == pytest.approx((image >= 247).mean())
    assert look.value == values[counts.argmax()]
    assert look.common == pytest.approx(counts.max() / image.size)
    for share, level in ((0.01, look.low), (0.99, look.high)):
        assert (image < level).mean() <= share + 1e-9
        assert (image <= level).mean() >= share - 1e-9
    assert look.thumb.shape == (THUMB, THUMB)


def test_what_chests_look_like_is_not_odd():
    assert odd(CHESTS) == []


@pytest.mark.parametrize(
    ("spoil", "kind", "reason"),
    [
        (lambda image: image * 0, "value", "has one grey value everywhere (0 of 0 to 255)"),
        (lambda image: image * 0 + 255, "value", "has one grey value everywhere (255 of 0 to 255)"),
        (lambda image: np.where(np.arange(SIDE) < 60, 77, image), "value", "94% of its pixels of one grey value (77 "),
        (lambda image: image // 31, "dark", "nearly black (100% of its pixels are at most 8 of 255)"),
        (lambda image: 255 - image // 31, "bright", "nearly white (100% of its pixels are at least 247 of 255)"),
        (lambda image: image // 10 + 40, "range", "few grey values (98% of its pixels are 40 to "),
        (lambda image: 255 - image, "negative", "looks like a negative of what most images have in common"),
    ],
)
def test_an_image_that_cannot_be_a_radiograph_is_named_with_the_reason(spoil, kind, reason):
    images = CHESTS.copy()
    images[7] = spoil(images[7])
    (found,) = find_odd(Looks.of([look_at(image) for image in images]))
    assert (found.row, found.kind) == (7, kind)
    assert reason in found.reason


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 19)))
def test_negatives_are_found_however_many_they_are_unless_they_are_most(rows):
    images = CHESTS.copy()
    images[sorted(rows)] = 255 - images[sorted(rows)]
    found = {row for row, kind in odd(images) if kind == "negative"}
    # Where (nearly) all are, the others are called negatives: the cohort's own orientation is that of most.
    assert found == (rows if len(rows) < 14 else set(range(20)) - rows)


@pytest.mark.parametrize("count", [11, 40])
def test_few_images_and_noise_have_nothing_in_common_that_an_image_could_be_a_negative_of(count):
    images = np.concatenate([CHESTS[:10], 255 - CHESTS[10:11]])
    if count > len(images):
        coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8)).astype(np.uint8)
        images = coarse.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2)
    assert odd(images) == []
    assert not correlations(np.stack([look_at(image).thumb for image in images])).any()


def test_no_image_is_odd_where_there_is_none():
    assert find_odd(Looks.of([])) == []
