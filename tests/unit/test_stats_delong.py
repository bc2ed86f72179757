"""DeLong's covariance, intervals and test, against worked numbers, their definition and simulated studies."""

import dataclasses
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from cxrdist.stats.delong import DeLong, auc_interval, count_wins, delong, paired_delong
from cxrdist.stats.roc import auc

POSITIVE = np.array([0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0], bool)
PERCENT = [
    [10, 80, 35, 60, 90, 40, 20, 55, 30, 70, 45, 45, 15, 95, 50, 65, 85, 25, 60, 40, 5, 75, 50, 35],
    [30, 55, 45, 50, 80, 20, 40, 35, 25, 90, 30, 60, 35, 70, 55, 60, 65, 40, 50, 45, 10, 50, 85, 20],
]
SCORES = np.array(PERCENT) / 100
UNDEFINED = pytest.approx(math.nan, nan_ok=True)


@st.composite
def scored(draw, least=2):
    """Three scores, with ties, of at least `least` cases of each kind."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_positive, n_negative = draw(st.integers(least, 20)), draw(st.integers(least, 20))
    positive = generator.permutation(np.arange(n_positive + n_negative) < n_positive)
    return positive, generator.integers(0, draw(st.integers(1, 20)), (3, positive.size)) / 8


def compared_pair_by_pair(positive, scores):
    """Areas and covariance by their definition, from the comparison of all pairs."""
    differences = scores[:, positive, None] - scores[:, None, ~positive]
    kernel = (differences > 0) + (differences == 0) / 2
    of_positive, of_negative = kernel.mean(axis=2), kernel.mean(axis=1)
    covariance = np.cov(of_positive) / positive.sum() + np.cov(of_negative) / (~positive).sum()
    return DeLong(kernel.mean(axis=(1, 2)), covariance)


def assert_close(actual, expected):
    np.testing.assert_allclose(actual.auc, expected.auc, rtol=1e-12)
    np.testing.assert_allclose(actual.covariance, expected.covariance, rtol=1e-10, atol=1e-15)


def test_areas_and_covariance_equal_the_worked_numbers():
    areas = delong(POSITIVE, SCORES)
    np.testing.assert_allclose(areas.auc, [0.9375, 0.8298611111111112], rtol=1e-9)
    expected = [[0.0019728535353535355, 0.002288510101010101], [0.002288510101010101, 0.006889642957351292]]
    np.testing.assert_allclose(areas.covariance, expected, rtol=1e-9)


def test_the_interval_equals_the_worked_numbers_cut_off_at_one():
    interval = auc_interval(0.9375, 0.0019728535353535355)
    assert dataclasses.astuple(interval) == pytest.approx((0.9375, 0.8504446405135133, 1.0), rel=1e-9)


def test_the_paired_test_equals_the_worked_numbers():
    compared = paired_delong(POSITIVE, *SCORES)
    assert compared.z == pytest.approx(1.6442568420596104, rel=1e-9)
    assert compared.p == pytest.approx(0.10012316001517937, rel=1e-9)
    assert compared.difference.value == pytest.approx(0.9375 - 0.8298611111111112, rel=1e-9)


@given(scored())
@settings(max_examples=30, deadline=None)
def test_areas_and_covariance_are_those_of_comparing_all_pairs(case):
    assert_close(delong(*case), compared_pair_by_pair(*case))


@given(scored(least=0))
@settings(max_examples=25, deadline=None)
def test_wins_are_the_pairs_in_the_right_order_and_half_of_the_ties(case):
    positive, scores = case
    differences = scores[:, positive, None] - scores[:, None, ~positive]
    won = (differences > 0) + (differences == 0) / 2
    wins = count_wins(positive, scores)
    np.testing.assert_array_equal(wins.of_positive, won.sum(axis=2))
    np.testing.assert_array_equal(wins.of_negative, won.sum(axis=1))


@given(scored(least=1))
@settings(max_examples=25, deadline=None)
def test_areas_are_exactly_those_of_auc(case):
    positive, scores = case
    assert delong(positive, scores).auc.tolist() == [auc(positive, score) for score in scores]


@given(scored())
@settings(max_examples=20, deadline=None)
def test_a_rising_transformation_of_each_score_changes_nothing(case):
    positive, scores = case
    transformed = np.stack([np.exp(3 * scores[0]), scores[1] ** 3 - 7, np.arctan(scores[2])])
    np.testing.assert_array_equal(delong(positive, transformed).auc, delong(positive, scores).auc)
    np.testing.assert_array_equal(delong(positive, transformed).covariance, delong(positive, scores).covariance)


@given(scored(), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_cases_does_not_matter(case, random):
    positive, scores = case
    order = random.sample(range(positive.size), positive.size)
    assert_close(delong(positive[order], scores[:, order]), delong(positive, scores))


@given(scored())
@settings(max_examples=20, deadline=None)
def test_swapping_the_kinds_and_reversing_the_scores_changes_nothing(case):
    positive, scores = case
    assert_close(delong(~positive, -scores), delong(positive, scores))


@given(scored())
@settings(max_examples=20, deadline=None)
def test_covariance_is_symmetric_and_positive_semi_definite(case):
    positive, scores = case
    covariance = delong(positive, np.concatenate([scores, scores[:1], -scores])).covariance
    np.testing.assert_array_equal(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-14


@given(scored())
@settings(max_examples=20, deadline=None)
def test_the_paired_test_is_that_of_the_covariance_of_the_two_areas(case):
    positive, scores = case
    compared = paired_delong(positive, scores[0], scores[1], level=0.8)
    areas = delong(positive, scores[:2])
    difference = areas.auc[0] - areas.auc[1]
    variance = areas.covariance[0, 0] + areas.covariance[1, 1] - 2 * areas.covariance[0, 1]
    assert compared.difference.value == pytest.approx(difference, abs=1e-14)
    if variance > 1e-9:
        z = difference / math.sqrt(variance)
        assert (compared.z, compared.p) == pytest.approx((z, math.erfc(abs(z) / math.sqrt(2))), rel=1e-9, abs=1e-12)
        half = norm.ppf(0.9) * math.sqrt(variance)
        expected = max(-1, difference - half), min(1, difference + half)
        assert (compared.difference.low, compared.difference.high) == pytest.approx(expected, abs=1e-9)


@given(scored(), st.sampled_from([0.5, 0.95, 0.999]))
@settings(max_examples=20, deadline=None)
def test_swapping_the_scores_mirrors_the_difference_and_keeps_p(case, level):
    positive, (first, second, _) = case
    forth, back = (paired_delong(positive, *pair, level=level) for pair in ((first, second), (second, first)))
    mirrored = -back.difference.value, -back.difference.high, -back.difference.low, -back.z, back.p
    assert (*dataclasses.astuple(forth.difference), forth.z, forth.p) == pytest.approx(mirrored, nan_ok=True)
    assert -1 <= forth.difference.low <= forth.difference.value <= forth.difference.high <= 1


@given(scored())
@settings(max_examples=30, deadline=None)
def test_scores_that_rank_alike_differ_by_exactly_0_with_p_1(case):
    positive, scores = case
    compared = paired_delong(positive, scores[0], np.exp(scores[0]))
    assert dataclasses.astuple(compared) == ((0, 0, 0), 0, 1)


def test_two_perfect_classifiers_do_not_differ():
    score = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    compared = paired_delong(score > 0.5, score, (score > 0.5).astype(float))
    assert (compared.difference.value, compared.p) == (0, 1)


@pytest.mark.parametrize(("n_positive", "n_negative"), [(2, 2), (3, 7), (49, 10)])
def test_a_difference_without_variance_has_no_p(n_positive, n_negative):
    positive = np.arange(n_positive + n_negative) < n_positive
    compared = paired_delong(positive, positive.astype(float), np.zeros(positive.size))
    assert dataclasses.astuple(compared) == ((0.5, 0.5, 0.5), UNDEFINED, UNDEFINED)


def test_a_perfect_classifier_and_a_constant_one_have_intervals_without_width():
    areas = delong(POSITIVE, np.stack([POSITIVE * 0.1, np.full(POSITIVE.size, 0.3)]))
    assert np.diag(areas.covariance).tolist() == [0, 0]
    intervals = [dataclasses.astuple(auc_interval(area, 0.0)) for area in areas.auc]
    assert intervals == [(1, 1, 1), (0.5, 0.5, 0.5)]


def test_intervals_are_symmetric_end_at_0_and_1_and_widen_with_the_level():
    half = norm.ppf(0.9) * 0.05
    interval = auc_interval(0.8, 0.05**2, level=0.8)
    assert (interval.low, interval.high) == pytest.approx((0.8 - half, 0.8 + half))
    assert auc_interval(0.99, 0.05**2).high == 1
    assert auc_interval(0.01, 0.05**2).low == 0


@pytest.mark.parametrize(("n_positive", "n_negative"), [(1, 5), (5, 1), (1, 1)])
def test_with_one_case_of_a_kind_the_area_is_defined_and_its_variance_is_not(n_positive, n_negative):
    positive = np.arange(n_positive + n_negative) < n_positive
    scores = np.stack([positive.astype(float), np.zeros(positive.size)])
    areas = delong(positive, scores)
    assert areas.auc.tolist() == [1, 0.5]
    assert np.isnan(areas.covariance).all()
    assert dataclasses.astuple(auc_interval(areas.auc[0], areas.covariance[0, 0])) == (1, UNDEFINED, UNDEFINED)
    compared = dataclasses.astuple(paired_delong(positive, *scores))
    assert compared == ((0.5, UNDEFINED, UNDEFINED), UNDEFINED, UNDEFINED)


@pytest.mark.parametrize("positive", [np.ones(4, bool), np.zeros(4, bool), np.zeros(0, bool)])
def test_with_cases_of_one_kind_only_everything_is_undefined(positive):
    scores = np.arange(2.0 * positive.size).reshape(2, -1)
    areas = delong(positive, scores)
    assert np.isnan(areas.auc).tolist() == [True, True]
    assert np.isnan(areas.covariance).all()
    assert areas.covariance.shape == (2, 2)
    compared = dataclasses.astuple(paired_delong(positive, *scores))
    assert compared == ((UNDEFINED,) * 3, UNDEFINED, UNDEFINED)
    assert dataclasses.astuple(auc_interval(math.nan, math.nan)) == (UNDEFINED,) * 3


def test_wrong_arguments_are_refused():
    for positive, scores in ((POSITIVE[1:], SCORES), (POSITIVE, SCORES[0]), (SCORES > 0.5, SCORES)):
        with pytest.raises(ValueError, match=r"must be \[n\] and \[k, n\]"):
            delong(positive, scores)
    with pytest.raises(ValueError, match="finite"):
        delong(POSITIVE, np.where(SCORES == 0.1, np.nan, SCORES))
    for level in (0, 1, math.nan):
        with pytest.raises(ValueError, match="level"):
            auc_interval(0.5, 0.1, level)
        with pytest.raises(ValueError, match="level"):
            paired_delong(POSITIVE, SCORES[0], SCORES[1], level)
    with pytest.raises(ValueError, match="variance"):
        auc_interval(0.5, -0.1)


def test_memory_grows_with_the_cases_not_with_their_pairs():
    generator = np.random.default_rng(0)
    positive, scores = np.arange(20_000) % 2 == 0, generator.random((2, 20_000))
    tracemalloc.start()
    count_wins(positive, scores)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * scores.nbytes
