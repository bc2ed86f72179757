"""The tables of a cohort's check."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cxrdist.cohort.check_cache import FORMATS
from cxrdist.cohort.check_cohort import CohortCheck
from cxrdist.cohort.check_doubts import is_lateral, mixed_patients
from cxrdist.cohort.check_table import CheckedTable, Coded
from cxrdist.cohort.check_text import MOST_OF_A_REASON, one_line, short_name
from cxrdist.cohort.check_write import ROW, Unusable
from cxrdist.cohort.duplicates import Pair
from cxrdist.report.table import Cell, Column, Table

MOST_ROWS = 100
_MOST_VALUES = 20
_PROBLEMS = {
    ROW: "the row is wrong",
    "missing": "the file is missing",
    "changed": "its SHA-256 is another",
    "unreadable": "it cannot be read",
}


def images_table(check: CohortCheck) -> Table:
    """Return the number of images and patients by source and class."""
    table = check.table
    usable = np.zeros(len(table), dtype=np.bool_)
    usable[check.files.usable] = True
    every = np.ones(len(table), dtype=np.bool_)
    sources = _frequent(table.source)
    shown, rest = sources[:_MOST_VALUES], sources[_MOST_VALUES:]
    rows: list[tuple[Cell, ...]] = []
    for code in shown:
        name = short_name(table.source.names[code]) if code >= 0 else "unknown"
        rows += _by_class(table, name, table.source.codes == code, usable)
    if rest:
        rows += _by_class(table, f"{len(rest)} others", np.isin(table.source.codes, rest), usable)
    first_total = len(rows)
    rows += _by_class(table, "all", every, usable)
    rows.append(("all", "all", *_numbers(table, every, usable)))
    return Table(
        name="images",
        title="Images and patients",
        caption="By source and class. Images without a patient id are not counted as patients.",
        columns=(
            Column("Source"),
            Column("Class"),
            Column("Images"),
            Column("Usable"),
            Column("Patients"),
            Column("No patient id"),
        ),
        rows=tuple(rows),
        keys=2,
        totals=frozenset(range(first_total, len(rows))),
    )


def _frequent(column: Coded) -> list[int]:
    """Return the codes that occur, -1 for unknown among them, the most frequent first."""
    counts = np.bincount(column.codes + 1)
    return [int(code) - 1 for code in np.argsort(-counts, kind="stable") if counts[code]]


def _by_class(
    table: CheckedTable, source: str, chosen: NDArray[np.bool_], usable: NDArray[np.bool_]
) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for code, name in enumerate(table.label.names):
        own = chosen & (table.label.codes == code)
        if own.any():
            rows.append((source, short_name(name), *_numbers(table, own, usable)))
    return rows


def _numbers(table: CheckedTable, own: NDArray[np.bool_], usable: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    patients = table.patient.codes[own]
    known = patients[patients >= 0]
    return int(own.sum()), int((own & usable).sum()), len(np.unique(known)), len(patients) - len(known)


def forms_table(check: CohortCheck) -> Table:
    """Return formats, bits and sizes of the usable files by class."""
    facts, labels = check.files.facts, check.table.label
    code = labels.codes[check.files.usable]
    kinds = np.unique(np.stack([code, facts.format, facts.bits], axis=1).astype(np.int64), axis=0)
    rows: list[tuple[Cell, ...]] = []
    for label, form, bits in kinds.tolist():
        own = (code == label) & (facts.format == form) & (facts.bits == bits)
        sizes = [number for side in (facts.width[own], facts.height[own]) for number in _spread(side)]
        rows.append((short_name(labels.names[label]), FORMATS[form], bits, int(own.sum()), *sizes))
    spread = ("least", "median", "most")
    return Table(
        name="files",
        title="Image files",
        caption="Of the usable files, by class, format and bits of a sample: width and height in pixels.",
        columns=(
            Column("Class"),
            Column("Format"),
            Column("Bits"),
            Column("Images"),
            *(Column(title, group="Width") for title in spread),
            *(Column(title, group="Height") for title in spread),
        ),
        rows=tuple(rows),
        keys=3,
    )


def _spread(values: NDArray[np.int32]) -> tuple[int, int, int]:
    return int(values.min()), round(float(np.median(values))), int(values.max())


def views_table(check: CohortCheck) -> Table:
    """Return the number of images by view position and class; lateral ones say so."""
    view, label = check.table.view, check.table.label
    rows: list[tuple[Cell, ...]] = []
    for code in _frequent(view)[:_MOST_VALUES]:
        name = short_name(view.names[code]) if code >= 0 else "unknown"
        lateral = code >= 0 and is_lateral(view.names[code])
        counts = np.bincount(label.codes[view.codes == code], minlength=len(label.names)).tolist()
        rows.append((f"{name} (lateral)" if lateral else name, *counts))
    return Table(
        name="views",
        title="View positions",
        caption=f"Images by the manifest's view position and class; the {_MOST_VALUES} most frequent.",
        columns=(Column("View"), *(Column(short_name(name)) for name in label.names)),
        rows=tuple(rows),
    )


def problems_table(check: CohortCheck) -> Table:
    """Return how many images cannot be used, by what is wrong."""
    counts = {ROW: len(check.table.faults)}
    for fault in check.files.faults:
        counts[fault.problem] = counts.get(fault.problem, 0) + 1
    return Table(
        name="problems",
        title="Images that cannot be used",
        caption="By what is wrong.",
        columns=(Column("What is wrong"), Column("Images")),
        rows=tuple((_PROBLEMS[problem], count) for problem, count in counts.items() if count),
    )


def quarantine_table(unusable: Sequence[Unusable], every: int) -> Table:
    """Return the first images that cannot be used, of `every`, with the reasons."""
    return Table(
        name="quarantine",
        title="Quarantine",
        caption=f"{_first(len(unusable), every, 'image')} in the order of the manifest; all are in quarantine.csv.",
        columns=(Column("Data row"), Column("Image"), Column("File"), Column("Why it cannot be used")),
        rows=tuple(
            (bad.row, short_name(bad.image_id), short_name(bad.path), one_line(bad.reason, MOST_OF_A_REASON))
            for bad in unusable
        ),
    )


def mixed_patients_table(check: CohortCheck) -> Table:
    """Return the patients with images of several classes."""
    table = check.table
    patients = mixed_patients(table)
    shown = patients[:MOST_ROWS]
    counts = {patient: np.zeros(len(table.label.names), dtype=np.int64) for patient in shown}
    for row in np.flatnonzero(np.isin(table.patient.codes, shown)).tolist():
        counts[int(table.patient.codes[row])][table.label.codes[row]] += 1
    return Table(
        name="patients",
        title="Patients with images of several classes",
        caption=f"{_first(len(shown), len(patients), 'patient')}; images by class.",
        columns=(Column("Patient"), *(Column(short_name(name)) for name in table.label.names)),
        rows=tuple((short_name(table.patient.names[patient]), *counts[patient].tolist()) for patient in shown),
    )


def copies_table(check: CohortCheck) -> Table:
    """Return the number of pairs of copies, by what their two images differ in."""
    copies = check.copies
    kinds: dict[str, Sequence[Pair]] = {
        "all": copies.pairs,
        "of different classes": copies.conflicts,
        "of different patients": copies.across_patients,
        "of different sources": copies.across_sources,
        "in different groups": copies.across_groups,
    }
    return Table(
        name="copies",
        title="Copies of one radiograph",
        caption="Pairs of images with equal pixels (exact) or of equal structure (near), of all usable images.",
        columns=(Column("Pairs"), Column("Exact"), Column("Near"), Column("Images")),
        rows=tuple((kind, *_pair_numbers(pairs)) for kind, pairs in kinds.items()),
        notes=("A pair is of different patients or sources only where both are known.",),
    )


def _pair_numbers(pairs: Iterable[Pair]) -> tuple[int, int, int]:
    every = list(pairs)
    exact = sum(pair.exact for pair in every)
    return exact, len(every) - exact, len({row for pair in every for row in (pair.a, pair.b)})


def shortcuts_table(check: CohortCheck) -> Table:
    """Return how well single properties tell the class."""
    return Table(
        name="shortcuts",
        title="What tells the class without the lungs",
        caption="Share of images, in per cent, whose class a rule says right from one property alone, in 5 folds by "
        "patient or group, beside what it is right for who always says the most frequent class.",
        columns=(
            Column("Property"),
            Column("Values"),
            Column("Right", digits=1),
            Column("Always the same", digits=1),
            Column("Gain", digits=1),
            Column("Standard error", digits=1),
            Column("Warned of"),
        ),
        rows=tuple(
            (
                one.name,
                one.distinct,
                100 * one.score.accuracy,
                100 * one.score.majority,
                100 * one.score.gain,
                100 * one.score.standard_error,
                "yes" if one.warned else "no",
            )
            for one in check.shortcuts
        ),
        notes=(
            "The rule says for each value the class that is most frequent there among the other folds; width times "
            "height, width over height, and what is of grey values are put into 20 bins of equally many images. "
            "Unknown is a value, too.",
            "Warned of: a gain of at least 2 points that is more than 3 standard errors.",
        ),
    )


def _first(shown: int, every: int, thing: str) -> str:
    if shown < every:
        return f"The first {shown:,} of {every:,} {thing}s"
    return f"{every:,} {thing}{'' if every == 1 else 's'}"
