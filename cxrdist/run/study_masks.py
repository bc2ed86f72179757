"""A study's lung masks: where they come from, which are implausible, and what is done about those."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from cxrdist.cohort.chunks import ChunkRunner, Quarantined
from cxrdist.cohort.packing import PackedMasks, pack_masks, unpack_masks
from cxrdist.cohort.publish import cache_errors
from cxrdist.cohort.shards import ShardSet
from cxrdist.cohort.table import Cohort
from cxrdist.config.location import is_remote
from cxrdist.config.models import LungsConfig, Study
from cxrdist.errors import UserError, first_few
from cxrdist.lungs.quality import ALMOST_ALL, MaskQuality, judge_mask
from cxrdist.lungs.segmenter import LungWeights
from cxrdist.lungs.train import Precision
from cxrdist.run.artefacts import AGAIN, DamagedError, map_arrow, whole, write_arrow
from cxrdist.run.masks import known_masks, network_masks
from cxrdist.run.store import Store

Origin = Literal["files", "network"]

IMPLAUSIBLE = "has a lung mask that"
"""How the reason begins for which an image is dropped."""

_BLOCK = 256
_EXAMPLES_PER_SOURCE = 4
_MOST_FAULTY_SHOWN = 40


def mask_origin(study: Study, cohort: Cohort) -> Origin | None:
    """Return where the study's masks come from, None where no view needs any."""
    if not study.needs_masks:
        return None
    if study.lungs.masks == "auto":
        return "files" if all(path is not None for path in cohort.column("mask_path")) else "network"
    return study.lungs.masks


def mixture_note(study: Study, cohort: Cohort) -> str | None:
    """Say that mask files are not used, where only some images have one."""
    count = sum(path is not None for path in cohort.column("mask_path"))
    if study.lungs.masks != "auto" or not count or mask_origin(study, cohort) != "network":
        return None
    return (
        f"{count} of {len(cohort)} images have a mask file, and a mixture could tell the classes apart: the lung "
        "network makes all masks (lungs.masks: files would use the files)"
    )


@dataclass(frozen=True)
class StudyMasks:
    """Masks in the order of the shards' images, as the views use them."""

    packed: NDArray[np.uint8]
    """[n, ceil(side * side / 8)]."""
    found: NDArray[np.uint8]
    """The same before anything was done about implausible ones."""
    quality: list[MaskQuality]
    """[n], of the masks as they were found."""
    keep: NDArray[np.bool_]
    """[n], False where the image is dropped for its mask."""
    origin: str
    """Where they come from, for the report."""


def study_masks(
    study: Study,
    origin: Origin,
    shards: ShardSet,
    cache: Store,
    *,
    device: torch.device,
    precision: Precision,
    run_chunks: ChunkRunner | None,
    on_progress: Callable[[int, int], None] | None,
) -> StudyMasks:
    """Return the masks of all decoded images, with the policy on implausible ones applied.

    Raises:
        UserError: as `judge_masks`, or the weights cannot be read.
    """
    if origin == "files":
        found, text = _file_masks(shards), "mask files of the manifest"
    else:
        weights = LungWeights.find(study.lungs.weights)
        found = network_masks(
            shards,
            weights,
            cache,
            device=device,
            precision=precision,
            run_chunks=run_chunks,
            on_progress=on_progress,
        )
        text = f"the lung network, weights {study.lungs.weights} (SHA-256 {weights.sha256[:12]})"
    side = shards.pixels.side
    quality = judge_masks(study.lungs, origin, found, shards)
    faulty = np.array([bool(one.faults) for one in quality], dtype=np.bool_)
    keep = ~faulty if study.lungs.implausible == "drop" else np.ones(len(faulty), dtype=np.bool_)
    packed = found
    if study.lungs.implausible == "whole" and faulty.any():
        packed = found.copy()
        packed[faulty] = pack_masks(np.ones((1, side, side), dtype=np.uint8))
    return StudyMasks(packed, found, quality, keep, text)


