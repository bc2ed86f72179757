"""Making the lung masks of a cohort by themselves, as files that other programs read."""

import io
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrdist.cohort.check_text import csv_writer
from cxrdist.cohort.decode import Preprocessing
from cxrdist.cohort.packing import unpack_masks
from cxrdist.cohort.shards import prepare_shards
from cxrdist.cohort.sizes import read_sizes
from cxrdist.cohort.table import load_cohort
from cxrdist.config.models import ExecutionConfig
from cxrdist.lungs.inputs import SIDE
from cxrdist.lungs.quality import MaskQuality, judge_mask
from cxrdist.lungs.segmenter import LungWeights
from cxrdist.run.driver import Display, open_tools
from cxrdist.run.masks import network_masks
from cxrdist.run.object_store import explained_cache
from cxrdist.run.plan_file import cache_of
from cxrdist.run.store import Store, explained

TABLE = "masks.csv"


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

    Raises:
        UserError: the manifest, the images, the weights or the folder do not allow it.
    """
    with ExitStack() as stack:
        stack.enter_context(explained(f"The folder {out}", "choose another with --out", out))
        tools = open_tools(execution, stack)
        found = LungWeights.find(weights, "--weights")
        cohort = load_cohort(manifest, images, None)
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
        for image_id, row, size in zip(shards.image_ids, packed, read_sizes(cohort.root, paths), strict=True):
            path, source = about[image_id]
            mask = unpack_masks(row[np.newaxis], SIDE)[0]
            name = str(PurePosixPath(path).with_suffix(".png"))
            store.write_bytes(name, _png(mask, (int(size[0]), int(size[1]))))
            made.append(MadeMask(image_id, source or "unknown", name, judge_mask(mask)))
        store.write_bytes(TABLE, _table(made))
        return made


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
