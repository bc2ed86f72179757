"""The variance of areas under ROC curves, their intervals, and the comparison of two on the same cases."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from cxrdist.stats.averages import Floats, ratio
from cxrdist.stats.resampling import Interval


@dataclass(frozen=True)
class Wins:
    """How often each case is on the right side of one of the other kind, once for each of k scores.

    Ties count 1/2, so counts are multiples of 1/2 and their sums and differences exact. Divided by the number of
    cases of the other kind they are the structural components of DeLong et al. (1988), or placement values.
    """

    of_positive: Floats
    """[k, p], the negative cases that score less than each positive one."""
    of_negative: Floats
    """[k, q], the positive cases that score more than each negative one."""


@dataclass(frozen=True)
class DeLong:
    """Areas under the ROC curves of k scores of the same cases, with the covariance of their estimates."""

    auc: Floats
    """[k], NaN where all cases are of one kind."""
    covariance: Floats
    """[k, k], NaN with fewer than two positive or two negative cases."""


@dataclass(frozen=True)
class PairedAuc:
    """The difference between the areas of two scores of the same cases, and the test that it is 0."""

    difference: Interval
    """First minus second, in [-1, 1]."""
    z: float
    p: float
    """Two-sided."""


def count_wins(positive: NDArray[np.bool_], scores: Floats) -> Wins:
    """Count by midranks in how many pairs of a positive and a negative case each case wins (Sun and Xu 2014).

    A case's midrank among all cases, less its midrank among those of its own kind, is the number of cases of the
    other kind below it. Sorting takes O(k n log n), comparing all pairs O(k p q).

    Args:
        positive: [n], whether a case is positive.
        scores: [k, n], finite; higher means more likely positive.

    Raises:
        ValueError: the arrays differ in length, or a score is not finite.
    """
    positive, scores = np.asarray(positive, np.bool_), np.asarray(scores, np.float64)
    if positive.ndim != 1 or scores.ndim != 2 or scores.shape[1] != positive.size:
        raise ValueError(f"positive and scores must be [n] and [k, n], not {positive.shape} and {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    among_all = rankdata(scores, axis=1)
    above_negatives = among_all[:, positive] - rankdata(scores[:, positive], axis=1)
    above_positives = among_all[:, ~positive] - rankdata(scores[:, ~positive], axis=1)
    return Wins(of_positive=above_negatives, of_negative=np.count_nonzero(positive) - above_positives)


def delong(positive: NDArray[np.bool_], scores: Floats) -> DeLong:
    """Return the areas under the ROC curves of several scores of the same cases, with their covariance.

    The areas are Mann-Whitney statistics, ties counting 1/2; the covariance is that of DeLong, DeLong and
    Clarke-Pearson (1988), computed as by Sun and Xu (2014). It takes cases as independent: with several images of
    one patient it is too small.

    Args:
        positive: [n], whether a case is positive.
        scores: [k, n], finite; higher means more likely positive.

    Raises:
        ValueError: the arrays differ in length, or a score is not finite.
    """
    return _from_wins(count_wins(positive, scores))


def auc_interval(auc: float, variance: float, level: float = 0.95) -> Interval:
    """Return an area with its normal interval (DeLong et al. 1988), cut off at 0 and 1.

    A variance of 0 makes the interval a point, which is degenerate and does not mean that the area is known: it is
    the estimate wherever all cases of a kind win equally often, as with a perfect classifier or constant scores,
    however few the cases.

    Args:
        auc: the area; NaN gives a NaN interval.
        variance: of the area's estimate; NaN gives an area without an interval.
        level: confidence level, in (0, 1).

    Raises:
        ValueError: the variance is negative, or the level not in (0, 1).
    """
    return _normal_interval(auc, variance, level, lowest=0.0, highest=1.0)


def paired_delong(positive: NDArray[np.bool_], first: Floats, second: Floats, level: float = 0.95) -> PairedAuc:
    """Compare the areas under the ROC curves of two scores of the same, independent cases (DeLong et al. 1988).

    The interval is cut off at -1 and 1. Where the estimated variance of the difference is 0, it is a point, and the
    test is decided without it: no difference, as between scores that rank alike, gives z = 0 and p = 1; any other,
    as between a perfect and a constant score, gives NaN, for p = 0 would claim certainty from any number of cases.

    Args:
        positive: [n], whether a case is positive.
        first: [n], finite; higher means more likely positive.
        second: [n], likewise.
        level: confidence level of the interval, in (0, 1).

    Returns:
        The comparison; all of it NaN where all cases are of one kind, all but the difference's value with fewer
        than two positive or two negative cases.

    Raises:
        ValueError: the arrays differ in length, a score is not finite, or the level is not in (0, 1).
    """
    wins = count_wins(positive, np.stack([first, second]))
    # Area and components are linear in the wins, whose differences are exact: a variance of 0 is exactly 0.
    lead = _from_wins(Wins(wins.of_positive[:1] - wins.of_positive[1:], wins.of_negative[:1] - wins.of_negative[1:]))
    difference, variance = float(lead.auc[0]), float(lead.covariance[0, 0])
    z = 0.0 if difference == variance == 0 else float(ratio(difference, variance**0.5))
    return PairedAuc(
        difference=_normal_interval(difference, variance, level, lowest=-1.0, highest=1.0),
        z=z,
        p=float(2 * norm.sf(abs(z))),
    )


def _from_wins(wins: Wins) -> DeLong:
    k, n_positive = wins.of_positive.shape
    n_negative = wins.of_negative.shape[1]
    n_pairs = n_positive * n_negative
    covariance = np.full((k, k), np.nan)
    if n_positive > 1 and n_negative > 1:
        covariance = (_covariance_of_sum(wins.of_positive) + _covariance_of_sum(wins.of_negative)) / n_pairs**2
    return DeLong(auc=ratio(wins.of_positive.sum(axis=1), n_pairs), covariance=covariance)


def _covariance_of_sum(counts: Floats) -> Floats:
    """Return the covariance [k, k] of the row sums of `counts` [k, n], whose columns are independent draws."""
    n = counts.shape[1]
    centred = counts - counts.mean(axis=1, keepdims=True)
    return np.asarray(centred @ centred.T * (n / (n - 1)))


def _normal_interval(value: float, variance: float, level: float, *, lowest: float, highest: float) -> Interval:
    if variance < 0 or not 0 < level < 1:
        raise ValueError(f"need variance >= 0 and 0 < level < 1, not {variance}, {level}")
    half = float(norm.ppf((1 + level) / 2)) * variance**0.5
    low, high = np.clip([value - half, value + half], lowest, highest)
    return Interval(float(value), float(low), float(high))
