"""Two-by-two tables, exact intervals and sample sizes, against scipy, paper 2 and their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, hypergeom

from cxrdist.stats.confusion import confusion_matrix, matthews_correlation, wilson
from cxrdist.stats.contingency import clopper_pearson, margin_reached, pair_table, sample_size, two_by_two

# Of 781 images paper 2 classifies 777 correctly.
PAPER_2 = (777, 781)

tables = st.lists(st.integers(0, 30), min_size=4, max_size=4).map(lambda counts: np.array(counts).reshape(2, 2))
full_tables = tables.map(lambda table: table + 1)
levels = st.sampled_from([0.8, 0.95, 0.99])


@given(full_tables)
@settings(max_examples=25, deadline=None)
def test_chi_squares_are_sums_over_cells_of_squared_differences(table):
    tests = two_by_two(table)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    distance = np.abs(table - expected)
    assert tests.chi_square == pytest.approx((distance**2 / expected).sum(), abs=1e-9)
    assert tests.yates_chi_square == pytest.approx((np.maximum(distance - 0.5, 0) ** 2 / expected).sum(), abs=1e-9)
    assert tests.p == pytest.approx(math.erfc(math.sqrt(tests.chi_square / 2)), abs=1e-9)
    assert tests.yates_p == pytest.approx(math.erfc(math.sqrt(tests.yates_chi_square / 2)), abs=1e-9)
    assert tests.smallest_expected == pytest.approx(expected.min())
    assert tests.use_fisher == (expected.min() < 5)
    assert tests.df == 1


@given(full_tables)
@settings(max_examples=25, deadline=None)
def test_pearsons_chi_square_is_n_times_the_squared_correlation(table):
    assert two_by_two(table).chi_square == pytest.approx(table.sum() * matthews_correlation(table) ** 2, abs=1e-9)


@given(tables.filter(np.any))
@settings(max_examples=15, deadline=None)
def test_fishers_p_adds_up_the_tables_that_are_no_more_probable(table):
    hits = np.arange(table.sum() + 1)
    probability = hypergeom(table.sum(), table[0].sum(), table[:, 0].sum()).pmf(hits)
    as_extreme = probability <= probability[table[0, 0]] * (1 + 1e-9)
    assert two_by_two(table).fisher_p == pytest.approx(probability[as_extreme].sum())


@given(tables)
@settings(max_examples=25, deadline=None)
def test_transposing_the_table_or_swapping_both_rows_and_columns_changes_nothing(table):
    tests = two_by_two(table)
    for other in (table.T, table[::-1, ::-1]):
        assert vars(two_by_two(other)) == pytest.approx(vars(tests), nan_ok=True)


@pytest.mark.parametrize("empty", [(0, slice(None)), (1, slice(None)), (slice(None), 0), (slice(None), 1)])
def test_an_empty_row_or_column_leaves_the_chi_squares_undefined(empty):
    table = np.array([[3, 40], [50, 6]])
    table[empty] = 0
    tests = two_by_two(table)
    assert all(math.isnan(one) for one in (tests.chi_square, tests.p, tests.yates_chi_square, tests.yates_p))
    assert tests.fisher_p == 1
    assert tests.smallest_expected == 0
    assert tests.use_fisher


def test_an_empty_table_leaves_fishers_test_alone():
    tests = two_by_two(np.zeros((2, 2), np.int64))
    assert tests.fisher_p == 1
    assert math.isnan(tests.smallest_expected)
    assert tests.use_fisher


def test_an_expected_count_of_5_is_enough_for_the_chi_square():
    assert not two_by_two(np.array([[10, 0], [0, 10]])).use_fisher
    assert two_by_two(np.array([[9, 0], [0, 10]])).use_fisher


def test_what_is_not_a_table_of_counts_is_refused():
    for table in ([[1.0, 2.0], [3.0, 4.0]], [[1, 2, 3], [4, 5, 6]], [[1, 2], [3, -1]]):
        with pytest.raises(ValueError, match=r"table \[2, 2\] of counts"):
            two_by_two(np.array(table))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=50), st.permutations(range(4)))
@settings(max_examples=25, deadline=None)
def test_the_table_of_a_pair_counts_images_of_both_classes_predicted_as_either(cases, order):
    truth, predicted = np.array(cases).T
    first, second, *_ = order
    of_pair = np.isin(truth, (first, second)) & np.isin(predicted, (first, second))
    expected = confusion_matrix(truth[of_pair] == second, predicted[of_pair] == second, 2)
    assert pair_table(confusion_matrix(truth, predicted, 4), first, second).tolist() == expected.tolist()


def test_the_first_class_of_a_pair_comes_first():
    confusion = np.arange(9).reshape(3, 3)
    assert pair_table(confusion, 2, 0).tolist() == [[8, 6], [2, 0]]


def test_a_pair_is_of_two_different_classes_that_exist():
    confusion = np.ones((3, 3), int)
    for first, second in ((1, 1), (0, 3), (-1, 0)):
        with pytest.raises(ValueError, match=r"two different classes in \[0, 3\)"):
            pair_table(confusion, first, second)
    with pytest.raises(ValueError, match=r"\[C, C\]"):
        pair_table(confusion[:2], 0, 1)


def test_paper_2_needs_722_images():
    assert sample_size(0.989, 0.01, 0.99) == 722


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.3), levels)
@settings(max_examples=25, deadline=None)
def test_the_sample_size_is_the_smallest_that_reaches_the_margin(proportion, margin, level):
    n = sample_size(proportion, margin, level)
    assert margin_reached(proportion, n, level) <= margin * (1 + 1e-12)
    assert n == 1 or margin_reached(proportion, n - 1, level) > margin * (1 - 1e-12)


def test_the_margin_is_half_the_width_of_the_normal_interval():
    assert margin_reached(0.5, 100) == pytest.approx(1.959963984540054 * 0.05, abs=1e-12)
    assert margin_reached(0.989, 722, 0.99) == pytest.approx(0.009998686902882277, abs=1e-12)


def test_without_images_or_spread_no_margin_is_known():
    for proportion, n in ((0.5, 0), (0.0, 10), (1.0, 10)):
        assert math.isnan(margin_reached(proportion, n))


def test_impossible_sample_sizes_are_refused():
    for proportion, margin, level in ((0, 0.1, 0.9), (1, 0.1, 0.9), (0.5, 0, 0.9), (0.5, 0.1, 0), (0.5, 0.1, 1)):
        with pytest.raises(ValueError, match="0 < proportion < 1, margin > 0 and 0 < level < 1"):
            sample_size(proportion, margin, level)
    for proportion, n, level in ((-0.1, 9, 0.9), (1.1, 9, 0.9), (0.5, -1, 0.9), (0.5, 9, 0), (0.5, 9, 1)):
        with pytest.raises(ValueError, match="0 <= proportion <= 1, n >= 0 and 0 < level < 1"):
            margin_reached(proportion, n, level)


def test_both_intervals_of_paper_2_are_reproduced():
    assert wilson(*PAPER_2) == pytest.approx((0.986905746082145, 0.998006545836675), abs=1e-9)
    assert clopper_pearson(*PAPER_2) == pytest.approx((0.9869388905617996, 0.9986028156648661), abs=1e-9)


@given(st.integers(1, 400), st.data(), levels)
@settings(max_examples=25, deadline=None)
def test_clopper_pearson_intervals_equal_those_of_scipy(n, data, level):
    successes = data.draw(st.integers(0, n))
    oracle = binomtest(successes, n).proportion_ci(level, method="exact")
    assert clopper_pearson(successes, n, level) == pytest.approx((oracle.low, oracle.high), abs=1e-9)


@given(st.integers(1, 200), st.data(), levels)
@settings(max_examples=25, deadline=None)
def test_at_the_ends_of_clopper_pearson_half_the_complement_of_the_level_is_beyond(n, data, level):
    successes = data.draw(st.integers(0, n))
    low, high = clopper_pearson(successes, n, level)
    assert low <= successes / n <= high
    assert low == 0 if successes == 0 else binom.sf(successes - 1, n, low) == pytest.approx((1 - level) / 2)
    assert high == 1 if successes == n else binom.cdf(successes, n, high) == pytest.approx((1 - level) / 2)


@pytest.mark.parametrize("n", [1, 5, 30, 100])
def test_clopper_pearson_covers_every_proportion_at_least_as_often_as_its_level(n):
    proportions = np.linspace(0.001, 0.999, 199)
    ends = np.array([clopper_pearson(successes, n) for successes in range(n + 1)])
    covered = (ends[:, :1] <= proportions) & (proportions <= ends[:, 1:])
    coverage = (covered * binom.pmf(np.arange(n + 1)[:, None], n, proportions)).sum(axis=0)
    assert coverage.min() >= 0.95


def test_clopper_pearson_refuses_more_successes_than_cases_and_knows_nothing_without_cases():
    for successes, n, level in ((3, 2, 0.95), (-1, 2, 0.95), (1, 2, 0), (1, 2, 1)):
        with pytest.raises(ValueError, match="0 <= successes <= n and 0 < level < 1"):
            clopper_pearson(successes, n, level)
    assert all(math.isnan(end) for end in clopper_pearson(0, 0))
