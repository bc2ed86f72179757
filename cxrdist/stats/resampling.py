"""The percentile bootstrap of patients: intervals where several images belong to one patient."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxrdist.stats.averages import Floats, macro_average, ratio
from cxrdist.stats.roc import auc

Integers = NDArray[np.int64]

# Larger chunks are not faster: they leave the processor's cache.
_CHUNK_BYTES = 2**22


@dataclass(frozen=True)
class Interval:
    """A value with its interval; NaN where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class AucIntervals:
    """Areas under the one-vs-rest ROC curves, with intervals."""

    by_class: tuple[Interval, ...]
    """[C], in class order."""
    macro: Interval
    """Of the plain mean over classes; NaN if a class is undefined."""


@dataclass(frozen=True)
class RankedCases:
    """Positive and negative cases in ascending order of their scores, for the areas of many weightings."""

    positive: Integers
    """[p], the group of each positive case."""
    negative: Integers
    """[q], the group of each negative case."""
    below: Integers
    """[p], how many negative cases score less than the positive one."""
    not_above: Integers
    """[p], how many negative cases score at most as high as the positive one."""

    def auc(self, weights: Integers) -> Floats:
        """Return the area under the ROC curve of weighted cases, ties counting 1/2, once for each weighting.

        It is the area of the cases repeated as often as their groups' weights say.

        Args:
            weights: [r, groups], not negative; whole numbers, so that the sums are exact.

        Returns:
            [r], NaN where all weight is on cases of one kind.
        """
        weight_up_to = np.zeros((len(weights), len(self.negative) + 1), np.int64)
        np.cumsum(weights.take(self.negative, axis=1), axis=1, out=weight_up_to[:, 1:])
        positive = weights.take(self.positive, axis=1)
        # A positive case wins over the negative ones below it and half over those equal to it: doubled, two sums.
        won_twice = weight_up_to.take(self.below, axis=1)
        won_twice += weight_up_to.take(self.not_above, axis=1)
        return ratio(
            np.einsum("rp,rp->r", positive, won_twice),
            2 * positive.sum(axis=1) * weight_up_to[:, -1],
        )


def rank_cases(positive: NDArray[np.bool_], score: Floats, group: Integers) -> RankedCases:
    """Sort cases by their scores, once for all weightings.

    Args:
        positive: [n], whether a case is positive.
        score: [n], finite; higher means more likely positive.
        group: [n], the column of `RankedCases.auc`'s weights that holds the case's weight.
    """
    order = np.argsort(score, kind="stable")
    of_positive, of_negative = order[positive[order]], order[~positive[order]]
    return RankedCases(
        positive=group[of_positive],
        negative=group[of_negative],
        below=np.searchsorted(score[of_negative], score[of_positive], side="left").astype(np.int64),
        not_above=np.searchsorted(score[of_negative], score[of_positive], side="right").astype(np.int64),
    )


def draw_groups(stratum: Integers, resamples: int, rng: np.random.Generator) -> Integers:
    """Draw as many groups as there are, with replacement, within each stratum.

    One resample is drawn after the other, so that drawing in several calls gives the same as in one.

    Args:
        stratum: [groups], the stratum of each group.
        resamples: number of resamples R.
        rng: where the draws come from.

    Returns:
        [R, groups], how often each group was drawn.
    """
    strata = [np.flatnonzero(stratum == one) for one in np.unique(stratum)]
    drawn = np.zeros((resamples, len(stratum)), np.int64)
    for row in drawn:
        for members in strata:
            chosen = rng.integers(len(members), size=len(members))
            row[members] = np.bincount(chosen, minlength=len(members))
    return drawn


