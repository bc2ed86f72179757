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


@dataclass(frozen=True)
class GroupBootstrap:
    """Draws of whole groups (patients), within strata (Davison and Hinkley 1997, 3.2 and 3.8).

    Groups are independent, images of one group are not. A group drawn k times gives each of its images weight k.
    """

    group: Integers
    """[n], the number of each image's group, in order of first appearance: their names do not matter."""
    stratum: Integers
    """[groups], the most frequent class of each group, the first in class order of equally frequent ones."""

    def draws(self, resamples: int, rng: np.random.Generator) -> Iterator[Integers]:
        """Yield the weights of the groups in all resamples, in chunks [r, groups].

        The draws depend on the strata and the generator alone: for other predictions of the same images, a
        generator in an equal state gives equal draws.
        """
        # A chunk is for three arrays [r, n] of int64 at once besides the draws, which RankedCases.auc makes at most.
        at_once = max(1, _CHUNK_BYTES // (8 * (len(self.stratum) + 3 * len(self.group) + 1)))
        for start in range(0, resamples, at_once):
            yield draw_groups(self.stratum, min(at_once, resamples - start), rng)


def group_bootstrap(truth: Integers, groups: NDArray[np.generic], n_classes: int) -> GroupBootstrap:
    """Return the bootstrap of groups, from the true class [n] and the name or number of the group [n] of each image."""
    _, first, index = np.unique(groups, return_index=True, return_inverse=True)
    group = np.asarray(np.argsort(np.argsort(first))[index], np.int64)
    images = np.bincount(group * n_classes + truth, minlength=len(first) * n_classes).reshape(len(first), n_classes)
    return GroupBootstrap(group, np.asarray(images.argmax(axis=1), np.int64))


def checked_cases(
    truth: ArrayLike, probabilities: ArrayLike, groups: ArrayLike
) -> tuple[Integers, Floats, NDArray[np.generic]]:
    """Return the arrays [n], [n, C] and [n] as such.

    Raises:
        ValueError: the arrays differ in length, a true class is not in [0, C), or a probability is not finite.
    """
    truth, probabilities = np.asarray(truth, np.int64), np.asarray(probabilities, np.float64)
    names: NDArray[np.generic] = np.asarray(groups)
    if truth.ndim != 1 or names.shape != truth.shape or probabilities.ndim != 2 or len(probabilities) != len(truth):
        raise ValueError(
            "truth, probabilities and groups must be [n], [n, C] and [n], "
            f"not {truth.shape}, {probabilities.shape} and {names.shape}"
        )
    n_classes = probabilities.shape[1]
    if truth.size and (truth.min() < 0 or truth.max() >= n_classes):
        raise ValueError(f"truth must be in [0, {n_classes}), not in [{truth.min()}, {truth.max()}]")
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities must be finite")
    return truth, probabilities, names


def percentile_interval(value: float, replicates: Floats, level: float = 0.95) -> Interval:
    """Return the percentile interval of a value from its resampled ones (Efron and Tibshirani 1993, 13).

    Percentiles are interpolated linearly.

    Args:
        value: what the sample itself gives.
        replicates: [R], what the resamples give; NaN where undefined, which is left out.
        level: confidence level, in (0, 1).

    Returns:
        The interval, not always around the value; its ends are NaN where no resample is defined.

    Raises:
        ValueError: the level is not in (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"need 0 < level < 1, not {level}")
    defined = replicates[~np.isnan(replicates)]
    if not defined.size:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


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

    Resamples are those of `GroupBootstrap`, intervals those of `percentile_interval`, which leave out the
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
    truth, probabilities, names = checked_cases(truth, probabilities, groups)
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"need resamples >= 1 and 0 < level < 1, not {resamples}, {level}")
    n_classes = probabilities.shape[1]
    values = [auc(truth == index, probabilities[:, index]) for index in range(n_classes)]
    bootstrap = group_bootstrap(truth, names, n_classes)
    ranked = [rank_cases(truth == index, probabilities[:, index], bootstrap.group) for index in range(n_classes)]
    areas = np.concatenate(
        [np.stack([cases.auc(drawn) for cases in ranked], axis=1) for drawn in bootstrap.draws(resamples, rng)]
    )
    return AucIntervals(
        by_class=tuple(percentile_interval(value, drawn, level) for value, drawn in zip(values, areas.T, strict=True)),
        macro=percentile_interval(macro_average(values), areas.mean(axis=1), level),
    )
