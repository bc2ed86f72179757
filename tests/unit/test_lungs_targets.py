"""Targets of masks that include the heart: the lateral part is lung, the medial one has no answer."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cxrdist.lungs.targets import IGNORED, LUNG, OUTSIDE, without_heart

HEIGHT, WIDTH = 40, 100


def blank():
    return np.zeros((HEIGHT, WIDTH), dtype=np.uint8)


def boxes(*columns, rows=(5, 35)):
    """A mask of rectangles, each from one column up to another."""
    mask = blank()
    for first, end in columns:
        mask[slice(*rows), first:end] = 1
    return mask


def runs(row):
    """The runs of equal values of a row that are not OUTSIDE: [value, first column, columns]."""
    found: list[list[int]] = []
    for column, value in enumerate(row.tolist()):
        if value == OUTSIDE:
            continue
        if found and found[-1][0] == value and found[-1][1] + found[-1][2] == column:
            found[-1][2] += 1
        else:
            found.append([value, column, 1])
    return found


def centre_of(mask):
    return float(mask.sum(axis=0) @ np.arange(WIDTH) / mask.sum())


def test_two_lungs_are_lung_in_their_lateral_40_percent_and_undecided_towards_the_middle():
    target = without_heart(boxes((10, 40), (60, 90)))
    expected = [[LUNG, 10, 12], [IGNORED, 22, 18], [IGNORED, 60, 18], [LUNG, 78, 12]]
    assert all(runs(row) == expected for row in target[5:35])
    assert not target[:5].any()
    assert not target[35:].any()


def test_one_shape_with_the_heart_within_is_divided_at_its_centre_of_mass():
    assert runs(without_heart(boxes((10, 90)))[20]) == [[LUNG, 10, 16], [IGNORED, 26, 48], [LUNG, 74, 16]]
    # The rows below pull the centre from column 49.5 to 47.2, for every row.
    mask = boxes((10, 90), rows=(0, 30)) | boxes((10, 30), rows=(30, 40))
    assert round(centre_of(mask), 1) == 47.2
    # Columns 10 to 47, and 48 to 89.
    assert runs(without_heart(mask)[20]) == [[LUNG, 10, 16], [IGNORED, 26, 47], [LUNG, 73, 17]]


def test_a_column_upon_the_centre_of_mass_is_of_the_right_half():
    mask = boxes((10, 91))
    assert centre_of(mask) == 50
    # 40 columns, and 41.
    assert runs(without_heart(mask)[20]) == [[LUNG, 10, 16], [IGNORED, 26, 48], [LUNG, 74, 17]]


def test_each_row_is_divided_by_its_own_width():
    mask = boxes((10, 40), (60, 90), rows=(5, 20)) | boxes((20, 40), (60, 80), rows=(20, 35))
    target = without_heart(mask)
    assert [run[2] for run in runs(target[10])] == [12, 18, 18, 12]
    assert [run[2] for run in runs(target[30])] == [8, 12, 12, 8]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_with_one_lung_alone_has_its_lateral_part(side):
    top = boxes((10, 40), (60, 90), rows=(5, 20))
    below = boxes((10, 40) if side == "left" else (60, 90), rows=(20, 21))
    expected = [[LUNG, 10, 12], [IGNORED, 22, 18]] if side == "left" else [[IGNORED, 60, 18], [LUNG, 78, 12]]
    assert runs(without_heart(top | below)[20]) == expected


def test_an_empty_mask_is_all_outside():
    target = without_heart(blank())
    assert target.dtype == np.uint8
    assert (target == OUTSIDE).all()
    assert target.shape == (HEIGHT, WIDTH)


@st.composite
def chests(draw):
    """Masks of two lungs, with or without a heart between them, with ragged rows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = blank()
    height = draw(st.integers(5, HEIGHT))
    for row, (left, right) in enumerate(rng.integers(10, 30, (height, 2))):
        mask[row, 43 - left : 43] = mask[row, 57 : 57 + right] = 1
    if draw(st.booleans()):
        mask[:height, 43:57] = 1
    return mask


@given(chests())
@settings(deadline=None)
def test_a_target_is_the_mask_with_some_of_it_undecided(mask):
    kept = mask.copy()
    target = without_heart(mask)
    assert target.dtype == np.uint8
    assert np.array_equal(mask, kept)
    assert np.array_equal(target != OUTSIDE, mask > 0)
    assert set(np.unique(target).tolist()) == {OUTSIDE, LUNG, IGNORED}


@given(chests())
@settings(deadline=None)
def test_of_each_row_of_each_half_40_percent_are_lung_from_its_outer_border_on(mask):
    middle = math.ceil(centre_of(mask))
    for given_row, row in zip(mask, without_heart(mask), strict=True):
        for half, side in ((given_row[:middle], row[:middle]), (given_row[middle:][::-1], row[middle:][::-1])):
            if half.any():
                first, last = np.flatnonzero(half)[[0, -1]]
                reach = math.ceil((last + 1 - first) * 4 / 10)
                assert np.array_equal(side[: first + reach] == LUNG, half[: first + reach] > 0)
                assert not (side[first + reach :] == LUNG).any()


@given(chests())
@settings(deadline=None)
def test_a_mirrored_mask_has_the_mirrored_target(mask):
    # A column upon the centre is of the right half in both.
    assume(not centre_of(mask).is_integer())
    mirrored = without_heart(np.ascontiguousarray(mask[:, ::-1]))
    assert np.array_equal(mirrored[:, ::-1], without_heart(mask))
