"""Tables of the lung network's scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cxrdist.report.table import Cell, Column, Table
from cxrdist.stats.overlap import Overlaps

PAPER_IOU, PAPER_DICE = 0.956, 0.972
"""Printed in paper 1, for five folds of the Montgomery set."""


@dataclass(frozen=True)
class SetScores:
    """The final network on one set of images."""

    tested_on: str
    source: str
    everywhere: Overlaps
    decided: Overlaps
    """On the pixels that the masks decide (see `cxrdist.lungs.targets`)."""


_SCORES = (
    Column("mean", "IoU", digits=4),
    Column("pooled", "IoU", digits=4),
    Column("mean", "Dice", digits=4),
    Column("pooled", "Dice", digits=4),
)


def lung_folds_table(folds: Mapping[int, Overlaps]) -> Table:
    """Return IoU and Dice of each fold's held-out images, their mean over folds, and what the paper prints."""
    rows: list[tuple[Cell, ...]] = [
        (f"fold {fold}", len(overlaps.iou), *_scores(overlaps)) for fold, overlaps in sorted(folds.items())
    ]
    each = np.array([_scores(overlaps) for overlaps in folds.values()])
    every = Overlaps.join(list(folds.values()))
    n = len(every.iou)
    rows.append(("mean of folds", n, *each.mean(axis=0).tolist()))
    if len(folds) > 1:
        rows.append(("SD of folds", n, *each.std(axis=0, ddof=1).tolist()))
    rows.append(("all images", n, *_scores(every)))
    rows.append(("paper 1", None, PAPER_IOU, None, PAPER_DICE, None))
    return Table(
        name="lung_folds",
        title="Lung network, by fold",
        caption="Each image tested once, by the network that was trained without its patient.",
        columns=(Column("Fold"), Column("Images"), *_SCORES),
        rows=tuple(rows),
        totals=frozenset(range(len(folds), len(rows))),
        notes=(
            "mean: over images, IoU = (i + 1) / (u + 1) and Dice = (2 i + 1) / (a + b + 1), as published; "
            "pooled: over the pixels of all images together.",
        ),
    )


def lung_sets_table(sets: Sequence[SetScores]) -> Table:
    """Return IoU and Dice of the final network by set and source."""
    decided = (Column("IoU", "where the mask decides", digits=4), Column("Dice", "where the mask decides", digits=4))
    return Table(
        name="lung_sets",
        title="Final lung network",
        caption="Images of patients that it was not trained on.",
        columns=(Column("Tested on"), Column("Source"), Column("Images"), *_SCORES, *decided),
        rows=tuple(
            (
                one.tested_on,
                one.source or "unknown",
                len(one.everywhere.iou),
                *_scores(one.everywhere),
                float(one.decided.iou.mean()),
                float(one.decided.dice.mean()),
            )
            for one in sets
        ),
        keys=2,
        notes=(
            "where the mask decides: means without the pixels of masks that may be heart; the same as the others "
            "for masks without the heart.",
        ),
    )


def _scores(overlaps: Overlaps) -> tuple[float, float, float, float]:
    return (
        float(overlaps.iou.mean()),
        overlaps.pooled_iou,
        float(overlaps.dice.mean()),
        overlaps.pooled_dice,
    )
