"""Copies of radiographs side by side, for people to judge."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cxrdist.cohort.check_cohort import CohortCheck
from cxrdist.cohort.check_table import Coded
from cxrdist.cohort.check_text import short_name
from cxrdist.cohort.check_write import RowText
from cxrdist.cohort.decode import Preprocessing, decode_grey, read_image_file
from cxrdist.cohort.duplicates import Pair
from cxrdist.errors import ImageError

MOST_PAIRS = 24
MOST_ODD = 48
_SIDE = 224
_QUALITY = 80


@dataclass(frozen=True)
class ShownCopy:
    """An image, as a page shows it; all text is on one line and short."""

    picture: str
    """A data URI; empty where the file cannot be read any more."""
    image_id: str
    label: str
    patient: str
    """Empty where unknown."""
    source: str
    """Empty where unknown."""
    group: str
    """What the manifest says; empty where it says nothing."""


@dataclass(frozen=True)
class ShownPair:
    """Two images of one radiograph."""

    a: ShownCopy
    b: ShownCopy
    exact: bool
    correlation: float
    differing: tuple[str, ...]
    """What they differ in: `class`, `group`, `patient`, `source`."""


@dataclass(frozen=True)
class ShownOdd:
    """An image that looks like no radiograph of its cohort."""

    image: ShownCopy
    reason: str


def shown_odd(check: CohortCheck, texts: Mapping[int, RowText]) -> list[ShownOdd]:
    """Return the first images that look like no radiograph, with small pictures, those of one reason together."""
    usable = check.files.usable
    chosen = sorted(check.odd, key=lambda one: (one.kind == "negative", one.row))[:MOST_ODD]
    return [ShownOdd(_shown(check, texts, int(usable[one.row])), one.reason) for one in chosen]


def shown_pairs(check: CohortCheck, texts: Mapping[int, RowText]) -> list[ShownPair]:
    """Return the pairs most worth looking at, with small pictures of their images.

    The worst come first: of different classes, groups, patients, sources; then those that are least alike.
    """
    copies = check.copies
    differing = {
        "class": copies.conflicts,
        "group": copies.across_groups,
        "patient": copies.across_patients,
        "source": copies.across_sources,
    }
    rows_of = {what: {(pair.a, pair.b) for pair in pairs} for what, pairs in differing.items()}

    def rank(pair: Pair) -> tuple[list[bool], float]:
        return [(pair.a, pair.b) not in rows for rows in rows_of.values()], pair.correlation

    return [
        ShownPair(
            _shown(check, texts, pair.a),
            _shown(check, texts, pair.b),
            pair.exact,
            pair.correlation,
            tuple(what for what, rows in rows_of.items() if (pair.a, pair.b) in rows),
        )
        for pair in sorted(copies.pairs, key=rank)[:MOST_PAIRS]
    ]


def _shown(check: CohortCheck, texts: Mapping[int, RowText], row: int) -> ShownCopy:
    def name(column: Coded) -> str:
        code = column.codes[row]
        return short_name(column.names[code]) if code >= 0 else ""

    table = check.table
    return ShownCopy(
        picture=_picture(table.root, texts[row].path),
        image_id=short_name(texts[row].image_id),
        label=name(table.label),
        patient=name(table.patient),
        source=name(table.source),
        group=name(table.group_id),
    )


def _picture(root: Path, path: str) -> str:
    """Return a JPEG file of the whole image, padded to a square, as a data URI."""
    try:
        grey = decode_grey(read_image_file(root, path), Preprocessing(_SIDE, "pad"))
    except ImageError:
        return ""
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
