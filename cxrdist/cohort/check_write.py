"""What a check writes beside its page: the manifest with groups joined, and lists for people to open."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from cxrdist.cohort.check_cohort import CohortCheck
from cxrdist.cohort.check_text import MOST_OF_A_CELL, csv_writer, one_line
from cxrdist.cohort.duplicates import Pair
from cxrdist.cohort.publish import temporary_sibling

MANIFEST, QUARANTINE, COPIES, ODD = "manifest.csv", "quarantine.csv", "duplicates.csv", "odd_images.csv"
LISTS = (MANIFEST, QUARANTINE, COPIES, ODD)
"""What `write_lists` writes."""
ROW = "row"
"""The problem of a row that no study accepts."""


@dataclass(frozen=True)
class RowText:
    """What people know a row by."""

    image_id: str
    path: str


@dataclass(frozen=True)
class Unusable:
    """A row whose image cannot be used."""

    row: int
    """Number in the table, from 1."""
    image_id: str
    """Empty where the row has none."""
    path: str
    problem: str
    """`row`, or as `FileFault.problem`."""
    reason: str


@dataclass(frozen=True)
class Written:
    """What of the rows' text a page needs."""

    texts: Mapping[int, RowText]
    """By index, of all rows of pairs, and of images that look like no radiograph."""
    unusable: Sequence[Unusable]
    """The first ones."""


def write_lists(check: CohortCheck, folder: Path, most_unusable: int) -> Written:
    """Write manifest.csv, quarantine.csv, duplicates.csv and odd_images.csv into `folder`, each as a whole.

    The manifest has the columns of the one that was checked, or that its recipe names, and group_id, in which copies
    are joined; it is read back exactly. In the lists, text that a spreadsheet would compute stands behind an
    apostrophe.

    Args:
        check: what was found.
        folder: is made where it is not there.
        most_unusable: how many unusable images are returned.

    Raises:
        CxrdistError: the manifest has changed since it was checked.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = np.zeros(len(check.table), dtype=np.bool_)
    wanted[[row for pair in check.copies.pairs for row in (pair.a, pair.b)]] = True
    wanted[check.files.usable[[one.row for one in check.odd]]] = True
    group_ids = check.copies.group_ids()
    texts: dict[int, RowText] = {}
    unusable: list[Unusable] = []
    with _manifest_writer(check, folder / MANIFEST) as write, _list_writer(folder / QUARANTINE) as add:
        add(["row", "image_id", "path", "problem", "reason"])
        faults = _Faults(check)
        for index, table in check.table.batches():
            rows = index.tolist()
            ids, paths, given = (table.column(name).to_pylist() for name in ("image_id", "path", "group_id"))
            write(table, [group_ids[i] if i >= 0 else group for i, group in zip(rows, given, strict=True)])
            for place, one in faults.of(rows):
                bad = Unusable(one[0], ids[place] or "", paths[place] or "", one[1], one[2])
                add([bad.row, bad.image_id, bad.path, bad.problem, bad.reason])
                if len(unusable) < most_unusable:
                    unusable.append(bad)
            texts |= {i: RowText(ids[at], paths[at]) for at, i in enumerate(rows) if i >= 0 and wanted[i]}
    with _list_writer(folder / COPIES) as add:
        _write_copies(check, texts, add)
    with _list_writer(folder / ODD) as add:
        add(["row", "image_id", "path", "problem", "reason"])
        for odd in check.odd:
            row = int(check.files.usable[odd.row])
            add([int(check.table.rows[row]), texts[row].image_id, texts[row].path, odd.kind, odd.reason])
    return Written(texts, unusable)


class _Faults:
    """The faults of rows and of files, asked for in the order of the table."""

    def __init__(self, check: CohortCheck) -> None:
        self._numbers = check.table.rows
        self._of_rows = iter(check.table.faults)
        self._of_files = {fault.index: fault for fault in check.files.faults}

    def of(self, rows: Sequence[int]) -> Iterator[tuple[int, tuple[int, str, str]]]:
        """Yield the place in `rows`, the number in the table, the problem and the reason of each that has a fault."""
        for place, index in enumerate(rows):
            if index < 0:
                fault = next(self._of_rows)
                yield place, (fault.row, ROW, fault.reason)
            elif index in self._of_files:
                bad = self._of_files[index]
                yield place, (int(self._numbers[index]), bad.problem, bad.reason)


def _write_copies(check: CohortCheck, texts: Mapping[int, RowText], add: Callable[[Iterable[Any]], None]) -> None:
    table, copies = check.table, check.copies
    known = {"label": table.label, "patient_id": table.patient, "source": table.source}
    add(
        [
            "kind",
            "correlation",
            "differing_bits",
            *(f"same_{name}" for name in known),
            "same_group",
            *(f"{name}_{one}" for name in ("image_id", "path", *known, "group") for one in ("a", "b")),
        ]
    )

    def value(name: str, row: int) -> str:
        code = known[name].codes[row]
        return known[name].names[code] if code >= 0 else ""

    def same(name: str, pair: Pair) -> str:
        a, b = value(name, pair.a), value(name, pair.b)
        return "unknown" if not a or not b else "yes" if a == b else "no"

    for pair in copies.pairs:
        ends = (pair.a, pair.b)
        add(
            [
                "exact" if pair.exact else "near",
                f"{pair.correlation:.4f}",
                pair.distance,
                *(same(name, pair) for name in known),
                "yes" if copies.groups_before[pair.a] == copies.groups_before[pair.b] else "no",
                *(texts[row].image_id for row in ends),
                *(texts[row].path for row in ends),
                *(value(name, row) for name in known for row in ends),
                *(copies.groups_before[row] for row in ends),
            ]
        )


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a temporary path, which becomes `path` once all of it is written."""
    temporary = temporary_sibling(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _manifest_writer(check: CohortCheck, path: Path) -> Iterator[Callable[[pa.Table, list[str | None]], None]]:
    names = list(dict.fromkeys([*check.table.manifest.columns, "group_id"]))
    schema = pa.schema([(name, pa.string()) for name in names])
    with _whole(path) as temporary, pyarrow.csv.CSVWriter(temporary, schema) as writer:

        def write(table: pa.Table, group_ids: list[str | None]) -> None:
            columns = {name: table.column(name) for name in names} | {"group_id": pa.array(group_ids, pa.string())}
            writer.write_table(pa.table(columns, schema=schema))

        yield write


@contextmanager
def _list_writer(path: Path) -> Iterator[Callable[[Iterable[Any]], None]]:
    with _whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        write = csv_writer(file)
        yield lambda cells: write(one_line(cell, MOST_OF_A_CELL) if isinstance(cell, str) else cell for cell in cells)
