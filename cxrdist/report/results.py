"""What a report is made of: plain values, gathered by others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cxrdist.config.models import Study
from cxrdist.errors import CxrdistError
from cxrdist.report.audit import Audit
from cxrdist.report.images import HeatShares, ShownImage
from cxrdist.report.masks import MaskSummary
from cxrdist.report.style import Picture
from cxrdist.report.sweep import SweepSummary
from cxrdist.study.outoffold import FoldPredictions, OutOfFold


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs in the cohort."""

    label: str
    images: int
    groups: int
    """Groups (such as patients) with at least one image of the class."""
    sources: Mapping[str, int]
    """Images by source."""
    source_groups: Mapping[str, int] = field(default_factory=dict)
    """Groups by source, where they are counted."""


@dataclass(frozen=True)
class CohortSummary:
    """The images that the study uses."""

    classes: Sequence[ClassCount]
    """In the study's order of classes."""
    groups: int
    """Groups in all; fewer than the classes' together where a group has images of several classes."""
    group_name: str
    """What a group is, in the plural, such as "patients"."""
    excluded: Mapping[str, int]
    """Images left out, by reason."""
    source_groups: Mapping[str, int] = field(default_factory=dict)
    """Groups by source, where they are counted."""
    merged: int = 0
    """Patients that are in one group with another, since the manifest says that they share an image or are the same."""

    @property
    def images(self) -> int:
        """Images in all."""
        return sum(one.images for one in self.classes)


@dataclass(frozen=True)
class FoldSummary:
    """Images of each class in the parts of one fold, in the study's order of classes."""

    fold: int
    training: Sequence[int]
    validation: Sequence[int]
    test: Sequence[int]


def patients_of(groups: Mapping[str, str], image_ids: Sequence[str]) -> list[str]:
    """Return the patient of each image from what is known of them; an image without one is its own."""
    # What follows the image's own mark cannot be the name of a group.
    return [groups.get(image_id, f"\0{image_id}") for image_id in image_ids]


@dataclass(frozen=True)
class Results:
    """Everything that a report shows.

    Raises:
        CxrdistError: the parts contradict each other: predictions of an unknown variant, of other classes or
            not finite, or fold jobs that have no predictions and are not named as missing.
    """

    study: str
    classes: tuple[str, ...]
    variants: tuple[str, ...]
    """In the study's order."""
    n_folds: int
    out_of_fold: Mapping[str, OutOfFold]
    """By variant; variants and folds may be absent, and `missing` then names them."""
    histories: Mapping[tuple[str, int], Sequence[Mapping[str, float]]]
    """(variant, fold) -> one mapping an epoch with `epoch`, `train_loss`, `train_accuracy`, `validation_loss`
    and `validation_accuracy` (others are not shown)."""
    cohort: CohortSummary
    folds: Sequence[FoldSummary]
    warnings: Sequence[str]
    """Doubts about the study, a sentence each."""
    missing: Sequence[str]
    """Fold jobs without predictions, one entry each."""
    facts: Sequence[tuple[str, str]]
    """What is needed to do it again: fingerprint, seed, versions, hardware, seconds, command."""
    study_yaml: str
    masks: MaskSummary | None = None
    """Where a view needs lung masks."""
    audit: Audit | None = None
    """Where the study was audited for shortcuts."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """The patient of each image, after duplicates are merged, however the folds were made; an image without one is
    its own."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """The source of each image, where it is known."""
    validation: Sequence[FoldPredictions] = ()
    """Of the fold jobs that kept them: predictions on the validation parts."""
    images: Mapping[str, ShownImage] = field(default_factory=dict)
    """Images to look at, by id."""
    kept_pictures: Sequence[Picture] = ()
    """Figures of images by an earlier report, which cannot be drawn now."""
    heat_shares: Sequence[HeatShares] = ()
    """Of the variants whose heat maps were made for all test images."""
    config: Study | None = None
    """The study file as it was read."""
    seed: int = 0
    """Every random draw of the statistics derives from it."""
    sweep: SweepSummary | None = None
    """Where settings were searched for."""

    def __post_init__(self) -> None:
        if tuple(one.label for one in self.cohort.classes) != self.classes:
            raise CxrdistError("The cohort's counts are not of the study's classes, in their order.")
        unknown = sorted(set(self.out_of_fold) - set(self.variants))
        if unknown:
            raise CxrdistError(f"Predictions of {unknown[0]} do not belong to this study.")
        for variant, predictions in self.out_of_fold.items():
            if predictions.probabilities.shape != (len(predictions.truth), len(self.classes)):
                raise CxrdistError(f"Predictions of {variant} are not of {len(self.classes)} classes.")
            if not np.isfinite(predictions.probabilities).all():
                raise CxrdistError(f"Predictions of {variant} hold numbers that are not finite.")
        if self.jobs_done + len(self.missing) != self.jobs:
            raise CxrdistError(
                f"{self.jobs_done} of {self.jobs} fold jobs have predictions, but {len(self.missing)} are named "
                f"as missing."
            )

    @property
    def jobs(self) -> int:
        """Fold jobs of the study."""
        return len(self.variants) * self.n_folds

    @property
    def jobs_done(self) -> int:
        """Fold jobs with predictions."""
        return sum(len(np.unique(predictions.fold)) for predictions in self.out_of_fold.values())

    @property
    def present(self) -> list[str]:
        """Variants with predictions, in the study's order."""
        return [variant for variant in self.variants if variant in self.out_of_fold]

    @property
    def patients(self) -> int:
        """Patients in all, where images without one are their own."""
        return self.cohort.images - len(self.groups) + len(set(self.groups.values()))

    @property
    def incompleteness(self) -> str:
        """A sentence that says what is missing; empty for a complete study."""
        if not self.missing:
            return ""
        return f"Incomplete study: {len(self.missing)} of {self.jobs} fold jobs have no predictions."
