"""The RSNA Pneumonia Detection Challenge: DICOM files and tables of their classes."""

import re

from cxrdist.cohort.dicom_header import read_dicom_header
from cxrdist.cohort.missing import known
from cxrdist.cohort.sources.folder import name_of
from cxrdist.cohort.sources.listing import Collector, Listing, Place, SourceImage, find_file, shallowest_first, slug
from cxrdist.cohort.sources.sheet import read_sheet
from cxrdist.config.section import Section
from cxrdist.errors import ImageError, UserError

_CLASSES = r"(?:stage_2_)?detailed_class_info\.csv"
_BOXES = r"(?:stage_2_)?train_labels\.csv"
_LABELS = {"normal": "normal", "lung_opacity": "lung_opacity", "no_lung_opacity_not_normal": "not_normal"}
_OF_TARGET = {"1": "lung_opacity", "0": "no_lung_opacity"}
_ENDING = re.compile(r"\.dcm$", re.IGNORECASE)
_NO_SECRET = b"ids of the challenge are public"


class RsnaOptions(Section):
    """How the set is read."""

    metadata: str | None = None
    """Its table of classes or of boxes, relative to the folder; by default the nearest of the challenge's names."""


def list_rsna(place: Place, options: RsnaOptions) -> Listing:
    """List the images that have a class.

    Labels are normal, lung_opacity and not_normal; from the table of boxes alone lung_opacity and no_lung_opacity.

    Raises:
        UserError: there is neither table, or it is another one, or contradicts itself.
    """
    table = find_file(place.folder, _CLASSES, options.metadata) or find_file(place.folder, _BOXES, None)
    if table is None:
        raise UserError(f"There is no stage_2_detailed_class_info.csv of the RSNA in {str(place.folder.root)!r}.")
    sheet = read_sheet(place.folder.root, table)
    column = "Target" if "Target" in sheet.columns else "class"
    sheet.require("patientId", column)
    rows = sheet.one_each("patientId", column, exam_of)
    collector = Collector(place.folder)
    for path in place.each(shallowest_first(place.folder.files)):
        name = name_of(path)
        exam = exam_of(name)
        if not _ENDING.search(name):
            if path != table:
                collector.leave(path, "is not named .dcm")
        elif exam not in rows:
            collector.leave(path, f"is not listed in {name_of(table)}")
        else:
            value = known(rows[exam][column]) or ""
            try:
                header = read_dicom_header(place.folder.root / path, _NO_SECRET, root=place.folder.root)
            except ImageError as error:
                collector.leave(path, str(error))
                continue
            if header.doubt is not None:
                collector.leave(path, header.doubt)
                continue
            collector.add(
                SourceImage(
                    image_id=f"{place.name}/{name}",
                    path=path,
                    label=_OF_TARGET.get(value.removesuffix(".0")) or _LABELS.get(slug(value), slug(value)) or None,
                    source=place.name,
                    patient_id=f"rsna:{exam}",
                    view_position=header.view_position,
                    age=None if header.age is None else str(header.age),
                    sex=header.sex,
                    facts={column: value},
                )
            )
    return collector.listing("file names: RSNA's patientId, which is that of one exam", (column,), sheet.notes)


def exam_of(name: str) -> str:
    """Return the challenge's patientId, which is in small letters, of the name of a file."""
    return _ENDING.sub("", name).casefold()
