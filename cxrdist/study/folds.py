"""Folds: every image in the training, validation or test part, and no group in two of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from cxrdist.errors import CxrdistError, UserError
from cxrdist.study.seeds import derive_seed

Protocol = Literal["kfold", "holdout_75_25", "holdout_batches"]

BATCH_OF_THE_PAPER = 16
"""Paper 2 divides its images in random batches of 16."""


class Part(IntEnum):
    """What an image is used for in one fold."""

    TRAINING = 0
    VALIDATION = 1
    TEST = 2


@dataclass(frozen=True)
class Folds:
    """The division of a cohort, the same for every variant."""

    image_ids: Sequence[str]
    parts: NDArray[np.int8]
    """[folds, images], a `Part` each."""

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return len(self.parts)

    def rows(self, fold: int, part: Part) -> NDArray[np.int64]:
        """Return the rows of one part of one fold, ascending: int64 [n]."""
        return np.flatnonzero(self.parts[fold] == part).astype(np.int64)

    def test_ids(self) -> dict[int, list[str]]:
        """Return for each fold the image ids of its test part."""
        return {f: [self.image_ids[row] for row in self.rows(f, Part.TEST)] for f in range(self.n_folds)}


def make_folds(
    image_ids: Sequence[str],
    labels: NDArray[np.int64],
    groups: NDArray[np.str_],
    sources: NDArray[np.str_],
    *,
    classes: Sequence[str],
    protocol: Protocol,
    k: int,
    validation: float,
    stratify_by_source: bool,
    seed: int,
) -> Folds:
    """Divide a cohort, with groups kept together and classes (and sources, where possible) in proportion.

    Args:
        image_ids: [n], sorted and distinct.
        labels: [n], index into `classes`.
        groups: [n], images with the same group stay together.
        sources: [n], where an image comes from; "" where unknown.
        classes: names, for messages.
        protocol: `kfold`; `holdout_75_25`, paper 1's; `holdout_batches`, paper 2's.
        k: number of folds (`kfold` only).
        validation: share of the training groups that is set aside for validation; 0 for none.
        stratify_by_source: keep the proportion of class and source together where every such pair has
            enough groups, else of the class alone.
        seed: the study's seed.

    Raises:
        UserError: the cohort does not allow such folds.
    """
    if protocol == "holdout_batches":
        parts = _batches(len(image_ids), seed)[np.newaxis]
        return _checked(Folds(image_ids, parts), labels, np.asarray(image_ids), classes)
    n_splits = k if protocol == "kfold" else 4
    _require_groups(labels, groups, classes, n_splits)
    strata = _strata(labels, groups, sources, n_splits) if stratify_by_source else labels
    splits = _split(strata, groups, n_splits, derive_seed(seed, "folds") % 2**32)
    tests = splits if protocol == "kfold" else splits[:1]
    parts = np.zeros((len(tests), len(image_ids)), dtype=np.int8)
    for fold, test in enumerate(tests):
        parts[fold, test] = Part.TEST
        if validation:
            rest = np.flatnonzero(parts[fold] != Part.TEST)
            held = _validation_rows(labels[rest], groups[rest], validation, derive_seed(seed, "validation", fold))
            parts[fold, rest[held]] = Part.VALIDATION
    return _checked(Folds(image_ids, parts), labels, groups, classes, with_validation=validation > 0)


def class_counts(folds: Folds, labels: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """Return the number of images by fold, part and class: int64 [folds, 3, classes]."""
    counts = np.zeros((folds.n_folds, len(Part), n_classes), dtype=np.int64)
    for fold in range(folds.n_folds):
        for part in Part:
            counts[fold, part] = np.bincount(labels[folds.rows(fold, part)], minlength=n_classes)
    return counts


def training_groups(
    folds: Folds, labels: NDArray[np.int64], groups: NDArray[np.str_], n_classes: int
) -> NDArray[np.int64]:
    """Return of how many groups the training images of each fold and class are: int64 [folds, classes]."""
    counts = np.zeros((folds.n_folds, n_classes), dtype=np.int64)
    for fold in range(folds.n_folds):
        rows = folds.rows(fold, Part.TRAINING)
        for label in range(n_classes):
            counts[fold, label] = len(np.unique(groups[rows[labels[rows] == label]]))
    return counts


def _batches(n: int, seed: int) -> NDArray[np.int8]:
    """Paper 2: 49 batches of at most 16 out of 781 images, 29/10/10 of them for training, validation and test."""
    order = np.random.default_rng(derive_seed(seed, "folds")).permutation(n)
    n_batches = -(-n // BATCH_OF_THE_PAPER)
    fifth = round(n_batches / 5)
    if fifth < 1:
        raise UserError(
            f"folds.protocol 'holdout_batches' needs at least 3 batches of 16 images, there are {n} images."
        )
    parts = np.full(n, Part.TRAINING, dtype=np.int8)
    batch = np.empty(n, dtype=np.int64)
    batch[order] = np.arange(n) // BATCH_OF_THE_PAPER
    parts[batch >= n_batches - fifth] = Part.TEST
    parts[(batch >= n_batches - 2 * fifth) & (batch < n_batches - fifth)] = Part.VALIDATION
    return parts


def _require_groups(labels: NDArray[np.int64], groups: NDArray[np.str_], classes: Sequence[str], n_splits: int) -> None:
    for index, name in enumerate(classes):
        n_groups = len(np.unique(groups[labels == index]))
        if n_groups < n_splits:
            raise UserError(
                f"Class {name!r} has images of {n_groups} patients (or groups), too few for {n_splits} folds with "
                f"each of them tested once; choose folds.k of at most {n_groups}, or more images."
                if n_groups > 1
                else f"Class {name!r} has images of {n_groups} patient (or group), and at least 2 are needed for folds."
            )


def _strata(
    labels: NDArray[np.int64], groups: NDArray[np.str_], sources: NDArray[np.str_], n_splits: int
) -> NDArray[np.int64]:
    """Return class-and-source strata, or the classes alone where a stratum has fewer groups than folds."""
    pairs = np.array([f"{label}\0{source}" for label, source in zip(labels, sources, strict=True)])
    _, strata = np.unique(pairs, return_inverse=True)
    sizes: Mapping[int, int] = {s: len(np.unique(groups[strata == s])) for s in range(strata.max() + 1)}
    return strata.astype(np.int64) if min(sizes.values()) >= n_splits else labels


def _split(strata: NDArray[np.int64], groups: NDArray[np.str_], n_splits: int, seed: int) -> list[NDArray[np.int64]]:
    """Return the test rows of each split."""
    rows = np.zeros(len(strata))
    if len(np.unique(groups)) == len(groups):
        plain = StratifiedKFold(n_splits, shuffle=True, random_state=seed)
        return [test for _, test in plain.split(rows, strata)]
    grouped = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    return [test for _, test in grouped.split(rows, strata, groups)]


def _validation_rows(labels: NDArray[np.int64], groups: NDArray[np.str_], share: float, seed: int) -> NDArray[np.int64]:
    """Return rows of about `share` of the groups, in proportion by class and at least one group of each.

    A group with images of several classes counts for its most frequent one.
    """
    generator = np.random.default_rng(seed)
    unique, inverse = np.unique(groups, return_inverse=True)
    by_class = np.zeros((len(unique), labels.max() + 1), dtype=np.int64)
    np.add.at(by_class, (inverse, labels), 1)
    main_class = by_class.argmax(axis=1)
    chosen = np.zeros(len(unique), dtype=bool)
    for label in np.unique(main_class):
        members = generator.permutation(np.flatnonzero(main_class == label))
        chosen[members[: max(1, round(share * len(members)))]] = True
    return np.flatnonzero(chosen[inverse]).astype(np.int64)


def _checked(
    folds: Folds,
    labels: NDArray[np.int64],
    groups: NDArray[np.str_],
    classes: Sequence[str],
    *,
    with_validation: bool = True,
) -> Folds:
    counts = class_counts(folds, labels, len(classes))
    for fold in range(folds.n_folds):
        for part in Part:
            if not counts[fold, part].sum() and (part is not Part.VALIDATION or with_validation):
                raise UserError(f"The {part.name.lower()} part of fold {fold} is empty; choose a smaller folds.k.")
        for part in (Part.TRAINING, Part.TEST):
            absent = np.flatnonzero(counts[fold, part] == 0)
            if len(absent):
                raise UserError(
                    f"Class {classes[absent[0]]!r} has no image in the {part.name.lower()} part of fold {fold}: "
                    f"too few patients for folds.k and folds.validation as they are."
                )
        owners = [set(groups[folds.rows(fold, part)].tolist()) for part in Part]
        if owners[0] & owners[1] or owners[0] & owners[2] or owners[1] & owners[2]:
            raise CxrdistError(f"Fold {fold} would divide a patient between its parts; no fold was made.")
    return folds
