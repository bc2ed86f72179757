"""Calibration, against worked numbers, scikit-learn, scipy's minimiser and definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn import metrics

from cxrdist.stats.calibration import (
    apply_temperature,
    binned_calibration,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    maximum_calibration_error,
    reliability,
)

# Supplementary note 2.24 of Metrics Reloaded: ten cases, and both calibration errors by number of bins.
WORKED_PROBABILITY = np.array([0.22, 0.48, 0.49, 0.96, 0.55, 0.64, 0.78, 0.82, 0.34, 0.87])
WORKED_OUTCOME = np.array([0, 1, 0, 0, 1, 1, 1, 1, 1, 0], bool)
WORKED_ERRORS = [
    (2, 0.10899999999999996, 0.1175),
    (5, 0.31499999999999995, 0.55),
    (10, 0.359, 0.96),
    (15, 0.395, 0.96),
]

# 24 cases with two scores.
TRUTH = np.array([0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0])
SCORE_A = (
    np.array([10, 80, 35, 60, 90, 40, 20, 55, 30, 70, 45, 45, 15, 95, 50, 65, 85, 25, 60, 40, 5, 75, 50, 35]) / 100
)
SCORE_B = (
    np.array([30, 55, 45, 50, 80, 20, 40, 35, 25, 90, 30, 60, 35, 70, 55, 60, 65, 40, 50, 45, 10, 50, 85, 20]) / 100
)

# Calibrated exactly: of ten images with each row's probabilities, as many are of each class as it says.
CALIBRATED = np.repeat([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]], 10, axis=0)
CALIBRATED_TRUTH = np.repeat([0, 1, 2] * 3, [6, 3, 1, 1, 8, 1, 2, 2, 6])


def columns(score):
    return np.stack([1 - score, score], axis=1)


@st.composite
def classified(draw, least=1e-9):
    """True classes and probabilities, from confident to uniform."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, n_classes = draw(st.integers(1, 40)), draw(st.integers(2, 5))
    probabilities = generator.dirichlet(np.full(n_classes, draw(st.sampled_from([0.1, 1.0, 10.0]))), n)
    probabilities = np.maximum(probabilities, least)
    return generator.integers(0, n_classes, n), probabilities / probabilities.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("n_bins", "expected", "maximum"), WORKED_ERRORS)
def test_calibration_errors_of_metrics_reloaded_are_reproduced(n_bins, expected, maximum):
    bins = binned_calibration(WORKED_OUTCOME, WORKED_PROBABILITY, n_bins)
    assert expected_calibration_error(bins) == pytest.approx(expected, abs=1e-9)
    assert maximum_calibration_error(bins) == pytest.approx(maximum, abs=1e-9)


def test_an_edge_belongs_to_the_bin_below_it_and_0_to_the_first():
    probability = np.arange(11) / 10
    bins = binned_calibration(np.ones(11, bool), probability)
    assert bins.count.tolist() == [2] + [1] * 9
    assert bins.low.tolist() == probability[:-1].tolist()
    assert bins.high.tolist() == probability[1:].tolist()
    assert bins.confidence[1:].tolist() == probability[2:].tolist()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=40), st.sampled_from([1, 2, 5, 10, 15]))
@settings(max_examples=25, deadline=None)
def test_bins_hold_mean_probability_and_frequency_of_the_outcome(cases, n_bins):
    outcome = np.array([case for case, _ in cases], bool)
    probability = np.array([sixtieths for _, sixtieths in cases], np.float64) / 60
    bins = binned_calibration(outcome, probability, n_bins)
    sixtieths = np.array([number for _, number in cases], int)
    for index in range(n_bins):
        inside = (index * 60 < sixtieths * n_bins) & (sixtieths * n_bins <= (index + 1) * 60)
        inside |= (index == 0) & (sixtieths == 0)
        assert bins.count[index] == inside.sum()
        if inside.any():
            assert bins.confidence[index] == pytest.approx(probability[inside].mean())
            assert bins.accuracy[index] == pytest.approx(outcome[inside].mean())
        else:
            assert math.isnan(bins.confidence[index])
            assert math.isnan(bins.accuracy[index])


@given(classified(), st.integers(1, 20))
@settings(max_examples=25, deadline=None)
def test_the_expected_error_lies_between_that_of_one_bin_and_the_maximum(case, n_bins):
    truth, probabilities = case
    bins = reliability(truth, probabilities, n_bins)
    one = expected_calibration_error(reliability(truth, probabilities, 1))
    expected, maximum = expected_calibration_error(bins), maximum_calibration_error(bins)
    assert one - 1e-12 <= expected <= maximum + 1e-12 <= 1 + 1e-9


