"""The confusion matrix and its scores, against the papers, scikit-learn and their own definitions."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest
from sklearn import metrics

from cxrdist.stats.confusion import (
    class_scores,
    cohen_kappa,
    confusion_matrix,
    matthews_correlation,
    summarize,
    wilson,
)

PAPER_1 = np.array([[122, 3, 17, 2], [6, 102, 3, 6], [16, 2, 94, 20], [4, 1, 30, 85]])
ORACLES = Path(__file__).resolve().parents[2] / ".." / "shared" / "oracles.json"


@st.composite
def labelled(draw, min_size=1):
    n_classes = draw(st.integers(2, 5))
    pairs = st.tuples(st.integers(0, n_classes - 1), st.integers(0, n_classes - 1))
    drawn = np.array(draw(st.lists(pairs, min_size=min_size, max_size=60)), np.int64).reshape(-1, 2)
    return drawn[:, 0], drawn[:, 1], n_classes


def test_paper_1_prints_the_scores_of_its_confusion_matrix():
    scores = class_scores(PAPER_1)
    assert scores.precision.round(2).tolist() == [0.82, 0.94, 0.65, 0.75]
    assert scores.sensitivity.round(2).tolist() == [0.85, 0.87, 0.71, 0.71]
    assert scores.f1.round(2).tolist() == [0.84, 0.91, 0.68, 0.73]
    assert scores.specificity.round(4).tolist() == [0.9295, 0.9848, 0.8688, 0.9288]
    assert scores.true_positive.tolist() == [122, 102, 94, 85]
    assert scores.false_positive.tolist() == [26, 6, 50, 28]
    assert scores.false_negative.tolist() == [22, 15, 38, 35]
    assert scores.true_negative.tolist() == [343, 390, 331, 365]


def test_paper_1_summary_follows_from_its_confusion_matrix():
    summary = summarize(PAPER_1)
    assert (summary.correct, summary.n) == (403, 513)
    assert summary.accuracy == pytest.approx(0.785575, abs=5e-7)
    assert summary.sensitivity.macro == pytest.approx(0.784868, abs=5e-7)
    assert summary.specificity.macro == pytest.approx(0.927977, abs=5e-7)
    assert summary.f1.macro == pytest.approx(0.788264, abs=5e-7)
    assert summary.kappa == pytest.approx(0.713048, abs=5e-7)
    assert summary.mcc == pytest.approx(0.713576, abs=5e-7)
    assert wilson(403, 513) == pytest.approx((0.7480, 0.8189), abs=5e-5)


def test_the_printed_sensitivity_of_paper_1_is_the_weighted_one_not_the_macro_one():
    sensitivity = summarize(PAPER_1).sensitivity
    assert round(sensitivity.weighted, 2) == 0.79
    assert round(sensitivity.macro, 2) == 0.78


def test_scores_equal_the_worked_numbers():
    if not ORACLES.exists():
        pytest.skip("shared/oracles.json is absent")
    oracle = json.loads(ORACLES.read_text())["paper1_table1"]
    confusion = np.array(oracle["cm_rows_true"])
    scores, summary = class_scores(confusion), summarize(confusion)
    assert scores.precision.tolist() == pytest.approx(oracle["precision"], rel=1e-12)
    assert scores.sensitivity.tolist() == pytest.approx(oracle["recall"], rel=1e-12)
    assert scores.f1.tolist() == pytest.approx(oracle["f1"], rel=1e-12)
    assert scores.specificity.tolist() == pytest.approx(oracle["specificity"], rel=1e-12)
    computed = (summary.accuracy, summary.sensitivity.macro, summary.specificity.macro, summary.f1.macro)
    assert computed == pytest.approx([oracle[key] for key in ("accuracy", "macro_sens", "macro_spec", "macro_f1")])
    assert (summary.kappa, summary.mcc) == pytest.approx((oracle["kappa"], oracle["mcc"]), rel=1e-12)
    assert wilson(summary.correct, summary.n) == pytest.approx(oracle["acc_wilson"], rel=1e-12)


@given(labelled(min_size=0))
@settings(max_examples=20, deadline=None)
def test_every_image_is_counted_once_in_the_row_of_its_class(case):
    truth, predicted, n_classes = case
    confusion = confusion_matrix(truth, predicted, n_classes)
    assert confusion.sum() == len(truth)
    assert confusion.sum(axis=1).tolist() == np.bincount(truth, minlength=n_classes).tolist()
    assert confusion.sum(axis=0).tolist() == np.bincount(predicted, minlength=n_classes).tolist()
    scores = class_scores(confusion)
    cells = scores.true_positive + scores.false_positive + scores.false_negative + scores.true_negative
    assert (cells == len(truth)).all()


@given(labelled())
@settings(max_examples=20, deadline=None)
def test_scores_equal_those_of_scikit_learn_where_they_are_defined(case):
    truth, predicted, n_classes = case
    confusion = confusion_matrix(truth, predicted, n_classes)
    labels = np.arange(n_classes)
    assert confusion.tolist() == metrics.confusion_matrix(truth, predicted, labels=labels).tolist()
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, predicted, labels=labels, zero_division=np.nan
    )
    scores, summary = class_scores(confusion), summarize(confusion)
    np.testing.assert_allclose(scores.precision, precision)
    np.testing.assert_allclose(scores.sensitivity, recall)
    np.testing.assert_allclose(scores.f1, f1)
    assert scores.support.tolist() == support.tolist()
    assert summary.accuracy == pytest.approx(metrics.accuracy_score(truth, predicted))
    if not math.isnan(summary.mcc):
        assert summary.mcc == pytest.approx(metrics.matthews_corrcoef(truth, predicted), abs=1e-12)
    if not math.isnan(summary.kappa):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            oracle = metrics.cohen_kappa_score(truth, predicted, labels=labels)
        assert summary.kappa == pytest.approx(oracle, abs=1e-12)


@given(labelled())
@settings(max_examples=20, deadline=None)
def test_micro_scores_and_weighted_sensitivity_equal_the_accuracy(case):
    summary = summarize(confusion_matrix(*case))
    for score in (summary.sensitivity.micro, summary.precision.micro, summary.f1.micro, summary.sensitivity.weighted):
        assert score == pytest.approx(summary.accuracy)


@given(labelled(), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_renaming_the_classes_only_renames_the_scores(case, random):
    truth, predicted, n_classes = case
    renamed = list(range(n_classes))
    random.shuffle(renamed)
    to = np.array(renamed)
    before = confusion_matrix(truth, predicted, n_classes)
    after = confusion_matrix(to[truth], to[predicted], n_classes)
    np.testing.assert_array_equal(class_scores(after).f1[to], class_scores(before).f1)
    np.testing.assert_array_equal(class_scores(after).specificity[to], class_scores(before).specificity)
    np.testing.assert_allclose(matthews_correlation(after), matthews_correlation(before), atol=1e-12)
    np.testing.assert_allclose(cohen_kappa(after), cohen_kappa(before), atol=1e-12)


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=3, max_size=3))
@settings(max_examples=25, deadline=None)
def test_macro_and_weighted_averages_are_equal_where_classes_are_balanced(rows):
    confusion = np.array(rows)
    confusion[:, 0] += 30 - confusion.sum(axis=1)
    summary = summarize(confusion)
    assert summary.sensitivity.macro == pytest.approx(summary.sensitivity.weighted)
    assert summary.specificity.macro == pytest.approx(summary.specificity.weighted)
    assert summary.f1.macro == pytest.approx(summary.f1.weighted, nan_ok=True)


def test_an_undefined_ratio_is_nan_with_its_reason():
    confusion = confusion_matrix(np.array([0, 0, 1]), np.array([0, 0, 0]), 3)
    scores, summary = class_scores(confusion), summarize(confusion)
    assert np.isnan(scores.precision).tolist() == [False, True, True]
    assert np.isnan(scores.sensitivity).tolist() == [False, False, True]
    assert scores.f1[1] == 0
    assert math.isnan(summary.sensitivity.macro)
    assert math.isnan(summary.precision.weighted)
    assert summary.sensitivity.weighted == pytest.approx(2 / 3)
    assert scores.undefined(["a", "b", "c"]) == [
        "Precision of b is undefined (n/a): it is never predicted.",
        "Precision of c is undefined (n/a): it is never predicted.",
        "Recall of c is undefined (n/a): no image is of it.",
        "F1 of c is undefined (n/a): it neither occurs nor is predicted.",
    ]


def test_agreement_is_undefined_where_everything_is_one_class():
    confusion = np.array([[5, 0], [0, 0]])
    assert math.isnan(cohen_kappa(confusion))
    assert math.isnan(matthews_correlation(confusion))
    assert math.isnan(matthews_correlation(np.array([[5, 0], [3, 0]])))
    assert math.isnan(summarize(np.zeros((2, 2), np.int64)).accuracy)


def test_impossible_labels_are_refused():
    with pytest.raises(ValueError, match=r"truth must be in \[0, 2\)"):
        confusion_matrix(np.array([0, 2]), np.array([0, 1]), 2)
    with pytest.raises(ValueError, match="predicted must be"):
        confusion_matrix(np.array([0, 1]), np.array([0, -1]), 2)
    with pytest.raises(ValueError, match="alike"):
        confusion_matrix(np.array([0, 1]), np.array([0]), 2)


@given(st.integers(1, 400), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=25, deadline=None)
def test_wilson_intervals_equal_those_of_scipy(n, data, level):
    successes = data.draw(st.integers(0, n))
    oracle = binomtest(successes, n).proportion_ci(level, method="wilson")
    assert wilson(successes, n, level) == pytest.approx((oracle.low, oracle.high), abs=1e-9)


def test_wilson_refuses_more_successes_than_cases_and_knows_nothing_without_cases():
    with pytest.raises(ValueError, match="successes"):
        wilson(3, 2)
    assert all(math.isnan(end) for end in wilson(0, 0))


@given(
    arrays(
        np.int64,
        st.tuples(st.integers(0, 6), st.integers(2, 4)).map(lambda n: (n[0], n[1], n[1])),
        elements=st.integers(0, 3),
    )
)
@settings(max_examples=25, deadline=None)
def test_agreement_of_many_matrices_is_that_of_each(confusions):
    for agreement in (cohen_kappa, matthews_correlation):
        alone = [float(agreement(one)) for one in confusions]
        np.testing.assert_array_equal(agreement(confusions), alone)
