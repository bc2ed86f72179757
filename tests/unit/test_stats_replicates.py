"""Every score in resamples of patients, against scikit-learn on repeated rows, worked numbers and symmetries."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    log_loss,
    matthews_corrcoef,
    precision_recall_fscore_support,
    roc_auc_score,
)

from cxrdist.stats import resampling
from cxrdist.stats.confusion import class_scores, confusion_matrix, summarize
from cxrdist.stats.replicates import paired_difference, replicate_scores, scores_once
from cxrdist.stats.resampling import bootstrap_auc, draw_groups, percentile_interval

BY_CLASS = ("auc", "precision", "sensitivity", "specificity", "f1")
OVERALL = (
    "accuracy",
    "log_loss",
    "brier",
    "kappa",
    "mcc",
    "macro_auc",
    "macro_precision",
    "macro_sensitivity",
    "macro_specificity",
    "macro_f1",
)
SCORES = (*BY_CLASS, *OVERALL)
SEEDS = st.integers(0, 2**32 - 1)


def study(seed, n_classes=3, images=40):
    """Predictions in eighths, so with ties and zeros, of patients with one to several images of one class."""
    generator = np.random.default_rng(seed)
    patient = np.concatenate([np.arange(3 * n_classes), generator.integers(0, 3 * n_classes, images)])
    truth = patient % n_classes
    towards_truth = np.eye(n_classes)[truth] + 0.5
    probabilities = generator.multinomial(8, towards_truth / towards_truth.sum(axis=1, keepdims=True)) / 8
    return truth, probabilities, patient


def replicated(case, *, seed=0, resamples=20):
    truth, probabilities, patient = case
    return replicate_scores(truth, probabilities, patient, rng=np.random.default_rng(seed), resamples=resamples)


def assert_same(first, second, rtol=0.0):
    for name in SCORES:
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=rtol, atol=rtol, err_msg=name)


def by_scikit_learn(truth, probabilities):
    n_classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    precision, sensitivity, f1, _ = precision_recall_fscore_support(
        truth, predicted, labels=range(n_classes), zero_division=np.nan
    )
    brier = sum(
        (probability - float(index == true)) ** 2
        for row, true in zip(probabilities, truth, strict=True)
        for index, probability in enumerate(row)
    )
    scores = {
        "auc": roc_auc_score(truth, probabilities, multi_class="ovr", average=None),
        "precision": precision,
        "sensitivity": sensitivity,
        # The specificity for a class is the sensitivity for the rest.
        "specificity": [
            precision_recall_fscore_support(truth != index, predicted != index, average="binary")[1]
            for index in range(n_classes)
        ],
        "f1": f1,
        "accuracy": accuracy_score(truth, predicted),
        "log_loss": log_loss(truth, probabilities),
        "brier": brier / len(truth),
        "kappa": cohen_kappa_score(truth, predicted),
        "mcc": matthews_corrcoef(truth, predicted),
    }
    return scores | {f"macro_{name}": np.mean(scores[name]) for name in BY_CLASS}


@given(SEEDS)
@settings(max_examples=5, deadline=None)
def test_scores_are_those_of_scikit_learn_and_of_the_confusion_matrix(seed):
    truth, probabilities, _ = study(seed)
    once = scores_once(truth, probabilities)
    expected = by_scikit_learn(truth, probabilities)
    assert set(expected) == set(SCORES)
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(once, name), [value], rtol=1e-12, err_msg=name)
    assert once.macro_sensitivity[0] == pytest.approx(balanced_accuracy_score(truth, probabilities.argmax(axis=1)))
    confusion = confusion_matrix(truth, probabilities.argmax(axis=1), 3)
    np.testing.assert_array_equal(once.confusion[0], confusion)
    for name in ("precision", "sensitivity", "specificity", "f1"):
        np.testing.assert_array_equal(getattr(once, name)[0], getattr(class_scores(confusion), name))
    summary = summarize(confusion)
    assert (once.accuracy[0], once.kappa[0], once.mcc[0]) == (summary.accuracy, summary.kappa, summary.mcc)


@given(SEEDS)
@settings(max_examples=3, deadline=None)
def test_scores_of_a_resample_are_those_of_scikit_learn_on_repeated_rows(seed):
    truth, probabilities, patient = study(seed)
    # Patients appear in the order of their numbers.
    drawn = draw_groups(np.arange(9) % 3, 3, np.random.default_rng(7))
    replicates = replicated((truth, probabilities, patient), seed=7, resamples=3)
    for row, weight in enumerate(drawn):
        rows = np.repeat(np.arange(len(truth)), weight[patient])
        for name, value in by_scikit_learn(truth[rows], probabilities[rows]).items():
            np.testing.assert_allclose(getattr(replicates, name)[row], value, rtol=1e-12, err_msg=name)


def test_worked_numbers_of_two_classes():
    truth = np.array([0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0])
    percent = [10, 80, 35, 60, 90, 40, 20, 55, 30, 70, 45, 45, 15, 95, 50, 65, 85, 25, 60, 40, 5, 75, 50, 35]
    score = np.array(percent) / 100
    once = scores_once(truth, np.stack([1 - score, score], axis=1))
    assert once.auc[0] == pytest.approx([0.9375, 0.9375], abs=1e-12)
    assert once.log_loss[0] == pytest.approx(0.4125168388709295, abs=1e-12)
    # Over both classes, which differ by the same.
    assert once.brier[0] == pytest.approx(2 * 0.12791666666666668, abs=1e-12)


def test_worked_numbers_of_four_classes():
    confusion = np.array([[122, 3, 17, 2], [6, 102, 3, 6], [16, 2, 94, 20], [4, 1, 30, 85]])
    truth, predicted = (np.repeat(index.ravel(), confusion.ravel()) for index in np.indices((4, 4)))
    once = scores_once(truth, np.eye(4)[predicted])
    assert once.accuracy[0] == pytest.approx(0.7855750487329435, abs=1e-12)
    assert once.macro_sensitivity[0] == pytest.approx(0.78486790986791, abs=1e-12)
    assert once.macro_specificity[0] == pytest.approx(0.9279768412756229, abs=1e-12)
    assert once.macro_f1[0] == pytest.approx(0.7882640648045663, abs=1e-12)
    assert once.kappa[0] == pytest.approx(0.7130478558679502, abs=1e-12)
    assert once.mcc[0] == pytest.approx(0.7135755704314071, abs=1e-12)
    assert once.macro_auc[0] == pytest.approx(0.8564223755717664, abs=1e-12)


@given(SEEDS)
@settings(max_examples=5, deadline=None)
def test_intervals_of_areas_are_those_of_the_bootstrap_of_areas(seed):
    truth, probabilities, patient = study(seed)
    once, replicates = scores_once(truth, probabilities), replicated((truth, probabilities, patient), seed=3)
    areas = bootstrap_auc(truth, probabilities, patient, rng=np.random.default_rng(3), resamples=20, level=0.9)
    for index, interval in enumerate(areas.by_class):
        assert percentile_interval(once.auc[0, index], replicates.auc[:, index], 0.9) == interval
    assert percentile_interval(once.macro_auc[0], replicates.macro_auc, 0.9) == areas.macro


def test_two_classifiers_on_the_same_images_have_the_same_resamples():
    for seed in range(5):
        truth, probabilities, patient = study(seed, n_classes=2)
        score = 0.9 * probabilities[:, 1] + 0.01
        contrary = [np.stack(columns, axis=1) for columns in ((1 - score, score), (score, 1 - score))]
        first, second = (replicated((truth, each, patient), seed=seed) for each in contrary)
        assert np.unique(first.accuracy).size > 1
        np.testing.assert_array_equal(first.confusion, second.confusion[:, :, ::-1])
        np.testing.assert_allclose(first.auc, 1 - second.auc, atol=1e-12)


@given(SEEDS)
@settings(max_examples=5, deadline=None)
def test_other_names_of_the_patients_change_nothing(seed):
    truth, probabilities, patient = study(seed)
    renamed = np.array([f"patient {(97 - 5 * number) % 101}" for number in patient])
    assert_same(replicated((truth, probabilities, renamed)), replicated((truth, probabilities, patient)))


@given(SEEDS)
@settings(max_examples=5, deadline=None)
def test_copies_of_every_image_of_the_same_patient_change_nothing(seed):
    truth, probabilities, patient = study(seed)
    copied = np.repeat(truth, 3), np.repeat(probabilities, 3, axis=0), np.repeat(patient, 3)
    assert_same(replicated(copied), replicated((truth, probabilities, patient)), rtol=1e-12)


def test_copies_taken_for_patients_of_their_own_narrow_the_intervals():
    truth, probabilities = (np.repeat(array, 4, axis=0) for array in study(0)[:2])
    by_patient, by_image = (
        replicated((truth, probabilities, groups), resamples=300)
        for groups in (np.arange(len(truth)) // 4, np.arange(len(truth)))
    )
    for name in OVERALL:
        wide, narrow = (percentile_interval(0, getattr(each, name)) for each in (by_patient, by_image))
        assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low), name


def test_the_last_bits_do_not_depend_on_the_size_of_the_chunks(monkeypatch):
    case = study(1)
    at_once = replicated(case, resamples=50)
    for rows in (1, 7):
        monkeypatch.setattr(resampling, "_CHUNK_BYTES", rows * 8 * (9 + 3 * 49 + 1))
        assert_same(replicated(case, resamples=50), at_once)


def test_memory_does_not_grow_with_resamples_times_images():
    case = study(0, images=2000)
    peaks = []
    for resamples in (100, 600):
        tracemalloc.start()
        replicated(case, resamples=resamples)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
    assert peaks[1] < 2 * resampling._CHUNK_BYTES


def test_a_perfect_classifier_has_no_width():
    truth = np.repeat([0, 1, 2], 8)
    replicates = replicated((truth, np.eye(3)[truth], np.arange(24) // 2))
    for name in ("log_loss", "brier"):
        np.testing.assert_allclose(getattr(replicates, name), 0, atol=1e-15)
    for name in set(SCORES) - {"log_loss", "brier"}:
        np.testing.assert_array_equal(getattr(replicates, name), 1, err_msg=name)


def test_constant_scores_predict_the_first_class_and_rank_nothing():
    truth = np.repeat([0, 1, 2], [6, 10, 4])
    replicates = replicated((truth, np.full((20, 3), 1 / 3), np.arange(20) // 2))
    np.testing.assert_array_equal(replicates.auc, 0.5)
    np.testing.assert_allclose(replicates.log_loss, math.log(3))
    np.testing.assert_allclose(replicates.brier, 2 / 3)
    np.testing.assert_array_equal(replicates.sensitivity, [[1, 0, 0]] * 20)
    np.testing.assert_array_equal(replicates.specificity, [[0, 1, 1]] * 20)
    np.testing.assert_array_equal(replicates.precision, [[0.3, np.nan, np.nan]] * 20)
    np.testing.assert_array_equal(replicates.macro_precision, np.nan)
    np.testing.assert_array_equal(replicates.kappa, 0)
    np.testing.assert_array_equal(replicates.mcc, np.nan)


def test_a_class_that_neither_occurs_nor_is_predicted_is_undefined_and_the_others_are_not():
    truth, two, patient = study(2, n_classes=2)
    probabilities = np.insert(two, 1, 0, axis=1)
    absent, without = replicated((2 * truth, probabilities, patient)), replicated((truth, two, patient))
    for name in BY_CLASS:
        values = getattr(absent, name)
        np.testing.assert_array_equal(values[:, [0, 2]], getattr(without, name))
        np.testing.assert_array_equal(values[:, 1], 1 if name == "specificity" else np.nan)
        np.testing.assert_array_equal(np.isnan(getattr(absent, f"macro_{name}")), name != "specificity", err_msg=name)
    for name in ("accuracy", "log_loss", "brier", "kappa", "mcc"):
        np.testing.assert_allclose(getattr(absent, name), getattr(without, name), rtol=1e-14)


def test_one_image_a_class_does_not_vary():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    replicates, once = replicated((np.arange(3), probabilities, np.arange(3))), scores_once(np.arange(3), probabilities)
    for name in SCORES:
        values = getattr(replicates, name)
        np.testing.assert_array_equal(values, np.broadcast_to(getattr(once, name), values.shape), err_msg=name)
    assert once.accuracy[0] == 2 / 3


def test_without_images_every_score_is_undefined():
    nothing = np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros(0, np.int64)
    for replicates, resamples in ((scores_once(*nothing[:2]), 1), (replicated(nothing), 20)):
        for name in SCORES:
            expected = np.full((resamples, 3) if name in BY_CLASS else resamples, np.nan)
            np.testing.assert_array_equal(getattr(replicates, name), expected, err_msg=name)


def test_a_probability_of_0_for_the_true_class_costs_what_the_smallest_step_above_1_does():
    once = scores_once([0, 1], [[0.0, 1.0], [0.5, 0.5]])
    assert once.log_loss[0] == pytest.approx((52 + 1) * math.log(2) / 2)


def test_arrays_that_do_not_fit_together_and_bad_values_are_refused():
    truth, probabilities, patient = np.array([0, 1]), np.eye(2), np.array([0, 1])
    with pytest.raises(ValueError, match=r"must be \[n\], \[n, C\] and \[n\]"):
        replicated((truth, probabilities, patient[:1]))
    with pytest.raises(ValueError, match=r"truth must be in \[0, 2\)"):
        replicated((np.array([0, 2]), probabilities, patient))
    with pytest.raises(ValueError, match="resamples >= 1"):
        replicated((truth, probabilities, patient), resamples=0)
    for wrong in ((truth, probabilities[:1]), (truth[:, None], probabilities), (truth, probabilities[0])):
        with pytest.raises(ValueError, match=r"must be \[n\], \[n, C\] and \[n\]"):
            scores_once(*wrong)
    with pytest.raises(ValueError, match="probabilities must be finite"):
        scores_once(truth, np.array([[0, 1], [np.nan, 0]]))


def replicates_of_differences():
    """Differences with ties at 0."""
    return st.lists(st.integers(-3, 5), min_size=1, max_size=80).map(lambda values: np.array(values) / 8)


def test_a_classifier_does_not_differ_from_itself():
    scores = replicated(study(0)).accuracy
    result = paired_difference(0.5, 0.5, scores, scores)
    assert (result.difference.value, result.difference.low, result.difference.high, result.p) == (0, 0, 0, 1)


@settings(max_examples=30, deadline=None)
@given(replicates_of_differences())
def test_exchanging_the_classifiers_mirrors_their_difference_and_keeps_p(first):
    second = np.full(len(first), 0.125)
    forth = paired_difference(0.75, 0.25, first, second)
    back = paired_difference(0.25, 0.75, second, first)
    assert back.p == forth.p
    assert -back.difference.value == forth.difference.value
    assert -back.difference.high == pytest.approx(forth.difference.low, abs=1e-12)
    assert -back.difference.low == pytest.approx(forth.difference.high, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(replicates_of_differences(), st.sampled_from([0.5, 0.8, 0.95]))
def test_p_is_in_0_to_1_and_where_it_is_small_the_interval_excludes_0(first, level):
    result = paired_difference(0.5, 0.5, first, np.zeros(len(first)), level)
    assert 2 / (len(first) + 1) <= result.p <= 1
    if result.p <= 1 - level:
        assert result.difference.low > 0 or result.difference.high < 0
    if result.difference.low > 0 or result.difference.high < 0:
        # The sample itself counts as a resample, and percentiles lie between resamples.
        assert result.p <= 1 - level + 4 / (len(first) + 1)


def test_p_counts_resamples_on_the_other_side_and_at_0_and_the_sample_itself():
    second = np.zeros(9)
    assert paired_difference(1, 0, np.array([-1, 0, 1, 2, 3, 4, 5, 6, 7]), second).p == pytest.approx(2 * 3 / 10)
    assert paired_difference(1, 0, np.array([1, 1, 1, 2, 3, 4, 5, 6, 7]), second).p == pytest.approx(2 * 1 / 10)


def test_p_of_clearly_different_classifiers_is_the_least_possible():
    truth, probabilities, patient = study(0)
    good, bad = replicated((truth, probabilities, patient)), replicated((truth, 1 / 3 - probabilities, patient))
    for name in set(OVERALL) - {"log_loss", "brier", "macro_precision"}:
        result = paired_difference(1, 0, getattr(good, name), getattr(bad, name))
        assert result.p == pytest.approx(2 / 21), name
        assert result.difference.low > 0, name


def test_resamples_without_a_value_are_left_out_of_interval_and_p():
    some, without = np.array([1.0, 2.0, np.nan, 4.0]), np.array([1.0, 2.0, 4.0])
    zeros = np.zeros(4)
    assert paired_difference(2, 0, some, zeros) == paired_difference(2, 0, without, zeros[:3])
    assert paired_difference(2, 0, some, zeros).p == pytest.approx(2 / 4)
    assert paired_difference(0, 2, zeros, some).p == pytest.approx(2 / 4)
    assert percentile_interval(2, some) == percentile_interval(2, without)


def test_without_any_defined_resample_there_is_a_value_and_nothing_else():
    result = paired_difference(0.75, 0.5, np.array([np.nan, 1.0]), np.array([1.0, np.nan]))
    assert result.difference.value == 0.25
    assert all(math.isnan(value) for value in (result.difference.low, result.difference.high, result.p))


@settings(max_examples=30, deadline=None)
@given(replicates_of_differences(), st.sampled_from([0.5, 0.9, 0.95]))
def test_the_interval_is_between_linearly_interpolated_percentiles(values, level):
    interval = percentile_interval(0.5, values, level)
    tail = 50 * (1 - level)
    assert interval.value == 0.5
    assert [interval.low, interval.high] == pytest.approx(np.percentile(values, [tail, 100 - tail]).tolist(), abs=1e-12)


def test_replicates_that_are_not_paired_and_levels_outside_0_to_1_are_refused():
    for shape in ((3,), (4, 1)):
        with pytest.raises(ValueError, match=r"must be \[R\] alike"):
            paired_difference(1, 0, np.zeros(4), np.zeros(shape))
    with pytest.raises(ValueError, match=r"must be \[R\] alike"):
        paired_difference(1, 0, np.zeros((4, 2)), np.zeros((4, 2)))
    for level in (0, 1):
        with pytest.raises(ValueError, match="0 < level < 1"):
            percentile_interval(0.5, np.zeros(4), level)
        with pytest.raises(ValueError, match="0 < level < 1"):
            paired_difference(1, 0, np.zeros(4), np.zeros(4), level)
