"""The COVID-19 image data collection of Cohen et al.: metadata.csv and the folder `images`, in any of its states."""

import re

from cxrdist.cohort.missing import is_missing, known
from cxrdist.cohort.sources.folder import name_of
from cxrdist.cohort.sources.listing import (
    Collector,
    Listing,
    Place,
    SourceImage,
    age_of,
    sex_of,
    slug,
)
from cxrdist.cohort.sources.metadata import MetadataOptions, notes_of_near, read_metadata
from cxrdist.cohort.sources.sheet import Row

_UNKNOWN = frozenset({"todo", "unknown"})
_GROUPS = {
    "viral_pneumonia": {"viral", "sars", "mers-cov", "influenza", "varicella", "herpes", "h1n1"},
    "bacterial_pneumonia": {
        "bacterial",
        "chlamydophila",
        "e.coli",
        "klebsiella",
        "legionella",
        "mycoplasma",
        "mycoplasma bacterial pneumonia",
        "nocardia",
        "staphylococcus",
        "streptococcus",
    },
    "fungal_pneumonia": {"fungal", "pneumocystis", "aspergillosis"},
}
_IMAGES = "images"


def list_cohen(place: Place, options: MetadataOptions) -> Listing:
    """List the radiographs of the collection, of all views; CT is left out.

    Labels are covid19, viral_pneumonia, bacterial_pneumonia, fungal_pneumonia, normal (for "No Finding"), or the
    finding itself in small letters.

    Raises:
        UserError: there is no metadata.csv, or it is another table.
    """
    columns = ("patientid", "finding", "view", "modality", "filename")
    path, sheet = read_metadata(place, options, "Cohen's collection", *columns)
    folder = path.removesuffix(name_of(path))
    there = set(place.folder.files)
    collector = Collector(place.folder)
    listed = set()
    for row in sheet.rows:
        file = f"{folder}{row.get('folder') or _IMAGES}/{row['filename']}"
        label = label_of(row["finding"])
        listed.add(file)
        if row["modality"].casefold() != "x-ray":
            collector.leave(file, f"is of the modality {row['modality'][:20]!r}, not X-ray")
        elif label is None:
            collector.leave(file, "has no finding yet")
        elif file not in there:
            collector.leave(file, f"is listed in {name_of(path)}, but is not in the folder")
        else:
            collector.add(_image(place.name, row, file, label))
    for file in place.folder.files:
        if file.startswith(f"{folder}{_IMAGES}/") and file not in listed:
            collector.leave(file, f"is not listed in {name_of(path)}")
    notes = [*sheet.notes, *notes_of_near(place.folder, listed, name_of(path))]
    return collector.listing(f"column patientid of {name_of(path)}", sheet.columns, notes)


def label_of(finding: str) -> str | None:
    """Return the label of a finding as the collection's states write it; None where it is not known yet.

    >>> label_of("COVID-19, ARDS"), label_of("Pneumonia/Viral/COVID-19"), label_of("Streptococcus"), label_of("todo")
    ('covid19', 'covid19', 'bacterial_pneumonia', None)
    """
    parts = {part.strip().casefold() for part in re.split("[/,]", known(finding) or "")}
    if all(part in _UNKNOWN or is_missing(part) for part in parts):
        return None
    if "covid-19" in parts:
        return "covid19"
    if parts == {"no finding"}:
        return "normal"
    return next((label for label, words in _GROUPS.items() if parts & words), slug(finding))


def _image(name: str, row: Row, file: str, label: str) -> SourceImage:
    return SourceImage(
        image_id=f"{name}/{row['filename']}",
        path=file,
        label=label,
        source=name,
        patient_id=f"cohen:{row['patientid']}" if known(row["patientid"]) else None,
        view_position=known(row["view"].strip("?")),
        age=age_of(row.get("age", "")),
        sex=sex_of(row.get("sex", "")),
        facts=row,
    )
