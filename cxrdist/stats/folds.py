"""Scores by fold."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency

from cxrdist.stats.averages import Floats, ratio


@dataclass(frozen=True)
class FoldAccuracy:
    """Accuracy of each fold's test part: arrays [J], folds ascending."""

    folds: NDArray[np.int64]
    n: NDArray[np.int64]
    """Images tested."""
    correct: NDArray[np.int64]

    @property
    def accuracy(self) -> Floats:
        """Share of images classified correctly."""
        return ratio(self.correct, self.n)

    @property
    def error(self) -> Floats:
        """Share of images classified wrongly."""
        return ratio(self.n - self.correct, self.n)

    @property
    def p_alike(self) -> float:
        """p of Pearson's chi-square of right and wrong answers by fold, J - 1 degrees of freedom.

        Small where accuracies differ by more than chance among the folds' test images explains. It takes images as
        independent. NaN for one fold, or where every answer is right, or every one wrong.
        """
        table = np.stack([self.correct, self.n - self.correct])
        if len(self.folds) < 2 or not table.sum(axis=1).all():
            return float("nan")
        return float(chi2_contingency(table, correction=False).pvalue)


def accuracy_by_fold(truth: NDArray[np.int64], predicted: NDArray[np.int64], fold: NDArray[np.int64]) -> FoldAccuracy:
    """Return the accuracy of each fold, from arrays [n] of true class, predicted class and fold."""
    folds, index = np.unique(fold, return_inverse=True)
    return FoldAccuracy(
        folds=np.asarray(folds, np.int64),
        n=np.bincount(index, minlength=len(folds)).astype(np.int64),
        correct=np.bincount(index[np.asarray(truth == predicted)], minlength=len(folds)).astype(np.int64),
    )
