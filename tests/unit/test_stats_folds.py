"""Scores by fold, and means that leave out what is absent."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.stats.averages import mean_and_sd, mean_and_sd_by_column, weighted_average
from cxrdist.stats.folds import accuracy_by_fold

PAPER_2_ACCURACIES = [99.14, 99.31, 99.48, 98.62, 98.97]
PAPER_2_ERRORS = [8.61e-3, 6.89e-3, 5.16e-3, 13.77e-3, 10.33e-3]


def test_mean_and_sd_of_paper_2_follow_from_its_printed_accuracies():
    mean, sd = mean_and_sd(PAPER_2_ACCURACIES)
    assert mean == pytest.approx(99.104, abs=1e-9)
    assert sd == pytest.approx(0.33065087327588, rel=1e-10)
    assert mean_and_sd(PAPER_2_ERRORS)[0] == pytest.approx(8.952e-3, abs=1e-12)


def test_the_table_of_paper_2_is_that_of_folds_with_581_images_each():
    wrong = [5, 4, 3, 8, 6]
    fold = np.repeat(np.arange(5), 581)
    predicted = np.concatenate([np.arange(581) < count for count in wrong]).astype(np.int64)
    folds = accuracy_by_fold(np.zeros_like(predicted), predicted, fold)
    assert folds.n.tolist() == [581] * 5
    assert (folds.accuracy * 100).round(2).tolist() == PAPER_2_ACCURACIES
    # The paper prints 6.89e-3 for 4 / 581 = 6.8847e-3; the other four are right to the last digit.
    assert folds.error.tolist() == pytest.approx(PAPER_2_ERRORS, abs=5.4e-6)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(2, 5)), min_size=1, max_size=40))
@settings(max_examples=25, deadline=None)
def test_accuracy_by_fold_is_the_share_correct_in_each_fold(cases):
    truth, predicted, fold = np.array(cases).T
    folds = accuracy_by_fold(truth, predicted, fold)
    assert folds.n.sum() == len(cases)
    assert folds.correct.sum() == (truth == predicted).sum()
    for number, n, accuracy, error in zip(folds.folds, folds.n, folds.accuracy, folds.error, strict=True):
        own = fold == number
        assert n == own.sum()
        assert accuracy == pytest.approx((truth[own] == predicted[own]).mean())
        assert accuracy + error == pytest.approx(1)


def answers(right, n):
    """Folds of n images each, with so many right answers."""
    predicted = np.concatenate([np.arange(n) >= count for count in right]).astype(np.int64)
    return accuracy_by_fold(np.zeros_like(predicted), predicted, np.repeat(np.arange(len(right)), n))


def test_folds_are_alike_by_the_chi_square_of_right_and_wrong_answers():
    # 30 and 20 of 50, 25 expected: chi-square 4 * 5**2 / 25 = 4 with one degree of freedom, z = 2.
    assert answers([30, 20], 50).p_alike == pytest.approx(2 * NormalDist().cdf(-2), rel=1e-12)
    assert answers([30, 30, 30], 50).p_alike == pytest.approx(1)
    assert answers([10, 25, 40], 50).p_alike < 1e-6


@pytest.mark.parametrize("right", [[20], [50, 50], [0, 0]], ids=["one fold", "all right", "all wrong"])
def test_whether_folds_are_alike_is_undefined_without_a_second_fold_or_a_second_answer(right):
    assert math.isnan(answers(right, 50).p_alike)


def test_one_fold_has_a_mean_but_no_sd():
    mean, sd = mean_and_sd([0.5])
    assert mean == 0.5
    assert math.isnan(sd)


@given(st.lists(st.lists(st.one_of(st.just(math.nan), st.integers(-5, 5)), min_size=3, max_size=3), min_size=1))
@settings(max_examples=25, deadline=None)
def test_means_by_column_leave_out_what_is_absent(rows):
    values = np.array(rows, np.float64)
    means, sds = mean_and_sd_by_column(values)
    for column, mean, sd in zip(values.T, means, sds, strict=True):
        expected = mean_and_sd(column[~np.isnan(column)])
        assert (mean, sd) == pytest.approx(expected, nan_ok=True)


def test_a_class_without_images_has_no_weight():
    assert weighted_average([0.5, 1.0, math.nan], [3, 1, 0]) == pytest.approx(0.625)
    assert math.isnan(weighted_average([0.5, math.nan], [3, 1]))
    assert math.isnan(weighted_average([0.5, 0.5], [0, 0]))
