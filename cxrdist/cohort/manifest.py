"""Reading a cohort's table: .csv, .tsv, .parquet, or a .yaml recipe that maps somebody else's table.

A recipe names a table, which of its columns are the cohort's, and which rows to keep:

    table: manifest.csv                                   # relative to the image folder
    columns: {image_id: file, path: file, label: finding} # cohort's column: table's column
    where: {paper2: "1", source: [cohen, nih]}            # keep rows with these values, or one of a list

A table may also have the columns of OPTIONAL_EXTRA.
"""

from collections.abc import Collection, ItemsView, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cxrdist.cohort.schema import COHORT_SCHEMA, OPTIONAL_EXTRA, REQUIRED
from cxrdist.cohort.text_table import TextTable, open_table, without_missing
from cxrdist.config.document import parse_document
from cxrdist.errors import UserError, nearest, one_of

_RECIPE_KEYS = ("table", "columns", "where")
_COLUMNS = (*COHORT_SCHEMA.names, *OPTIONAL_EXTRA)
_VALUES_NAMED = 5


@dataclass(frozen=True)
class Manifest:
    """A table of images on disk, and which of its columns and rows are a cohort's."""

    file: Path
    """As it was given: the table, or a recipe that maps it."""
    location: Path
    """The table."""
    table: TextTable
    columns: Mapping[str, str]
    """The table's column for each of the cohort's, or of OPTIONAL_EXTRA, in the order of the file."""
    where: Mapping[str, tuple[str, ...]]
    """The values of which a row has one in each of these columns of the table, or it is left out."""
    classes: Collection[str] | None
    """Labels that are labels, even where they are words for a missing one; None for all."""

    def batches(self) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
        """Yield a few thousand rows at a time, as strings, and each row's number in the table, from 1.

        They have the columns of COHORT_SCHEMA, and those of OPTIONAL_EXTRA that are given, null where missing or not
        given.

        Raises:
            UserError: the table cannot be read, lacks a required column or has no row that is kept.
        """
        lacking = [name for name in REQUIRED if name not in self.columns]
        values: dict[str, set[str]] = {column: set() for column in self.where}
        missing = {column: set(wanted) for column, wanted in self.where.items()}
        n_rows = n_kept = 0
        for table, rows in self._read():
            n_rows += len(rows)
            for column, wanted in self.where.items():
                keep = pc.is_in(table.column(column), pa.array(wanted, pa.string()))
                if missing[column]:
                    seen = pc.unique(table.column(column)).to_pylist()
                    missing[column].difference_update(seen)
                    values[column] = set(sorted(values[column].union(seen) - {""})[:_VALUES_NAMED])
                table, rows = table.filter(keep), rows[keep.to_numpy()]
            if len(rows) and not lacking:
                yield self._as_cohort(table), rows
            n_kept += len(rows)
        for column, lacked in missing.items():
            if lacked and n_rows:
                named = ", ".join(map(repr, sorted(values[column])))
                raise UserError(
                    f"No row of {str(self.location)!r} has {column} = {min(lacked)!r}, which 'where' of "
                    f"{str(self.file)!r} asks for" + (f"; values there are {named}." if named else ".")
                )
        if lacking:
            raise UserError(
                f"{str(self.file)!r} has no column {lacking[0]!r}; needed are {', '.join(REQUIRED)}, and there are "
                f"{', '.join(self.columns) or 'none'}."
            )
        if not n_kept:
            raise UserError(f"{str(self.file)!r} lists no image.")

    def _read(self) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
        with _read_errors(self.location):
            yield from self.table.batches(list(dict.fromkeys([*self.columns.values(), *self.where])))

    def _as_cohort(self, table: pa.Table) -> pa.Table:
        names = [name for name in _COLUMNS if name in self.columns or name in COHORT_SCHEMA.names]
        return pa.table(
            {
                name: self._known(name, table.column(self.columns[name]))
                if name in self.columns
                else pa.nulls(table.num_rows, pa.string())
                for name in names
            }
        )

    def _known(self, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
        if name != "label":
            return without_missing(values)
        return without_missing(values, pc.unique(values).to_pylist() if self.classes is None else self.classes)


def open_manifest(file: Path, root: Path, classes: Collection[str] | None) -> Manifest:
    """Return a manifest whose columns are known, but no row of which was read.

    Args:
        file: .csv, .parquet or .yaml file.
        root: the image folder, which a recipe's table is relative to.
        classes: labels that are labels, even where they are words for a missing one; None for all.

    Raises:
        UserError: the file is missing, cannot be parsed, or has an unknown column.
    """
    if file.suffix.lower() in (".yaml", ".yml"):
        return _from_recipe(file, root, classes)
    table = _open(file)
    names = table.columns
    unknown = [name for name in names if name not in _COLUMNS]
    if unknown:
        raise UserError(
            f"{str(file)!r} has an unknown column {unknown[0]!r}; a column is {one_of(_COLUMNS, unknown[0])}, and a "
            ".yaml recipe maps other tables."
        )
    return Manifest(file, file, table, {name: name for name in names}, {}, classes)


def files_of_manifest(file: Path, root: Path) -> list[Path]:
    """Return what is read: the file, and the table that it maps where it is a recipe without fault."""
    with suppress(UserError):
        return [file, open_manifest(file, root, None).location]
    return [file]


def read_manifest(manifest: Manifest) -> tuple[pa.Table, list[int]]:
    """Return the columns of COHORT_SCHEMA as strings, null where missing or not given, and each row's number.

    Numbers count the rows of data in the file, from 1, and are for messages.

    Raises:
        UserError: the table cannot be read, lacks a required column or has no row that is kept.
    """
    batches = list(manifest.batches())
    table = pa.concat_tables([table.select(COHORT_SCHEMA.names) for table, _ in batches])
    return table, np.concatenate([rows for _, rows in batches]).tolist()


def _from_recipe(recipe: Path, root: Path, classes: Collection[str] | None) -> Manifest:
    parts = _read_recipe(recipe)
    name_of_table = parts.get("table")
    if not isinstance(name_of_table, str):
        raise UserError(f"The recipe {str(recipe)!r} needs 'table', the name of a .csv or .parquet file.")
    _require_text(name_of_table, "table", recipe)
    location = root / name_of_table
    table = _open(location)
    there = table.columns
    columns = {name: _text(name, value, "columns", recipe) for name, value in _pairs(parts, "columns", recipe)}
    where = {name: _texts(name, value, "where", recipe) for name, value in _pairs(parts, "where", recipe)}
    for name, column in columns.items():
        if name not in _COLUMNS:
            raise UserError(f"{name!r} in 'columns' of {str(recipe)!r} is not {one_of(_COLUMNS, name)}.")
        _require_column(there, column, location, recipe)
    for column in where:
        _require_column(there, column, location, recipe)
    return Manifest(recipe, location, table, columns, where, classes)


def _read_recipe(recipe: Path) -> Mapping[str, object]:
    with _read_errors(recipe):
        text = recipe.read_text(encoding="utf-8")
    document = parse_document(text, str(recipe), "a recipe")
    for key in document.data:
        if key not in _RECIPE_KEYS:
            raise UserError(f"{key!r} in the recipe {str(recipe)!r} is not {one_of(_RECIPE_KEYS, key)}.")
    return {key: document.as_spelled((key,)) for key in document.data}


def _pairs(parts: Mapping[str, object], key: str, recipe: Path) -> ItemsView[str, object]:
    pairs = parts.get(key, {})
    if not isinstance(pairs, dict):
        raise UserError(f"{key!r} in the recipe {str(recipe)!r} must map names to values, not be {pairs!r}.")
    for name in pairs:
        _require_text(name, key, recipe)
    return pairs.items()


def _texts(name: str, values: object, key: str, recipe: Path) -> tuple[str, ...]:
    if not isinstance(values, list):
        values = [values]
    if not values:
        raise UserError(f"{name!r} in {key!r} of the recipe {str(recipe)!r} is an empty list; name the values to keep.")
    return tuple(_text(name, value, key, recipe) for value in values)


def _text(name: str, value: object, key: str, recipe: Path) -> str:
    if not isinstance(value, str):
        raise UserError(f"{name!r}: {value!r} in {key!r} of the recipe {str(recipe)!r} must be quoted text.")
    _require_text(value, key, recipe)
    # As the table's cells are.
    return value.strip()


def _require_text(text: str, key: str, recipe: Path) -> None:
    """Refuse halves of characters, which YAML can spell."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{text!r} in {key!r} of the recipe {str(recipe)!r} is not valid Unicode.") from None


def _require_column(there: Sequence[str], column: str, location: Path, recipe: Path) -> None:
    if column not in there:
        hint = nearest(column, there)
        raise UserError(
            f"{str(location)!r} has no column {column!r}, which the recipe {str(recipe)!r} names; "
            + (f"did you mean {hint!r}?" if hint else f"its columns are {', '.join(there)}.")
        )


def _open(location: Path) -> TextTable:
    with _read_errors(location):
        return open_table(location, str(location))


@contextmanager
def _read_errors(location: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise _missing(location) from None
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(location, error) from None


def _missing(location: Path) -> UserError:
    return UserError(f"The manifest {str(location)!r} does not exist; look at cohort.manifest in the study file.")


def _unreadable(location: Path, error: OSError | UnicodeDecodeError) -> UserError:
    reason = "it is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or error
    return UserError(f"{str(location)!r} cannot be read: {reason}.")
