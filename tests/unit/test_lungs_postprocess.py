"""Cleaning masks: specks go, pinholes are filled, and of what is as large as the limit two objects stay."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

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


PLACES = [(2, 18), (19, 18), (36, 18)]
"""Corners of three squares of up to 12 pixels a side that do not touch, as far from the sides; in reading order."""


def squares(*sides):
    """A mask with a square of each side, none where it is 0, at each of PLACES."""
    mask = blank()
    for (top, left), side in zip(PLACES, sides, strict=True):
        mask[top : top + side, left : left + side] = True
    return mask


@pytest.mark.parametrize("sides", [*itertools.permutations((8, 10, 12))], ids=str)
def test_of_three_large_objects_as_far_from_the_sides_the_smallest_goes(sides):
    kept = [0 if side == 8 else side for side in sides]
    assert np.array_equal(clean_mask(squares(*sides)), squares(*kept))


@pytest.mark.parametrize("absent", range(3))
@pytest.mark.parametrize("sides", [(8, 12), (12, 8), (10, 10)], ids=str)
def test_two_lungs_stay_whatever_their_order(sides, absent):
    mask = squares(*sides[:absent], 0, *sides[absent:])
    assert np.array_equal(clean_mask(mask), mask)


@pytest.mark.parametrize(
    ("sides", "kept"),
    [
        ((10, 10, 10), (10, 10, 0)),
        ((12, 10, 10), (12, 10, 0)),
        ((10, 12, 10), (10, 12, 0)),
        ((10, 10, 12), (10, 0, 12)),
    ],
    ids=str,
)
def test_of_equal_objects_the_first_in_reading_order_stay(sides, kept):
    assert np.array_equal(clean_mask(squares(*sides)), squares(*kept))


def test_a_third_object_within_a_hole_goes_first_and_its_hole_stays():
    ring = lung()
    ring[8:32, 8:32] = False
    other, island = run_of(LIMIT + 60, 37, 20), run_of(LIMIT, 15, 15)
    assert np.array_equal(clean_mask(ring | other | island), ring | other)


@pytest.mark.parametrize("beside", [(True, False), (False, True), (True, True)], ids=["left", "right", "both"])
@pytest.mark.parametrize("far", [0, 2])
def test_air_beside_the_body_is_no_lung_though_it_is_larger(beside, far):
    lungs, air = blank(), blank()
    lungs[10:35, 12:21] = lungs[10:32, 29:38] = True
    for there, columns in zip(beside, (np.s_[far : far + 8], np.s_[SIDE - far - 8 : SIDE - far]), strict=True):
        air[8:45, columns] = there
    assert air.sum() / sum(beside) > lungs.sum() / 2
    assert np.array_equal(clean_mask(lungs | air), lungs)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("what", ["arm", "stomach"])
def test_what_is_no_lung_does_not_take_the_place_of_a_smaller_lung_in_the_other_half(what, mirrored):
    lungs, other = blank(), blank()
    lungs[5:28, 12:22] = lungs[5:28, 33:38] = True
    other[(np.s_[8:45], np.s_[:10]) if what == "arm" else (np.s_[32:46], np.s_[8:18])] = True
    assert other.sum() > lungs[:, SIDE // 2 :].sum() * 1.2
    flip = np.s_[:, ::-1] if mirrored else np.s_[:, :]
    assert np.array_equal(clean_mask((lungs | other)[flip]), lungs[flip])


def test_of_three_objects_in_one_half_the_two_largest_stay():
    left = np.pad(squares(8, 12, 10), ((0, 0), (0, 2 * SIDE)))
    assert np.array_equal(clean_mask(left, LIMIT / left.size), np.pad(squares(0, 12, 10), ((0, 0), (0, 2 * SIDE))))


def test_a_mask_and_its_mirror_image_are_cleaned_alike():
    mask = squares(10, 0, 0)
    mask[5:35, :7] = mask[8:40, 40:47] = True
    cleaned = clean_mask(mask)
    assert ndimage.label(cleaned)[1] == 2
    assert np.array_equal(clean_mask(mask[:, ::-1]), cleaned[:, ::-1])


SMALLEST_OF_NOISE = 0.01


@st.composite
def noises(draw):
    """Noise with objects and holes smaller and larger than the limit."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.integers(1, SIDE)), draw(st.integers(1, SIDE))
    values = ndimage.gaussian_filter(rng.random(shape), draw(st.sampled_from([0.0, 0.5, 1.0])))
    return values < np.quantile(values, draw(st.floats(0.1, 0.9)))


@given(noises())
@settings(deadline=None)
def test_at_most_two_objects_come_out_and_cleaning_them_again_changes_nothing(noise):
    once = clean_mask(noise, SMALLEST_OF_NOISE)
    assert ndimage.label(once)[1] <= 2
    assert np.array_equal(clean_mask(once, SMALLEST_OF_NOISE), once)


@given(noises())
@settings(deadline=None)
def test_what_comes_out_of_the_published_cleaning_are_the_largest_and_farthest_inside_one_in_each_half(noise):
    limit = SMALLEST_OF_NOISE * noise.size
    published = np.zeros_like(noise)
    for one in parts_of(noise):
        published |= one & (one.sum() >= limit)
    framed = np.pad(~published, 1, constant_values=True)
    for hole in parts_of(framed)[1:]:
        published |= (hole & (hole.sum() < limit))[1:-1, 1:-1]
    width = noise.shape[1]
    to_the_side = np.array([min(column + 0.5, width - column - 0.5) for column in range(width)])
    twice_from_the_middle = 2 * np.arange(width) - (width - 1)
    parts = sorted(parts_of(published), key=lambda one: -float((one * to_the_side).sum()))
    centres = [int((one * twice_from_the_middle).sum()) for one in parts]
    pairs = list(itertools.combinations(range(len(parts)), 2))
    in_both_halves = [pair for pair in pairs if len(parts) == 2 or centres[pair[0]] * centres[pair[1]] <= 0]
    best = max(in_both_halves or pairs, key=lambda p: sum((parts[n] * to_the_side).sum() for n in p), default=None)
    lungs = parts if best is None else [parts[number] for number in best]
    expected = np.any([np.zeros_like(noise), *lungs], axis=0)
    assert np.array_equal(clean_mask(noise, SMALLEST_OF_NOISE), expected)


def parts_of(mask):
    """The objects of a mask, in the order of reading."""
    objects, count = ndimage.label(mask)
    return [objects == number for number in range(1, count + 1)]


def test_a_part_cut_off_by_a_thin_crack_belongs_to_its_lung():
    cracked = lung()
    cracked[12:22, 12:22] = False
    cracked[13:21, 13:21] = True
    other = run_of(LIMIT + 60, 37, 38)
    assert ndimage.label(cracked | other)[1] == 3
    assert np.array_equal(clean_mask(cracked | other), lung() | other)


@pytest.mark.parametrize("mask", [blank(), ~blank()], ids=["empty", "full"])
def test_empty_and_full_masks_stay(mask):
    cleaned = clean_mask(mask)
    assert cleaned.dtype == np.bool_
    assert np.array_equal(cleaned, mask)
