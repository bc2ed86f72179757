"""The tables of a shortcut audit."""

from cxrdist.report.audit import CAUTION, RULE, Audit, Verdict, audit_verdicts
from cxrdist.report.inference_tables import AS_TRAINED
from cxrdist.report.table import Cell, Column, Table

_SCORE_DIGITS = 3


def audit_table(audit: Audit) -> Table:
    """One row a predictor: what it sees and how well it does, with a verdict where it saw no lungs."""
    verdicts = _verdicts_by_row(audit)
    rows: list[tuple[Cell, ...]] = []
    for row in audit.rows:
        verdict = verdicts.get((row.name, None))
        shortcut = verdict.shortcut if verdict else None
        rows.append((row.model, row.sees, row.images, row.accuracy, row.majority, *row.macro, shortcut))
    return Table(
        name="audit",
        title="Shortcut audit",
        caption="How well each predictor tells the classes (or sources) apart by what it sees, on test images.",
        columns=(
            Column("Predictor"),
            Column("Sees"),
            Column("Images"),
            Column("Accuracy", digits=_SCORE_DIGITS),
            Column("Majority", digits=_SCORE_DIGITS),
            *_area_columns("AUC macro"),
            Column("Shortcut"),
        ),
        rows=tuple(rows),
        keys=2,
        notes=("Majority: the accuracy of always answering the largest class.", *_notes(audit)),
    )


def audit_by_class_table(audit: Audit) -> Table:
    """The AUC of each class for each predictor, then its mean, with verdicts where no lungs were seen."""
    verdicts = _verdicts_by_row(audit)
    rows: list[tuple[Cell, ...]] = []
    totals: set[int] = set()
    for row in audit.rows:
        for label, area in zip((*row.classes, None), (*row.by_class, row.macro), strict=True):
            verdict = verdicts.get((row.name, label))
            judged = (verdict.share, verdict.shortcut) if verdict else (None, None)
            rows.append((row.name, "macro" if label is None else label, *area, *judged))
        totals.add(len(rows) - 1)
    return Table(
        name="audit_by_class",
        title="Shortcut audit by class",
        caption="Each class (or source) against the rest, and the mean over classes, on test images.",
        columns=(
            Column("Predictor"),
            Column("Class"),
            *_area_columns("AUC"),
            Column("Share", digits=_SCORE_DIGITS),
            Column("Shortcut"),
        ),
        rows=tuple(rows),
        keys=2,
        totals=frozenset(totals),
        notes=_notes(audit),
    )


def _verdicts_by_row(audit: Audit) -> dict[tuple[str, str | None], Verdict]:
    """Return verdicts by the name of the row that they stand in, and class."""
    return {(f"lungs_blanked-{one.model}", one.label): one for one in audit_verdicts(audit)}


def _area_columns(group: str) -> tuple[Column, ...]:
    return tuple(Column(title, group, _SCORE_DIGITS) for title in ("value", "low", "high"))


def _notes(audit: Audit) -> tuple[str, ...]:
    return (f"{audit.intervals}.", AS_TRAINED, *((RULE,) if audit_verdicts(audit) else ()), CAUTION)
