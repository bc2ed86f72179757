"""Small results that the tests of the report share."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cxrdist.report.results import ClassCount, CohortSummary, FoldSummary, Results
from cxrdist.study.outoffold import OutOfFold

CLASSES = ("normal", "covid_19 & co", "100% <other>")
VARIANTS = ("whole-resnet34", "segmented-vgg16")
_TRUTH = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
_FOLD = [0, 0, 1, 1] * 3
_PATIENTS = [0, 1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 0]
_SOURCES = ["montgomery", *["shenzhen"] * 3, *["cohen"] * 4, *["shenzhen"] * 4]
_PREDICTED = {
    "whole-resnet34": [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2],
    # Never the third class: its precision is undefined.
    "segmented-vgg16": [0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1],
}


def out_of_fold(variant: str, truth: ArrayLike, predicted: ArrayLike, fold: ArrayLike, n_classes: int) -> OutOfFold:
    """Predictions that give the predicted class 0.6 and more, and the others the same rest."""
    true = np.asarray(truth, np.int64)
    n = len(true)
    chosen = 0.6 + 0.3 * np.arange(n) / n
    probabilities = np.tile(((1 - chosen) / (n_classes - 1))[:, None], (1, n_classes))
    probabilities[np.arange(n), np.asarray(predicted)] = chosen
    ids = [f"image-{index:04d}" for index in range(n)]
    return OutOfFold(variant, ids, true, probabilities, np.asarray(fold, np.int64))


def history(fold: int, epochs: int = 3) -> list[Mapping[str, float]]:
    return [
        {
            "epoch": epoch,
            "seconds": 1.5,
            "train_loss": 1 / epoch + 0.1 * fold,
            "train_accuracy": 1 - 0.4 / epoch,
            "validation_loss": 1.2 / epoch + 0.1 * fold,
            "validation_accuracy": 0.9 - 0.4 / epoch,
            "learning_rate": 1e-3,
        }
        for epoch in range(1, epochs + 1)
    ]


def small_results(**changes: Any) -> Results:
    """Two variants, three classes with awkward names, two folds of six images."""
    results = Results(
        study="small",
        classes=CLASSES,
        variants=VARIANTS,
        n_folds=2,
        out_of_fold={
            variant: out_of_fold(variant, _TRUTH, predicted, _FOLD, 3) for variant, predicted in _PREDICTED.items()
        },
        histories={(variant, fold): history(fold) for variant in VARIANTS for fold in (0, 1)},
        cohort=CohortSummary(
            classes=[
                ClassCount(CLASSES[0], 4, 4, {"montgomery": 1, "shenzhen": 3}),
                ClassCount(CLASSES[1], 4, 3, {"cohen": 4}),
                ClassCount(CLASSES[2], 4, 3, {"shenzhen": 4}),
            ],
            groups=9,
            group_name="patients",
            excluded={"cannot be decoded": 2},
        ),
        folds=[FoldSummary(fold, training=(1, 1, 1), validation=(1, 1, 1), test=(2, 2, 2)) for fold in (0, 1)],
        warnings=["Every image of covid_19 & co is from one source."],
        missing=[],
        facts=[("Seed", "7"), ("Command", "cxrdist run small.yaml")],
        study_yaml="name: small\nseed: 7\n",
        groups={f"image-{index:04d}": f"patient-{patient}" for index, patient in enumerate(_PATIENTS)},
        sources={f"image-{index:04d}": source for index, source in enumerate(_SOURCES)},
        seed=7,
    )
    return replace(results, **changes)


def incomplete_results() -> Results:
    """The small results with one fold of the first variant and nothing of the second."""
    complete = small_results()
    first = complete.out_of_fold[VARIANTS[0]]
    kept = first.fold == 0
    partial = OutOfFold(
        first.variant,
        [name for name, keep in zip(first.image_ids, kept, strict=True) if keep],
        first.truth[kept],
        first.probabilities[kept],
        first.fold[kept],
    )
    return small_results(
        out_of_fold={VARIANTS[0]: partial},
        histories={(VARIANTS[0], 0): history(0)},
        missing=[f"{VARIANTS[0]} fold 1", f"{VARIANTS[1]} fold 0", f"{VARIANTS[1]} fold 1"],
    )


def results_of_confusion(confusion: ArrayLike, classes: Sequence[str]) -> Results:
    """One variant on one fold, with certain predictions that have this confusion matrix."""
    counts = np.array(confusion)
    truth, predicted = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    n = len(truth)
    variant = "whole-vgg16"
    support = [int(count) for count in counts.sum(axis=1)]
    return Results(
        study="paper",
        classes=tuple(classes),
        variants=(variant,),
        n_folds=1,
        out_of_fold={
            variant: OutOfFold(
                variant,
                [f"image-{index:04d}" for index in range(n)],
                truth,
                np.eye(len(classes))[predicted],
                np.zeros(n, np.int64),
            )
        },
        histories={},
        cohort=CohortSummary(
            [ClassCount(label, images, images, {}) for label, images in zip(classes, support, strict=True)],
            groups=n,
            group_name="patients",
            excluded={},
        ),
        folds=[FoldSummary(0, training=[0] * len(classes), validation=[0] * len(classes), test=support)],
        warnings=[],
        missing=[],
        facts=[],
        study_yaml="name: paper\n",
    )
