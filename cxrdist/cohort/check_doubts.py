"""What makes results doubtful: patients, views, and what tells the classes apart without the lungs."""

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cxrdist.cohort.check_files import CheckedFiles
from cxrdist.cohort.check_finding import Finding, counted, has_or_have, is_or_are
from cxrdist.cohort.check_shortcuts import Shortcut
from cxrdist.cohort.check_table import CheckedTable
from cxrdist.cohort.check_text import MOST_OF_A_NAME, one_line, short_name
from cxrdist.cohort.likeness import nearly_equal, nearly_equal_names
from cxrdist.cohort.looks import OddLook
from cxrdist.cohort.sources.listing import sex_of
from cxrdist.errors import first_few

_LATERAL = {"L", "LL", "RL", "LAT", "LATERAL"}


def is_lateral(view: str) -> bool:
    """Whether a view position says that it is not frontal; lying on one side is."""
    words = set(view.upper().replace("-", " ").split())
    return bool(words & _LATERAL) and "DECUBITUS" not in words


def _of_several_sexes(table: CheckedTable) -> NDArray[np.int64]:
    """[n], the patients (index into `table.patient.names`) with images of several sexes."""
    sexes = [sex_of(name) or "" for name in table.sex.names]
    codes = np.array([sorted({*sexes}).index(sex) if sex else -1 for sex in sexes] + [-1], np.int64)[table.sex.codes]
    known = (table.patient.codes >= 0) & (codes >= 0)
    pairs = np.unique(np.stack([table.patient.codes[known], codes[known]], axis=1), axis=0)
    patients, counts = np.unique(pairs[:, 0], return_counts=True)
    return np.asarray(patients[counts > 1], dtype=np.int64)


