"""Whether probabilities mean what they say: reliability, proper scores, and temperature scaling."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import softmax

from cxrdist.stats.averages import Floats, ratio
from cxrdist.stats.confusion import Counts

# Probabilities below this count as this: the logarithm of 0 would decide every mean.
_SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class ReliabilityBins:
    """Images binned by a probability: arrays [B], bins ascending; means are NaN where a bin is empty."""

    low: Floats
    """Lower edges; the first belongs to its bin, the others to the bin below."""
    high: Floats
    """Upper edges, which belong to their bins."""
    count: Counts
    """Images in the bin."""
    confidence: Floats
    """Mean probability."""
    accuracy: Floats
    """Share of images with the outcome that the probability is of."""


def binned_calibration(outcome: NDArray[np.bool_], probability: Floats, bins: int = 10) -> ReliabilityBins:
    """Compare the probability of an outcome with its frequency, in equal-width bins (low, high] over [0, 1].

    Args:
        outcome: [n], whether it came about.
        probability: [n], in [0, 1]; 0 is in the first bin.
        bins: number of bins B.

    Raises:
        ValueError: the arrays differ in length, a probability is not in [0, 1], or there is no bin.
    """
    outcome, probability = np.asarray(outcome, np.bool_), np.asarray(probability, np.float64)
    if outcome.ndim != 1 or outcome.shape != probability.shape:
        raise ValueError(f"outcome and probability must be [n] alike, not {outcome.shape} and {probability.shape}")
    _check_range(probability)
    if bins < 1:
        raise ValueError(f"need at least one bin, not {bins}")
    edges = np.arange(bins + 1) / bins
    index = np.maximum(np.searchsorted(edges, probability, side="left") - 1, 0)
    count = np.bincount(index, minlength=bins).astype(np.int64)
    return ReliabilityBins(
        low=edges[:-1],
        high=edges[1:],
        count=count,
        confidence=ratio(np.bincount(index, weights=probability, minlength=bins), count),
        accuracy=ratio(np.bincount(index[outcome], minlength=bins), count),
    )


def reliability(truth: NDArray[np.int64], probabilities: Floats, bins: int = 10) -> ReliabilityBins:
    """Compare the probability of the predicted class with how often it is the true one (Guo et al. 2017).

    Args:
        truth: [n], index of the true class.
        probabilities: [n, C], in [0, 1]; of equally probable classes the first is the predicted one.
        bins: number of bins B.

    Raises:
        ValueError: the arrays do not fit together, a true class is not in [0, C), a probability is not in
            [0, 1], or there is no bin.
    """
    truth, probabilities = _checked(truth, probabilities)
    return binned_calibration(probabilities.argmax(axis=1) == truth, probabilities.max(axis=1), bins)


def expected_calibration_error(bins: ReliabilityBins) -> float:
    """Return the mean over images of their bin's |accuracy - confidence| (Naeini et al. 2015); NaN without images."""
    filled = bins.count > 0
    gaps = np.abs(bins.accuracy - bins.confidence)[filled]
    return float(ratio(bins.count[filled] @ gaps, bins.count.sum()))


def maximum_calibration_error(bins: ReliabilityBins) -> float:
    """Return the largest |accuracy - confidence| of a bin with images (Naeini et al. 2015); NaN without images."""
    filled = bins.count > 0
    return float(np.abs(bins.accuracy - bins.confidence)[filled].max()) if filled.any() else float("nan")


def brier_score(truth: NDArray[np.int64], probabilities: Floats) -> float:
    """Return Brier's score (1950): squared errors added up over all classes, mean over images; NaN without images.

    It lies in [0, 2]. With two classes it is twice the score that is computed from one class's probability alone.

    Args:
        truth: [n], index of the true class.
        probabilities: [n, C], in [0, 1].

    Raises:
        ValueError: the arrays do not fit together, a true class is not in [0, C), or a probability not in [0, 1].
    """
    truth, probabilities = _checked(truth, probabilities)
    errors = probabilities - np.eye(probabilities.shape[1])[truth]
    return float(ratio((errors**2).sum(), len(truth)))


