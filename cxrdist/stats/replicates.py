"""Every score of a classifier in resamples of patients: intervals, and differences between classifiers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cxrdist.stats.averages import Floats, ratio
from cxrdist.stats.confusion import ClassScores, Counts, cohen_kappa, matthews_correlation
from cxrdist.stats.resampling import (
    Integers,
    Interval,
    checked_cases,
    group_bootstrap,
    percentile_interval,
    rank_cases,
)


@dataclass(frozen=True)
class Replicates:
    """The scores of one classifier in R resamples: arrays [R] or [R, C], NaN where undefined.

    The predicted class of an image is its most probable one, the first of equally probable ones.
    """

    confusion: Counts
    """[R, C, C] images by true class (rows) and predicted class (columns)."""
    auc: Floats
    """[R, C], each class against the rest, images of all folds together, ties counting 1/2."""
    log_loss: Floats
    """[R], mean negative natural logarithm of the true class's probability, which is clipped to [eps, 1 - eps]
    with eps = 2**-52, as scikit-learn does."""
    brier: Floats
    """[R], mean over images of the squared distance between probabilities and truth, summed over classes
    (Brier 1950): from 0 to 2, with two classes twice what is often given for them."""

    @property
    def accuracy(self) -> Floats:
        """[R], share of images classified correctly."""
        return ratio(np.trace(self.confusion, axis1=1, axis2=2), self.confusion.sum(axis=(1, 2)))

    @property
    def precision(self) -> Floats:
        """[R, C]: see `ClassScores`, as for the next three."""
        return self._by_class.precision

    @property
    def sensitivity(self) -> Floats:
        """[R, C]."""
        return self._by_class.sensitivity

    @property
    def specificity(self) -> Floats:
        """[R, C]."""
        return self._by_class.specificity

    @property
    def f1(self) -> Floats:
        """[R, C]."""
        return self._by_class.f1

    @property
    def kappa(self) -> Floats:
        """[R]: see `cohen_kappa`."""
        return cohen_kappa(self.confusion)

    @property
    def mcc(self) -> Floats:
        """[R]: see `matthews_correlation`."""
        return matthews_correlation(self.confusion)

    @property
    def macro_auc(self) -> Floats:
        """[R], the plain mean over classes, NaN if a class is undefined: so are all macro averages."""
        return np.asarray(self.auc.mean(axis=1))

    @property
    def macro_precision(self) -> Floats:
        """[R]."""
        return np.asarray(self.precision.mean(axis=1))

    @property
    def macro_sensitivity(self) -> Floats:
        """[R], also called balanced accuracy."""
        return np.asarray(self.sensitivity.mean(axis=1))

    @property
    def macro_specificity(self) -> Floats:
        """[R]."""
        return np.asarray(self.specificity.mean(axis=1))

    @property
    def macro_f1(self) -> Floats:
        """[R]."""
        return np.asarray(self.f1.mean(axis=1))

    @property
    def _by_class(self) -> ClassScores:
        true_positive = np.diagonal(self.confusion, axis1=1, axis2=2)
        predicted, actual = self.confusion.sum(axis=1), self.confusion.sum(axis=2)
        n = self.confusion.sum(axis=(1, 2))[:, np.newaxis]
        return ClassScores(
            true_positive=true_positive,
            false_positive=predicted - true_positive,
            false_negative=actual - true_positive,
            true_negative=n - predicted - actual + true_positive,
        )


def scores_once(truth: ArrayLike, probabilities: ArrayLike) -> Replicates:
    """Return the scores of the images themselves, as replicates with R = 1.

    Args:
        truth: [n], index of the true class.
        probabilities: [n, C], finite.

    Raises:
        ValueError: the arrays differ in length, a true class is not in [0, C), or a probability is not finite.
    """
    each = np.arange(np.size(truth))
    truth, probabilities, _ = checked_cases(truth, probabilities, each)
    return _scorer(truth, probabilities, each)(np.ones((1, len(each)), np.int64))


def replicate_scores(
    truth: ArrayLike,
    probabilities: ArrayLike,
    groups: ArrayLike,
    *,
    rng: np.random.Generator,
    resamples: int = 2000,
) -> Replicates:
    """Return the scores in resamples of whole groups (patients), drawn with replacement: see `GroupBootstrap`.

    For another classifier on the same images, in the same order, a generator in an equal state gives the same
    resamples, so that their replicates are paired.

    Args:
        truth: [n], index of the true class.
        probabilities: [n, C], finite.
        groups: [n], the name or number of each image's group.
        rng: where the draws come from; equal inputs and state give equal replicates.
        resamples: number of resamples R.

    Raises:
        ValueError: the arrays differ in length, a true class is not in [0, C), a probability is not finite, or
            there is no resample.
    """
    truth, probabilities, names = checked_cases(truth, probabilities, groups)
    if resamples < 1:
        raise ValueError(f"need resamples >= 1, not {resamples}")
    bootstrap = group_bootstrap(truth, names, probabilities.shape[1])
    score = _scorer(truth, probabilities, bootstrap.group)
    chunks = [score(weights) for weights in bootstrap.draws(resamples, rng)]
    return Replicates(
        confusion=np.concatenate([chunk.confusion for chunk in chunks]),
        auc=np.concatenate([chunk.auc for chunk in chunks]),
        log_loss=np.concatenate([chunk.log_loss for chunk in chunks]),
        brier=np.concatenate([chunk.brier for chunk in chunks]),
    )


@dataclass(frozen=True)
class PairedDifference:
    """What the first of two classifiers scores more than the second on the same images."""

    difference: Interval
    p: float
    """Two-sided, for no difference; NaN where no resample is defined."""


def paired_difference(
    first_value: float, second_value: float, first: Floats, second: Floats, level: float = 0.95
) -> PairedDifference:
    """Compare one score of two classifiers in the same resamples.

    The p value inverts the percentile interval: it is twice the share of resamples with a difference on the
    other side of 0, or at 0 (Efron and Tibshirani 1993, 15.4), with the sample itself counted as one of them
    (Davison and Hinkley 1997, 4.2), so that it is never 0: at least 2 / (R + 1).

    Args:
        first_value: the first classifier's score.
        second_value: the second classifier's score.
        first: [R], the first classifier's score in each resample; NaN where undefined, which is left out.
        second: [R], the second's in the same resamples.
        level: confidence level, in (0, 1).

    Raises:
        ValueError: the replicates differ in length, or the level is not in (0, 1).
    """
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"replicates must be [R] alike, not {first.shape} and {second.shape}")
    difference = first - second
    interval = percentile_interval(first_value - second_value, difference, level)
    n_defined = np.count_nonzero(~np.isnan(difference))
    if not n_defined:
        return PairedDifference(interval, float("nan"))
    fewer = min(np.count_nonzero(difference <= 0), np.count_nonzero(difference >= 0))
    return PairedDifference(interval, min(1.0, 2 * (1 + fewer) / (n_defined + 1)))


def _scorer(truth: Integers, probabilities: Floats, group: Integers) -> Callable[[Integers], Replicates]:
    """Return what scores weightings of groups [r, groups], from each image's group [n] and the rest.

    Everything is sorted and added up once, for all weightings.
    """
    n, n_classes = probabilities.shape
    cell = truth * n_classes + probabilities.argmax(axis=1)
    by_cell = np.argsort(cell, kind="stable")
    occupied, start = np.unique(cell[by_cell], return_index=True)
    group_by_cell = group[by_cell]
    eps = np.finfo(np.float64).eps
    losses = (
        -np.log(np.clip(probabilities[np.arange(n), truth], eps, 1 - eps)),
        ((probabilities - np.eye(n_classes)[truth]) ** 2).sum(axis=1),
    )
    loss_of_group = np.stack([np.bincount(group, weights=loss) for loss in losses])
    ranked = [rank_cases(truth == index, probabilities[:, index], group) for index in range(n_classes)]

    def score(weights: Integers) -> Replicates:
        confusion = np.zeros((len(weights), n_classes**2), np.int64)
        confusion[:, occupied] = np.add.reduceat(weights.take(group_by_cell, axis=1), start, axis=1)
        # einsum and not @, whose last bits depend on the number of threads.
        loss = np.einsum("rg,kg->kr", weights.astype(np.float64), loss_of_group)
        log_loss, brier = ratio(loss, confusion.sum(axis=1))
        return Replicates(
            confusion=confusion.reshape(-1, n_classes, n_classes),
            auc=np.stack([cases.auc(weights) for cases in ranked], axis=1),
            log_loss=log_loss,
            brier=brier,
        )

    return score
