"""Cleaning masks: specks go, pinholes are filled, and what is as large as the limit stays."""

import numpy as np
import pytest

from cxrdist.lungs.postprocess import clean_mask

SIDE = 50
LIMIT = 50
"""Pixels: 2 % of the image."""


def blank():
    return np.zeros((SIDE, SIDE), dtype=bool)


def lung():
    """A square of 900 pixels with room for holes and other objects."""
    mask = blank()
    mask[5:35, 5:35] = True
    return mask


def run_of(pixels, top, left):
    """`pixels` connected pixels: full rows of ten and the rest."""
    mask = blank()
    mask[top : top + pixels // 10, left : left + 10] = True
    mask[top + pixels // 10, left : left + pixels % 10] = True
    return mask


@pytest.mark.parametrize(("pixels", "stays"), [(1, False), (LIMIT - 1, False), (LIMIT, True), (LIMIT + 1, True)])
def test_an_object_stays_from_two_percent_of_the_image_on(pixels, stays):
    thing = run_of(pixels, 40, 38)
    assert np.array_equal(clean_mask(lung() | thing), lung() | thing if stays else lung())


@pytest.mark.parametrize(("pixels", "stays"), [(1, False), (LIMIT - 1, False), (LIMIT, True), (LIMIT + 1, True)])
def test_a_hole_stays_from_two_percent_of_the_image_on(pixels, stays):
    hole = run_of(pixels, 10, 12)
    assert np.array_equal(clean_mask(lung() & ~hole), lung() & ~hole if stays else lung())


@pytest.mark.parametrize("edge", [np.s_[0, 20:25], np.s_[-1, 20:25], np.s_[20:25, 0], np.s_[20:25, -1]])
def test_background_at_the_border_is_no_hole_however_small(edge):
    mask = ~blank()
    mask[edge] = False
    assert np.array_equal(clean_mask(mask), mask)


def test_objects_that_touch_by_a_corner_are_apart():
    touching = lung()
    touching[35:37, 35:37] = True
    assert np.array_equal(clean_mask(touching), lung())


def test_holes_that_touch_the_outside_by_a_corner_are_filled():
    mask = lung()
    mask[5, 5] = mask[6, 6] = False
    expected = lung()
    expected[5, 5] = False
    assert np.array_equal(clean_mask(mask), expected)


def test_a_speck_within_a_hole_goes_first_so_that_its_hole_counts_whole():
    hole = run_of(LIMIT, 10, 12)
    speck = run_of(2, 12, 14)
    assert np.array_equal(clean_mask((lung() & ~hole) | speck), lung() & ~hole)


def test_the_limit_is_a_share_of_the_images_area():
    mask = lung() | run_of(30, 40, 38)
    assert np.array_equal(clean_mask(mask, smallest=30 / SIDE**2), mask)
    assert np.array_equal(clean_mask(mask, smallest=31 / SIDE**2), lung())
    assert not clean_mask(mask, smallest=901 / SIDE**2).any()


def test_cleaning_leaves_its_input_alone_and_a_clean_mask_as_it_is():
    for seed in range(20):
        noise = np.random.default_rng(seed).random((SIDE, SIDE + 7)) < 0.6
        before = noise.copy()
        once = clean_mask(noise, smallest=0.005)
        assert np.array_equal(noise, before)
        assert not np.array_equal(once, noise)
        assert np.array_equal(clean_mask(once, smallest=0.005), once)


@pytest.mark.parametrize("mask", [blank(), ~blank()], ids=["empty", "full"])
def test_empty_and_full_masks_stay(mask):
    cleaned = clean_mask(mask)
    assert cleaned.dtype == np.bool_
    assert np.array_equal(cleaned, mask)