def bootstrap_auc(
    truth: NDArray[np.int64],
    probabilities: Floats,
    groups: ArrayLike,
    *,
    rng: np.random.Generator,
    resamples: int = 2000,
    level: float = 0.95,
) -> AucIntervals:
    """Return each class's AUC against the rest, with percentile intervals from a bootstrap of groups.

    Groups (patients) are independent, images of one group are not: whole groups are drawn with replacement,
    within strata (Davison and Hinkley 1997, 3.2 and 3.8; for percentiles Efron and Tibshirani 1993, 13). The
    stratum of a group is its most frequent class, the first in class order of equally frequent ones. A group
    drawn k times gives each of its images weight k. Percentiles are interpolated linearly and leave out the
    resamples in which the area is undefined. A stratum of one group does not vary, so that its part in the
    interval's width is missing.

    The names of the groups do not matter, the order of the images does: groups are numbered as they appear.

    Args:
        truth: [n], index of the true class.
        probabilities: [n, C], finite.
        groups: [n], the name or number of each image's group.
        rng: where the draws come from; equal inputs and state give equal intervals.
        resamples: number of resamples.
        level: confidence level, in (0, 1).

    Returns:
        C intervals, one a class also where C is 2, and that of their mean. An interval is NaN where its area is
        undefined: no image is of the class, or every image is.

    Raises:
        ValueError: the arrays differ in length, a true class is not in [0, C), a probability is not finite,
            there is no resample, or the level is not in (0, 1).
    """
    truth, probabilities = np.asarray(truth, np.int64), np.asarray(probabilities, np.float64)
    names = np.asarray(groups)
    if truth.ndim != 1 or names.shape != truth.shape or probabilities.ndim != 2 or len(probabilities) != len(truth):
        raise ValueError(
            "truth, probabilities and groups must be [n], [n, C] and [n], "
            f"not {truth.shape}, {probabilities.shape} and {names.shape}"
        )
    n_classes = probabilities.shape[1]
    if truth.size and (truth.min() < 0 or truth.max() >= n_classes):
        raise ValueError(f"truth must be in [0, {n_classes}), not in [{truth.min()}, {truth.max()}]")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"need resamples >= 1 and 0 < level < 1, not {resamples}, {level}")

    values = [auc(truth == index, probabilities[:, index]) for index in range(n_classes)]
    group = _numbered(names)
    stratum = _most_frequent(group, truth, n_classes)
    ranked = [rank_cases(truth == index, probabilities[:, index], group) for index in range(n_classes)]
    areas = np.concatenate(
        [
            np.stack([cases.auc(drawn) for cases in ranked], axis=1)
            for drawn in _chunks(stratum, resamples, rng, n_images=len(truth))
        ]
    )
    return AucIntervals(
        by_class=tuple(_percentiles(value, drawn, level) for value, drawn in zip(values, areas.T, strict=True)),
        macro=_percentiles(macro_average(values), areas.mean(axis=1), level),
    )


def _numbered(names: NDArray[np.generic]) -> Integers:
    """Return the number of each image's group, [n], in order of first appearance."""
    _, first, index = np.unique(names, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[index], np.int64)


def _most_frequent(group: Integers, truth: NDArray[np.int64], n_classes: int) -> Integers:
    """Return the most frequent class of each group, [groups], from arrays [n]."""
    n_groups = int(group.max(initial=-1)) + 1
    images = np.bincount(group * n_classes + truth, minlength=n_groups * n_classes).reshape(n_groups, n_classes)
    return np.asarray(images.argmax(axis=1), np.int64)


def _chunks(stratum: Integers, resamples: int, rng: np.random.Generator, n_images: int) -> Iterator[Integers]:
    """Yield all resamples in chunks, small enough for the memory that weighting one class's cases takes."""
    # At most three arrays [r, n_images] of int64 live at once in RankedCases.auc, besides the draws.
    at_once = max(1, _CHUNK_BYTES // (8 * (len(stratum) + 3 * n_images + 1)))
    for start in range(0, resamples, at_once):
        yield draw_groups(stratum, min(at_once, resamples - start), rng)


def _percentiles(value: float, resampled: Floats, level: float) -> Interval:
    defined = resampled[~np.isnan(resampled)]
    if not defined.size:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
