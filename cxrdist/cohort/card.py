"""What people should know of a cohort before they use it: a data card.

Whatever only people know, such as a licence, is never guessed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from cxrdist.cohort.catalogue import SOURCES
from cxrdist.cohort.check_table import CheckedTable, Coded, Codes
from cxrdist.cohort.check_text import MOST_OF_A_CELL, MOST_OF_A_REASON, one_line
from cxrdist.cohort.schema import COHORT_SCHEMA, OPTIONAL_EXTRA
from cxrdist.cohort.table import Cohort

NOT_STATED = "not stated"
MOST_ROWS = 100
"""Of a table in the card."""

COLUMNS = {
    "image_id": "Name of the image; each occurs once.",
    "path": "Image file, relative to the image folder.",
    "label": "Class of the image.",
    "patient_id": "Patient; images of one are never divided between training and test.",
    "source": "Collection or hospital that the image comes from.",
    "view_position": "How the X-rays passed, such as PA or AP.",
    "sha256": "SHA-256 of the image file.",
    "group_id": "What else must not be divided, such as copies of one radiograph in several patients.",
    "mask_path": "File with the lung mask, relative to the image folder.",
    "original_sha256": "SHA-256 of the file that the image was made from.",
    "pixel_sha256": "SHA-256 of the decoded pixels.",
    "age": "Age of the patient in years.",
    "sex": "Sex of the patient.",
}

# Markdown's own signs get a backslash; HTML, mathematics and what some readers make a link of become references.
_SIGNS = re.compile(r"[\\`*_\[\]#]")
_ACTIVE = re.compile(r"[&<>|:@~$]|(?i:(?<=www)\.)")


@dataclass(frozen=True)
class Stated:
    """What only a person can say of a cohort; None or empty where nobody did."""

    name: str
    description: str | None = None
    licence: str | None = None
    """A web address, or a name such as CC-BY-4.0."""
    citation: str | None = None
    url: str | None = None
    persons: tuple[str, ...] = ()
    organisations: tuple[str, ...] = ()
    published: str | None = None
    """ISO 8601 date."""

    @property
    def missing(self) -> list[str]:
        """What Croissant 1.0 requires and nobody stated, by its name there."""
        needed = {
            "license": self.licence,
            "url": self.url,
            "creator": self.persons or self.organisations,
            "datePublished": self.published,
        }
        return [name for name, value in needed.items() if not value]


@dataclass(frozen=True)
class CardFile:
    """A file of the manifest."""

    name: str
    sha256: str
    n_bytes: int


@dataclass(frozen=True, eq=False)
class Described:
    """A cohort, and the files that list it."""

    cohort: Cohort
    table: CheckedTable
    """Of the same rows."""
    filled: Mapping[str, int]
    """How many images have a value, by column of the manifest."""
    file: CardFile
    """The table."""
    recipe: CardFile | None
    """What maps the table, where it is not a cohort's."""


def markdown_card(described: Described, stated: Stated) -> str:
    """Return the data card, in CommonMark with tables."""
    cohort, table = described.cohort, described.table
    sections = [
        f"# {_text(stated.name)}",
        _text(stated.description, MOST_OF_A_CELL) if stated.description else summary(described),
        _rows(("", ""), _statements(stated)),
        "## Images and patients",
        _rows(("class", "source", "images", "patients", "images without a patient id"), _counts(table)),
        *_by(table.view, "View positions", "view position"),
        *_by(table.age, "Ages", "years"),
        *_by(table.sex, "Sexes", "sex"),
        "## Identification",
        *_identification(described),
        "## Known doubts",
        "".join(f"- {_text(doubt, MOST_OF_A_REASON)}\n" for doubt in cohort.doubts()) or "None was found in the table.",
        "## Columns",
        _rows(("column", "images with a value", "meaning"), _columns(described)),
        "## Files",
        _rows(("file", "bytes", "SHA-256"), [(f.name, f"{f.n_bytes:,}", f.sha256) for f in files_of(described)]),
        *_where(table),
        "## How to get the pixels",
        *_pixels(described),
    ]
    return "\n\n".join(section.strip("\n") for section in sections) + "\n"


def summary(described: Described) -> str:
    """Return a sentence that describes the cohort, where nobody did."""
    n = len(described.cohort)
    return f"A cohort of {n:,} chest radiographs in {len(described.cohort.classes)} classes, as a table without pixels."


def _statements(stated: Stated) -> Iterator[tuple[str, str]]:
    for field in fields(stated)[2:]:
        value = getattr(stated, field.name)
        yield field.name, (", ".join(value) if isinstance(value, tuple) else value) or NOT_STATED


