"""Reading a cohort's table: .csv, .parquet, or a .yaml recipe that maps somebody else's table.

A recipe names a table, which of its columns are the cohort's, and which rows to keep:

    table: manifest.csv                                   # relative to the image folder
    columns: {image_id: file, path: file, label: finding} # cohort's column: table's column
    where: {paper2: "1"}                                  # keep rows with these values
"""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import yaml

from cxrdist.cohort.schema import COHORT_SCHEMA, REQUIRED
from cxrdist.errors import UserError, nearest, one_of

_RECIPE_KEYS = ("table", "columns", "where")


def read_manifest(manifest: Path, root: Path) -> tuple[pa.Table, list[int]]:
    """Return the columns of COHORT_SCHEMA as strings, null where empty or not given, and each row's number.

    Numbers count the rows of data in the file, from 1, and are for messages.

    Args:
        manifest: .csv, .parquet or .yaml file.
        root: the image folder, which a recipe's table is relative to.

    Raises:
        UserError: the file is missing, cannot be parsed, lacks a required column or has an unknown one.
    """
    if manifest.suffix.lower() in (".yaml", ".yml"):
        return _from_recipe(manifest, root)
    table = _read_table(manifest)
    unknown = [name for name in table.column_names if name not in COHORT_SCHEMA.names]
    if unknown:
        raise UserError(
            f"{str(manifest)!r} has an unknown column {unknown[0]!r}; a column is "
            f"{one_of(COHORT_SCHEMA.names, unknown[0])}, and a .yaml recipe maps other tables."
        )
    rows = list(range(1, table.num_rows + 1))
    return _as_cohort(table, {name: name for name in table.column_names}, manifest), rows


def _from_recipe(recipe: Path, root: Path) -> tuple[pa.Table, list[int]]:
    parts = _read_recipe(recipe)
    name_of_table = parts.get("table")
    if not isinstance(name_of_table, str):
        raise UserError(f"The recipe {str(recipe)!r} needs 'table', the name of a .csv or .parquet file.")
    location = root / name_of_table
    table = _read_table(location)
    columns = _names(parts, "columns", recipe)
    for name, column in columns.items():
        if name not in COHORT_SCHEMA.names:
            raise UserError(f"{name!r} in 'columns' of {str(recipe)!r} is not {one_of(COHORT_SCHEMA.names, name)}.")
        _require_column(table, column, location, recipe)
    rows = np.arange(1, table.num_rows + 1)
    for column, value in _names(parts, "where", recipe).items():
        _require_column(table, column, location, recipe)
        keep = pc.fill_null(pc.equal(table.column(column), value), fill_value=False)
        if not pc.any(keep).as_py():
            values = sorted(v for v in pc.unique(table.column(column)).to_pylist() if v is not None)
            raise UserError(
                f"No row of {str(location)!r} has {column} = {value!r}, which 'where' of {str(recipe)!r} asks for"
                + (f"; values there are {', '.join(map(repr, values[:5]))}." if values else ".")
            )
        table, rows = table.filter(keep), rows[keep.to_numpy()]
    return _as_cohort(table, columns, recipe), rows.tolist()


def _read_recipe(recipe: Path) -> Mapping[str, object]:
    try:
        parts = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _missing(recipe) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _unreadable(recipe, error) from None
    if not isinstance(parts, dict):
        raise UserError(f"The recipe {str(recipe)!r} must have the keys {', '.join(_RECIPE_KEYS)}.")
    for key in parts:
        if key not in _RECIPE_KEYS:
            raise UserError(f"{key!r} in the recipe {str(recipe)!r} is not {one_of(_RECIPE_KEYS, str(key))}.")
    return parts


def _names(parts: Mapping[str, object], key: str, recipe: Path) -> dict[str, str]:
    pairs = parts.get(key, {})
    if not isinstance(pairs, dict):
        raise UserError(f"{key!r} in the recipe {str(recipe)!r} must map names to values, not be {pairs!r}.")
    for name, value in pairs.items():
        # YAML reads an unquoted 1 as a number; other unquoted values (yes, 1.0, dates) would lose their spelling.
        if not isinstance(name, str) or not isinstance(value, str | int) or isinstance(value, bool):
            raise UserError(f"{name!r}: {value!r} in {key!r} of the recipe {str(recipe)!r} must be quoted text.")
    return {name: str(value) for name, value in pairs.items()}


def _require_column(table: pa.Table, column: str, location: Path, recipe: Path) -> None:
    if column not in table.column_names:
        hint = nearest(column, table.column_names)
        raise UserError(
            f"{str(location)!r} has no column {column!r}, which the recipe {str(recipe)!r} names; "
            + (f"did you mean {hint!r}?" if hint else f"its columns are {', '.join(table.column_names)}.")
        )


def _as_cohort(table: pa.Table, columns: Mapping[str, str], manifest: Path) -> pa.Table:
    lacking = [name for name in REQUIRED if name not in columns]
    if lacking:
        raise UserError(
            f"{str(manifest)!r} has no column {lacking[0]!r}; needed are {', '.join(REQUIRED)}, and there are "
            f"{', '.join(columns) or 'none'}."
        )
    if table.num_rows == 0:
        raise UserError(f"{str(manifest)!r} lists no image.")
    return pa.table(
        {
            name: _empty_as_null(table.column(columns[name]))
            if name in columns
            else pa.nulls(table.num_rows, pa.string())
            for name in COHORT_SCHEMA.names
        }
    )


def _empty_as_null(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)


def _read_table(location: Path) -> pa.Table:
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    reader = readers.get(location.suffix.lower())
    if reader is None:
        raise UserError(f"{str(location)!r} is not a table that can be read: the name must end in .csv or .parquet.")
    try:
        table = reader(location)
        duplicate = next((n for n in table.column_names if table.column_names.count(n) > 1), None)
        if duplicate is not None:
            raise UserError(f"{str(location)!r} has two columns called {duplicate!r}.")
        columns = [column.cast(pa.string()) for column in table.columns]
    except FileNotFoundError:
        raise _missing(location) from None
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(location, error) from None
    return pa.table(columns, names=table.column_names)


def _read_csv(location: Path) -> pa.Table:
    with location.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file), [])
    return pyarrow.csv.read_csv(
        location,
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            # Everything as text: an id such as 007 or 1e5 is not a number.
            column_types={name: pa.string() for name in header},
            strings_can_be_null=True,
            null_values=[""],
        ),
    )


def _read_parquet(location: Path) -> pa.Table:
    return pyarrow.parquet.ParquetFile(location).read()


def _missing(location: Path) -> UserError:
    return UserError(f"The manifest {str(location)!r} does not exist; look at cohort.manifest in the study file.")


def _unreadable(location: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"{str(location)!r} cannot be read: {reason}.")
