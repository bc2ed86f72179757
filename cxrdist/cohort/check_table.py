"""The rows of a manifest of any length: which of them are wrong, and what the others say, as codes instead of text."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxrdist.cohort.check_text import MOST_OF_A_CELL, MOST_OF_A_REASON, one_line, short_name
from cxrdist.cohort.checks import check_rows, listed_twice
from cxrdist.cohort.manifest import Manifest, open_manifest
from cxrdist.cohort.sources.listing import age_of
from cxrdist.errors import CxrdistError, UserError, first_few

Codes = NDArray[np.int32]

MOST_FAULTS = 1000
MOST_CLASSES = 100
_CODED = ("label", "patient_id", "source", "view_position", "group_id", "age", "sex")
_OLDEST = 90


@dataclass(frozen=True, eq=False)
class Coded:
    """A column of text: few distinct values, or many, but each once."""

    codes: Codes
    """[n], index into `names`; -1 where unknown."""
    names: Sequence[str]
    """Distinct and sorted."""

    def texts(self) -> list[str | None]:
        """[n], None where unknown."""
        return [self.names[code] if code >= 0 else None for code in self.codes.tolist()]

    def counts(self) -> NDArray[np.int64]:
        """Return how often each of `names` occurs."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))


@dataclass(frozen=True)
class RowFault:
    """A row that no study accepts."""

    row: int
    """Number in the table, from 1."""
    reason: str


@dataclass(frozen=True, eq=False)
class CheckedTable:
    """The rows of a manifest that a study accepts, by column; their text stays on disk."""

    manifest: Manifest
    root: Path
    """Resolved folder that paths start from."""
    rows: NDArray[np.int64]
    """[n], each row's number in the table, ascending."""
    faults: Sequence[RowFault]
    """The other rows."""
    label: Coded
    patient: Coded
    source: Coded
    view: Coded
    group_id: Coded
    age: Coded
    """By ten years, such as `20-29`."""
    sex: Coded
    lone_ids: pa.ChunkedArray
    """Ids of the images without patient and group, in the order of rows."""
    without_sha256: int

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
        """Read the table again, a few thousand rows at a time, those with faults too.

        Yields:
            The index of each row, -1 for one with a fault, and the columns of COHORT_SCHEMA and OPTIONAL_EXTRA.

        Raises:
            CxrdistError: the table has changed.
        """
        n_rows = n_found = 0
        for table, rows in self.manifest.batches():
            index = np.searchsorted(self.rows, rows)
            found = np.isin(rows, self.rows[index[0] : index[-1] + 1])
            n_rows, n_found = n_rows + len(rows), n_found + int(found.sum())
            yield np.where(found, index, -1), table
        if (n_rows, n_found) != (len(self.rows) + len(self.faults), len(self.rows)):
            raise CxrdistError(f"{str(self.manifest.location)!r} was changed while it was read; check it again.")

    def group_names(self) -> list[str]:
        """Return for each row what must not be divided, as `Cohort.groups("group")` names it."""
        lone = iter(self.lone_ids.to_pylist())
        patients, groups = self.patient.codes.astype(np.int64), self.group_id.codes.astype(np.int64)
        n_groups = len(self.group_id.names)
        both = (patients >= 0) & (groups >= 0)
        # Groups come before patients, so that the first name of what is linked is a group's wherever it has one.
        size = n_groups + len(self.patient.names)
        links = coo_array(
            (np.ones(both.sum(), dtype=np.bool_), (groups[both], n_groups + patients[both])), shape=(size, size)
        )
        _, component = connected_components(links, directed=False)
        _, first = np.unique(component, return_index=True)
        names = [f"group:{name}" for name in self.group_id.names] + [f"patient:{name}" for name in self.patient.names]
        nodes = np.where(groups >= 0, groups, np.where(patients >= 0, n_groups + patients, -1))
        first_of = first[component] if size else first
        return [names[first_of[node]] if node >= 0 else f"image:{next(lone)}" for node in nodes.tolist()]


