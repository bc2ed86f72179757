"""The bootstrap of patients, against repeated rows, its own symmetries and simulated studies."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from cxrdist.stats import resampling
from cxrdist.stats.averages import macro_average
from cxrdist.stats.resampling import Interval, bootstrap_auc, draw_groups, rank_cases
from cxrdist.stats.roc import auc


@st.composite
def grouped(draw):
    """Predictions of three classes, with many tied scores, of patients that have one to several images."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(9, 40))
    truth = np.arange(n) % 3
    return truth, generator.dirichlet(np.ones(3), n).round(1), generator.integers(0, n // 3, n)


def intervals(case, *, seed=0, resamples=50, level=0.95):
    truth, probabilities, groups = case
    areas = bootstrap_auc(
        truth, probabilities, groups, rng=np.random.default_rng(seed), resamples=resamples, level=level
    )
    return np.array([(one.value, one.low, one.high) for one in (*areas.by_class, areas.macro)])


def clustered(generator, n_patients, images, separation=1.0):
    """A binary study with `images` images a patient, whose scores share half of their variance."""
    truth = np.repeat(np.arange(n_patients) % 2, images)
    patient = np.repeat(np.arange(n_patients), images)
    noise = generator.normal(size=n_patients)[patient] + generator.normal(size=len(truth))
    score = norm.cdf(separation * truth + noise / math.sqrt(2))
    return truth, np.stack([1 - score, score], axis=1), patient


@given(grouped())
@settings(max_examples=15, deadline=None)
def test_weighted_area_is_that_of_repeated_rows(case):
    truth, probabilities, groups = case
    weights = np.random.default_rng(len(truth)).integers(0, 4, (5, groups.max() + 1))
    weights[0] = 1
    for index in range(3):
        areas = rank_cases(truth == index, probabilities[:, index], groups).auc(weights)
        for area, weight in zip(areas, weights, strict=True):
            rows = np.repeat(np.arange(len(truth)), weight[groups])
            np.testing.assert_allclose(area, auc(truth[rows] == index, probabilities[rows, index]), rtol=1e-14)


@given(grouped())
@settings(max_examples=10, deadline=None)
def test_intervals_are_the_percentiles_of_the_areas_of_repeated_rows(case):
    truth, probabilities, groups = case
    names = list(dict.fromkeys(groups.tolist()))
    number = np.array([names.index(name) for name in groups.tolist()])
    stratum = np.array([np.bincount(truth[groups == name]).argmax() for name in names])
    areas = []
    for drawn in draw_groups(stratum, 20, np.random.default_rng(7)):
        rows = np.repeat(np.arange(len(truth)), drawn[number])
        by_class = [auc(truth[rows] == index, probabilities[rows, index]) for index in range(3)]
        areas.append([*by_class, macro_average(by_class)])
    defined = [column[~np.isnan(column)] for column in np.array(areas).T]
    expected = [np.percentile(column, [10, 90]) if column.size else [np.nan, np.nan] for column in defined]
    np.testing.assert_allclose(intervals(case, seed=7, resamples=20, level=0.8)[:, 1:], expected, rtol=1e-12)


@given(grouped())
@settings(max_examples=10, deadline=None)
def test_values_are_the_areas_of_all_images_and_macro_is_their_mean(case):
    truth, probabilities, _ = case
    values = intervals(case)[:, 0]
    assert values[:3].tolist() == [auc(truth == index, probabilities[:, index]) for index in range(3)]
    assert values[3] == pytest.approx(values[:3].mean())


def test_equal_inputs_and_generators_give_equal_intervals_and_other_generators_do_not():
    case = clustered(np.random.default_rng(8), 20, 2)
    assert intervals(case, seed=3).tolist() == intervals(case, seed=3).tolist()
    assert intervals(case, seed=3).tolist() != intervals(case, seed=4).tolist()


@given(grouped())
@settings(max_examples=10, deadline=None)
def test_renaming_the_groups_changes_nothing(case):
    truth, probabilities, groups = case
    renamed = np.array([f"patient {(97 - 5 * name) % 101}" for name in groups])
    assert len(np.unique(renamed)) == len(np.unique(groups))
    np.testing.assert_array_equal(intervals((truth, probabilities, renamed)), intervals(case))


@given(grouped())
@settings(max_examples=10, deadline=None)
def test_a_rising_transformation_of_the_scores_changes_nothing(case):
    truth, probabilities, groups = case
    np.testing.assert_array_equal(intervals((truth, np.exp(3 * probabilities), groups)), intervals(case))


@given(grouped())
@settings(max_examples=10, deadline=None)
def test_reversed_scores_mirror_the_intervals(case):
    truth, probabilities, groups = case
    value, low, high = intervals((truth, -probabilities, groups)).T
    np.testing.assert_allclose(intervals(case), 1 - np.stack([value, high, low], axis=1), atol=1e-12)


@given(grouped())
@settings(max_examples=10, deadline=None)
def test_intervals_lie_in_0_to_1_and_a_higher_level_contains_a_lower_one(case):
    narrow, wide = intervals(case, level=0.5), intervals(case, level=0.99)
    defined = ~np.isnan(wide[:, 1])
    assert (wide[defined] >= 0).all()
    assert (wide[defined] <= 1).all()
    assert (wide[defined, 1] <= narrow[defined, 1]).all()
    assert (narrow[defined, 1] <= narrow[defined, 2]).all()
    assert (narrow[defined, 2] <= wide[defined, 2]).all()


def test_intervals_do_not_depend_on_the_size_of_the_chunks(monkeypatch):
    case = clustered(np.random.default_rng(5), 20, 2)
    at_once = intervals(case, resamples=50)
    monkeypatch.setattr(resampling, "_CHUNK_BYTES", 8 * 7 * (20 + 3 * 40 + 1))
    np.testing.assert_array_equal(intervals(case, resamples=50), at_once)


def test_memory_does_not_grow_with_the_number_of_resamples():
    case = clustered(np.random.default_rng(5), 1000, 2)
    peaks = []
    for resamples in (50, 500):
        tracemalloc.start()
        intervals(case, resamples=resamples)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
    assert peaks[1] < 2 * resampling._CHUNK_BYTES


def test_every_resample_draws_each_stratum_as_often_as_it_has_groups():
    stratum = np.array([0, 2, 0, 2, 2, 5, 0, 0])
    drawn = draw_groups(stratum, 400, np.random.default_rng(0))
    assert drawn.shape == (400, 8)
    for one, size in ((0, 4), (2, 3), (5, 1)):
        assert (drawn[:, stratum == one].sum(axis=1) == size).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(8), abs=0.2)
    # A group of a stratum of m groups is left out with probability (1 - 1/m)^m.
    assert (drawn == 0).mean(axis=0)[[0, 1, 5]] == pytest.approx([0.75**4, (2 / 3) ** 3, 0], abs=0.08)


