"""The interval of the mean of the folds' areas, against worked numbers, its definition and simulated studies."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from cxrdist.stats.delong import delong
from cxrdist.stats.fold_auc import cross_validated_auc
from cxrdist.stats.roc import auc

POSITIVE = np.array([0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0], bool)
FOLD = np.repeat([0, 1, 2], 8)
PERCENT_A = [10, 80, 35, 60, 90, 40, 20, 55, 30, 70, 45, 45, 15, 95, 50, 65, 85, 25, 60, 40, 5, 75, 50, 35]
PERCENT_B = [30, 55, 45, 50, 80, 20, 40, 35, 25, 90, 30, 60, 35, 70, 55, 60, 65, 40, 50, 45, 10, 50, 85, 20]
SCORE_A, SCORE_B = np.array(PERCENT_A) / 100, np.array(PERCENT_B) / 100
UNDEFINED = pytest.approx(math.nan, nan_ok=True)


@st.composite
def folded(draw):
    """Scores with ties in one to four folds of different sizes and shares of positive cases, both kinds in each."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parts = [generator.integers(1, 9, 2) for _ in range(draw(st.integers(1, 4)))]
    positive = np.concatenate([np.arange(p + q) < p for p, q in parts])
    fold = np.repeat(np.arange(len(parts)), [p + q for p, q in parts])
    order = generator.permutation(positive.size)
    return positive[order], generator.integers(0, draw(st.integers(1, 20)), positive.size) / 8, fold[order]


def by_definition(positive, score, fold):
    """Areas of the folds and standard error from the influence of each case in turn."""
    areas, mean_squares = [], []
    for one in sorted(set(fold.tolist())):
        cases = np.flatnonzero(fold == one)
        area = auc(positive[cases], score[cases])
        squares = []
        for case in cases:
            others = score[cases][positive[cases] != positive[case]]
            margin = (score[case] - others) * (1 if positive[case] else -1)
            share_of_kind = np.mean(positive == positive[case])
            squares.append((np.mean((margin > 0) + (margin == 0) / 2) - area) ** 2 / share_of_kind**2)
        areas.append(area)
        mean_squares.append(np.mean(squares))
    return areas, math.sqrt(np.mean(mean_squares) / positive.size)


def numbers(areas):
    return [*areas.by_fold, *dataclasses.astuple(areas.interval), areas.se]


@pytest.mark.parametrize(
    ("score", "by_fold", "mean", "se", "low"),
    [
        (SCORE_A, [1.0, 0.90625, 0.875], 0.9270833333333334, 0.05260158822063583, 0.8239861148912808),
        (SCORE_B, [0.875, 0.78125, 0.90625], 0.8541666666666666, 0.07725206757391315, 0.7027553964905423),
    ],
)
def test_areas_error_and_interval_equal_the_worked_numbers(score, by_fold, mean, se, low):
    areas = cross_validated_auc(POSITIVE, score, FOLD)
    assert numbers(areas) == pytest.approx([*by_fold, mean, low, 1.0, se], rel=1e-9)


@given(folded())
@settings(max_examples=30, deadline=None)
def test_areas_and_error_follow_from_the_influence_of_each_case(case):
    positive, score, fold = case
    areas = cross_validated_auc(positive, score, fold, level=0.8)
    by_fold, se = by_definition(positive, score, fold)
    assert areas.by_fold.tolist() == pytest.approx(by_fold, rel=1e-12)
    assert areas.se == pytest.approx(se, rel=1e-10, abs=1e-15)
    assert areas.interval.value == pytest.approx(np.mean(by_fold))
    expected = np.clip(np.mean(by_fold) + np.array([-1, 1]) * norm.ppf(0.9) * se, 0, 1)
    assert [areas.interval.low, areas.interval.high] == pytest.approx(expected.tolist(), abs=1e-12)