def normal_path(path: str) -> str:
    """Return a path as a cohort's table holds it."""
    return str(PurePosixPath(path))


def read_table(file: Path, images: Path, classes: Sequence[str] | None) -> CheckedTable:
    """Read a manifest once, and tell the rows that a study would refuse from the others.

    Memory is that of the patients' and groups' names, and some hundred bytes a row.

    Args:
        file: .csv, .parquet or .yaml recipe.
        images: the folder that paths start from.
        classes: the valid labels; None for whatever there is.

    Raises:
        UserError: the table cannot be read, or more than MOST_FAULTS rows are wrong, or, where no classes are given,
            there are more than MOST_CLASSES.
    """
    if not images.is_dir():
        raise UserError(
            f"The image folder {str(images)!r} does not exist; give the folder that the manifest's paths start from "
            "as --images."
        )
    root = images.resolve()
    manifest = open_manifest(file, root, classes or ())
    reader = _Reader(manifest, root, classes)
    for table, rows in manifest.batches():
        reader.add(table, rows)
    return reader.finish()


class _Reader:
    def __init__(self, manifest: Manifest, root: Path, classes: Sequence[str] | None) -> None:
        self._manifest = manifest
        self._root = root
        self._classes = classes
        self._faults: list[RowFault] = []
        self._rows: list[NDArray[np.int64]] = []
        self._coded: dict[str, list[pa.Array]] = {name: [] for name in _CODED}
        self._ids: list[pa.Array] = []
        self._paths: list[pa.Array] = []
        self._without_sha256: list[NDArray[np.bool_]] = []

    def add(self, table: pa.Table, rows: NDArray[np.int64]) -> None:
        good = []
        for checked, numbers in self._accepted(table, rows):
            good.append(numbers)
            self._ids.append(checked.column("image_id").combine_chunks())
            self._paths.append(checked.column("path").combine_chunks())
        kept = np.isin(rows, np.concatenate([np.empty(0, dtype=np.int64), *good]))
        table = table.filter(pa.array(kept))
        self._rows.append(rows[kept])
        self._without_sha256.append(table.column("sha256").is_null().to_numpy())
        for name in _CODED:
            column = (
                table.column(name)
                if name in table.column_names
                else pa.chunked_array([pa.nulls(len(table), pa.string())])
            )
            self._coded[name].append(column.combine_chunks().dictionary_encode())

    def _accepted(self, table: pa.Table, rows: NDArray[np.int64]) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
        """Yield the rows that pass, in order; halves of what does not are tried until single rows are left."""
        classes = self._classes
        if classes is None:
            classes = pc.unique(table.column("label")).drop_null().to_pylist()
        try:
            yield check_rows(table, rows.tolist(), self._manifest.file, self._root, classes), rows
        except UserError as error:
            if len(rows) == 1:
                self._refuse(int(rows[0]), str(error))
                return
            half = len(rows) // 2
            yield from self._accepted(table.slice(0, half), rows[:half])
            yield from self._accepted(table.slice(half), rows[half:])

    def _refuse(self, row: int, reason: str) -> None:
        self._faults.append(RowFault(row, one_line(reason, MOST_OF_A_CELL)))
        if len(self._faults) > MOST_FAULTS:
            raise UserError(
                f"More than {MOST_FAULTS:,} rows of {str(self._manifest.file)!r} are wrong, too many to list; the "
                f"first is: {one_line(self._faults[0].reason, MOST_OF_A_REASON)}"
            )

    def finish(self) -> CheckedTable:
        rows = np.concatenate(self._rows)
        kept = np.ones(len(rows), dtype=np.bool_)
        for name, chunks in (("image_id", self._ids), ("path", self._paths)):
            first = _first_of_its_value(chunks)
            for place in np.flatnonzero((first != np.arange(len(rows))) & kept).tolist():
                value = pa.chunked_array(chunks)[place].as_py()
                self._refuse(
                    int(rows[place]),
                    listed_twice(name, value, rows[first[place]], rows[place], self._manifest.file),
                )
            kept &= first == np.arange(len(rows))
        coded = {name: _coded(chunks) for name, chunks in self._coded.items()}
        label = coded["label"]
        if self._classes is None and len(label.names) > MOST_CLASSES:
            raise UserError(
                f"{str(self._manifest.file)!r} has {len(label.names):,} different labels "
                f"({first_few(map(short_name, label.names))}), "
                f"more than {MOST_CLASSES}: is another column the label, or should --classes name those that are "
                "meant?"
            )
        lone = (coded["patient_id"].codes < 0) & (coded["group_id"].codes < 0) & kept
        ids = pa.chunked_array(self._ids, type=pa.string()).filter(pa.array(lone))
        coded["age"] = _by_decade(coded["age"])
        columns = {name: _only(column, kept) for name, column in coded.items()}
        return CheckedTable(
            manifest=self._manifest,
            root=self._root,
            rows=rows[kept],
            faults=sorted(self._faults, key=lambda fault: fault.row),
            label=columns["label"],
            patient=columns["patient_id"],
            source=columns["source"],
            view=columns["view_position"],
            group_id=columns["group_id"],
            age=columns["age"],
            sex=columns["sex"],
            lone_ids=ids,
            without_sha256=int(np.concatenate(self._without_sha256)[kept].sum()),
        )


