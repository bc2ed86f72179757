"""Writing shards: every image is decoded once, into Arrow files that are memory-mapped from then on."""

import json
import os
import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cxrdist.cohort.chunks import (
    CHUNK_IMAGES,
    DecodeChunk,
    DecodedChunk,
    DecodeRunner,
    ImageFile,
    Quarantined,
    decode_chunk,
    run_on_cores,
)
from cxrdist.cohort.decode import DECODER_VERSION, Limits, Preprocessing
from cxrdist.cohort.mask_values import MASK_VERSION
from cxrdist.cohort.near_files import hint_below
from cxrdist.cohort.publish import cache_errors, publish, remove_leftovers, temporary_sibling
from cxrdist.cohort.shardset import (
    FORMAT_VERSION,
    INDEX_NAME,
    FileState,
    ImageDigests,
    Part,
    ShardError,
    ShardSet,
    joined_hashes,
    part_hash,
    read_index,
)
from cxrdist.cohort.table import Cohort
from cxrdist.errors import CxrdistError, UserError, first_few
from cxrdist.study.fingerprint import Json, fingerprint

States = dict[str, tuple[FileState, FileState]]
"""By image id: the state of the image's file and of its mask's before decoding."""

__all__ = ["ShardError", "ShardSet", "check_quarantine", "find_shards", "prepare_shards"]


def prepare_shards(
    cohort: Cohort,
    preprocessing: Preprocessing,
    cache: Path,
    *,
    with_masks: bool,
    run_chunks: DecodeRunner | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    max_shard_bytes: int = 256 * 2**20,
    verify: bool = True,
    fetch: Callable[[Path], None] | None = None,
) -> ShardSet:
    """Return the cohort's shards, decoding them where `cache` does not have them yet.

    They lie in `cache/shards/<key>`, where the key changes with whatever could change a pixel: the
    decoder, the preprocessing, the rows, and the files (by the manifest's sha256, else by size and modification time).
    Nothing is there until everything is; several processes may prepare the same shards at once.

    Args:
        cohort: the images.
        preprocessing: how each becomes a square.
        cache: folder for everything that can be made again.
        with_masks: whether lung masks are decoded; an image whose mask cannot be used is then quarantined.
        run_chunks: where the decoding is done; by default in one process a core.
        on_progress: called with the images done and those in all.
        on_note: called with a sentence where existing shards cannot be used and are made again.
        max_shard_bytes: most bytes of pixels in one file.
        verify: whether shards found in `cache` are hashed and compared (about 1 GB/s).
        fetch: called with the folder of the shards where `cache` has none, so that it may be brought from elsewhere.

    Raises:
        UserError: the cache cannot be written.
        CxrdistError: `run_chunks` did not return every chunk once.
    """
    files, states = _files(cohort, with_masks=with_masks)
    folder = cache / "shards" / _key(files, states, preprocessing, cohort.root, with_masks=with_masks)
    if fetch is not None and not folder.exists():
        with cache_errors(cache):
            fetch(folder)
    if folder.exists():
        try:
            return _open_current(folder, states, verify=verify)
        except ShardError as error:
            if on_note is not None:
                on_note(f"{str(error).removesuffix('.')}: they are made again.")
    with cache_errors(cache):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder.parent)
        temporary = temporary_sibling(folder)
        temporary.mkdir()
    try:
        writer = _Writer(temporary, cache, preprocessing, cohort.content_hash, with_masks=with_masks)
        plan = _plan(files, cohort.root, preprocessing, max_shard_bytes, with_masks=with_masks)
        writer.write(plan, run_chunks or run_on_cores, on_progress)
        writer.write_index(states)
        with cache_errors(cache):
            publish(temporary, folder, lambda: _is_same(folder, temporary))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ShardSet.open(folder)


def find_shards(cohort: Cohort, preprocessing: Preprocessing, cache: Path, *, with_masks: bool) -> ShardSet | None:
    """Return what `prepare_shards` returns, unverified, if nothing is left to be decoded."""
    files, states = _files(cohort, with_masks=with_masks)
    try:
        folder = cache / "shards" / _key(files, states, preprocessing, cohort.root, with_masks=with_masks)
        return _open_current(folder, states, verify=False)
    except ShardError:
        return None


