"""NIH ChestX-ray14: Data_Entry_2017.csv and images, or the images alone."""

import re

from cxrdist.cohort.missing import known
from cxrdist.cohort.sources.folder import name_of
from cxrdist.cohort.sources.listing import (
    SECOND,
    Collector,
    Listing,
    Place,
    SourceImage,
    age_of,
    find_file,
    sex_of,
    shallowest_first,
    slug,
)
from cxrdist.cohort.sources.sheet import Row, read_sheet
from cxrdist.config.section import Section

_NAME = re.compile(r"((\d{8})_\d{3})\.(?:png|jpe?g)", re.IGNORECASE)
_ENDING = re.compile(r"\.(?:png|jpe?g)$", re.IGNORECASE)
_TABLE = r"data_entry_2017.*\.csv"
_NORMAL = ("no_finding", "no_findings")


class NihOptions(Section):
    """How the set is read."""

    metadata: str | None = None
    """Its table, relative to the folder; by default the Data_Entry_2017.csv nearest to the root, if there is one."""


def list_nih(place: Place, options: NihOptions) -> Listing:
    """List the images.

    Labels are normal, or the findings in small letters with `|` between them; without a table, the folder's name. Files
    may have been saved anew, as JPEG or with endings in capitals.

    Raises:
        UserError: the table is another one, or contradicts itself.
    """
    table = find_file(place.folder, _TABLE, options.metadata)
    rows: dict[str, Row] | None = None
    columns: tuple[str, ...] = ("folder",)
    notes: tuple[str, ...] = ()
    if table is not None:
        sheet = read_sheet(place.folder.root, table)
        sheet.require("Image Index", "Finding Labels")
        rows = sheet.one_each("Image Index", "Finding Labels", lambda name: _ENDING.sub("", name))
        columns, notes = sheet.columns, sheet.notes
    collector = Collector(place.folder)
    seen: set[str] = set()
    for path in shallowest_first(place.folder.files):
        match = _NAME.fullmatch(name_of(path))
        if match is None:
            if path != table:
                collector.leave(path, "has none of the set's names")
            continue
        if match[1] in seen:
            collector.leave(path, SECOND)
            continue
        folder = path.split("/")[-2] if "/" in path else ""
        row = {"folder": folder, "Finding Labels": folder} if rows is None else rows.get(match[1])
        if row is None:
            collector.leave(path, f"is not listed in {name_of(table or '')}")
            continue
        seen.add(match[1])
        label = slug(known(row["Finding Labels"]) or "")
        collector.add(
            SourceImage(
                image_id=f"{place.name}/{match[0]}",
                path=path,
                label="normal" if label in _NORMAL else label or None,
                source=place.name,
                patient_id=f"nih:{match[2]}",
                view_position=known(row.get("View Position")),
                age=age_of(row.get("Patient Age", "")),
                sex=sex_of(row.get("Patient Gender") or row.get("Patient Sex", "")),
                facts=row,
            )
        )
    return collector.listing("file names: NIH's number of the patient", columns, notes)
