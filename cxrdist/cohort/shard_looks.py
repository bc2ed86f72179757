"""What is doubtful about the decoded images of a study: those that look like no radiograph, and brightness by class."""

import numpy as np
from numpy.typing import NDArray

from cxrdist.cohort.check_shortcuts import brightness, shortcut_of
from cxrdist.cohort.looks import Look, Looks, find_odd, look_at
from cxrdist.cohort.shards import ShardSet
from cxrdist.cohort.table import Cohort
from cxrdist.errors import first_few

_BLOCK = 256


def doubts_about_looks(cohort: Cohort, shards: ShardSet, groups: NDArray[np.str_]) -> list[str]:
    """Return a phrase for images that look like no radiograph, for negatives, and for brightness that tells the class.

    Args:
        cohort: images that are all decoded.
        shards: the decoded images; others than the cohort's are left out.
        groups: [n], of the cohort's images, which rules that are made of some groups are tried on others.
    """
    place = {image_id: row for row, image_id in enumerate(shards.image_ids)}
    rows = np.array([place[image_id] for image_id in cohort.image_ids], dtype=np.int64)
    seen: list[Look] = []
    for start in range(0, len(rows), _BLOCK):
        seen += map(look_at, shards.take(rows[start : start + _BLOCK]))
    looks = Looks.of(seen)
    return [*_about_odd(cohort, looks), *_about_brightness(cohort, looks, groups)]


def _about_odd(cohort: Cohort, looks: Looks) -> list[str]:
    ids, odd = cohort.image_ids, find_odd(looks)
    others = [f"{ids[one.row]} {one.reason}" for one in odd if one.kind != "negative"]
    negatives = [ids[one.row] for one in odd if one.kind == "negative"]
    doubts = []
    if others:
        what = "looks like no radiograph" if len(others) == 1 else "look like no radiographs"
        doubts.append(f"{len(others)} of {len(ids)} images {what} ({first_few(others)})")
    if negatives:
        labels = cohort.labels[[one.row for one in odd if one.kind == "negative"]]
        counts = zip(cohort.classes, np.bincount(labels, minlength=len(cohort.classes)).tolist(), strict=True)
        by_class = ", ".join(f"{name}: {count}" for name, count in counts if count)
        what = "looks like a negative" if len(negatives) == 1 else "look like negatives"
        doubts.append(
            f"{len(negatives)} of {len(ids)} images {what} of what most have in common "
            f"({by_class}; {first_few(negatives)})"
        )
    return doubts


def _about_brightness(cohort: Cohort, looks: Looks, groups: NDArray[np.str_]) -> list[str]:
    codes = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    doubts = []
    for name, values in brightness(looks):
        found = shortcut_of(name, values, cohort.labels, codes, len(cohort.classes))
        if found is not None and found.warned:
            score = found.score
            usual = cohort.classes[score.majority_class]
            doubts.append(
                f"from the {name} alone, a rule made of other groups tells the class of {score.accuracy:.1%} of the "
                f"images; to say {usual} of every image is right for {score.majority:.1%}"
            )
    return doubts
