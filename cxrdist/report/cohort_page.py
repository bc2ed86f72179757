"""One HTML page about a cohort, before anybody trains on it; it needs nothing but itself."""

from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from cxrdist.cohort.check_cohort import CohortCheck
from cxrdist.cohort.check_text import one_line
from cxrdist.cohort.check_write import COPIES, MANIFEST, ODD, QUARANTINE, Written
from cxrdist.cohort.duplicates import MAX_DHASH_DISTANCE, MAX_PHASH_DISTANCE, MIN_CORRELATION
from cxrdist.cohort.looks import LEAST_RANGE, MOST_ALIKE, NEGATIVE
from cxrdist.report.cohort_figures import ShownOdd, ShownPair, shown_odd, shown_pairs
from cxrdist.report.cohort_tables import (
    copies_table,
    forms_table,
    images_table,
    mixed_patients_table,
    problems_table,
    quarantine_table,
    shortcuts_table,
    views_table,
)
from cxrdist.report.table import Table

_MOST_OF_A_PATH = 200


@dataclass(frozen=True)
class PagePart:
    """A section of the page."""

    anchor: str
    title: str
    words: tuple[str, ...]
    tables: tuple[Table, ...] = ()
    pairs: tuple[ShownPair, ...] = ()
    odd: tuple[ShownOdd, ...] = ()


def render_cohort_page(check: CohortCheck, written: Written) -> str:
    """Return the page: styles and pictures inside, no script, all text of the manifest escaped and short.

    Args:
        check: what was found; image files are opened for their pictures.
        written: of the lists beside the page.
    """
    environment = Environment(
        loader=PackageLoader("cxrdist.report"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    parts = [part for part in _parts(check, written) if part.words or part.tables]
    numbers = {table.name: number for number, table in enumerate((t for p in parts for t in p.tables), start=1)}
    return environment.get_template("cohort.html.j2").render(
        name=one_line(check.table.manifest.file.name, _MOST_OF_A_PATH),
        facts=_facts(check),
        extent=extent(check),
        refused=[finding for finding in check.findings if finding.refused],
        doubts=[finding for finding in check.findings if not finding.refused],
        parts=parts,
        titles={part.anchor: part.title for part in parts},
        numbers=numbers,
        files=(MANIFEST, QUARANTINE, COPIES, ODD),
    )


def extent(check: CohortCheck) -> str:
    """Return how much was checked, in words."""
    table = check.table
    unknown = int((table.patient.codes < 0).sum())
    patients = f"{len(table.patient.names):,} patients" + (
        f" and {unknown:,} images without patient" if unknown else ""
    )
    return (
        f"{len(table) + len(table.faults):,} images, {len(check.files.usable):,} of them usable, of {patients}, "
        f"{len(table.label.names)} classes, {len(table.source.names)} sources"
    )


def _facts(check: CohortCheck) -> list[tuple[str, str]]:
    return [
        ("manifest", one_line(str(check.table.manifest.file), _MOST_OF_A_PATH)),
        ("image folder", one_line(str(check.table.root), _MOST_OF_A_PATH)),
    ]


def _parts(check: CohortCheck, written: Written) -> list[PagePart]:
    n_unusable = len(check.table.faults) + len(check.files.faults)
    pairs = tuple(shown_pairs(check, written.texts))
    odd = tuple(shown_odd(check, written.texts))
    return [
        PagePart(
            "images",
            "Images, classes and sources",
            ("A class that only one source has cannot be told from its source by any network.",),
            (images_table(check), views_table(check)),
        ),
        PagePart(
            "files",
            "Files",
            (
                "Every file was opened, hashed and decoded as a study does it.",
                *(() if n_unusable else ("All of them can be used.",)),
            ),
            (
                *((problems_table(check), quarantine_table(written.unusable, n_unusable)) if n_unusable else ()),
                *((forms_table(check),) if len(check.files.usable) else ()),
            ),
        ),
        PagePart("looks", "Grey values", _about_looks(check, len(odd)), odd=odd),
        PagePart("patients", "Patients", _about_patients(check), _patient_tables(check)),
        PagePart("copies", "Copies", _about_copies(check, len(pairs)), (copies_table(check),), pairs),
        PagePart(
            "shortcuts",
            "Shortcuts",
            (
                "What follows is known without the lungs. A network that tells the classes no better than these "
                "properties do may have learnt nothing else.",
            ),
            (shortcuts_table(check),) if check.shortcuts else (),
        ),
    ]


def _about_looks(check: CohortCheck, n_shown: int) -> tuple[str, ...]:
    how = (
        f"A usable image is odd where {MOST_ALIKE:.0%} of its pixels have one grey value, or are nearly black or "
        f"white; where 98% of them lie within {LEAST_RANGE} of 256 levels; and where it correlates by less than "
        f"{NEGATIVE} with what the images have in common, as their negatives would."
    )
    found = len(check.odd)
    if not found:
        return (how, "There is none.")
    return (how, f"Images shown: {n_shown} of {found:,}; all are in {ODD}.")


def _about_patients(check: CohortCheck) -> tuple[str, ...]:
    n_groups = len(set(check.copies.groups))
    return (
        f"Folds keep together what is of one patient, has one group_id or is a copy: {n_groups:,} groups of "
        f"{len(check.table):,} images.",
    )


def _patient_tables(check: CohortCheck) -> tuple[Table, ...]:
    mixed = mixed_patients_table(check)
    return (mixed,) if mixed.rows else ()


def _about_copies(check: CohortCheck, n_shown: int) -> tuple[str, ...]:
    found = len(check.copies.pairs)
    how = (
        "Every usable image was compared with every other. A copy has equal pixels, or a perceptual hash that differs "
        f"in at most {MAX_PHASH_DISTANCE} (phash) or {MAX_DHASH_DISTANCE} (dhash) of 64 bits and a fine structure that "
        f"correlates by at least {MIN_CORRELATION}. Crops by more than a few per cent, turned and mirrored copies are "
        "not found."
    )
    if not found:
        return (how,)
    shown = f"Pairs shown: {n_shown} of {found:,}, those most worth looking at first; all are in {COPIES}."
    return (how, shown)