def masks_made_before(study: Study, origin: Origin, shards: ShardSet, cache: Store) -> NDArray[np.uint8] | None:
    """Return the masks of all decoded images as they are found, packed, where none is left to be made."""
    if origin == "files":
        return _file_masks(shards)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return known_masks(shards, LungWeights.find(study.lungs.weights), cache, device)


def judge_masks(config: LungsConfig, origin: Origin, found: NDArray[np.uint8], shards: ShardSet) -> list[MaskQuality]:
    """Judge each of the masks `found`, packed, of the images of `shards`.

    Raises:
        UserError: masks are implausible, and either the policy is `error`, or (almost) all of them are.
    """
    quality = [judge_mask(mask) for block in _blocks(found) for mask in unpack_masks(block, shards.pixels.side)]
    names = [f"{i} {one.faults[0]}" for i, one in zip(shards.image_ids, quality, strict=True) if one.faults]
    if names and len(names) >= ALMOST_ALL * len(quality):
        remedy = {
            "files": "look at the files of mask_path, in which the lungs must be bright, at the places where they are "
            "in the images, or set lungs.masks to 'network'",
            "network": "look at the images, which the network expects to be frontal and no negatives, or give mask "
            "files and set lungs.masks to 'files'",
        }
        raise UserError(
            f"{len(names)} of {len(quality)} lung masks are implausible ({first_few(names)}), so that no view of the "
            f"lungs would mean anything; {remedy[origin]}."
        )
    if names and config.implausible == "error":
        raise UserError(
            f"{len(names)} of {len(quality)} lung masks are implausible ({first_few(names)}); lungs.implausible "
            "may be whole or drop instead of error."
        )
    return quality


def quality_doubts(config: LungsConfig, quality: list[MaskQuality]) -> list[str]:
    """Say how many masks are implausible, and what becomes of their images."""
    count = sum(bool(one.faults) for one in quality)
    if not count:
        return []
    what = {"whole": "all of their image counts as lung", "drop": "their images are left out"}
    most = "; these are most of them, so look at them before you believe any view of the lungs"
    return [
        f"{count} of {len(quality)} lung masks are implausible: {what[config.implausible]} "
        f"(lungs.implausible: {config.implausible}){most if count > len(quality) / 2 else ''}"
    ]


def dropped_for_masks(masks: StudyMasks, shards: ShardSet, cohort: Cohort) -> list[Quarantined]:
    """Return the images that the policy drops, with the reason."""
    path_of = dict(zip(cohort.image_ids, cohort.column("path"), strict=True))
    dropped = [(shards.image_ids[row], masks.quality[row].faults[0]) for row in np.flatnonzero(~masks.keep)]
    return [Quarantined(image_id, str(path_of[image_id]), f"{IMPLAUSIBLE} {fault}") for image_id, fault in dropped]


def publish_masks(masks: StudyMasks, shards: ShardSet, cache: Store) -> str:
    """Write the masks where lanes map them; return their name in the cache, the hash of their content."""
    digest = hashlib.sha256(f"{shards.pixels.side}:".encode() + "\n".join(shards.image_ids).encode())
    digest.update(masks.packed.tobytes())
    name = f"masks/{digest.hexdigest()}.arrow"
    if not _holds(cache, name, masks.packed, shards.pixels.side):
        table = pa.table(
            {
                "image_id": pa.array(shards.image_ids, pa.string()),
                "mask": pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(masks.packed)),
            }
        )
        with cache_errors(cache.root):
            write_arrow(cache, name, table)
    return name


def open_masks(path: Path, side: int, *, verify: bool = False) -> PackedMasks:
    """Map what `publish_masks` wrote.

    Args:
        path: the file.
        side: of the images.
        verify: whether the content is hashed and compared.

    Raises:
        DamagedError: it is missing, or not what was written.
    """
    table = map_arrow(path, AGAIN, verify=verify)
    with whole(str(path), AGAIN):
        return PackedMasks(table.column("mask").combine_chunks().to_numpy_ndarray(), side)