def test_reliability_compares_the_predicted_class_with_the_true_one():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.05, 0.9, 0.05], [0.4, 0.4, 0.2]])
    bins = reliability(np.array([0, 1, 1, 0]), probabilities, 5)
    assert bins.count.tolist() == [0, 1, 2, 0, 1]
    assert bins.confidence[[1, 2, 4]].tolist() == pytest.approx([0.4, 0.5, 0.9])
    assert bins.accuracy[[1, 2, 4]].tolist() == [1, 0.5, 1]
    assert expected_calibration_error(bins) == pytest.approx((0.6 + 2 * 0 + 0.1) / 4)
    assert maximum_calibration_error(bins) == pytest.approx(0.6)


def test_frequencies_as_predicted_have_no_calibration_error():
    bins = reliability(CALIBRATED_TRUTH, CALIBRATED)
    assert expected_calibration_error(bins) == pytest.approx(0, abs=1e-12)
    assert maximum_calibration_error(bins) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("score", "brier", "loss"),
    [
        (SCORE_A, 0.12791666666666668, 0.4125168388709295),
        (SCORE_B, 0.1734375, 0.5199984114538988),
    ],
    ids="AB",
)
def test_worked_scores_are_reproduced_and_two_classes_have_twice_the_brier_score_of_one(score, brier, loss):
    assert brier_score(TRUTH, columns(score)) == pytest.approx(2 * brier, abs=1e-9)
    assert log_loss(TRUTH, columns(score)) == pytest.approx(loss, abs=1e-9)


@given(classified())
@settings(max_examples=25, deadline=None)
def test_proper_scores_equal_those_of_scikit_learn(case):
    truth, probabilities = case
    labels = np.arange(probabilities.shape[1])
    assert log_loss(truth, probabilities) == pytest.approx(metrics.log_loss(truth, probabilities, labels=labels))
    oracle = metrics.brier_score_loss(truth, probabilities, labels=labels, scale_by_half=False)
    assert brier_score(truth, probabilities) == pytest.approx(oracle)


def test_scores_of_certain_predictions_reach_their_ends():
    truth, right = np.array([0, 1, 2]), np.eye(3)
    wrong = np.roll(right, 1, axis=1)
    assert brier_score(truth, right) == 0
    assert brier_score(truth, wrong) == 2
    assert log_loss(truth, right) == 0
    assert log_loss(truth, wrong) == pytest.approx(-math.log(np.finfo(float).eps))


@given(classified())
@settings(max_examples=25, deadline=None)
def test_a_temperature_of_1_changes_nothing(case):
    _, probabilities = case
    np.testing.assert_allclose(apply_temperature(probabilities, 1.0), probabilities, rtol=1e-12)


@given(classified(), st.floats(0.05, 20))
@settings(max_examples=25, deadline=None)
def test_a_temperature_raises_probabilities_to_its_inverse(case, temperature):
    _, probabilities = case
    powers = probabilities ** (1 / temperature)
    applied = apply_temperature(probabilities, temperature)
    np.testing.assert_allclose(applied, powers / powers.sum(axis=1, keepdims=True), rtol=1e-9, atol=1e-300)


@given(classified(least=0), st.floats(0.05, 20))
@settings(max_examples=25, deadline=None)
def test_no_temperature_changes_the_predicted_class(case, temperature):
    _, probabilities = case
    applied = apply_temperature(probabilities, temperature)
    predicted = applied[np.arange(len(applied)), probabilities.argmax(axis=1)]
    np.testing.assert_array_equal(predicted, applied.max(axis=1))


@given(classified(least=0))
@settings(max_examples=25, deadline=None)
def test_the_fitted_temperature_never_has_a_larger_log_loss_than_none(case):
    truth, probabilities = case
    fitted = apply_temperature(probabilities, fit_temperature(truth, probabilities))
    assert log_loss(truth, fitted) <= log_loss(truth, probabilities) + 1e-9


@given(classified())
@settings(max_examples=25, deadline=None)
def test_the_fitted_temperature_is_where_a_minimiser_of_the_log_loss_ends(case):
    truth, probabilities = case

    def loss(log_temperature):
        return log_loss(truth, apply_temperature(probabilities, math.exp(log_temperature)))

    bounds = (math.log(0.1), math.log(10))
    oracle = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-10})
    fitted = fit_temperature(truth, probabilities, lowest=0.1, highest=10.0)
    assert loss(math.log(fitted)) == pytest.approx(oracle.fun, abs=1e-6)
    assert loss(math.log(fitted)) <= oracle.fun + 1e-12


