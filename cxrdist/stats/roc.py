"""ROC curves and the area under them, one class against the rest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from cxrdist.stats.averages import Floats, mean_and_sd_by_column, ratio


def auc(positive: NDArray[np.bool_], score: Floats) -> float:
    """Return the probability that a positive case scores higher than a negative one, ties counting 1/2.

    This is the Mann-Whitney statistic, equal to the area under the empirical ROC curve.

    Args:
        positive: [n], whether a case is positive.
        score: [n], finite; higher means more likely positive.

    Returns:
        The area; NaN where all cases are of one kind.

    Raises:
        ValueError: the arrays differ in length, or a score is not finite.
    """
    positive, score = _checked(positive, score)
    n_positive = int(positive.sum())
    n_negative = positive.size - n_positive
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    rank_sum = float(rankdata(score)[positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


@dataclass(frozen=True)
class RocCurve:
    """An empirical ROC curve: points [p] joined by straight lines, from (0, 0) to (1, 1)."""

    false_positive_rate: Floats
    true_positive_rate: Floats
    threshold: Floats
    """A case is called positive where its score is at least this; the first is infinite."""

    def at(self, false_positive_rate: Floats) -> Floats:
        """Return the true positive rate at the given rates; on a vertical step, its upper end (Fawcett 2006)."""
        # numpy interpolates from the last of equal abscissae, which is the upper end of the step.
        return np.asarray(np.interp(false_positive_rate, self.false_positive_rate, self.true_positive_rate))


def roc_curve(positive: NDArray[np.bool_], score: Floats) -> RocCurve:
    """Return the empirical ROC curve, without the points that lie on a line between their neighbours.

    Args:
        positive: [n], whether a case is positive.
        score: [n], finite; equal scores make one sloping line.

    Raises:
        ValueError: the arrays differ in length, a score is not finite, or all cases are of one kind.
    """
    positive, score = _checked(positive, score)
    if positive.all() or not positive.any():
        raise ValueError("an ROC curve needs positive and negative cases")
    order = np.argsort(-score, kind="stable")
    threshold = score[order]
    last_of_equals = np.append(np.flatnonzero(np.diff(threshold)), score.size - 1)
    true_positive = np.concatenate([[0], np.cumsum(positive[order])[last_of_equals]])
    false_positive = np.concatenate([[0], last_of_equals + 1]) - true_positive
    up, right = np.diff(true_positive), np.diff(false_positive)
    bends = np.concatenate([[True], up[:-1] * right[1:] != up[1:] * right[:-1], [True]])
    return RocCurve(
        false_positive_rate=false_positive[bends] / false_positive[-1],
        true_positive_rate=true_positive[bends] / true_positive[-1],
        threshold=np.concatenate([[np.inf], threshold[last_of_equals]])[bends],
    )


@dataclass(frozen=True)
class MeanCurve:
    """Curves averaged vertically on a grid of false positive rates, arrays [grid]."""

    false_positive_rate: Floats
    mean: Floats
    sd: Floats
    """Sample standard deviation between the curves; NaN with one curve."""


def vertical_average(curves: Sequence[RocCurve], grid: Floats) -> MeanCurve:
    """Average the true positive rates of at least one curve at each rate of `grid` (Fawcett 2006)."""
    mean, sd = mean_and_sd_by_column(np.stack([curve.at(grid) for curve in curves]))
    return MeanCurve(grid, mean, sd)


@dataclass(frozen=True)
class OneVsRestAuc:
    """The area under the ROC curve of each class against the rest.

    The pooled area compares cases across folds, the mean of folds only within one, so they differ wherever
    the folds' networks are calibrated differently.
    """

    support: NDArray[np.int64]
    """[C], images of each class."""
    pooled: Floats
    """[C], from all folds' predictions together."""
    folds: NDArray[np.int64]
    """[J], the folds, ascending."""
    by_fold: Floats
    """[J, C]; NaN where a fold holds no image of the class, or only such."""

    @property
    def mean_of_folds(self) -> Floats:
        """[C]; NaN where it is undefined in a fold."""
        return ratio(self.by_fold.sum(axis=0), len(self.folds))

    def undefined(self, classes: Sequence[str]) -> list[str]:
        """Return a sentence for each class whose area is undefined in a fold, with the folds."""
        return [
            f"AUC of {classes[index]} is undefined (n/a) where a test part lacks it or holds nothing else: "
            f"fold {', '.join(str(fold) for fold in self.folds[np.isnan(column)])}."
            for index, column in enumerate(self.by_fold.T)
            if np.isnan(column).any()
        ]


def one_vs_rest_auc(truth: NDArray[np.int64], probabilities: Floats, fold: NDArray[np.int64]) -> OneVsRestAuc:
    """Return each class's AUC from out-of-fold predictions, pooled and by fold.

    Args:
        truth: [n], index of the true class.
        probabilities: [n, C].
        fold: [n], the fold in which the image was tested.
    """
    folds = np.unique(fold)
    classes = range(probabilities.shape[1])

    def by_class(chosen: NDArray[np.bool_]) -> list[float]:
        return [auc(truth[chosen] == index, probabilities[chosen, index]) for index in classes]

    return OneVsRestAuc(
        support=np.bincount(truth, minlength=len(classes)).astype(np.int64),
        pooled=np.asarray(by_class(np.ones(truth.shape, np.bool_))),
        folds=folds,
        by_fold=np.asarray([by_class(fold == one) for one in folds]).reshape(len(folds), len(classes)),
    )


def _checked(positive: NDArray[np.bool_], score: Floats) -> tuple[NDArray[np.bool_], Floats]:
    positive, score = np.asarray(positive, np.bool_), np.asarray(score, np.float64)
    if positive.ndim != 1 or positive.shape != score.shape:
        raise ValueError(f"positive and score must be [n] alike, not {positive.shape} and {score.shape}")
    if not np.isfinite(score).all():
        raise ValueError("scores must be finite")
    return positive, score
