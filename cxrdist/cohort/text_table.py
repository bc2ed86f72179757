"""The one reader of tables that people and their programs wrote: .csv, .tsv and .parquet, as text, in batches.

Cells are text without blanks around it, "" where empty. Left out are rows without any text, columns without a name, and
the index that pandas writes beside the data. Text files are UTF-8, or UTF-16, else Windows-1252, which old spreadsheets
write, and which is said. Their first line names the columns and tells, by counting, whether commas, semicolons or tabs
divide cells; before it, a line such as `sep=;` may say so. Lines may lack their last cells.
"""

import codecs
import csv
import io
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from numpy.typing import NDArray

from cxrdist.cohort.missing import MISSING
from cxrdist.errors import UserError

ENDINGS = (".csv", ".tsv", ".txt", ".parquet")

_BATCH_ROWS = 8192
_DELIMITERS = ",;\t"
_SEPARATOR_LINE = re.compile(r"\ufeff?\"?sep=(.)\"?[\r\n]*", re.IGNORECASE)
_INDEX = re.compile(r"|Unnamed: \d+(?:_level_\d+)?|__index_level_\d+__")
"""Names of columns that are none: where spreadsheets have a column without a title, and what pandas calls its index."""
_NO_TEXT = {
    b"PK\x03\x04": "a workbook or an archive",
    b"\xd0\xcf\x11\xe0": "a workbook",
    b"\x1f\x8b": "compressed",
    b"PAR1": "Parquet, whose name should end in .parquet",
}
_LOOKED_AT = 2**20
_EXAMPLE = 40
_MOST_EXACT = 2.0**53
"""Whole numbers up to this are exact as floating-point ones."""


def without_missing(values: pa.ChunkedArray, kept: Iterable[str] = ()) -> pa.ChunkedArray:
    """Return a column of text with null where it is missing, unless it is one of `kept`."""
    missing = pc.is_in(pc.utf8_lower(values), pa.array(sorted(MISSING), pa.string()))
    unless = pc.is_in(values, pa.array([text for text in kept if text], pa.string()))
    return pc.if_else(pc.and_not(missing, unless), pa.scalar(None, pa.string()), values)


@dataclass(frozen=True)
class TextTable:
    """A table whose columns are known; its rows are read anew by each `batches`."""

    name: str
    """For messages."""
    columns: tuple[str, ...]
    """Distinct, in the order of the file."""
    notes: tuple[str, ...]
    """Sentences about how it was read."""
    _content: Path | bytes
    _places: tuple[int, ...]
    """Of `columns` in the file."""
    _encoding: str | None
    """None for Parquet."""

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
        """Yield some columns of at most a few thousand rows at a time, and each row's number in the file.

        Rows count from 1, after the line that names the columns; those without any text count, but are left out.

        Raises:
            UserError: the table cannot be read, or one of the columns holds no text.
            OSError: as of the file.
        """
        start = 1
        with closing(self._csv_parts() if self._encoding is not None else self._parquet_parts()) as parts:
            for part in parts:
                texts = {name: _as_text(values) for name, values in zip(self.columns, part, strict=True)}
                filled = np.zeros(len(part[0]), dtype=np.bool_)
                for name, values in zip(self.columns, part, strict=True):
                    text = texts[name]
                    filled |= _to_numpy(values.is_valid() if text is None else pc.not_equal(text, ""))
                rows = np.flatnonzero(filled) + start
                start += len(filled)
                table = pa.table([self._text_of(name, texts[name]) for name in columns], names=list(columns))
                if len(rows):
                    yield table.filter(pa.array(filled)), rows

    def _text_of(self, column: str, text: pa.Array | None) -> pa.Array:
        if text is None:
            raise UserError(f"The column {column!r} of {self.name!r} holds something else than text and numbers.")
        return text

    def _csv_parts(self) -> Generator[list[pa.Array], None, None]:
        with _Csv(self._content, str(self._encoding), self.name) as file:
            records: list[list[str]] = []
            for cells in file.records():
                records.append(cells)
                if len(records) == _BATCH_ROWS:
                    yield self._columns_of(records)
                    records = []
            if records:
                yield self._columns_of(records)

    def _columns_of(self, records: list[list[str]]) -> list[pa.Array]:
        columns = list(zip_longest(*records, fillvalue=""))
        none = ("",) * len(records)
        return [pa.array(columns[at] if at < len(columns) else none, pa.string()) for at in self._places]

    def _parquet_parts(self) -> Generator[list[pa.Array], None, None]:
        with _parquet_errors(self.name), _open_parquet(self._content) as file:
            for batch in file.iter_batches(_BATCH_ROWS, use_threads=False):
                yield [batch.column(at) for at in self._places]