def _files(cohort: Cohort, *, with_masks: bool) -> tuple[list[ImageFile], States]:
    files = [
        ImageFile(str(image_id), str(path), mask_path if with_masks else None, sha256)
        for image_id, path, mask_path, sha256 in zip(
            *(cohort.column(name) for name in ("image_id", "path", "mask_path", "sha256")), strict=True
        )
    ]
    return files, {f.image_id: (_state(cohort.root, f.path), _state(cohort.root, f.mask_path)) for f in files}


def check_quarantine(shards: ShardSet, n_images: int, limit: float, root: Path) -> None:
    """Refuse shards of which too many images could not be used.

    Args:
        shards: the decoded images.
        n_images: how many the cohort has.
        limit: largest share that may be missing, as cohort.max_quarantined.
        root: folder of the images, where those that are missing may be under other names.

    Raises:
        UserError: more are missing than that.
    """
    count = len(shards.quarantine)
    if count > limit * n_images:
        reasons = first_few(f"{bad.path} {bad.reason}" for bad in shards.quarantine)
        missing = [bad.path for bad in shards.quarantine if not os.path.lexists(root / bad.path)]
        hint = hint_below(root, missing) if missing else ""
        raise UserError(
            f"{count} of {n_images} images ({count / n_images:.1%}) cannot be used, more than cohort.max_quarantined "
            f"({limit:.1%}) allows: {reasons}" + (f"; {hint}." if hint else ".")
        )


def _state(root: Path, path: str | None) -> FileState:
    if path is None:
        return None
    try:
        status = os.stat(root / path)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _key(
    files: Sequence[ImageFile], states: States, preprocessing: Preprocessing, root: Path, *, with_masks: bool
) -> str:
    rows: list[Json] = []
    for file in files:
        image, mask = states[file.image_id]
        # The manifest's hash identifies a file that is there; a missing one is tried again once it is.
        known: Json = [file.sha256, image is not None] if file.sha256 else image
        rows.append([file.image_id, file.path, file.mask_path, known, mask])
    only_hashes = all(file.sha256 and not file.mask_path for file in files)
    return fingerprint(
        {
            "version": FORMAT_VERSION,
            "decoder": DECODER_VERSION,
            "preprocessing": asdict(preprocessing),
            "with_masks": with_masks and MASK_VERSION,
            "rows": rows,
            "root": None if only_hashes else str(root),
        }
    )


def _open_current(folder: Path, states: States, *, verify: bool) -> ShardSet:
    """Open shards, unless an image that could not be used then may be another file now."""
    shards = ShardSet.open(folder, verify=verify)
    for bad in read_index(folder)["quarantine"]:
        if tuple(state and tuple(state) for state in bad["states"]) != states[bad["image_id"]]:
            raise ShardError(f"The shards in {str(folder)!r} lack {bad['path']!r}, which has changed since.")
    return shards