@pytest.mark.parametrize("sharpened", [0.25, 0.5, 1.0, 2.0, 5.0])
def test_the_temperature_that_undoes_a_known_one_is_found(sharpened):
    probabilities = apply_temperature(CALIBRATED, 1 / sharpened)
    temperature = fit_temperature(CALIBRATED_TRUTH, probabilities)
    assert temperature == pytest.approx(sharpened, rel=1e-9)
    np.testing.assert_allclose(apply_temperature(probabilities, temperature), CALIBRATED, rtol=1e-8)


def test_over_confident_draws_are_cooled_by_about_what_heated_them():
    generator = np.random.default_rng(7)
    calibrated = generator.dirichlet(np.ones(3), 20_000)
    truth = (generator.random((20_000, 1)) > calibrated.cumsum(axis=1)[:, :2]).sum(axis=1)
    assert fit_temperature(truth, apply_temperature(calibrated, 0.4)) == pytest.approx(2.5, rel=0.05)


def test_an_optimum_beyond_a_bound_is_the_bound():
    truth = np.array([0, 1])
    right = np.array([[0.6, 0.4], [0.1, 0.9]])
    for probabilities, bound in ((right, 0.5), (right[::-1], 3.0), (np.eye(2), 0.5), (np.eye(2)[::-1], 3.0)):
        assert fit_temperature(truth, probabilities, lowest=0.5, highest=3.0) == bound
    assert fit_temperature(truth, right) == 0.05
    assert fit_temperature(truth, right[::-1]) == 20


def test_uniform_predictions_keep_their_temperature():
    uniform, truth = np.full((4, 3), 1 / 3), np.array([0, 1, 2, 2])
    assert fit_temperature(truth, uniform) == 1
    assert fit_temperature(truth, uniform, lowest=2.0) == 2
    np.testing.assert_allclose(apply_temperature(uniform, 7.0), uniform, rtol=1e-12)


def test_certain_predictions_of_which_some_are_wrong_are_cooled_to_their_accuracy():
    truth, probabilities = np.array([0, 1, 1, 0]), np.eye(2)[[0, 1, 1, 1]]
    temperature = fit_temperature(truth, probabilities, highest=100.0)
    assert apply_temperature(probabilities, temperature).max(axis=1).tolist() == pytest.approx([0.75] * 4)


def test_without_images_everything_is_undefined():
    truth, probabilities = np.zeros(0, int), np.zeros((0, 3))
    bins = reliability(truth, probabilities)
    assert bins.count.tolist() == [0] * 10
    assert math.isnan(expected_calibration_error(bins))
    assert math.isnan(maximum_calibration_error(bins))
    for score in (brier_score, log_loss, fit_temperature):
        assert math.isnan(score(truth, probabilities))
    assert apply_temperature(probabilities, math.nan).shape == (0, 3)
    assert np.isnan(apply_temperature(np.eye(3), math.nan)).all()


@pytest.mark.parametrize("score", [reliability, brier_score, log_loss, fit_temperature])
def test_impossible_predictions_are_refused(score):
    truth, probabilities = np.array([0, 1]), np.eye(2)
    for bad in (probabilities[:1], probabilities[0], np.zeros((2, 0))):
        with pytest.raises(ValueError, match=r"\[n\] and \[n, C\]"):
            score(truth, bad)
    for bad in (np.array([0, 2]), np.array([-1, 0])):
        with pytest.raises(ValueError, match=r"truth must be in \[0, 2\)"):
            score(bad, probabilities)
    for bad in (2 * probabilities, -probabilities, np.full((2, 2), math.nan)):
        with pytest.raises(ValueError, match=r"probabilities must be in \[0, 1\]"):
            score(truth, bad)


def test_impossible_bins_and_temperatures_are_refused():
    right = np.ones(2, bool)
    with pytest.raises(ValueError, match="at least one bin"):
        binned_calibration(right, np.ones(2), 0)
    with pytest.raises(ValueError, match=r"\[n\] alike"):
        binned_calibration(right, np.ones(3))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        binned_calibration(right, np.array([0.5, 1.5]))
    for lowest, highest in ((0, 1), (2, 1), (1, 1)):
        with pytest.raises(ValueError, match="0 < lowest < highest"):
            fit_temperature(np.array([0, 1]), np.eye(2), lowest=lowest, highest=highest)
    for temperature in (0, -1):
        with pytest.raises(ValueError, match="must be positive"):
            apply_temperature(np.eye(2), temperature)
    with pytest.raises(ValueError, match=r"\[n, C\]"):
        apply_temperature(np.ones(3), 1)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        apply_temperature(np.full((1, 2), 2.0), 1)
