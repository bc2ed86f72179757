"""Paired tests, against worked numbers, scipy and the definitions of their authors."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, ttest_1samp

from cxrdist.stats.paired import corrected_chi_square, corrected_t, holm, mcnemar

# 24 cases with two scores.
POSITIVE = np.array([0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0], bool)
SCORE_A = (
    np.array([10, 80, 35, 60, 90, 40, 20, 55, 30, 70, 45, 45, 15, 95, 50, 65, 85, 25, 60, 40, 5, 75, 50, 35]) / 100
)
SCORE_B = (
    np.array([30, 55, 45, 50, 80, 20, 40, 35, 25, 90, 30, 60, 35, 70, 55, 60, 65, 40, 50, 45, 10, 50, 85, 20]) / 100
)
FOLD_DIFFERENCES = [0.012, -0.004, 0.02, 0.008, 0.001]

p_values = st.lists(st.one_of(st.just(math.nan), st.floats(0, 1), st.sampled_from([0.01, 0.05])), max_size=9)
varied = st.lists(st.integers(-50, 50), min_size=2, max_size=8).filter(lambda d: len(set(d)) > 1)


def rights(both_right, first_only, second_only, both_wrong):
    """Arrays of which images two variants are right about, from their counts."""
    counts = (both_right, first_only, second_only, both_wrong)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def test_mcnemar_of_the_worked_scores_is_exact():
    test = mcnemar((SCORE_A >= 0.5) == POSITIVE, (SCORE_B >= 0.5) == POSITIVE)
    assert (test.both_right, test.first_only, test.second_only, test.both_wrong) == (18, 2, 0, 4)
    assert test.exact
    assert test.p == pytest.approx(0.5, abs=1e-9)
    assert math.isnan(test.statistic)


def test_the_corrected_chi_square_of_the_worked_scores_is_reproduced():
    assert corrected_chi_square(2, 0) == pytest.approx((0.5, 0.47950012218695337), abs=1e-9)


@given(st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_mcnemar_is_binomial_below_25_discordant_images_and_corrected_chi_square_from_there(b, c):
    test = mcnemar(*rights(3, b, c, 2))
    assert (test.both_right, test.first_only, test.second_only, test.both_wrong) == (3, b, c, 2)
    assert test.exact == (b + c < 25)
    if test.exact:
        assert test.p == pytest.approx(min(1, 2 * binom.cdf(min(b, c), b + c, 0.5)))
        assert math.isnan(test.statistic)
    else:
        assert (test.statistic, test.p) == corrected_chi_square(b, c)


@pytest.mark.parametrize(("b", "c", "exact"), [(14, 10, True), (15, 10, False)])
def test_25_discordant_images_are_enough_for_the_chi_square(b, c, exact):
    assert mcnemar(*rights(0, b, c, 0)).exact == exact


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 50), st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_swapping_the_variants_or_adding_images_that_do_not_tell_them_apart_changes_no_p(b, c, right, wrong):
    p = mcnemar(*rights(0, b, c, 0)).p
    assert mcnemar(*rights(0, c, b, 0)).p == pytest.approx(p)
    assert mcnemar(*rights(right, b, c, wrong)).p == p


def test_variants_that_are_right_about_the_same_images_do_not_differ():
    for counts in ((5, 0, 0, 3), (0, 0, 0, 0)):
        test = mcnemar(*rights(*counts))
        assert test.exact
        assert test.p == 1


def test_the_correction_never_makes_equal_counts_differ():
    assert corrected_chi_square(20, 20) == (0, 1)
    assert corrected_chi_square(21, 20) == (0, 1)
    assert corrected_chi_square(22, 20)[0] == pytest.approx(1 / 42)
    assert all(math.isnan(number) for number in corrected_chi_square(0, 0))


@given(st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_the_corrected_chi_square_is_that_of_yates_against_halves(b, c):
    statistic, p = corrected_chi_square(b, c)
    half = (b + c) / 2
    assert statistic == pytest.approx(sum(max(abs(count - half) - 0.5, 0) ** 2 / half for count in (b, c)))
    assert p == pytest.approx(math.erfc(math.sqrt(statistic / 2)))


def test_mcnemar_refuses_classes_and_arrays_that_differ_in_length():
    right = np.ones(3, bool)
    with pytest.raises(ValueError, match="of bool, not of bool and int64"):
        mcnemar(right, np.array([0, 1, 2]))
    for other in (right[:2], right[None]):
        with pytest.raises(ValueError, match=r"\[n\] alike"):
            mcnemar(right, other)
    with pytest.raises(ValueError, match="negative"):
        corrected_chi_square(3, -1)


def test_the_worked_t_over_five_folds_has_a_quarter_as_many_test_as_training_images():
    test = corrected_t(FOLD_DIFFERENCES, 400, 100)
    assert (test.t, test.p) == pytest.approx((1.1772757677615913, 0.30435232587474387), abs=1e-9)
    assert test.df == 4
    assert test.mean == pytest.approx(0.0074, abs=1e-12)
    assert test.sd == pytest.approx(np.std(FOLD_DIFFERENCES, ddof=1), abs=1e-12)


def test_without_test_images_it_is_the_worked_uncorrected_t():
    test = corrected_t(FOLD_DIFFERENCES, 1, 0)
    assert (test.t, test.p) == pytest.approx((1.7659136516423868, 0.15216316360839321), abs=1e-9)


@given(varied, st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=25, deadline=None)
def test_without_test_images_it_is_the_t_test_of_scipy(differences, level):
    test = corrected_t(differences, 7, 0, level=level)
    oracle = ttest_1samp(differences, 0)
    low, high = oracle.confidence_interval(level)
    assert (test.t, test.df, test.p) == pytest.approx((oracle.statistic, oracle.df, oracle.pvalue), abs=1e-12)
    assert (test.low, test.high) == pytest.approx((low, high), abs=1e-12)


@given(varied, st.integers(1, 900), st.integers(1, 900))
@settings(max_examples=25, deadline=None)
def test_it_is_the_formula_of_nadeau_and_bengio(differences, n_train, n_test):
    j, mean = len(differences), sum(differences) / len(differences)
    variance = sum((one - mean) ** 2 for one in differences) / (j - 1)
    test = corrected_t(differences, n_train, n_test)
    assert test.t == pytest.approx(mean / math.sqrt((1 / j + n_test / n_train) * variance), abs=1e-12)
    assert abs(test.t) <= abs(corrected_t(differences, n_train, 0).t)


@given(varied, st.floats(0.5, 0.99))
@settings(max_examples=25, deadline=None)
def test_the_interval_excludes_0_exactly_where_p_is_below_its_complement(differences, level):
    test = corrected_t(differences, 4, 1, level=level)
    if abs(test.p - (1 - level)) > 1e-9:
        assert (test.low > 0 or test.high < 0) == (test.p < 1 - level)


@given(varied)
@settings(max_examples=25, deadline=None)
def test_swapping_the_variants_turns_the_sign_of_the_difference(differences):
    test, swapped = corrected_t(differences, 4, 1), corrected_t(np.negative(differences), 4, 1)
    assert (swapped.mean, swapped.t, swapped.p) == pytest.approx((-test.mean, -test.t, test.p), abs=1e-12)
    assert (swapped.low, swapped.high) == pytest.approx((-test.high, -test.low), abs=1e-12)


def test_sizes_of_folds_count_by_their_means():
    by_fold = corrected_t(FOLD_DIFFERENCES, [408, 408, 408, 408, 408], [103, 103, 102, 101, 101])
    assert by_fold == corrected_t(FOLD_DIFFERENCES, 408, 102)


def test_one_fold_has_a_difference_but_no_test():
    test = corrected_t([0.25], 4, 1)
    assert test.mean == 0.25
    assert all(math.isnan(number) for number in (test.sd, test.t, test.df, test.p, test.low, test.high))
    assert math.isnan(corrected_t([], 4, 1).mean)


@pytest.mark.parametrize(
    "differences", [[0.25] * 3, [0.95 - 0.9, 0.85 - 0.8, 0.05]], ids=["equal", "equal but rounded"]
)
def test_differences_that_do_not_vary_tell_no_spread(differences):
    test = corrected_t(differences, 4, 1)
    assert test.mean == pytest.approx(differences[0])
    assert test.df == 2
    assert all(math.isnan(number) for number in (test.t, test.p, test.low, test.high))


def test_variants_without_any_difference_have_a_p_of_1():
    for differences in ([0.0] * 4, [0.1 + 0.2 - 0.3, 0.0]):
        test = corrected_t(differences, 4, 1)
        assert test.p == 1
        assert math.isnan(test.t)


def test_a_fold_without_a_difference_makes_the_test_undefined():
    test = corrected_t([0.1, math.nan, 0.3], 4, 1)
    assert all(math.isnan(number) for number in (test.mean, test.t, test.p, test.low, test.high))


def test_impossible_sizes_and_levels_are_refused():
    with pytest.raises(ValueError, match="n_train > 0"):
        corrected_t(FOLD_DIFFERENCES, 0, 1)
    with pytest.raises(ValueError, match="n_test >= 0"):
        corrected_t(FOLD_DIFFERENCES, 4, -1)
    for level in (0, 1):
        with pytest.raises(ValueError, match="level"):
            corrected_t(FOLD_DIFFERENCES, 4, 1, level=level)
    with pytest.raises(ValueError, match=r"sizes \[J\]"):
        corrected_t(FOLD_DIFFERENCES, [4, 4], 1)
    with pytest.raises(ValueError, match=r"differences must be \[J\]"):
        corrected_t([FOLD_DIFFERENCES], 4, 1)


def test_holm_multiplies_by_the_comparisons_that_remain_and_never_descends():
    assert holm([0.04, 0.01, 0.03, 0.005]).tolist() == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1, 1]


@given(p_values)
@settings(max_examples=40, deadline=None)
def test_holm_is_the_largest_of_the_products_up_to_each_p(values):
    made = [p for p in values if not math.isnan(p)]
    expected = [
        math.nan if math.isnan(p) else min(1, max(q * sum(r >= q for r in made) for q in made if q <= p))
        for p in values
    ]
    np.testing.assert_array_equal(holm(values), expected)


@given(p_values, st.floats(0.001, 0.2))
@settings(max_examples=40, deadline=None)
def test_adjusted_p_rejects_what_stepping_down_rejects(values, alpha):
    made = sorted((p, index) for index, p in enumerate(values) if not math.isnan(p))
    rejected = set()
    for step, (p, index) in enumerate(made):
        if (len(made) - step) * p > alpha:
            break
        rejected.add(index)
    assert set(np.flatnonzero(holm(values) <= alpha).tolist()) == rejected


@given(p_values, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_order_of_the_comparisons_does_not_matter(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    np.testing.assert_array_equal(holm([values[index] for index in order]), holm(values)[order])


def test_a_p_outside_0_to_1_is_refused():
    for values in ([0.5, 1.5], [-0.1], [[0.5]]):
        with pytest.raises(ValueError, match=r"\[m\] in \[0, 1\]"):
            holm(values)