def _holds(cache: Store, name: str, packed: NDArray[np.uint8], side: int) -> bool:
    """Return whether masks are there already, and as they should be."""
    if not cache.exists(name):
        return False
    if is_remote(cache.location):
        # What is there came as a whole.
        return True
    try:
        return np.array_equal(open_masks(cache.local(name), side).packed, packed)
    except DamagedError:
        return False


def quality_summary(masks: StudyMasks, shards: ShardSet, cohort: Cohort, config: LungsConfig) -> dict[str, Any]:
    """Return what the run directory keeps of the masks' quality, as plain data.

    `sources`: for each source its images, the mean share of the image that is lung, and the implausible masks;
    `implausible`: each of those, with its faults.
    """
    position = {image_id: row for row, image_id in enumerate(shards.image_ids)}
    sources: dict[str, dict[str, Any]] = {}
    implausible = []
    for image_id, source, label in zip(cohort.image_ids, cohort.sources.tolist(), cohort.column("label"), strict=True):
        row = position.get(image_id)
        if row is None:
            continue
        one = masks.quality[row]
        entry = sources.setdefault(source or "unknown", {"images": 0, "implausible": 0, "area": 0.0})
        entry["images"] += 1
        entry["area"] += one.area
        if one.faults:
            entry["implausible"] += 1
            implausible.append({"image_id": image_id, "source": source, "label": label, "faults": list(one.faults)})
    for entry in sources.values():
        entry["area"] /= entry["images"]
    return {
        "origin": masks.origin,
        "policy": config.implausible,
        "sources": dict(sorted(sources.items())),
        "implausible": implausible,
    }


def mask_examples(masks: StudyMasks, shards: ShardSet, cohort: Cohort) -> pa.Table:
    """Return images with their masks as they were found, for people to look at: a few of each source, then the faulty.

    Columns: image_id, source, label, faults (empty where there are none), pixels and mask [side, side] uint8.
    """
    position = {image_id: row for row, image_id in enumerate(shards.image_ids)}
    about = {
        position[image_id]: (source or "unknown", label)
        for image_id, source, label in zip(
            cohort.image_ids, cohort.sources.tolist(), cohort.column("label"), strict=True
        )
        if image_id in position
    }
    by_source: dict[str, list[int]] = {}
    faulty = []
    for row, (source, _) in sorted(about.items()):
        if masks.quality[row].faults:
            faulty.append(row)
        else:
            by_source.setdefault(source, []).append(row)
    rows = [row for _, own in sorted(by_source.items()) for row in _spread(own, _EXAMPLES_PER_SOURCE)]
    rows += _spread(faulty, _MOST_FAULTY_SHOWN)
    index = np.array(rows, dtype=np.int64)
    side = shards.pixels.side
    return pa.table(
        {
            "image_id": pa.array([shards.image_ids[row] for row in rows], pa.string()),
            "source": pa.array([about[row][0] for row in rows], pa.string()),
            "label": pa.array([about[row][1] for row in rows], pa.string()),
            "faults": pa.array(["; ".join(masks.quality[row].faults) for row in rows], pa.string()),
            "pixels": pa.FixedShapeTensorArray.from_numpy_ndarray(shards.take(index)),
            "mask": pa.FixedShapeTensorArray.from_numpy_ndarray(unpack_masks(masks.found[index], side)),
        }
    )


def _spread(rows: list[int], most: int) -> list[int]:
    """Return at most `most` of the rows, evenly spread over them."""
    return [rows[i * len(rows) // most] for i in range(most)] if len(rows) > most else rows


def _file_masks(shards: ShardSet) -> NDArray[np.uint8]:
    rows = np.arange(len(shards.image_ids), dtype=np.int64)
    return np.concatenate([pack_masks(shards.take_masks(block)) for block in _blocks(rows)])


def _blocks(array: NDArray[Any]) -> list[NDArray[Any]]:
    return [array[start : start + _BLOCK] for start in range(0, len(array), _BLOCK)]