def _plan(
    files: Sequence[ImageFile], root: Path, preprocessing: Preprocessing, max_shard_bytes: int, *, with_masks: bool
) -> list[list[DecodeChunk]]:
    """Chunks of each part, numbered through."""
    per_part = max(1, max_shard_bytes // preprocessing.size**2)
    plan: list[list[DecodeChunk]] = []
    index = 0
    for start in range(0, len(files), per_part):
        plan.append([])
        end = min(start + per_part, len(files))
        for first in range(start, end, CHUNK_IMAGES):
            chunk = tuple(files[first : min(first + CHUNK_IMAGES, end)])
            plan[-1].append(DecodeChunk(index, root, chunk, preprocessing, with_masks, Limits()))
            index += 1
    return plan


@dataclass(frozen=True)
class _WrittenPart:
    name: str
    digests: list[ImageDigests]


class _Writer:
    """Writes parts as soon as their chunks are there, in whatever order these come."""

    def __init__(
        self, folder: Path, cache: Path, preprocessing: Preprocessing, cohort_hash: str, *, with_masks: bool
    ) -> None:
        self._folder = folder
        self._cache = cache
        self._preprocessing = preprocessing
        self._cohort_hash = cohort_hash
        self._with_masks = with_masks
        self._parts: dict[int, _WrittenPart] = {}
        self._quarantine: list[Quarantined] = []

    def write(
        self, plan: Sequence[Sequence[DecodeChunk]], run: DecodeRunner, on_progress: Callable[[int, int], None] | None
    ) -> None:
        chunks = [chunk for part in plan for chunk in part]
        part_of = [number for number, part in enumerate(plan) for _ in part]
        waiting: dict[int, dict[int, DecodedChunk]] = {number: {} for number in range(len(plan))}
        done, total = 0, sum(len(chunk.files) for chunk in chunks)
        results = run(decode_chunk, chunks)
        try:
            for result in results:
                part = part_of[result.index]
                if part not in waiting or result.index in waiting[part]:
                    raise CxrdistError(f"Chunk {result.index} of the images was decoded twice.")
                waiting[part][result.index] = result
                self._quarantine += result.failures
                done += len(chunks[result.index].files)
                if len(waiting[part]) == len(plan[part]):
                    self._write_part(part, [decoded for _, decoded in sorted(waiting.pop(part).items())])
                if on_progress is not None:
                    on_progress(done, total)
        finally:
            # A pool of processes ends here, not when the traceback of an error is forgotten.
            if isinstance(results, Generator):
                results.close()
        if waiting:
            raise CxrdistError(f"Only {done} of {total} images came back from decoding; run the command again.")

    def _write_part(self, number: int, chunks: Sequence[DecodedChunk]) -> None:
        part = Part(
            image_ids=[image_id for chunk in chunks for image_id in chunk.image_ids],
            pixels=np.concatenate([chunk.pixels for chunk in chunks]),
            masks=np.concatenate([c.masks for c in chunks if c.masks is not None]) if self._with_masks else None,
            has_mask=np.concatenate([chunk.has_mask for chunk in chunks]),
        )
        if not part.image_ids:
            return
        columns: dict[str, Any] = {
            "image_id": pa.array(part.image_ids, type=pa.string()),
            "pixels": pa.FixedShapeTensorArray.from_numpy_ndarray(part.pixels),
        }
        if part.masks is not None:
            columns["mask"] = pa.FixedShapeTensorArray.from_numpy_ndarray(part.masks)
            columns["has_mask"] = pa.array(part.has_mask)
        batch = pa.record_batch(columns).replace_schema_metadata(
            {
                "format_version": str(FORMAT_VERSION),
                "preprocessing": json.dumps(asdict(self._preprocessing)),
                "cohort_hash": self._cohort_hash,
            }
        )
        name = f"part-{number:05d}.arrow"
        with (
            cache_errors(self._cache),
            pa.OSFile(str(self._folder / name), "wb") as sink,
            pa.ipc.new_file(sink, batch.schema) as writer,
        ):
            writer.write_batch(batch)
        self._parts[number] = _WrittenPart(name, part.digests())

    def write_index(self, states: States) -> None:
        """Write the index; `states` holds each image's file and mask as they were, for what is quarantined."""
        parts = [part for _, part in sorted(self._parts.items())]
        digests = [digest for part in parts for digest in part.digests]
        pixels_hash, masks_hash = joined_hashes(digests, self._preprocessing.size)
        index = {
            "version": FORMAT_VERSION,
            "preprocessing": asdict(self._preprocessing),
            "with_masks": self._with_masks,
            "cohort_hash": self._cohort_hash,
            "n": len(digests),
            "parts": [
                {
                    "name": part.name,
                    "n": len(part.digests),
                    "sha256": part_hash(part.digests),
                }
                for part in parts
            ],
            "pixels_hash": pixels_hash,
            "masks_hash": masks_hash,
            "quarantine": [
                {**asdict(bad), "states": states[bad.image_id]}
                for bad in sorted(self._quarantine, key=lambda bad: bad.image_id)
            ],
        }
        with cache_errors(self._cache):
            (self._folder / INDEX_NAME).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _is_same(folder: Path, other: Path) -> bool:
    try:
        here, there = ShardSet.open(folder, verify=True), read_index(other)
        return (here.pixels_hash, here.masks_hash) == (there.get("pixels_hash"), there.get("masks_hash"))
    except ShardError:
        return False