def _first_of_its_value(chunks: list[pa.Array]) -> NDArray[np.int64]:
    """[n], for each value of a column the index where it comes for the first time."""
    # Of chunks together, they all have the one dictionary.
    codes = _codes_of(pa.chunked_array(chunks, type=pa.string()).dictionary_encode())
    _, first = np.unique(codes, return_index=True)
    return np.asarray(first[codes], dtype=np.int64)


def _coded(chunks: list[pa.Array]) -> Coded:
    """Return a column given in dictionary-encoded parts."""
    column = pa.chunked_array(chunks).unify_dictionaries()
    names = column.chunk(0).dictionary if column.num_chunks else pa.array([], pa.string())
    order = pc.sort_indices(names).to_numpy()
    rank = np.empty(len(order) + 1, dtype=np.int32)
    rank[order] = np.arange(len(order))
    rank[-1] = -1
    return Coded(rank[_codes_of(column)], names.take(pa.array(order)).to_pylist())


def _only(column: Coded, kept: NDArray[np.bool_]) -> Coded:
    """Return some rows of a column, with the names that occur in them."""
    codes = column.codes[kept]
    used = np.unique(codes[codes >= 0])
    return Coded(
        np.where(codes >= 0, np.searchsorted(used, codes), -1).astype(np.int32), [column.names[i] for i in used]
    )


def _codes_of(column: pa.ChunkedArray) -> Codes:
    """[n], indices into the one dictionary of all parts, -1 where null."""
    parts = [pc.fill_null(chunk.indices, -1).to_numpy() for chunk in column.chunks]
    return np.concatenate([np.empty(0, dtype=np.int32), *parts]).astype(np.int32)


def _by_decade(age: Coded) -> Coded:
    """Return ages in ranges of ten years; what is no age is unknown."""
    ranges = [_decade(text) for text in age.names]
    names = sorted({one for one in ranges if one is not None})
    rank = np.array([names.index(one) if one is not None else -1 for one in ranges] + [-1], dtype=np.int32)
    return Coded(rank[age.codes], names)


def _decade(text: str) -> str | None:
    try:
        years = float(age_of(text) or text)
    except ValueError:
        return None
    if not 0 <= years < math.inf:
        return None
    return f"{_OLDEST} and over" if years >= _OLDEST else f"{int(years) // 10 * 10}-{int(years) // 10 * 10 + 9}"
