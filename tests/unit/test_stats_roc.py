"""ROC curves and AUC, against scikit-learn, worked numbers and their definition."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from cxrdist.stats.averages import macro_average, weighted_average
from cxrdist.stats.roc import RocCurve, auc, one_vs_rest_auc, roc_curve, vertical_average

ORACLES = Path(__file__).resolve().parents[2] / ".." / "shared" / "oracles.json"


@st.composite
def binary(draw):
    """Cases of both kinds, with many tied scores."""
    scores = draw(st.lists(st.integers(0, 12), min_size=2, max_size=50))
    positive = draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    positive[0], positive[1] = True, False
    return np.array(positive), np.array(scores) / 8


@st.composite
def multiclass(draw):
    n_classes = draw(st.integers(2, 4))
    n = draw(st.integers(2 * n_classes, 40))
    truth = np.arange(n) % n_classes
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(n_classes), n).round(2)
    return truth, probabilities, generator.integers(0, 2, n)


@given(binary())
@settings(max_examples=20, deadline=None)
def test_auc_is_the_share_of_pairs_in_the_right_order(case):
    positive, score = case
    differences = score[positive][:, None] - score[~positive][None, :]
    assert auc(positive, score) == pytest.approx(((differences > 0) + (differences == 0) / 2).mean())
    assert auc(positive, score) == pytest.approx(metrics.roc_auc_score(positive, score))


@given(binary())
@settings(max_examples=25, deadline=None)
def test_auc_of_reversed_scores_or_swapped_kinds_is_its_complement(case):
    positive, score = case
    assert auc(positive, -score) == pytest.approx(1 - auc(positive, score))
    assert auc(~positive, score) == pytest.approx(1 - auc(positive, score))
    assert auc(positive, np.exp(3 * score)) == pytest.approx(auc(positive, score))


@given(binary())
@settings(max_examples=20, deadline=None)
def test_the_curve_has_the_bends_of_scikit_learn_and_the_area_of_auc(case):
    positive, score = case
    curve = roc_curve(positive, score)
    fpr, tpr, threshold = metrics.roc_curve(positive, score, drop_intermediate=False)
    points = dict(zip(threshold.tolist(), zip(fpr.tolist(), tpr.tolist(), strict=True), strict=True))
    for x, y, at in zip(curve.false_positive_rate, curve.true_positive_rate, curve.threshold, strict=True):
        assert (x, y) == pytest.approx(points[at])
    area = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    assert area == pytest.approx(auc(positive, score))
    assert curve.false_positive_rate[[0, -1]].tolist() == curve.true_positive_rate[[0, -1]].tolist() == [0, 1]


@given(binary())
@settings(max_examples=25, deadline=None)
def test_no_point_of_the_curve_lies_between_its_neighbours(case):
    curve = roc_curve(*case)
    right, up = np.diff(curve.false_positive_rate), np.diff(curve.true_positive_rate)
    assert (np.abs(right[:-1] * up[1:] - up[:-1] * right[1:]) > 1e-12).all()


def test_auc_without_positive_or_negative_cases_is_undefined():
    assert math.isnan(auc(np.array([True, True]), np.array([0.1, 0.2])))
    assert math.isnan(auc(np.array([], bool), np.array([])))
    with pytest.raises(ValueError, match="positive and negative"):
        roc_curve(np.array([False, False]), np.array([0.1, 0.2]))


def test_scores_that_are_not_finite_are_refused():
    for score in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            auc(np.array([True, False]), np.array([0.1, score]))


def test_areas_equal_the_worked_numbers():
    if not ORACLES.exists():
        pytest.skip("shared/oracles.json is absent")
    oracle = json.loads(ORACLES.read_text())
    case = oracle["binary24"]
    positive, fold = np.array(case["y"]), np.array(case["fold"])
    for name, score in (("A", np.array(case["scoreA"])), ("B", np.array(case["scoreB"]))):
        expected = case[f"cvauc_{name}"]
        areas = one_vs_rest_auc(positive, np.stack([1 - score, score], axis=1), fold)
        assert areas.pooled[1] == pytest.approx(expected["pooled_auc"], rel=1e-12)
        assert areas.by_fold[:, 1].tolist() == pytest.approx(expected["fold_auc"], rel=1e-12)
        assert areas.mean_of_folds[1] == pytest.approx(expected["cvAUC"], rel=1e-12)
    paper = np.array(oracle["paper1_table1"]["cm_rows_true"])
    truth, predicted = (np.repeat(index.ravel(), paper.ravel()) for index in np.indices(paper.shape))
    areas = one_vs_rest_auc(truth, np.eye(4)[predicted], np.zeros_like(truth))
    assert macro_average(areas.pooled) == pytest.approx(oracle["paper1_table1"]["hard_label_auc_macro"], rel=1e-12)


@given(multiclass())
@settings(max_examples=20, deadline=None)
def test_one_vs_rest_areas_equal_those_of_scikit_learn(case):
    truth, probabilities, fold = case
    areas = one_vs_rest_auc(truth, probabilities, fold)
    one_hot = np.eye(probabilities.shape[1])[truth]
    for average, ours in (
        (None, areas.pooled),
        ("macro", macro_average(areas.pooled)),
        ("weighted", weighted_average(areas.pooled, areas.support)),
    ):
        np.testing.assert_allclose(ours, metrics.roc_auc_score(one_hot, probabilities, average=average))


@given(multiclass())
@settings(max_examples=20, deadline=None)
def test_renaming_the_classes_only_renames_the_areas(case):
    truth, probabilities, fold = case
    order = np.roll(np.arange(probabilities.shape[1]), 1)
    renamed = one_vs_rest_auc(np.argsort(order)[truth], probabilities[:, order], fold)
    areas = one_vs_rest_auc(truth, probabilities, fold)
    np.testing.assert_array_equal(renamed.pooled, areas.pooled[order])
    np.testing.assert_array_equal(renamed.by_fold, areas.by_fold[:, order])


def test_pooled_area_and_mean_of_folds_differ_where_folds_are_calibrated_differently():
    truth = np.array([0, 1, 0, 1])
    score = np.array([0.1, 0.2, 0.8, 0.9])
    areas = one_vs_rest_auc(truth, np.stack([1 - score, score], axis=1), np.array([0, 0, 1, 1]))
    assert areas.mean_of_folds.tolist() == [1, 1]
    assert areas.pooled.tolist() == [0.75, 0.75]


def test_a_class_that_a_fold_lacks_has_no_mean_of_folds_and_the_note_names_the_fold():
    truth, fold = np.array([0, 1, 2, 0, 1, 1]), np.array([3, 3, 3, 5, 5, 5])
    areas = one_vs_rest_auc(truth, np.eye(3)[truth], fold)
    assert areas.folds.tolist() == [3, 5]
    assert np.isnan(areas.mean_of_folds).tolist() == [False, False, True]
    assert not np.isnan(areas.pooled).any()
    (note,) = areas.undefined(["a", "b", "c"])
    assert note.startswith("AUC of c is undefined")
    assert note.endswith("fold 5.")


def test_on_a_vertical_step_the_curve_is_read_at_its_upper_end():
    curve = RocCurve(np.array([0, 0, 0.5, 0.5, 1]), np.array([0, 0.25, 0.25, 0.75, 1]), np.arange(5.0))
    assert curve.at(np.array([0, 0.25, 0.5, 0.75, 1])).tolist() == [0.25, 0.25, 0.75, 0.875, 1]


def test_vertical_averaging_is_the_mean_and_sample_sd_of_the_curves():
    straight = RocCurve(np.array([0.0, 1]), np.array([0.0, 1]), np.array([np.inf, 0]))
    perfect = RocCurve(np.array([0.0, 0, 1]), np.array([0.0, 1, 1]), np.array([np.inf, 1, 0]))
    grid = np.array([0, 0.5, 1])
    average = vertical_average([straight, perfect], grid)
    assert average.mean.tolist() == [0.5, 0.75, 1]
    assert average.sd.tolist() == pytest.approx([0.5**0.5, 0.125**0.5, 0])
    alone = vertical_average([straight], grid)
    assert alone.mean.tolist() == grid.tolist()
    assert np.isnan(alone.sd).all()
