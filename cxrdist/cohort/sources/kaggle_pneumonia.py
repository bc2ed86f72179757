"""Kaggle's Chest X-Ray Images (Pneumonia), by file names, in whatever folders."""

import re

from cxrdist.cohort.sources.folder import name_of
from cxrdist.cohort.sources.listing import Collector, Listing, Place, SourceImage, shallowest_first
from cxrdist.config.section import Section

_PNEUMONIA = re.compile(r"(person\d+)_(bacteria|virus)_\d+\.(?:jpe?g|png)", re.IGNORECASE)
_NORMAL = re.compile(r"((?:NORMAL2-)?IM-\d+)(?:-\d+)+\.(?:jpe?g|png)", re.IGNORECASE)
_LABELS = {"bacteria": "bacterial_pneumonia", "virus": "viral_pneumonia"}
_SPLITS = ("train", "val", "test")


class KagglePneumoniaOptions(Section):
    """There is nothing to choose."""


def list_kaggle_pneumonia(place: Place, _: KagglePneumoniaOptions) -> Listing:
    """List the images, all AP as the data set's description says; `split` is the set's own division, for `where`."""
    collector = Collector(place.folder)
    for path in shallowest_first(place.folder.files):
        image = _image(place.name, path)
        if image is None:
            collector.leave(path, "has none of the set's names")
        else:
            collector.add(image)
    return collector.listing(
        "file names: personN with bacteria or virus, whose numbers run separately, so that the group is personN alone; "
        "of normals the study number IM-N, taken as one patient",
        ("split",),
    )


def _image(source: str, path: str) -> SourceImage | None:
    name = name_of(path)
    pneumonia, normal = _PNEUMONIA.fullmatch(name), _NORMAL.fullmatch(name)
    if pneumonia:
        person, kind = pneumonia[1], pneumonia[2].lower()
        label, patient, group = _LABELS[kind], f"kaggle:{person}_{kind}", f"kaggle:{person}"
    elif normal:
        label, patient = "normal", f"kaggle:{normal[1]}"
        group = patient
    else:
        return None
    split = next((part for part in path.lower().split("/") if part in _SPLITS), "")
    return SourceImage(
        image_id=f"{source}/{name}",
        path=path,
        label=label,
        source=source,
        patient_id=patient,
        group_id=group,
        view_position="AP",
        facts={"split": split},
    )
