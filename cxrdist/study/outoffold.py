"""Out-of-fold predictions: the product of a study, from which every number is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrdist.errors import CxrdistError, IncompleteStudyError, first_few


@dataclass(frozen=True)
class FoldPredictions:
    """What one fold job predicted for its test part."""

    variant: str
    fold: int
    cohort_hash: str
    image_ids: Sequence[str]
    truth: NDArray[np.int64]
    """[n], index of the true class."""
    probabilities: NDArray[np.float64]
    """[n, classes], rows sum to one."""


@dataclass(frozen=True)
class OutOfFold:
    """All test predictions of one variant, in the order of `image_ids`, which is sorted."""

    variant: str
    image_ids: Sequence[str]
    truth: NDArray[np.int64]
    """[n], index of the true class."""
    probabilities: NDArray[np.float64]
    """[n, classes]."""
    fold: NDArray[np.int64]
    """[n], the fold whose test part holds the image."""

    @property
    def predicted(self) -> NDArray[np.int64]:
        """[n], index of the most probable class (the first one of equals)."""
        return np.asarray(np.argmax(self.probabilities, axis=1), dtype=np.int64)


def aggregate(
    parts: Sequence[FoldPredictions],
    *,
    variants: Sequence[str],
    expected: Mapping[int, Sequence[str]],
    cohort_hash: str,
    allow_missing: bool = False,
) -> dict[str, OutOfFold]:
    """Join the fold jobs' predictions into one table a variant.

    Args:
        parts: predictions, one for each finished fold job.
        variants: the study's variants, in order.
        expected: for each fold, the image ids of its test part.
        cohort_hash: what every part must have been computed from.
        allow_missing: whether folds may be missing; what is there is then returned, variants without any
            fold left out.

    Raises:
        IncompleteStudyError: a fold is missing.
        CxrdistError: a part is of another cohort, of an unknown variant or fold, or its images are not
            exactly its fold's, or an image is predicted twice for one variant.
    """
    by_job: dict[tuple[str, int], FoldPredictions] = {}
    for part in parts:
        _check(part, variants, expected, cohort_hash)
        if (part.variant, part.fold) in by_job:
            raise CxrdistError(f"fold {part.fold} of {part.variant} is predicted twice.")
        by_job[part.variant, part.fold] = part
    missing = [f"{v} fold {f}" for v in variants for f in sorted(expected) if (v, f) not in by_job]
    if missing and not allow_missing:
        raise IncompleteStudyError(
            f"{len(missing)} of {len(variants) * len(expected)} fold jobs have no predictions: {first_few(missing)}."
        )
    joined = {}
    for variant in variants:
        own = [by_job[variant, fold] for fold in sorted(expected) if (variant, fold) in by_job]
        if own:
            joined[variant] = _join(variant, own)
    return joined


def _check(
    part: FoldPredictions, variants: Sequence[str], expected: Mapping[int, Sequence[str]], cohort_hash: str
) -> None:
    job = f"fold {part.fold} of {part.variant}"
    if part.variant not in variants or part.fold not in expected:
        raise CxrdistError(f"Predictions of {job} do not belong to this study.")
    if part.cohort_hash != cohort_hash:
        raise CxrdistError(
            f"Predictions of {job} were made on cohort {part.cohort_hash[:12]}, this study's is {cohort_hash[:12]}."
        )
    seen = set(part.image_ids)
    if len(seen) != len(part.image_ids):
        raise CxrdistError(f"Predictions of {job} hold an image twice.")
    wrong = sorted(seen.symmetric_difference(expected[part.fold]))
    if wrong:
        raise CxrdistError(f"Predictions of {job} are not of its test images: {first_few(wrong)} differ.")


def _join(variant: str, parts: Sequence[FoldPredictions]) -> OutOfFold:
    ids = np.concatenate([np.asarray(part.image_ids, dtype=object) for part in parts])
    unique, counts = np.unique(ids.astype(str), return_counts=True)
    if (counts > 1).any():
        twice = unique[counts > 1]
        raise CxrdistError(f"{len(twice)} images are predicted twice for {variant}: {first_few(twice.tolist())}.")
    order = np.argsort(ids.astype(str), kind="stable")
    fold = np.concatenate([np.full(len(part.image_ids), part.fold, dtype=np.int64) for part in parts])
    return OutOfFold(
        variant=variant,
        image_ids=[str(i) for i in ids[order]],
        truth=np.concatenate([part.truth for part in parts])[order],
        probabilities=np.concatenate([part.probabilities for part in parts])[order],
        fold=fold[order],
    )