def _counts(table: CheckedTable) -> Iterator[tuple[str, ...]]:
    for label, name in enumerate(table.label.names):
        chosen = table.label.codes == label
        sources, of_source = np.unique(table.source.codes[chosen], return_inverse=True)
        patients = table.patient.codes[chosen]
        if len(sources) > 1:
            yield (name, "all", *_extent(np.zeros_like(of_source), patients)[0])
        for source, extent in zip(sources.tolist(), _extent(of_source, patients), strict=True):
            yield (name, table.source.names[source] if source >= 0 else NOT_STATED, *extent)
    yield ("all", "all", *_extent(np.zeros(len(table), dtype=np.int64), table.patient.codes)[0])


def _extent(parts: NDArray[np.int64], patients: Codes) -> list[tuple[str, str, str]]:
    """Return the images, known patients and images of unknown ones of each part; both arguments are [n]."""
    images = np.bincount(parts)
    without = np.bincount(parts[patients < 0], minlength=len(images))
    pairs = np.unique(np.stack([parts, patients], axis=1)[patients >= 0], axis=0)
    known = np.bincount(pairs[:, 0], minlength=len(images))
    return [(f"{i:,}", f"{k:,}", f"{w:,}") for i, k, w in zip(images, known, without, strict=True)]


def _by(column: Coded, title: str, name: str) -> Iterator[str]:
    counts = column.counts()
    if len(counts):
        yield f"### {title}"
        known = [(text, f"{count:,}") for text, count in zip(column.names, counts.tolist(), strict=True)]
        yield _rows((name, "images"), [*known, (NOT_STATED, f"{len(column.codes) - int(counts.sum()):,}")])


def _identification(described: Described) -> Iterator[str]:
    cohort, table = described.cohort, described.table
    n, known = len(cohort), described.filled.get("patient_id", 0)
    same = sum(i == path for i, path in zip(cohort.image_ids, cohort.column("path"), strict=True))
    yield f"Images are identified by `image_id`: {n:,} different ones, of which {same:,} are the path itself."
    unknown = n - known
    yield (
        f"Patients are identified by `patient_id`, as the manifest gives it: {len(table.patient.names):,} patients in "
        f"{known:,} images"
        + (f"; each of the other {unknown:,} images counts as a patient of its own." if unknown else ".")
    )
    patients, groups = len(table.patient.names) + unknown, len(set(table.group_names()))
    yield (
        f"Groups keep together what must not be divided between training and test: `group_id` joins {patients:,} "
        f"patients to {groups:,} groups."
        if patients > groups
        else f"No groups were merged: each of the {patients:,} patients is one group."
    )


def _columns(described: Described) -> Iterator[tuple[str, ...]]:
    for name in (*COHORT_SCHEMA.names, *OPTIONAL_EXTRA):
        if name in described.table.manifest.columns:
            yield name, f"{described.filled.get(name, 0):,}", COLUMNS[name]


def files_of(described: Described) -> list[CardFile]:
    """Return the table, and the recipe where there is one."""
    return [described.file, *([described.recipe] if described.recipe else [])]


def _where(table: CheckedTable) -> Iterator[str]:
    if table.manifest.where:
        yield "Of the table, only the rows with these values are the cohort's:"
        rows = ((column, " or ".join(values)) for column, values in table.manifest.where.items())
        yield _rows(("column of the table", "value"), rows)


def _pixels(described: Described) -> Iterator[str]:
    digests = described.filled.get("sha256", 0)
    yield (
        "The manifest has no pixels. Paths start from one image folder; put the files there and see with "
        f"`cxrdist cohort check` that they are the right ones: {digests:,} of {len(described.cohort):,} have a SHA-256."
    )
    rows = []
    for name in described.table.source.names:
        known = SOURCES.get(name)
        rows.append((name, known.home.homepage, known.title) if known else (name, NOT_STATED, ""))
    if rows:
        yield "Sources whose name `cxrdist cohort fetch` knows have their home beside them:"
        yield _rows(("source", "home", "title"), rows)


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head)]
    every = [[_cell(text) for text in row] for row in rows]
    lines += every[:MOST_ROWS]
    if len(every) > MOST_ROWS:
        lines.append([f"{len(every) - MOST_ROWS:,} more", *[""] * (len(head) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    # The apostrophe, because tables are copied to spreadsheets, which would compute what follows.
    escaped = _text(text, MOST_OF_A_REASON)
    return f"'{escaped}" if one_line(text, MOST_OF_A_REASON)[:1] in {"=", "+", "-", "@"} else escaped


def _text(text: str, most: int = MOST_OF_A_REASON) -> str:
    escaped = _SIGNS.sub(r"\\\g<0>", one_line(text, most))
    return _ACTIVE.sub(lambda match: f"&#{ord(match[0])};", escaped)
