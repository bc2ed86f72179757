"""Overlap of masks, against worked numbers, a loop over pixels and its definition."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.stats.overlap import Overlaps, measure_overlap


@st.composite
def masks(draw, min_images=1):
    """Pairs of masks, from empty to full."""
    shape = (draw(st.integers(min_images, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    predicted, truth = generator.random((2, *shape)) < generator.choice([0, 0.3, 0.7, 1], (2, shape[0], 1, 1))
    return predicted, truth


def one(*rows):
    """One mask of the given rows of # (inside) and . (outside)."""
    return np.array([[[pixel == "#" for pixel in row] for row in rows]])


def test_scores_of_a_worked_pair_of_masks_are_the_smoothed_ratios():
    overlaps = measure_overlap(one("##..", "##.."), one("....", "####"))
    assert (overlaps.intersection.tolist(), overlaps.predicted.tolist(), overlaps.truth.tolist()) == ([2], [4], [4])
    assert overlaps.union.tolist() == [6]
    assert overlaps.iou.tolist() == [3 / 7]
    assert overlaps.dice.tolist() == [5 / 9]
    assert overlaps.pooled_iou == 2 / 6
    assert overlaps.pooled_dice == 4 / 8


def test_overlap_of_empty_masks_is_1_for_each_image_and_undefined_pooled():
    empty = np.zeros((2, 3, 4), bool)
    overlaps = measure_overlap(empty, empty)
    assert overlaps.iou.tolist() == overlaps.dice.tolist() == [1, 1]
    assert math.isnan(overlaps.pooled_iou)
    assert math.isnan(overlaps.pooled_dice)


def test_without_images_there_is_no_score_and_the_pooled_ones_are_undefined():
    none = np.zeros((0, 3, 4), bool)
    overlaps = measure_overlap(none, none)
    assert overlaps.iou.shape == overlaps.dice.shape == (0,)
    assert math.isnan(overlaps.pooled_iou)
    assert math.isnan(overlaps.pooled_dice)


def test_masks_that_are_disjoint_score_little_but_not_0_and_0_pooled():
    overlaps = measure_overlap(one("###."), one("...#"))
    assert overlaps.iou.tolist() == overlaps.dice.tolist() == [1 / 5]
    assert overlaps.pooled_iou == overlaps.pooled_dice == 0


@given(masks())
@settings(max_examples=20, deadline=None)
def test_counts_equal_those_of_a_loop_over_pixels(case):
    predicted, truth = case
    overlaps = measure_overlap(predicted, truth)
    for index, pair in enumerate(zip(predicted, truth, strict=True)):
        inside_predicted, inside_truth = ({tuple(at) for at in np.argwhere(mask).tolist()} for mask in pair)
        assert overlaps.intersection[index] == len(inside_predicted & inside_truth)
        assert overlaps.union[index] == len(inside_predicted | inside_truth)
        assert overlaps.predicted[index] == len(inside_predicted)
        assert overlaps.truth[index] == len(inside_truth)
    assert {counts.dtype for counts in (overlaps.intersection, overlaps.predicted, overlaps.truth)} == {np.dtype("i8")}


@given(masks())
@settings(max_examples=20, deadline=None)
def test_scores_lie_between_0_and_1_with_dice_at_least_iou(case):
    overlaps = measure_overlap(*case)
    assert (overlaps.iou > 0).all()
    assert (overlaps.iou <= overlaps.dice).all()
    assert (overlaps.dice <= 1).all()


@given(masks())
@settings(max_examples=20, deadline=None)
def test_scores_are_1_exactly_where_the_masks_are_equal(case):
    predicted, truth = case
    truth[0] = predicted[0]
    overlaps = measure_overlap(predicted, truth)
    equal = (predicted == truth).all(axis=(1, 2))
    assert ((overlaps.iou == 1) == equal).all()
    assert ((overlaps.dice == 1) == equal).all()


@given(masks())
@settings(max_examples=20, deadline=None)
def test_swapping_prediction_and_truth_changes_no_score(case):
    predicted, truth = case
    overlaps, swapped = measure_overlap(predicted, truth), measure_overlap(truth, predicted)
    assert swapped.predicted.tolist() == overlaps.truth.tolist()
    assert swapped.iou.tolist() == overlaps.iou.tolist()
    assert swapped.dice.tolist() == overlaps.dice.tolist()
    np.testing.assert_equal(swapped.pooled_iou, overlaps.pooled_iou)
    np.testing.assert_equal(swapped.pooled_dice, overlaps.pooled_dice)


@given(masks())
@settings(max_examples=20, deadline=None)
def test_pooled_scores_are_those_of_one_large_image_of_all_pixels(case):
    predicted, truth = case
    overlaps = measure_overlap(predicted, truth)
    large = measure_overlap(predicted.reshape(1, -1, 1), truth.reshape(1, -1, 1))
    np.testing.assert_equal(overlaps.pooled_iou, large.pooled_iou)
    np.testing.assert_equal(overlaps.pooled_dice, large.pooled_dice)
    if truth.any():
        assert overlaps.pooled_iou == large.intersection[0] / large.union[0]
        assert overlaps.pooled_dice == pytest.approx(2 * overlaps.pooled_iou / (1 + overlaps.pooled_iou))


def test_pooled_scores_count_large_masks_more_and_the_mean_over_images_does_not():
    predicted, truth = np.zeros((2, 10, 10), bool), np.zeros((2, 10, 10), bool)
    predicted[0] = truth[0] = True
    predicted[1, 0, 0] = truth[1, 9, 9] = True
    overlaps = measure_overlap(predicted, truth)
    assert overlaps.pooled_iou == 100 / 102
    assert overlaps.iou.mean() == pytest.approx((1 + 1 / 3) / 2)


@given(masks(min_images=2), st.integers(0, 2))
@settings(max_examples=20, deadline=None)
def test_joined_parts_are_the_measurement_of_all_images_in_order(case, cut):
    predicted, truth = case
    whole = measure_overlap(predicted, truth)
    parts = [measure_overlap(predicted[part], truth[part]) for part in (slice(cut), slice(cut, None))]
    joined = Overlaps.join(parts)
    assert joined.intersection.tolist() == whole.intersection.tolist()
    assert joined.predicted.tolist() == whole.predicted.tolist()
    assert joined.truth.tolist() == whole.truth.tolist()


def test_joining_no_parts_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        Overlaps.join([])


def test_masks_that_differ_in_shape_or_are_not_a_stack_are_refused():
    mask = np.ones((2, 4, 4), bool)
    for predicted, truth in ((mask, mask[:1]), (mask, mask[:, :, :1]), (mask[0], mask[0]), (mask[None], mask[None])):
        with pytest.raises(ValueError, match=r"\[n, h, w\] alike"):
            measure_overlap(predicted, truth)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_masks_of_numbers_are_refused(dtype):
    mask = np.ones((2, 4, 4), bool)
    for predicted, truth in ((mask.astype(dtype), mask), (mask, mask.astype(dtype))):
        with pytest.raises(ValueError, match=f"of bool, not of .*{np.dtype(dtype)}"):
            measure_overlap(predicted, truth)
