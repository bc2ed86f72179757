"""The bootstrap of patients in simulated studies: what its intervals cover, and how often it finds nothing."""

import math

import numpy as np
from scipy.stats import norm

from cxrdist.stats.replicates import paired_difference, replicate_scores, scores_once
from cxrdist.stats.resampling import percentile_interval

PATIENTS = 200
IMAGES = 3
"""A patient."""


def study(generator, classifiers):
    """Two classes whose scores share half of their variance within a patient, and as much between classifiers."""
    truth = np.repeat(np.arange(PATIENTS) % 2, IMAGES)
    patient = np.repeat(np.arange(PATIENTS), IMAGES)
    noise = sum(
        generator.normal(size=(count, PATIENTS))[:, patient] + generator.normal(size=(count, len(truth)))
        for count in (1, classifiers)
    )
    score = norm.cdf(truth - 0.5 + noise / 2)
    return truth, np.stack([1 - score, score], axis=-1), patient


def coverage(studies, resamples, unit_of):
    """The share of studies in which the interval of the accuracy, from draws of units, holds the true accuracy."""
    generator = np.random.default_rng(0)
    true_accuracy = norm.cdf(0.5)
    covered = 0
    for seed in range(studies):
        truth, (probabilities,), patient = study(generator, classifiers=1)
        accuracy = replicate_scores(
            truth, probabilities, unit_of(patient), rng=np.random.default_rng(seed), resamples=resamples
        ).accuracy
        interval = percentile_interval(scores_once(truth, probabilities).accuracy[0], accuracy)
        covered += int(interval.low <= true_accuracy <= interval.high)
    return covered / studies


def test_intervals_from_draws_of_patients_cover_the_true_accuracy_in_95_of_100_studies():
    # Interpolated between 400 resamples, the percentiles lie a little too far inside: 94.5 % at best.
    assert 0.93 < coverage(1000, 400, lambda patient: patient) < 0.97


def test_intervals_from_draws_of_images_are_too_narrow_where_patients_have_several():
    assert coverage(300, 200, lambda patient: np.arange(len(patient))) < 0.9


def test_exchangeable_classifiers_differ_in_about_one_study_of_twenty():
    generator = np.random.default_rng(1)
    p: dict[str, list[float]] = {"accuracy": [], "macro_auc": [], "log_loss": []}
    for seed in range(500):
        truth, both, patient = study(generator, classifiers=2)
        first, second = (
            replicate_scores(truth, probabilities, patient, rng=np.random.default_rng(seed), resamples=200)
            for probabilities in both
        )
        values = [scores_once(truth, probabilities) for probabilities in both]
        for name, found in p.items():
            first_value, second_value = (getattr(value, name)[0] for value in values)
            found.append(paired_difference(first_value, second_value, getattr(first, name), getattr(second, name)).p)
    for name, found in p.items():
        share = np.mean(np.array(found) <= 0.05)
        # Three standard errors.
        assert abs(share - 0.05) < 3 * math.sqrt(0.05 * 0.95 / 500), (name, share)
