"""Tables that come with images, from whatever program wrote them, as rows of text."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cxrdist.cohort.files import Limits, read_image_file
from cxrdist.cohort.missing import known
from cxrdist.cohort.text_table import open_table
from cxrdist.errors import ImageError, UserError, first_few, nearest

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

    def one_each(self, key: str, value: str, key_of: Callable[[str], str], *, named: bool = True) -> dict[str, Row]:
        """Return the first row of each key; its other rows must agree with it in one column.

        Args:
            key: the column that tells rows; one where it is missing counts for nothing.
            value: the column in which they must agree.
            key_of: what tells rows, of the column's text.
            named: whether the refusal may say which key it is.

        Raises:
            UserError: they do not.
        """
        rows: dict[str, list[int]] = {}
        for place, row in enumerate(self.rows):
            if known(row[key]):
                rows.setdefault(key_of(row[key]), []).append(place)
        values = {
            name: list(dict.fromkeys(self.rows[place][value] for place in places)) for name, places in rows.items()
        }
        torn = [name for name, found in values.items() if len(found) > 1]
        if torn:
            places = rows[torn[0]]
            which = f", {self.rows[places[0]][key]!r} in" if named else " in"
            raise UserError(
                f"{len(torn)} of {len(rows)} values of {key!r} in {self.name!r} have several of {value!r}, such as "
                f"{first_few(map(repr, values[torn[0]]))}{which} data rows "
                f"{first_few(str(self.numbers[place]) for place in places)}; give each one."
            )
        return {name: self.rows[places[0]] for name, places in rows.items()}


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
