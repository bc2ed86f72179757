"""The COVID-19 Radiography Database, by file names; with `images` and `masks`, or without."""

import re

from cxrdist.cohort.sources.folder import name_of
from cxrdist.cohort.sources.listing import Collector, Listing, Place, SourceImage, shallowest_first
from cxrdist.config.section import Section

_NAME = re.compile(
    r"(COVID|NORMAL|Viral Pneumonia|Lung_Opacity)(?:-19)?(?:-(\d+)| ?\((\d+)\))\.(?:png|jpe?g)", re.IGNORECASE
)
_LABELS = {
    "covid": "covid19",
    "normal": "normal",
    "viral pneumonia": "viral_pneumonia",
    "lung_opacity": "lung_opacity",
}
_MASKS = "masks"


class RadiographyOptions(Section):
    """There is nothing to choose."""


def list_radiography(place: Place, _: RadiographyOptions) -> Listing:
    """List the images; no patient is known."""
    collector = Collector(place.folder)
    masks: dict[tuple[str, str], str] = {}
    images = []
    for path in shallowest_first(place.folder.files):
        match = _NAME.fullmatch(name_of(path))
        if match is None:
            collector.leave(path, "has none of the set's names")
            continue
        which = match[1].casefold(), match[2] or match[3]
        if _MASKS in path.casefold().split("/"):
            masks.setdefault(which, path)
        else:
            images.append((which, path))
    for which, path in images:
        collector.add(
            SourceImage(
                image_id=f"{place.name}/{name_of(path)}",
                path=path,
                label=_LABELS[which[0]],
                source=place.name,
                mask_paths=(masks[which],) if which in masks else (),
            )
        )
    return collector.listing("not known: the set has none")
