"""The tables that set a run beside paper 1, VGG16 with four classes."""

from collections.abc import Mapping

import numpy as np

from cxrdist.report.counterpart import (
    POSITION_NOTE,
    VIEW_TITLES,
    Counterpart,
    interval_cells,
    interval_columns,
    position,
)
from cxrdist.report.inference_tables import LABELS
from cxrdist.report.papers import FourClassPaper
from cxrdist.report.results import Results
from cxrdist.report.table import Cell, Column, Table
from cxrdist.report.tables import caption
from cxrdist.stats.averages import Floats
from cxrdist.stats.confusion import class_scores, summarize

_BY_CLASS = ("precision", "sensitivity", "f1")
_PRINTED = 2
_RECOMPUTED = 4
_PRINTED_VIEW = "whole"
"""The view of the paper's tables 1 and 2."""


def four_class_table(results: Results, paper: FourClassPaper, views: Mapping[str, Counterpart]) -> Table:
    """Precision, recall and F1 by class: printed, recomputed from the printed confusion matrix, and this run's."""
    recomputed = class_scores(np.array(paper.confusion, np.int64))
    rows: list[tuple[Cell, ...]] = []
    for index, label in enumerate(results.classes):
        for printed, name in zip(paper.by_class[label], _BY_CLASS, strict=True):
            values: Floats = getattr(recomputed, name)
            ours = [cell for own in views.values() for cell in interval_cells(own.estimate(name, index))]
            rows.append((label, LABELS[name], printed, float(values[paper.classes.index(label)]), *ours))
    theirs = f"Paper, {VIEW_TITLES[_PRINTED_VIEW].lower()}"
    return Table(
        name="paper_by_class",
        title=f"Scores by class beside {paper.name}",
        caption=caption(
            results,
            "Each class against the rest: as printed, as recomputed from the paper's table 1, and this run's with "
            "95 % intervals. The paper prints those of the whole image alone.",
        ),
        columns=(
            Column("Class"),
            Column("Score"),
            Column("printed", theirs, _PRINTED),
            Column("recomputed", theirs, _RECOMPUTED),
            *(column for view in views for column in interval_columns(f"This run, {VIEW_TITLES[view].lower()}")),
        ),
        rows=tuple(rows),
        keys=2,
        notes=tuple(note for own in views.values() for note in own.notes(results, _BY_CLASS)),
    )


def four_class_summary_table(results: Results, paper: FourClassPaper, views: Mapping[str, Counterpart]) -> Table:
    """The scores over all classes of both views: printed, recomputed where that can be, and this run's."""
    table_1 = summarize(np.array(paper.confusion, np.int64))
    sensitivity, specificity = table_1.sensitivity, table_1.specificity
    # The support-weighted sensitivity is the accuracy, and so is its interval.
    scores = (
        ("Sensitivity, macro", "macro_sensitivity", sensitivity.macro),
        ("Sensitivity, weighted", "accuracy", sensitivity.weighted),
        ("Specificity, macro", "macro_specificity", specificity.macro),
        ("Accuracy", "accuracy", table_1.accuracy),
        ("AUC pooled, macro", "macro_auc", None),
    )
    columns = [Column("Score")]
    rows: list[list[Cell]] = [[title] for title, _, _ in scores]
    for view, own in views.items():
        title, printed = VIEW_TITLES[view], paper.overall[view].by_average()
        columns.append(Column("printed", title, _PRINTED))
        columns += [Column("recomputed", title, _RECOMPUTED)] if view == _PRINTED_VIEW else []
        columns += [*interval_columns(title), Column("printed is", title)]
        for row, value, (_, name, recomputed) in zip(rows, printed, scores, strict=True):
            estimate = own.estimate(name)
            row.append(value)
            row += [recomputed] if view == _PRINTED_VIEW else []
            row += [*interval_cells(estimate), position(value, estimate, _PRINTED)]
    return Table(
        name="paper_summary",
        title=f"Scores over all classes beside {paper.name}",
        caption=caption(
            results,
            "As printed, as recomputed from the paper's table 1 where it can be, and this run's with 95 % intervals.",
        ),
        columns=tuple(columns),
        rows=tuple(tuple(row) for row in rows),
        notes=(
            *(note for own in views.values() for note in own.notes(results)),
            POSITION_NOTE,
            "Sensitivity of the whole image: what is printed is the weighted one, since the macro average of table 1 "
            "rounds to 0.78.",
            "Sensitivity of the segmented lungs: the paper does not say how it is averaged; a weighted one would equal "
            "the printed accuracy, so it stands beside the macro average.",
            "AUC: the paper does not say how it is averaged; of the whole image, 0.85 is printed in the abstract.",
        ),
    )


def printed_confusion_table(results: Results, paper: FourClassPaper) -> Table:
    """The paper's confusion matrix, in this study's order of classes."""
    order = [paper.classes.index(label) for label in results.classes]
    confusion = np.array(paper.confusion, np.int64)[np.ix_(order, order)]
    rows: list[tuple[Cell, ...]] = [
        (label, *row, sum(row)) for label, row in zip(results.classes, confusion.tolist(), strict=True)
    ]
    rows.append(("all", *confusion.sum(axis=0).tolist(), int(confusion.sum())))
    shares: list[list[float]] = (confusion / confusion.sum(axis=1, keepdims=True)).tolist()
    return Table(
        name="paper_confusion_printed",
        title=f"Confusion matrix printed in {paper.name}",
        caption="The paper's table 1, not this run's: images by true class (rows) and predicted class (columns), of "
        "the whole image, in this study's order of classes.",
        columns=(Column("True class"), *(Column(label, "Predicted class") for label in results.classes), Column("n")),
        rows=tuple(rows),
        totals=frozenset({len(order)}),
        shares=(*((None, *row, None) for row in shares), (None,) * (len(order) + 2)),
    )
