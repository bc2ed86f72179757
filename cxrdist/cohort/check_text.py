"""Text from manifests, which may be anything, as people and their programs can read it."""

import csv
import re
from collections.abc import Callable, Iterable
from typing import TextIO

MOST_OF_A_NAME = 60
MOST_OF_A_REASON = 300
MOST_OF_A_CELL = 1000

_FORMULA = re.compile(r"\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")
"""What begins a formula, as wide as in Chinese and Japanese text too."""
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|-inf", re.IGNORECASE)


def one_line(text: str, most: int) -> str:
    """Return text on one line, of at most `most` characters, none of which steers a terminal or turns the reading."""
    words = " ".join(text[: 2 * most].split())
    line = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in words)
    return line if len(text) <= 2 * most and len(line) <= most else f"{line[: most - 1]}…"


def short_name(text: str) -> str:
    """Return a name for a sentence or a table."""
    return one_line(text, MOST_OF_A_NAME)


def csv_writer(file: TextIO) -> Callable[[Iterable[object]], None]:
    """Return what writes the cells of a line into a CSV file that people open with a spreadsheet.

    Text that a spreadsheet would compute stands behind an apostrophe; numbers stay numbers. Manifests are not written
    so: programs take their ids and paths as they are.
    """
    writer = csv.writer(file, lineterminator="\n")
    return lambda cells: writer.writerow([_no_formula(cell) if isinstance(cell, str) else cell for cell in cells])


def _no_formula(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text
