"""Judging masks by their shape: two lungs pass, and each kind of nonsense is named."""

import numpy as np
import pytest

from cxrdist.lungs.quality import judge_mask

SIDE = 100


def ellipse(x, y, half_width, half_height):
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    return ((columns - x) / half_width) ** 2 + ((rows - y) / half_height) ** 2 <= 1


RIGHT = ellipse(30, 50, 14, 30)
LEFT = ellipse(70, 50, 14, 30)
LUNGS = RIGHT | LEFT


def square(top, left, side):
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def only_fault(mask):
    (fault,) = judge_mask(mask).faults
    return fault


def test_two_lungs_are_plausible_and_measured():
    quality = judge_mask(LUNGS.astype(np.uint8))
    assert quality.faults == ()
    assert quality.area == pytest.approx(2 * np.pi * 14 * 30 / SIDE**2, rel=0.01)
    assert (quality.components, quality.balance) == (2, 1.0)
    assert judge_mask(LUNGS) == quality


@pytest.mark.parametrize("shift", [-15, 15])
def test_two_lungs_off_the_images_centre_are_plausible(shift):
    quality = judge_mask(np.roll(LUNGS, shift, axis=1))
    assert (quality.faults, quality.balance) == ((), 1.0)


def test_two_lungs_that_touch_are_plausible():
    quality = judge_mask(LUNGS | square(45, 40, 20))
    assert (quality.faults, quality.components) == ((), 1)


def test_an_empty_mask_is_named_so_and_nothing_else():
    quality = judge_mask(np.zeros((SIDE, SIDE), dtype=np.uint8))
    assert (quality.area, quality.components, quality.balance, quality.faults) == (0.0, 0, 0.0, ("is empty",))


def test_a_full_mask_marks_too_much_and_covers_the_border():
    assert judge_mask(np.ones((SIDE, SIDE), dtype=np.uint8)).faults == (
        "marks 100 % of the image as lung (plausible: 10 to 65 %)",
        "covers 100 % of the image's border (plausible: at most 25 %)",
    )


def test_the_background_is_not_taken_for_lungs():
    faults = judge_mask(~LUNGS).faults
    assert [fault.split()[0] for fault in faults] == ["marks", "covers"]


@pytest.mark.parametrize(("rows", "plausible"), [(9, False), (10, True), (65, True), (66, False)])
def test_area_has_limits(rows, plausible):
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[10 : 10 + rows] = True
    named = [f for f in judge_mask(mask).faults if f == f"marks {rows} % of the image as lung (plausible: 10 to 65 %)"]
    assert len(named) == (not plausible)


def test_a_small_mask_says_its_share():
    small = ellipse(42, 50, 5, 8) | ellipse(58, 50, 5, 8)
    assert only_fault(small) == f"marks {100 * small.mean():.3g} % of the image as lung (plausible: 10 to 65 %)"


@pytest.mark.parametrize("lung", [RIGHT, LEFT], ids=["right", "left"])
def test_one_lung_alone_is_one_sided_though_balanced_about_its_own_centre(lung):
    quality = judge_mask(lung)
    assert quality.balance == 1.0
    assert quality.faults == (
        "is one-sided: as narrow as one lung, 0.47 times as wide as high (plausible: at least 0.70)",
    )


def test_a_lung_that_is_mostly_missing_is_one_sided():
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[20:80, 20:40] = True
    mask[20:30, 70:90] = True
    assert judge_mask(mask).balance == pytest.approx(1 / 6)
    assert judge_mask(mask[:, ::-1]) == judge_mask(mask)
    assert only_fault(mask) == "is one-sided: left and right differ 6.0 to 1 (plausible: at most 2.0 to 1)"


@pytest.mark.parametrize(("height", "plausible"), [(29, False), (30, True)])
def test_half_as_much_on_one_side_is_just_plausible(height, plausible):
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[20:80, 20:40] = True
    mask[20 : 20 + height, 60:80] = True
    assert (judge_mask(mask).faults == ()) == plausible


def test_the_middle_of_an_odd_number_of_columns_belongs_to_both_sides():
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[20:60, 30:61] = True
    assert judge_mask(mask).balance == 1.0
    mask[50:60, 45:61] = False
    assert judge_mask(mask).balance == pytest.approx((15 * 30 + 15) / (15 * 40 + 15))


def test_more_than_two_parts_are_named():
    parts = LUNGS | square(2, 46, 8) | square(88, 30, 8) | square(88, 62, 8)
    assert judge_mask(parts).components == 5
    assert only_fault(parts) == "has 5 separate parts (plausible: 1 to 2)"


def test_specks_are_no_parts_and_move_no_centre():
    specks = LUNGS | square(0, 0, 7) | square(60, 0, 7)
    assert judge_mask(specks).components == judge_mask(LUNGS).components
    assert judge_mask(specks).balance == 1.0
    assert judge_mask(LUNGS | square(0, 0, 8)).components == 3


def test_nothing_but_specks_is_no_lung():
    checkered = np.indices((SIDE, SIDE)).sum(0) % 2 == 0
    quality = judge_mask(checkered)
    assert (quality.area, quality.components, quality.balance) == (0.5, 0, 0.0)
    assert quality.faults[0] == "has 0 separate parts (plausible: 1 to 2)"


@pytest.mark.parametrize(("depth", "plausible"), [(49, True), (51, False)])
def test_a_quarter_of_the_border_is_the_limit(depth, plausible):
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[30 : 30 + depth, :26] = True
    mask[30 : 30 + depth, -26:] = True
    share = 2 * depth / (4 * SIDE - 4)
    fault = f"covers {100 * share:.3g} % of the image's border (plausible: at most 25 %)"
    assert judge_mask(mask).faults == (() if plausible else (fault,))


@pytest.mark.parametrize("turns", range(4))
def test_one_pixel_from_the_border_does_not_cover_it(turns):
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[20:80, 1:27] = mask[20:80, -26:] = True
    assert not [fault for fault in judge_mask(np.rot90(mask, turns)).faults if fault.startswith("covers")]