def open_table(content: Path | bytes, name: str) -> TextTable:
    """Return a table whose columns are known, but no row of which was read.

    Args:
        content: a file, or what is in it.
        name: of the file, for its ending and for messages.

    Raises:
        UserError: it is no such table, names no column, or two columns by one name.
        OSError: as of the file.
    """
    ending = Path(name).suffix.lower()
    if ending not in ENDINGS:
        raise UserError(f"{name!r} is not a table that can be read: the name must end in .csv, .tsv or .parquet.")
    encoding: str | None = None
    notes: tuple[str, ...] = ()
    if ending == ".parquet":
        with _parquet_errors(name), _open_parquet(content) as file:
            header = list(file.schema_arrow.names)
    else:
        encoding, notes = _encoding_of(content, name)
        with _Csv(content, encoding, name) as text:
            header = [cell.strip() for cell in text.header]
    columns = [(place, column) for place, column in enumerate(header) if not _INDEX.fullmatch(column)]
    if not columns:
        raise UserError(f"The table {name!r} has no line that names its columns.")
    names = [column for _, column in columns]
    repeated = next((column for column in names if names.count(column) > 1), None)
    if repeated is not None:
        raise UserError(f"{name!r} has two columns called {repeated!r}.")
    return TextTable(name, tuple(names), notes, content, tuple(place for place, _ in columns), encoding)


def _open(content: Path | bytes) -> BinaryIO:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


class _Csv:
    """An open file whose first lines were read."""

    def __init__(self, content: Path | bytes, encoding: str, name: str) -> None:
        self._name = name
        self._file = io.TextIOWrapper(_open(content), encoding=encoding, newline="")
        self._is_ended = True
        self._n_before = 0
        first = self._first_line()
        if separator := _SEPARATOR_LINE.fullmatch(first):
            delimiter, first = separator[1], self._first_line()
        else:
            delimiter = max(_DELIMITERS, key=lambda one: len(next(csv.reader([first], delimiter=one), [])))
        self._reader = csv.reader(self._lines(first), delimiter=delimiter, skipinitialspace=True, strict=True)
        self.header: list[str] = self._next() or []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def records(self) -> Iterator[list[str]]:
        """Yield the cells of each line, or of lines whose cells go on, after that which names the columns."""
        size = len(self.header)
        cells: list[str] = []
        while (record := self._next()) is not None:
            cells = record
            if len(cells) > size and any(cell.strip() for cell in cells[size:]):
                raise UserError(f"Line {self._line()} of {self._name!r} has more cells than the first, {size}.")
            yield cells
        if 0 < len(cells) < size and not self._is_ended:
            raise UserError(
                f"{self._name!r} ends in the middle of a line, with {len(cells)} of {size} cells; if the file is "
                "whole, put a line break there."
            )

    def _first_line(self) -> str:
        """Return the next line with any text on it."""
        while (line := self._file.readline()) and not line.strip():
            self._n_before += 1
        self._n_before += 1
        return line

    def _lines(self, first: str) -> Iterator[str]:
        for line in chain([first], self._file):
            self._is_ended = line.endswith(("\n", "\r"))
            yield line

    def _line(self) -> int:
        return self._n_before - 1 + self._reader.line_num

    def _next(self) -> list[str] | None:
        try:
            return next(self._reader, None)
        except csv.Error as error:
            raise UserError(self._explained(str(error))) from None

    def _explained(self, error: str) -> str:
        line = f"Line {self._line()} of {self._name!r}"
        if "unexpected end" in error:
            return f"{self._name!r} ends within a quoted cell; a quotation mark lacks its second one."
        if "field limit" in error:
            return (
                f"{line} has a cell of more than {csv.field_size_limit():,} characters; does a quotation mark lack its "
                "second one?"
            )
        if "expected after" in error:
            return f"{line} has text behind a quoted cell; a quotation mark within one is written twice."
        return f"{line} cannot be read: {error}."