def test_the_stratum_of_a_group_is_its_most_frequent_class_and_the_first_of_equals():
    truth = np.array([1, 1, 0, 0, 1, 1, 1, 0, 0])
    groups = np.array([0, 0, 0, 1, 1, 2, 2, 3, 3])
    drawn = []

    def recorded(stratum, resamples, rng):
        drawn.append(stratum.tolist())
        return draw_groups(stratum, resamples, rng)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "draw_groups", recorded)
        intervals((truth, np.eye(2)[truth], groups))
    assert drawn == [[1, 0, 1, 0]]


def test_a_perfect_classifier_has_no_width():
    truth = np.repeat([0, 1, 2], 10)
    assert intervals((truth, np.eye(3)[truth], np.arange(30) // 2)).tolist() == [[1, 1, 1]] * 4


def test_constant_scores_give_one_half_without_width():
    truth = np.repeat([0, 1, 2], 10)
    assert intervals((truth, np.full((30, 3), 1 / 3), np.arange(30) // 2)).tolist() == [[0.5, 0.5, 0.5]] * 4


def test_a_class_without_images_is_undefined_and_so_is_the_mean_and_the_others_are_not():
    truth, probabilities, groups = clustered(np.random.default_rng(1), 20, 2)
    three = np.stack([probabilities[:, 0], np.full(40, 0.1), probabilities[:, 1]], axis=1)
    absent = intervals((2 * truth, three, groups))
    assert np.isnan(absent).all(axis=1).tolist() == [False, True, False, True]
    np.testing.assert_array_equal(absent[[0, 2]], intervals((truth, probabilities, groups))[:2])


def test_without_images_or_with_one_class_only_everything_is_undefined():
    for n in (0, 4):
        case = np.zeros(n, np.int64), np.full((n, 2), 0.5), np.arange(n)
        assert np.isnan(intervals(case)).all()


def test_resamples_in_which_a_class_is_missing_are_left_out():
    # The one image of class 1 is of a patient who is mostly of class 0, so that some resamples lack it.
    truth, groups = np.array([0, 0, 1, 0, 0, 0]), np.array([0, 0, 0, 1, 2, 3])
    score = np.array([0.1, 0.2, 0.6, 0.3, 0.8, 0.9])
    case = truth, np.stack([1 - score, score], axis=1), groups
    drawn = draw_groups(np.zeros(4, np.int64), 50, np.random.default_rng(0))
    lacking = drawn[:, 0] == 0
    assert 0 < lacking.sum() < 50
    areas = rank_cases(truth == 1, score, groups).auc(drawn)
    assert np.isnan(areas).tolist() == lacking.tolist()
    assert intervals(case)[1, 1:].tolist() == pytest.approx(np.percentile(areas[~lacking], [2.5, 97.5]))


def test_an_area_that_is_undefined_in_every_resample_has_a_value_and_no_interval():
    truth, groups = np.array([0, 0, 1, 0]), np.array([0, 0, 0, 1])
    stratum = np.zeros(2, np.int64)
    seed = next(seed for seed in range(20) if draw_groups(stratum, 1, np.random.default_rng(seed))[0, 0] == 0)
    case = truth, np.stack([[0.9, 0.6, 0.2, 0.1], [0.1, 0.4, 0.8, 0.9]], axis=1), groups
    (value, low, high) = intervals(case, seed=seed, resamples=1)[1]
    assert value == pytest.approx(2 / 3)
    assert math.isnan(low)
    assert math.isnan(high)


def test_two_classes_have_one_interval_each_and_complementary_probabilities_give_the_same():
    truth = np.arange(16) % 2
    score = np.random.default_rng(2).integers(0, 8, 16) / 8 + truth / 8
    areas = bootstrap_auc(
        truth, np.stack([1 - score, score], axis=1), np.arange(16), rng=np.random.default_rng(0), resamples=50
    )
    first, second = areas.by_class
    assert first == second == areas.macro
    assert isinstance(first, Interval)
    assert first.low < first.value < first.high


def test_several_images_a_patient_widen_the_interval():
    truth, probabilities, patient = clustered(np.random.default_rng(4), 40, 6)
    by_patient = intervals((truth, probabilities, patient), resamples=300)
    by_image = intervals((truth, probabilities, np.arange(len(truth))), resamples=300)
    assert by_patient[1, 2] - by_patient[1, 1] > 1.4 * (by_image[1, 2] - by_image[1, 1])


def test_copies_of_a_patients_image_change_nothing():
    truth, probabilities, patient = clustered(np.random.default_rng(4), 30, 1)
    copied = np.repeat(truth, 3), np.repeat(probabilities, 3, axis=0), np.repeat(patient, 3)
    np.testing.assert_array_equal(intervals(copied), intervals((truth, probabilities, patient)))


def test_arrays_that_do_not_fit_together_are_refused():
    truth, probabilities, groups = np.array([0, 1]), np.eye(2), np.array([0, 1])
    for case in (
        (truth[:1], probabilities, groups),
        (truth, probabilities[:1], groups),
        (truth, probabilities, groups[:1]),
        (truth, probabilities[0], groups),
        (truth[:, None], probabilities, groups[:, None]),
    ):
        with pytest.raises(ValueError, match=r"must be \[n\], \[n, C\] and \[n\]"):
            intervals(case)


def test_classes_out_of_range_scores_that_are_not_finite_and_bad_settings_are_refused():
    truth, probabilities, groups = np.array([0, 1]), np.eye(2), np.array([0, 1])
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match=r"truth must be in \[0, 2\)"):
            intervals((np.array([0, wrong]), probabilities, groups))
    with pytest.raises(ValueError, match="finite"):
        intervals((truth, np.array([[0, 1], [np.nan, 0]]), groups))
    with pytest.raises(ValueError, match="resamples >= 1"):
        intervals((truth, probabilities, groups), resamples=0)
    for level in (0, 1):
        with pytest.raises(ValueError, match="0 < level < 1"):
            intervals((truth, probabilities, groups), level=level)
