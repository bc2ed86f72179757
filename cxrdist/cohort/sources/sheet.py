"""Tables that come with images, from whatever program wrote them, as rows of text."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cxrdist.cohort.files import Limits, read_image_file
from cxrdist.cohort.parquet import parquet_table
from cxrdist.errors import ImageError, UserError, nearest

_LIMITS = Limits(max_bytes=512 * 2**20)
_DELIMITERS = ",;\t"

Row = dict[str, str]


@dataclass(frozen=True)
class Sheet:
    """A table as text, without blanks around values."""

    name: str
    """For messages."""
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    """Each with all columns; "" where a cell is empty."""

    def require(self, *columns: str) -> None:
        """Refuse a table that lacks a column.

        Raises:
            UserError: it does, with the nearest that is there.
        """
        for column in columns:
            if column not in self.columns:
                guess = nearest(column, self.columns)
                raise UserError(
                    f"{self.name!r} has no column {column!r}; "
                    + (f"did you mean {guess!r}?" if guess else f"its columns are {', '.join(self.columns)}.")
                )


def read_sheet(root: Path, relative: str) -> Sheet:
    """Return the table in a .csv, .tsv or .parquet file below `root`.

    Text is UTF-8, or UTF-16 with its mark, else Windows-1252, which old spreadsheets write. The first line names the
    columns and tells, by counting, whether commas, semicolons or tabs divide cells. Columns without a name are left
    out, and so are empty lines.

    Raises:
        UserError: the file is missing, outside `root`, too large, or no such table.
    """
    name = str(root / relative)
    try:
        data = read_image_file(root, relative, _LIMITS)
    except ImageError as error:
        raise UserError(f"The table {name!r} {error}.") from None
    if relative.lower().endswith(".parquet"):
        return _from_parquet(data, name)
    if not relative.lower().endswith((".csv", ".tsv", ".txt")):
        raise UserError(f"The table {name!r} should be a .csv, .tsv or .parquet file.")
    return parse_csv(_text(data), name)


def parse_csv(text: str, name: str) -> Sheet:
    """Return the table in a text; see `read_sheet`.

    Raises:
        UserError: it has no line, two columns of one name, a row with more cells than columns, or a cell without end.
    """
    first, _, _ = text.partition("\n")
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        rows = []
        for cells in reader:
            if any(cell.strip() for cell in cells[len(header) :]):
                raise UserError(f"Line {reader.line_num} of {name!r} has more cells than the first, {len(header)}.")
            if any(cells):
                rows.append([cell.strip() for cell in cells])
    except csv.Error as error:
        raise UserError(f"Line {reader.line_num} of {name!r} cannot be read: {error}.") from None
    return _sheet(name, header, rows)


def _from_parquet(data: bytes, name: str) -> Sheet:
    try:
        table = parquet_table(data)
        columns = [["" if v is None else v.strip() for v in c.cast(pa.string()).to_pylist()] for c in table.columns]
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"The table {name!r} cannot be read: {reason}.") from None
    return _sheet(name, table.column_names, [list(row) for row in zip(*columns, strict=True)])


def _sheet(name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Sheet:
    columns = [(place, column) for place, column in enumerate(header) if column]
    if not columns:
        raise UserError(f"The table {name!r} has no line that names its columns.")
    names = [column for _, column in columns]
    repeated = next((column for column in names if names.count(column) > 1), None)
    if repeated is not None:
        raise UserError(f"{name!r} has two columns called {repeated!r}.")
    return Sheet(
        name,
        tuple(names),
        tuple({column: row[place] if place < len(row) else "" for place, column in columns} for row in rows),
    )


def _text(data: bytes) -> str:
    encodings = ("utf-16",) if data.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8-sig", "cp1252")
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            pass
    return data.decode("latin-1")