def _encoding_of(content: Path | bytes, name: str) -> tuple[str, tuple[str, ...]]:
    """Return how a file's text is encoded, all of which was tried, and what is to be said of it."""
    with _open(content) as file:
        head = file.read(4)
        kind = next((kind for start, kind in _NO_TEXT.items() if head.startswith(start)), None)
        if kind is not None:
            raise UserError(f"{name!r} is not text, but {kind}; save the table as CSV.")
        encoding = _expected_encoding(head)
        wrong = _first_error(file, encoding)
        if wrong is None:
            return encoding, ()
        if encoding != "utf-8-sig":
            raise UserError(f"{name!r} begins as UTF-16, but is cut or damaged; save it as UTF-8.")
        if _first_error(file, "cp1252") is not None:
            raise UserError(f"{name!r} is text of an unknown encoding; save it as UTF-8.")
    around = wrong.object[max(0, wrong.start - _EXAMPLE) : wrong.start + _EXAMPLE]
    before, after = around[: min(wrong.start, _EXAMPLE)], around[min(wrong.start, _EXAMPLE) :]
    example = re.split(rb'[,;"\t\r\n]', before)[-1] + re.split(rb'[,;"\t\r\n]', after)[0]
    return "cp1252", (
        f"{name!r} is not UTF-8 and was read as Windows-1252, so that it says {example.decode('cp1252')!r}; if that is "
        "not right, save it as UTF-8",
    )


def _expected_encoding(head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = head[::2], head[1::2]
    if odd == b"\0\0" and b"\0" not in even:
        return "utf-16-le"
    return "utf-16-be" if even == b"\0\0" and b"\0" not in odd else "utf-8-sig"


def _first_error(file: BinaryIO, encoding: str) -> UnicodeDecodeError | None:
    decoder = codecs.getincrementaldecoder(encoding)()
    file.seek(0)
    try:
        while part := file.read(_LOOKED_AT):
            decoder.decode(part)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        return error
    return None


def _open_parquet(content: Path | bytes) -> pyarrow.parquet.ParquetFile:
    with _open(content):
        # What the system says is its own error; Arrow would mix it with those of the format.
        pass
    return pyarrow.parquet.ParquetFile(pa.BufferReader(content) if isinstance(content, bytes) else content)


@contextmanager
def _parquet_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{name!r} is no Parquet file, or a damaged one; write or fetch it again.") from None


def _as_text(values: pa.Array) -> pa.Array | None:
    """Return values as text without blanks around it, "" where null; None where they are of a type without text."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    try:
        if pa.types.is_floating(values.type):
            values = _numbers_as_text(values.cast(pa.float64()))
        text = pc.utf8_trim_whitespace(values.cast(pa.string()))
        # A Parquet file may call any bytes text.
        text.validate(full=True)
    except pa.ArrowException:
        return None
    return text.fill_null("")


def _numbers_as_text(values: pa.Array) -> pa.Array:
    """Return whole numbers, which are floating-point ones where a table has gaps, without an exponent; NaN as null."""
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less_equal(pc.abs(values), _MOST_EXACT))
    integers = pc.if_else(whole, values, pa.scalar(None, pa.float64())).cast(pa.int64())
    return pc.coalesce(integers.cast(pa.string()), values.cast(pa.string()))


def _to_numpy(values: pa.BooleanArray) -> NDArray[np.bool_]:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.bool_)
