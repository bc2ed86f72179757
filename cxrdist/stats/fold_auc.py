"""The interval of a cross-validated area under the ROC curve: the mean of the areas of the folds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrdist.stats.averages import Floats, macro_average, ratio
from cxrdist.stats.delong import auc_interval, count_wins
from cxrdist.stats.resampling import Interval


@dataclass(frozen=True)
class FoldAuc:
    """The areas under the ROC curves of the folds, and their mean."""

    by_fold: Floats
    """[J], folds ascending; NaN where a fold's cases are all of one kind."""
    interval: Interval
    """Of the mean of the folds, in [0, 1]; NaN where a fold's area is."""
    se: float
    """Standard error of the mean."""


def cross_validated_auc(
    positive: NDArray[np.bool_], score: Floats, fold: NDArray[np.int64], level: float = 0.95
) -> FoldAuc:
    """Return the mean of the folds' areas with its normal interval by influence curves, cut off at 0 and 1.

    Scores are compared within folds only. With P1 and P0 the shares of positive and negative cases among all n,
    the influence curve is (share of the fold's negative cases that score less - area of the fold) / P1 for a
    positive case, and (share of its positive cases that score more - area) / P0 for a negative one. The variance is
    1 / n times the mean over folds of the curve's mean square (LeDell, Petersen and van der Laan 2015, as in their
    R package cvAUC). Ties count 1/2, in the areas and in the curve.

    The interval is for the mean area of these J classifiers, not of others trained anew. It takes cases as
    independent: with several images of one patient it is too narrow. Squares are averaged over n, not n - 1, so
    that with few cases a fold it is slightly too narrow. With a variance of 0 it is a point: see `auc_interval`.

    Args:
        positive: [n], whether a case is positive.
        score: [n], finite; higher means more likely positive.
        fold: [n], the fold in which the case was tested.
        level: confidence level, in (0, 1).

    Raises:
        ValueError: the arrays differ in length, a score is not finite, or the level is not in (0, 1).
    """
    positive, score, fold = np.asarray(positive, np.bool_), np.asarray(score, np.float64), np.asarray(fold)
    if positive.ndim != 1 or not positive.shape == score.shape == fold.shape:
        raise ValueError(
            f"positive, score and fold must be [n] alike, not {positive.shape}, {score.shape} and {fold.shape}"
        )
    n, n_positive = positive.size, int(positive.sum())
    areas, mean_squares = [], []
    for one in np.unique(fold):
        of_fold = fold == one
        wins = count_wins(positive[of_fold], score[np.newaxis, of_fold])
        of_positive, of_negative = wins.of_positive[0], wins.of_negative[0]
        area = float(ratio(of_positive.sum(), of_positive.size * of_negative.size))
        influence = np.concatenate(
            [
                (ratio(of_positive, of_negative.size) - area) * ratio(n, n_positive),
                (ratio(of_negative, of_positive.size) - area) * ratio(n, n - n_positive),
            ]
        )
        areas.append(area)
        mean_squares.append(float(np.mean(influence**2)))
    variance = float(ratio(macro_average(mean_squares), n))
    return FoldAuc(
        by_fold=np.asarray(areas, np.float64),
        interval=auc_interval(macro_average(areas), variance, level),
        se=variance**0.5,
    )
