"""Averages over classes and folds, and ratios, with NaN for what is undefined."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """Return numerator / denominator by element, NaN where the denominator is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    quotient = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=quotient, where=bottom != 0)
    return quotient


def macro_average(values: ArrayLike) -> float:
    """Return the plain mean over classes; NaN if a class is undefined or there is none."""
    array = np.asarray(values, np.float64)
    return float(array.mean()) if array.size else float("nan")


def weighted_average(values: ArrayLike, support: ArrayLike) -> float:
    """Return the mean over classes weighted by their number of images.

    A class without images has weight 0 and cannot make the average undefined; any other undefined class does.
    """
    weights = np.asarray(support, np.float64)
    counted = weights > 0
    if not counted.any():
        return float("nan")
    return float(np.average(np.asarray(values, np.float64)[counted], weights=weights[counted]))


def mean_and_sd(values: ArrayLike) -> tuple[float, float]:
    """Return mean and sample standard deviation (n - 1 in the denominator); the latter is NaN below two values."""
    array = np.asarray(values, np.float64)
    return macro_average(array), float(array.std(ddof=1)) if array.size > 1 else float("nan")


def mean_and_sd_by_column(values: ArrayLike) -> tuple[Floats, Floats]:
    """Return mean and sample standard deviation of each column of `values` [rows, columns].

    NaN marks what is absent (a fold that ended early) and is left out. The mean is NaN where a column is
    empty, the standard deviation where it has fewer than two values.
    """
    array = np.asarray(values, np.float64)
    present = ~np.isnan(array)
    n = present.sum(axis=0)
    mean = ratio(np.where(present, array, 0.0).sum(axis=0), n)
    squares = np.where(present, (array - mean) ** 2, 0.0).sum(axis=0)
    return mean, np.sqrt(ratio(squares, np.where(n > 1, n - 1, 0)))
