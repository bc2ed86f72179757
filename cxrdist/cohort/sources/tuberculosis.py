"""The sets of Montgomery County and Shenzhen: images, lung masks (joined, or one a lung), and readings."""

import re
from collections import defaultdict

from cxrdist.cohort.files import Limits, read_image_file
from cxrdist.cohort.sources.folder import name_of
from cxrdist.cohort.sources.listing import (
    SECOND,
    Collector,
    Listing,
    Place,
    SourceImage,
    age_of,
    sex_of,
    shallowest_first,
)
from cxrdist.config.section import Section
from cxrdist.errors import ImageError

_STATUS = {"0": "normal", "1": "tuberculosis"}
_READING = Limits(max_bytes=65_536)
_SEX = re.compile(r"\b(male|female|(?<=sex: )[mf])\b", re.IGNORECASE)
_AGE = re.compile(r"\b(\d{1,3})\s*(?:Y|yrs?|years?)\b", re.IGNORECASE)


class TuberculosisOptions(Section):
    """There is nothing to choose."""


def list_montgomery(place: Place, _: TuberculosisOptions) -> Listing:
    """List the images of the Montgomery County set, all PA."""
    return _list(place, "montgomery", "MCUCXR")


def list_shenzhen(place: Place, _: TuberculosisOptions) -> Listing:
    """List the images of the Shenzhen set, all PA."""
    return _list(place, "shenzhen", "CHNCXR")


def _list(place: Place, patients: str, prefix: str) -> Listing:
    pattern = re.compile(rf"({prefix}_(\d+)_([01]))(_mask)?\.(png|jpe?g|txt)", re.IGNORECASE)
    images: dict[str, tuple[str, str, str]] = {}
    masks: defaultdict[str, dict[str, str]] = defaultdict(dict)
    readings: dict[str, str] = {}
    collector = Collector(place.folder)
    for path in shallowest_first(place.folder.files):
        match = pattern.fullmatch(name_of(path))
        if match is None:
            collector.leave(path, "has none of the set's names")
        elif match[5].lower() == "txt":
            readings.setdefault(match[1], path)
        elif match[4] or "mask" in path.rpartition("/")[0].lower():
            masks[match[1]].setdefault(_side(path), path)
        elif match[1] in images:
            collector.leave(path, SECOND)
        else:
            images[match[1]] = path, match[2], match[3]
    for stem, (path, number, status) in images.items():
        reading = _reading(place, readings.get(stem))
        sex, age = _SEX.search(reading), _AGE.search(reading)
        collector.add(
            SourceImage(
                image_id=f"{place.name}/{name_of(path)}",
                path=path,
                label=_STATUS[status],
                source=place.name,
                patient_id=f"{patients}:{number}",
                view_position="PA",
                age=age_of(age[1]) if age else None,
                sex=sex_of(sex[1]) if sex else None,
                mask_paths=_complete(masks[stem]),
            )
        )
    return collector.listing("file names: their number")


def _side(path: str) -> str:
    folder = path.rpartition("/")[0].lower()
    return next((side for side in ("left", "right") if f"{side}mask" in folder), "both")


def _complete(masks: dict[str, str]) -> tuple[str, ...]:
    """The joined mask, or that of each lung; one lung's alone would make the other one background."""
    if "both" in masks:
        return (masks["both"],)
    return (masks["left"], masks["right"]) if len(masks) == 2 else ()


def _reading(place: Place, path: str | None) -> str:
    if path is None:
        return ""
    try:
        return read_image_file(place.folder.root, path, _READING).decode("utf-8", "replace")
    except ImageError:
        return ""