def _of_ages_apart(table: CheckedTable) -> NDArray[np.int64]:
    """[n], the patients (index into `table.patient.names`) whose ages are more than ten years apart."""
    decades = np.array([int(re.split("[- ]", name)[0]) // 10 for name in table.age.names] + [0])[table.age.codes]
    known = (table.patient.codes >= 0) & (table.age.codes >= 0)
    least, most = np.full(len(table.patient.names), 99), np.zeros(len(table.patient.names), dtype=np.int64)
    np.minimum.at(least, table.patient.codes[known], decades[known])
    np.maximum.at(most, table.patient.codes[known], decades[known])
    return np.flatnonzero(most - least > 1)


def mixed_patients(table: CheckedTable) -> list[int]:
    """Return the patients (index into `table.patient.names`) with images of several classes."""
    known = table.patient.codes >= 0
    pairs = np.unique(np.stack([table.patient.codes[known], table.label.codes[known]], axis=1), axis=0)
    patients, classes = np.unique(pairs[:, 0], return_counts=True)
    return [int(patient) for patient in patients[classes > 1]]


def about_names(table: CheckedTable) -> Iterator[Finding]:
    """Yield ids, labels and sources that are nearly equal to others."""
    columns = (
        ("images", "labels", table.label),
        ("patients", "patient ids", table.patient),
        ("patients", "group ids", table.group_id),
        ("shortcuts", "sources", table.source),
    )
    for section, words, column in columns:
        alike = [[one_line(name, MOST_OF_A_NAME) for name in some] for some in nearly_equal(column.names)]
        if alike:
            yield Finding(
                section,
                f"{nearly_equal_names(words, alike)}.",
                "Write them alike where they mean the same; else nothing is wrong.",
            )


def about_patients(table: CheckedTable) -> Iterator[Finding]:
    """Yield what is not known of patients, and who has images of several classes."""
    unknown = int((table.patient.codes < 0).sum())
    if unknown:
        yield Finding(
            "patients",
            f"{unknown:,} of {counted(len(table), 'image')} {has_or_have(unknown)} no patient id: each counts as a "
            "patient of its own, unless its group_id or a copy says otherwise.",
            "Find the patients, or put images that may be of one patient into one group_id.",
        )
    for what, patients in (("several sexes", _of_several_sexes(table)), ("ages far apart", _of_ages_apart(table))):
        if len(patients):
            names = first_few(short_name(table.patient.names[patient]) for patient in patients)
            yield Finding(
                "patients",
                f"{counted(len(patients), 'patient')} {has_or_have(len(patients))} {what} ({names}).",
                "It may be one id for several people, who are then never divided: correct the ids, or the facts.",
            )
    mixed = mixed_patients(table)
    if mixed:
        names = first_few(short_name(table.patient.names[patient]) for patient in mixed)
        yield Finding(
            "patients",
            f"{counted(len(mixed), 'patient')} {has_or_have(len(mixed))} images of more than one class ({names}).",
            "It is right where an illness came or went between two images; else correct the labels or the patient ids.",
        )


def about_views(table: CheckedTable) -> Iterator[Finding]:
    """Yield the images that are lateral."""
    counts = dict(zip(table.view.names, table.view.counts().tolist(), strict=True))
    lateral = {name: count for name, count in counts.items() if is_lateral(name)}
    n = sum(lateral.values())
    if n:
        listed = first_few(f"{short_name(name)}: {count:,}" for name, count in lateral.items())
        yield Finding(
            "images",
            f"{counted(n, 'image')} {is_or_are(n)} lateral ({listed}).",
            "Leave them out, unless a study of lateral views is meant.",
        )


def about_body_parts(table: CheckedTable, files: CheckedFiles) -> Iterator[Finding]:
    """Yield the usable DICOM files whose headers do not say that they show the chest."""
    rows = files.usable[files.facts.is_doubtful != 0]
    if len(rows):
        listed = first_few(f"data row {table.rows[row]}" for row in rows)
        yield Finding(
            "looks",
            f"{counted(len(rows), 'DICOM file')} {'names' if len(rows) == 1 else 'name'} another part of the body than "
            f"the chest, or nothing where it must be named, in BodyPartExamined ({listed}).",
            "Look at them; nothing is wrong where the headers are.",
        )


def about_looks(table: CheckedTable, files: CheckedFiles, odd: Sequence[OddLook]) -> Iterator[Finding]:
    """Yield the usable images that look like no radiograph, and those that look like negatives."""
    remedy = "Look at them, and correct the files or leave them out."
    negatives = [one for one in odd if one.kind == "negative"]
    others = [one for one in odd if one.kind != "negative"]
    if others:
        listed = first_few(f"data row {table.rows[files.usable[one.row]]} {one.reason}" for one in others)
        what = "looks like no radiograph" if len(others) == 1 else "look like no radiographs"
        yield Finding("looks", f"{counted(len(others), 'image')} {what}: {listed}.", remedy)
    if negatives:
        labels = table.label.codes[files.usable[[one.row for one in negatives]]]
        by_class = ", ".join(
            f"{short_name(name)}: {count:,}"
            for name, count in zip(
                table.label.names, np.bincount(labels, minlength=len(table.label.names)), strict=True
            )
            if count
        )
        yield Finding(
            "looks",
            f"{counted(len(negatives), 'image')} of {len(files.usable):,} {'looks' if len(negatives) == 1 else 'look'} "
            f"like {'a negative' if len(negatives) == 1 else 'negatives'} of what most have in common ({by_class}).",
            remedy,
        )


def about_sources(table: CheckedTable) -> Iterator[Finding]:
    """Yield the classes that come from one source, or share none with another class."""
    remedy = "Add images of the class from a source of another class, or compare classes within sources only."
    sources, labels = table.source.codes, table.label.codes
    for code, name in enumerate(table.label.names):
        own, others = set(sources[labels == code].tolist()), set(sources[labels != code].tolist()) - {-1}
        if -1 in own or not others - own:
            continue
        n = int((labels == code).sum())
        listed = first_few(short_name(table.source.names[source]) for source in sorted(own))
        if len(own) == 1:
            yield Finding(
                "shortcuts",
                f"All {n:,} images of class {short_name(name)} come from one source ({listed}): whatever tells the "
                "source tells the class.",
                remedy,
            )
        elif not own & others:
            yield Finding(
                "shortcuts",
                f"Class {short_name(name)} shares no source with another class; its {n:,} images come from {listed}.",
                remedy,
            )


def about_shortcuts(table: CheckedTable, shortcuts: Sequence[Shortcut]) -> Iterator[Finding]:
    """Yield the properties that tell the class."""
    for shortcut in shortcuts:
        if shortcut.warned:
            score = shortcut.score
            usual = short_name(table.label.names[score.majority_class])
            yield Finding(
                "shortcuts",
                f"From the {shortcut.name} alone, a rule made of other patients tells the class of "
                f"{score.accuracy:.1%} of the images; to say {usual} of every image is right for {score.majority:.1%}.",
                "A network can learn it instead of the lungs: choose images in which it is alike for all classes, and "
                "see with cxrdist audit how much of a study's scores it explains.",
            )