def log_loss(truth: NDArray[np.int64], probabilities: Floats) -> float:
    """Return the mean over images of -log p (natural) of the true class; NaN without images.

    A probability below the rounding error of float64, 2.2e-16, counts as that.

    Args:
        truth: [n], index of the true class.
        probabilities: [n, C], in [0, 1].

    Raises:
        ValueError: the arrays do not fit together, a true class is not in [0, C), or a probability not in [0, 1].
    """
    truth, probabilities = _checked(truth, probabilities)
    of_truth = probabilities[np.arange(len(truth)), truth]
    return float(ratio(-np.log(np.maximum(of_truth, _SMALLEST_PROBABILITY)).sum(), len(truth)))


def fit_temperature(
    truth: NDArray[np.int64], probabilities: Floats, *, lowest: float = 0.05, highest: float = 20.0
) -> float:
    """Return the temperature T that minimises the log loss of softmax(log p / T) (Guo et al. 2017).

    Logarithms of probabilities are the network's logits up to a constant of each image, which softmax ignores.
    The loss is convex in 1 / T. Over-confident probabilities have T > 1. Probabilities are bounded from below as
    in `log_loss`.

    Args:
        truth: [n], index of the true class.
        probabilities: [n, C], in [0, 1].
        lowest: the lowest T, returned where the loss falls towards it: every prediction is right, for one.
        highest: the highest T, likewise.

    Returns:
        T; 1, or the nearest in [lowest, highest], where every prediction is uniform and T has no effect; NaN
        without images.

    Raises:
        ValueError: the arrays do not fit together, a true class is not in [0, C), a probability is not in
            [0, 1], or the bounds are not 0 < lowest < highest.
    """
    truth, probabilities = _checked(truth, probabilities)
    if not 0 < lowest < highest:
        raise ValueError(f"need 0 < lowest < highest, not {lowest} and {highest}")
    if not truth.size:
        return float("nan")
    logits = _logits(probabilities)
    if not logits.any():
        return float(np.clip(1.0, lowest, highest))
    of_truth = logits[np.arange(len(truth)), truth]

    def slope(inverse: float) -> float:
        """Return the derivative of the log loss by 1 / T, which ascends."""
        expected = (softmax(logits * inverse, axis=1) * logits).sum(axis=1)
        return float((expected - of_truth).mean())

    # A root of the derivative is exact to the last digits, a minimum of the loss only to half of them.
    if slope(1 / lowest) <= 0:
        return lowest
    if slope(1 / highest) >= 0:
        return highest
    return 1 / float(brentq(slope, 1 / highest, 1 / lowest))


def apply_temperature(probabilities: Floats, temperature: float) -> Floats:
    """Return softmax(log p / T) of probabilities [n, C], bounded from below as in `log_loss`: [n, C].

    The most probable class stays the most probable one. A temperature of NaN gives NaN.

    Raises:
        ValueError: `probabilities` is not [n, C] in [0, 1], or the temperature is not positive.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or probabilities.shape[1] == 0:
        raise ValueError(f"probabilities must be [n, C], not {probabilities.shape}")
    _check_range(probabilities)
    if temperature <= 0:
        raise ValueError(f"the temperature must be positive, not {temperature}")
    return np.asarray(softmax(_logits(probabilities) / temperature, axis=1), np.float64)


def _logits(probabilities: Floats) -> Floats:
    """Return logits [n, C] whose largest in each row is 0."""
    logits = np.log(np.maximum(probabilities, _SMALLEST_PROBABILITY))
    return np.asarray(logits - logits.max(axis=1, keepdims=True))


def _checked(truth: NDArray[np.int64], probabilities: Floats) -> tuple[NDArray[np.int64], Floats]:
    truth, probabilities = np.asarray(truth, np.int64), np.asarray(probabilities, np.float64)
    if truth.ndim != 1 or probabilities.ndim != 2 or len(probabilities) != len(truth) or probabilities.shape[1] == 0:
        raise ValueError(f"truth and probabilities must be [n] and [n, C], not {truth.shape}, {probabilities.shape}")
    if truth.size and (truth.min() < 0 or truth.max() >= probabilities.shape[1]):
        raise ValueError(f"truth must be in [0, {probabilities.shape[1]}), not in [{truth.min()}, {truth.max()}]")
    _check_range(probabilities)
    return truth, probabilities


def _check_range(probabilities: Floats) -> None:
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("probabilities must be in [0, 1]")
