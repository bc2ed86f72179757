"""Tests between two variants on the same images or folds, and the correction for several comparisons."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, chi2
from scipy.stats import t as student

from cxrdist.stats.averages import Floats, mean_and_sd, ratio

# Fewer images than this on which one variant alone is right: the chi-square distribution is too coarse.
_EXACT_BELOW = 25
# Differences of scores are of order 1: what is smaller than this differs by rounding alone.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class McNemar:
    """McNemar's test: numbers of images by which of two variants is right, and whether the variants differ."""

    both_right: int
    first_only: int
    second_only: int
    both_wrong: int
    statistic: float
    """Chi-square with continuity correction, 1 degree of freedom; NaN where the test is exact."""
    exact: bool
    """Whether p is of the binomial distribution."""
    p: float
    """Two-sided."""


def mcnemar(first_right: NDArray[np.bool_], second_right: NDArray[np.bool_]) -> McNemar:
    """Return McNemar's test (1947) of whether two variants are right equally often on the same images.

    Exact, by the binomial distribution, where fewer than 25 images tell the variants apart; otherwise by the
    corrected chi-square. It takes images as independent: with several images of one patient p is too small.

    Args:
        first_right: [n] of bool, whether the first variant is right.
        second_right: [n] of bool, whether the second one is, on the same images.

    Returns:
        The test; p is 1 where no image tells the variants apart.

    Raises:
        ValueError: the arrays are not of bool, not [n], or differ in length.
    """
    first_right, second_right = np.asarray(first_right), np.asarray(second_right)
    # Predicted classes would be taken for right wherever they are not class 0.
    if first_right.dtype != np.bool_ or second_right.dtype != np.bool_:
        raise ValueError(f"need arrays of bool, not of {first_right.dtype} and {second_right.dtype}")
    if first_right.ndim != 1 or first_right.shape != second_right.shape:
        raise ValueError(f"need two arrays [n] alike, not {first_right.shape} and {second_right.shape}")
    first_only, second_only = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    discordant = first_only + second_only
    exact = discordant < _EXACT_BELOW
    if exact:
        statistic = float("nan")
        p = float(binomtest(first_only, discordant).pvalue) if discordant else 1.0
    else:
        statistic, p = corrected_chi_square(first_only, second_only)
    return McNemar(
        both_right=int((first_right & second_right).sum()),
        first_only=first_only,
        second_only=second_only,
        both_wrong=int((~first_right & ~second_right).sum()),
        statistic=statistic,
        exact=exact,
        p=p,
    )


def corrected_chi_square(first_only: int, second_only: int) -> tuple[float, float]:
    """Return McNemar's chi-square with continuity correction (Edwards 1948) and its p, 1 degree of freedom.

    With b and c images on which the first or the second variant alone is right, it is (|b - c| - 1)^2 / (b + c),
    and 0 where b = c; both numbers are NaN where b + c = 0.

    Raises:
        ValueError: a count is negative.
    """
    if first_only < 0 or second_only < 0:
        raise ValueError(f"counts must not be negative, as {first_only} or {second_only} is")
    distance = max(abs(first_only - second_only) - 1, 0)
    statistic = float(ratio(distance**2, first_only + second_only))
    return statistic, float(chi2.sf(statistic, df=1))


@dataclass(frozen=True)
class CorrectedT:
    """The corrected resampled t test: differences between two variants over folds."""

    mean: float
    sd: float
    """Sample standard deviation over folds; NaN with fewer than two folds."""
    t: float
    df: float
    """Folds - 1; NaN with fewer than two folds."""
    p: float
    """Two-sided."""
    low: float
    high: float


def corrected_t(differences: ArrayLike, n_train: ArrayLike, n_test: ArrayLike, *, level: float = 0.95) -> CorrectedT:
    """Return the corrected resampled t test of Nadeau and Bengio (2003) over J folds.

    t = mean(d) / sqrt((1 / J + n_test / n_train) s^2) with J - 1 degrees of freedom: folds share training images,
    so that s^2 / J alone understates the variance. Sizes that vary between folds count by their means.

    Args:
        differences: [J], score of one variant less that of the other, by fold.
        n_train: training images, of each fold [J] or one number for all.
        n_test: tested images, likewise; 0 gives the uncorrected paired t test.
        level: confidence level of the interval of the mean difference.

    Returns:
        The test. With fewer than two folds all but the mean is NaN. Where the differences do not vary, beyond
        rounding, t, p and interval are NaN, since their spread is unknown, not 0; but p is 1 where all are 0.

    Raises:
        ValueError: `differences` is not [J], sizes are neither one number nor [J] or not positive, or the level
            is not in (0, 1).
    """
    d, train, test = (np.asarray(values, np.float64) for values in (differences, n_train, n_test))
    if d.ndim != 1 or any(sizes.shape not in ((), d.shape) for sizes in (train, test)):
        raise ValueError(f"differences must be [J], sizes [J] or a number, not {d.shape}, {train.shape}, {test.shape}")
    if not (train > 0).all() or not (test >= 0).all() or not 0 < level < 1:
        raise ValueError(f"need n_train > 0, n_test >= 0 and 0 < level < 1, not {train}, {test}, {level}")
    nan = float("nan")
    mean, sd = mean_and_sd(d)
    if d.size < 2:
        return CorrectedT(mean, sd, t=nan, df=nan, p=nan, low=nan, high=nan)
    df = float(d.size - 1)
    if np.ptp(d) <= _ROUNDING:
        return CorrectedT(mean, sd, t=nan, df=df, p=1.0 if abs(mean) <= _ROUNDING else nan, low=nan, high=nan)
    error = sd * float(np.sqrt(1 / d.size + test.mean() / train.mean()))
    t = mean / error
    half = float(student.ppf((1 + level) / 2, df)) * error
    return CorrectedT(mean, sd, t=t, df=df, p=float(2 * student.sf(abs(t), df)), low=mean - half, high=mean + half)


def holm(p: ArrayLike) -> Floats:
    """Return the adjusted p of several comparisons by Holm's step-down procedure (1979).

    A comparison is rejected at a family-wise level where its adjusted p is at most that level.

    Args:
        p: [m]; NaN is a comparison that could not be made: it stays NaN and does not count.

    Returns:
        [m], at least p and at most 1, in the order of `p`.

    Raises:
        ValueError: `p` is not [m], or one is not in [0, 1].
    """
    values = np.asarray(p, np.float64)
    if values.ndim != 1 or (values < 0).any() or (values > 1).any():
        raise ValueError(f"p must be [m] in [0, 1], not {values.tolist()}")
    order = np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))]
    remaining = np.arange(order.size, 0, -1)
    adjusted = np.full(values.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(remaining * values[order]), 1.0)
    return adjusted
