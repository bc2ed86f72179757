"""A table as data: cells keep full precision, columns know how they are shown."""

import math
from dataclasses import dataclass, field

Cell = str | int | float | None

UNDEFINED = "n/a"


def show_number(value: float, digits: int = 3) -> str:
    """Return a number with this many decimals, or "n/a" for NaN."""
    return UNDEFINED if math.isnan(value) else f"{value:z.{digits}f}"


def show_p(value: float, digits: int = 3) -> str:
    """Return a p value with this many decimals, "<0.001" where that would be zero, or "n/a" for NaN."""
    least = 10.0**-digits
    return f"<{least:.{digits}f}" if value < least else show_number(value, digits)


@dataclass(frozen=True)
class Column:
    """A column's title and how its numbers are shown."""

    title: str
    group: str = ""
    """Title shared with the neighbouring columns of the same group."""
    digits: int = 0
    """Decimals shown of a number that is not whole by type."""
    is_p: bool = False
    """Whether it holds p values: what would be rounded to zero is shown as less than the last decimal."""

    @property
    def label(self) -> str:
        """The whole title on one line."""
        return f"{self.group} {self.title}" if self.group else self.title

    def show(self, value: Cell) -> str:
        """Return a cell as people read it: rounded, "n/a" where undefined, empty where there is nothing to say."""
        if value is None:
            return ""
        if isinstance(value, float):
            return show_p(value, self.digits) if self.is_p else show_number(value, self.digits)
        return str(value)


@dataclass(frozen=True)
class Table:
    """Rows under columns; the first `keys` columns name the row."""

    name: str
    """Name of its files."""
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    keys: int = 1
    totals: frozenset[int] = frozenset()
    """Rows that sum up others."""
    notes: tuple[str, ...] = ()
    shares: tuple[tuple[float | None, ...], ...] = field(default=(), repr=False)
    """Where given, for each cell the strength of its shading in [0, 1], or None."""

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"table {self.name} has {len(self.columns)} columns, not {len(wrong[0])}")

    def grouped(self, chosen: list[int]) -> list[Column]:
        """Return those of the columns `chosen` that share a group title."""
        return [self.columns[index] for index in chosen if self.columns[index].group]

    def shown(self) -> list[list[str]]:
        """Return the cells as people read them."""
        return [[column.show(cell) for column, cell in zip(self.columns, row, strict=True)] for row in self.rows]

    def spans(self, chosen: list[int]) -> list[tuple[str, list[int]]]:
        """Return runs of neighbours among the columns `chosen` that share a group title; others stand alone."""
        runs: list[tuple[str, list[int]]] = []
        for index in chosen:
            group = self.columns[index].group
            if group and runs and runs[-1][0] == group:
                runs[-1][1].append(index)
            else:
                runs.append((group, [index]))
        return runs

    def groups(self) -> list[list[int]]:
        """Return runs of rows with the same first key; all rows in one where there is a single key."""
        runs: list[list[int]] = []
        for number, row in enumerate(self.rows):
            if runs and (self.keys == 1 or self.rows[number - 1][0] == row[0]):
                runs[-1].append(number)
            else:
                runs.append([number])
        return runs

    def widths(self, gap: int) -> list[int]:
        """Return for each column the characters of its longest cell or title, and `gap` more."""
        shown = self.shown()
        return [
            gap + max([len(column.title), *(len(row[index]) for row in shown)])
            for index, column in enumerate(self.columns)
        ]

    def blocks(self, limit: int, gap: int) -> list[list[int]]:
        """Divide the columns into blocks of at most `limit` characters, each starting with the keys.

        Columns of a group stay together where the group fits; a block holds at least one column besides the keys.
        """
        widths = self.widths(gap)
        keys = list(range(self.keys))
        room = limit - sum(widths[index] for index in keys)
        units: list[tuple[int, list[int]]] = []
        for group, run in self.spans(list(range(self.keys, len(self.columns)))):
            width = max(sum(widths[index] for index in run), len(group) + gap)
            units += [(width, run)] if width <= room else [(widths[index], [index]) for index in run]
        blocks: list[list[int]] = []
        used = 0
        for width, unit in units:
            if not blocks or used + width > room:
                blocks.append(list(keys))
                used = 0
            blocks[-1] += unit
            used += width
        return blocks
