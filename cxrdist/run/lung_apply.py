"""Making the lung masks of a cohort by themselves, as files that other programs read."""

import hashlib
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrdist.cohort.check_text import csv_writer
from cxrdist.cohort.decode import Preprocessing
from cxrdist.cohort.manifest import files_of_manifest
from cxrdist.cohort.packing import unpack_masks
from cxrdist.cohort.shards import prepare_shards
from cxrdist.cohort.sizes import read_sizes
from cxrdist.cohort.table import load_cohort
from cxrdist.config.models import ExecutionConfig
from cxrdist.lungs.inputs import SIDE
from cxrdist.lungs.quality import MaskQuality, judge_mask
from cxrdist.lungs.segmenter import LungWeights
from cxrdist.outputs import RECORD, Outputs
from cxrdist.run.driver import Display, open_tools
from cxrdist.run.masks import network_masks
from cxrdist.run.object_store import explained_cache
from cxrdist.run.plan_file import cache_of
from cxrdist.run.store import Store, explained

TABLE = "masks.csv"

_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,4}$")
"""Of a file's name; the last number of a UID is none."""


@dataclass(frozen=True)
class MadeMask:
    """A mask file that was written."""

    image_id: str
    source: str
    path: str
    """Relative to the folder of the masks."""
    quality: MaskQuality


def apply_lungs(
    manifest: Path, images: Path, out: Path, weights: str, execution: ExecutionConfig, display: Display
) -> list[MadeMask]:
    """Write a PNG mask (0 and 255) of each image's size into `out`, and a table of all of them, `masks.csv`.

    Masks are named as `mask_names` says. No image of the cohort, mask of its manifest or other file of the user's is
    written over; `out` may lie in the folder of images if it is a folder of its own there.

    Raises:
        UserError: the manifest, the images, the weights or the folder do not allow it.
    """
    with ExitStack() as stack:
        stack.enter_context(explained(f"The folder {out}", "choose another with --out", out))
        cohort = load_cohort(manifest, images, None)
        names = dict(zip(cohort.image_ids, mask_names([str(path) for path in cohort.column("path")]), strict=True))
        of_cohort = [str(path) for name in ("path", "mask_path") for path in cohort.column(name) if path is not None]
        outputs = Outputs(
            out,
            [TABLE, *names.values()],
            option="--out",
            inputs=[*files_of_manifest(manifest, images), *(cohort.root / path for path in of_cohort)],
            trees=[cohort.root],
        )
        tools = open_tools(execution, stack)
        found = LungWeights.find(weights, "--weights")
        cache = cache_of(execution)
        stack.enter_context(explained_cache(cache))
        shards = prepare_shards(
            cohort,
            Preprocessing(SIDE),
            cache.root,
            with_masks=False,
            run_chunks=tools.run_chunks,
            on_progress=display.decoded,
            on_note=display.say,
        )
        for bad in shards.quarantine:
            display.say(f"{bad.path} has no mask: it {bad.reason}.")
        packed = network_masks(
            shards,
            found,
            cache,
            device=tools.device(),
            run_chunks=tools.run_mask_chunks,
            on_progress=display.masked,
        )
        about = {
            str(image_id): (str(path), source)
            for image_id, path, source in zip(
                cohort.image_ids, cohort.column("path"), cohort.sources.tolist(), strict=True
            )
        }
        paths = [about[image_id][0] for image_id in shards.image_ids]
        store = Store(out)
        made = []
        stack.enter_context(outputs.writing())
        for image_id, row, size in zip(shards.image_ids, packed, read_sizes(cohort.root, paths), strict=True):
            mask = unpack_masks(row[np.newaxis], SIDE)[0]
            store.write_bytes(names[image_id], _png(mask, (int(size[0]), int(size[1]))))
            made.append(MadeMask(image_id, about[image_id][1] or "unknown", names[image_id], judge_mask(mask)))
        store.write_bytes(TABLE, _table(made))
        return made


def mask_names(paths: Sequence[str]) -> list[str]:
    """Return the names of the masks of images, relative to the folder of the masks, each another.

    `a/x.jpg` has `a/x.png`. Where two masks would have one name, on a file system too that does not tell case, each is
    named by the whole name of its image, `a/x.jpg.png`; where that is no better, by a hash of its path.

    Args:
        paths: of the images, relative to one folder, each another.
    """
    ways = [0] * len(paths)
    while True:
        names = [_mask_name(path, way) for path, way in zip(paths, ways, strict=True)]
        same: defaultdict[str, list[int]] = defaultdict(list, {TABLE: [], RECORD: []})
        keys = [unicodedata.normalize("NFC", name).casefold() for name in names]
        for place, key in enumerate(keys):
            same[key].append(place)
        unclear = {place for places in same.values() if len(places) > 1 for place in places}
        for place, key in enumerate(keys):
            # A name cannot be a file's and a folder's.
            for folder in PurePosixPath(key).parents:
                if str(folder) in same:
                    unclear |= {place, *same[str(folder)]}
        if not unclear:
            return names
        for place in unclear:
            ways[place] = min(ways[place] + 1, 2)


def _mask_name(path: str, way: int) -> str:
    whole = PurePosixPath(path)
    if way == 0:
        return f"{whole.with_name(_ENDING.sub('', whole.name) or whole.name)}.png"
    if way == 1:
        return f"{path}.png"
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', path)[:80]}-{hashlib.sha256(path.encode()).hexdigest()[:16]}.png"


def _png(mask: NDArray[np.uint8], size: tuple[int, int]) -> bytes:
    smooth = Image.fromarray(mask * np.uint8(255)).resize(size, Image.Resampling.BILINEAR)
    sink = io.BytesIO()
    Image.fromarray(np.where(np.asarray(smooth) >= 128, np.uint8(255), np.uint8(0))).save(sink, format="PNG")
    return sink.getvalue()


def _table(made: Sequence[MadeMask]) -> bytes:
    text = io.StringIO()
    write = csv_writer(text)
    write(["image_id", "mask_path", "source", "area", "parts", "balance", "faults"])
    for one in made:
        quality = one.quality
        measured = [f"{quality.area:.4f}", quality.components, f"{quality.balance:.4f}", "; ".join(quality.faults)]
        write([one.image_id, one.path, one.source, *measured])
    return text.getvalue().encode()