@given(folded(), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_cases_does_not_matter(case, random):
    order = random.sample(range(case[0].size), case[0].size)
    shuffled = cross_validated_auc(*(array[order] for array in case))
    assert numbers(shuffled) == pytest.approx(numbers(cross_validated_auc(*case)), abs=1e-12)


@given(folded())
@settings(max_examples=20, deadline=None)
def test_renumbering_the_folds_only_reorders_their_areas(case):
    positive, score, fold = case
    areas, renumbered = cross_validated_auc(*case), cross_validated_auc(positive, score, 7 - 3 * fold)
    assert renumbered.by_fold.tolist() == areas.by_fold[::-1].tolist()
    assert numbers(renumbered)[len(areas.by_fold) :] == pytest.approx(numbers(areas)[len(areas.by_fold) :], abs=1e-12)


@given(folded())
@settings(max_examples=20, deadline=None)
def test_a_rising_transformation_of_each_folds_scores_changes_nothing(case):
    positive, score, fold = case
    transformed = np.exp(score * (1 + fold)) - 5 * fold
    assert numbers(cross_validated_auc(positive, transformed, fold)) == numbers(cross_validated_auc(*case))


@given(folded())
@settings(max_examples=20, deadline=None)
def test_swapping_the_kinds_and_reversing_the_scores_changes_nothing(case):
    positive, score, fold = case
    swapped = cross_validated_auc(~positive, -score, fold)
    assert numbers(swapped) == pytest.approx(numbers(cross_validated_auc(*case)), abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(2, 20))
@settings(max_examples=20, deadline=None)
def test_with_one_fold_the_variance_is_that_of_delong_but_for_its_divisor(seed, of_each_kind):
    positive = np.arange(2 * of_each_kind) % 2 == 0
    score = np.random.default_rng(seed).integers(0, 9, positive.size) / 8
    areas, reference = (
        cross_validated_auc(positive, score, np.zeros(positive.size, int)),
        delong(positive, score[np.newaxis]),
    )
    assert areas.by_fold.tolist() == [areas.interval.value] == reference.auc.tolist()
    variance = reference.covariance[0, 0] * (of_each_kind - 1) / of_each_kind
    assert areas.se**2 == pytest.approx(variance, rel=1e-10, abs=1e-15)


def test_a_perfect_classifier_and_a_constant_one_have_intervals_without_width():
    for score, area in ((POSITIVE * 0.1, 1.0), (np.full(24, 0.3), 0.5)):
        areas = cross_validated_auc(POSITIVE, score, FOLD)
        assert numbers(areas) == [area] * 6 + [0]


def test_a_fold_with_cases_of_one_kind_leaves_the_mean_undefined_and_the_other_folds_not():
    fold = np.where(POSITIVE & (FOLD == 1), 0, FOLD)
    areas = cross_validated_auc(POSITIVE, SCORE_A, fold)
    assert np.isnan(areas.by_fold).tolist() == [False, True, False]
    assert areas.by_fold[2] == 0.875
    assert (*dataclasses.astuple(areas.interval), areas.se) == (UNDEFINED,) * 4


@pytest.mark.parametrize("positive", [np.ones(4, bool), np.zeros(4, bool), np.zeros(0, bool)])
def test_with_cases_of_one_kind_only_everything_is_undefined(positive):
    areas = cross_validated_auc(positive, np.linspace(0, 1, positive.size), np.arange(positive.size) % 2)
    assert np.isnan(areas.by_fold).tolist() == [True] * min(positive.size, 2)
    assert (*dataclasses.astuple(areas.interval), areas.se) == (UNDEFINED,) * 4


def test_wrong_arguments_are_refused():
    for case in (
        (POSITIVE[1:], SCORE_A, FOLD),
        (POSITIVE, SCORE_A, FOLD[1:]),
        (POSITIVE[None], SCORE_A[None], FOLD[None]),
    ):
        with pytest.raises(ValueError, match=r"must be \[n\] alike"):
            cross_validated_auc(*case)
    with pytest.raises(ValueError, match="finite"):
        cross_validated_auc(POSITIVE, np.where(SCORE_A == 0.1, np.inf, SCORE_A), FOLD)
    with pytest.raises(ValueError, match="level"):
        cross_validated_auc(POSITIVE, SCORE_A, FOLD, level=1.0)
