"""Tables that come with images, from whatever program wrote them, as rows of text."""

from dataclasses import dataclass
from pathlib import Path

from cxrdist.cohort.files import Limits, read_image_file
from cxrdist.cohort.text_table import open_table
from cxrdist.errors import ImageError, UserError, nearest

_LIMITS = Limits(max_bytes=512 * 2**20)

Row = dict[str, str]


@dataclass(frozen=True)
class Sheet:
    """A table as text, without blanks around values."""

    name: str
    """For messages."""
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    """Each with all columns; "" where a cell is empty."""
    numbers: tuple[int, ...]
    """Of the rows in the file, from 1."""
    notes: tuple[str, ...]
    """Sentences about how it was read, without a full stop."""

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
    """Return the table in a file below `root`, as `cxrdist.cohort.text_table` reads it.

    Raises:
        UserError: the file is missing, outside `root`, too large, or no such table.
    """
    name = str(root / relative)
    try:
        data = read_image_file(root, relative, _LIMITS)
    except ImageError as error:
        raise UserError(f"The table {name!r} {error}.") from None
    return sheet_of(data, name)


def sheet_of(content: bytes, name: str) -> Sheet:
    """Return the table that a file of this name holds.

    Raises:
        UserError: it is no such table.
    """
    table = open_table(content, name)
    rows: list[Row] = []
    numbers: list[int] = []
    for batch, places in table.batches(table.columns):
        rows += batch.to_pylist()
        numbers += places.tolist()
    return Sheet(name, table.columns, tuple(rows), tuple(numbers), table.notes)
