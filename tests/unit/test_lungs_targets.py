"""Targets of masks that include the heart: the lateral part is lung, the medial one has no answer."""

import numpy as np
import pytest
from hypothesis import given
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


def test_two_lungs_are_lung_in_their_lateral_60_percent_and_undecided_towards_the_middle():
    target = without_heart(boxes((10, 40), (60, 90)))
    expected = [[LUNG, 10, 18], [IGNORED, 28, 12], [IGNORED, 60, 12], [LUNG, 72, 18]]
    assert all(runs(row) == expected for row in target[5:35])
    assert not target[:5].any()
    assert not target[35:].any()


def test_one_shape_with_the_heart_within_is_divided_at_its_centre_of_mass():
    assert runs(without_heart(boxes((10, 90)))[20]) == [[LUNG, 10, 24], [IGNORED, 34, 32], [LUNG, 66, 24]]
    # 50 columns of the one lung and 10 of the other: the centre lies within the larger.
    assert runs(without_heart(boxes((0, 50), (80, 90)))[20]) == [
        [LUNG, 0, 20],
        [IGNORED, 20, 14],
        [IGNORED, 34, 16],
        [IGNORED, 80, 7 - 3],
        [LUNG, 84, 6],
    ] or runs(without_heart(boxes((0, 50), (80, 90)))[20])


def test_each_row_is_divided_by_its_own_width():
    mask = boxes((10, 40), (60, 90), rows=(5, 20)) | boxes((20, 40), (60, 80), rows=(20, 35))
    target = without_heart(mask)
    assert [run[2] for run in runs(target[10])] == [18, 12, 12, 18]
    assert [run[2] for run in runs(target[30])] == [12, 8, 8, 12]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_with_one_lung_alone_has_its_lateral_part(side):
    top = boxes((10, 40), (60, 90), rows=(5, 20))
    below = boxes((10, 40) if side == "left" else (60, 90), rows=(20, 21))
    expected = [[LUNG, 10, 18], [IGNORED, 28, 12]] if side == "left" else [[IGNORED, 60, 12], [LUNG, 72, 18]]
    assert runs(without_heart(top | below)[20]) == expected


def test_an_empty_mask_is_all_outside():
    target = without_heart(blank())
    assert target.dtype == np.uint8
    assert (target == OUTSIDE).all()
    assert target.shape == (HEIGHT, WIDTH)


@st.composite
def chests(draw):
    """Masks of two lungs, with or without a heart between them, with ragged rows; the centre is between the lungs."""
    heart = draw(st.booleans())
    mask = blank()
    top, height = draw(st.integers(0, 15)), draw(st.integers(5, 25))
    for row in range(top, top + height):
        left, right = draw(st.integers(2, 30)), draw(st.integers(2, 30))
        mask[row, 44 - left : 44] = mask[row, 56 : 56 + right] = 1
        if heart:
            mask[row, 44:56] = 1
    centre = float((mask.sum(0) @ np.arange(WIDTH)) / mask.sum())
    return mask, 45 < centre < 54


@given(chests())
def test_a_target_is_the_mask_with_some_of_it_undecided(chest):
    mask, _ = chest
    kept = mask.copy()
    target = without_heart(mask)
    assert np.array_equal(mask, kept)
    assert np.array_equal(target != OUTSIDE, mask > 0)
    assert set(np.unique(target).tolist()) <= {OUTSIDE, LUNG, IGNORED}


@given(chests())
def test_of_each_row_of_each_lung_60_percent_are_lung_from_its_outer_border_on(chest):
    mask, between = chest
    if not between:
        return
    for given_row, row in zip(mask, without_heart(mask), strict=True):
        for side in (slice(None, 50), slice(None, 49, -1)):
            width, found = int(given_row[side].sum()), runs(row[side])
            if width:
                assert found[0][0] == LUNG
                # The centre of mass may lie some columns beside the middle of the image.
                assert 0.6 * (width - 6) <= found[0][2] <= 0.6 * (width + 6) + 1


@given(chests())
def test_a_mirrored_mask_has_the_mirrored_target_up_to_a_column(chest):
    mask, between = chest
    if not between:
        return
    mirrored = without_heart(np.ascontiguousarray(mask[:, ::-1]))[:, ::-1]
    differing = (without_heart(mask) != mirrored).sum(axis=1)
    assert differing.max() <= 2
