"""Lung masks made by the network: each image's once, kept by the hash of its pixels and of the weights."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from cxrdist.cohort.chunks import ChunkRunner, run_on_cores
from cxrdist.cohort.packing import pack_masks
from cxrdist.cohort.publish import cache_errors
from cxrdist.cohort.shards import ShardSet
from cxrdist.lungs.segmenter import LungWeights, Segmenter
from cxrdist.lungs.train import Precision, lung_precision
from cxrdist.run.artefacts import DamagedError, map_arrow, whole, write_arrow
from cxrdist.run.shared_shards import fetched_shards, shards_name
from cxrdist.run.store import Store

MASKS_A_CHUNK = {"cpu": 16, "cuda": 64}
"""Images whose masks are made, written and told of together, by kind of device. A core takes seconds for sixteen; with
more, some cores would have nothing to do for a cohort of hundreds, and a killed process would lose more."""


@dataclass(frozen=True)
class MaskChunk:
    """Images whose masks are made together; picklable."""

    index: int
    cache: Store
    shards: str
    """Their name in the cache."""
    rows: tuple[int, ...]
    weights: str
    """Their name in the cache."""
    precision: Precision
    device: str
    """The kind on which they are made."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class MadeMasks:
    """The masks of a chunk; picklable."""

    index: int
    packed: NDArray[np.uint8]
    """[n, ceil(side * side / 8)], see `cohort.packing`."""


def segment_chunk(chunk: MaskChunk) -> MadeMasks:
    """Make the masks of a chunk on this process's GPU, or in one thread: then every executor gives the same bytes."""
    device = torch.device("cuda" if chunk.device == "cuda" and torch.cuda.is_available() else "cpu")
    images = _shards(fetched_shards(chunk.cache, chunk.shards)).take(np.array(chunk.rows, dtype=np.int64))
    with _one_thread():
        masks = _segmenter(chunk.cache.local(chunk.weights), device, chunk.precision).masks(images)
    return MadeMasks(chunk.index, pack_masks(masks))


def network_masks(
    shards: ShardSet,
    weights: LungWeights,
    cache: Store,
    *,
    device: torch.device,
    precision: Precision = "auto",
    run_chunks: ChunkRunner | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.uint8]:
    """Return the masks of all images of `shards`, packed: uint8 [n, ceil(side * side / 8)].

    Masks lie in `cache/lungs/<network and side>`, in Arrow files that are written whole, by the hash of the decoded
    pixels: an image that another study or cohort has as well is not segmented again, and what a killed process had
    made is kept.

    Args:
        shards: decoded images.
        weights: of the network.
        cache: what can be made again; `shards` are in it.
        device: where `run_chunks` does its work: a GPU or the CPU.
        precision: what the network computes in; `auto`: in what is fastest on the device.
        run_chunks: where masks are made; by default in one process a core, or on this process's GPU.
        on_progress: told the number of masks made so far, and of all that are to be made.

    Raises:
        UserError: the cache cannot be written, or the weights are of another network.
    """
    # Here, so that a wrong file is one sentence and not a failure of every worker.
    Segmenter.load(weights.path, torch.device("cpu"))
    precision = _resolved(precision, device)
    store = _store_of(shards, weights, cache, device, precision)
    hashes = _image_hashes(shards)
    known = _read_known(store)
    missing = list({digest: row for row, digest in enumerate(hashes) if digest not in known}.values())
    name, weights_name = shards_name(shards), cache.adopt(weights.path)
    together = MASKS_A_CHUNK[device.type]
    chunks = [
        MaskChunk(index, cache, name, tuple(missing[start : start + together]), weights_name, precision, device.type)
        for index, start in enumerate(range(0, len(missing), together))
    ]
    done = 0
    for made in _run(chunks, device, run_chunks):
        rows = chunks[made.index].rows
        part = dict(zip((hashes[row] for row in rows), made.packed, strict=True))
        with cache_errors(cache.root):
            _write_part(store, part)
        known.update(part)
        done += len(rows)
        if on_progress is not None:
            on_progress(done, len(missing))
    return np.stack([known[digest] for digest in hashes])


def known_masks(shards: ShardSet, weights: LungWeights, cache: Store, device: torch.device) -> NDArray[np.uint8] | None:
    """Return what `network_masks` returns, if no mask is left to be made."""
    known = _read_known(_store_of(shards, weights, cache, device, _resolved("auto", device)))
    hashes = _image_hashes(shards)
    return np.stack([known[digest] for digest in hashes]) if hashes and known.keys() >= set(hashes) else None


def _store_of(
    shards: ShardSet, weights: LungWeights, cache: Store, device: torch.device, precision: Precision
) -> Store:
    return cache.sub(f"lungs/{weights.key(precision, device)}-{shards.pixels.side}")


def _resolved(precision: Precision, device: torch.device) -> Precision:
    """Return in what is computed: `auto` is what is fastest on the device."""
    return "bf16" if lung_precision(precision, device) is torch.bfloat16 else "fp32"


def _run(chunks: Sequence[MaskChunk], device: torch.device, run_chunks: ChunkRunner | None) -> Iterator[MadeMasks]:
    if run_chunks is not None:
        return run_chunks(segment_chunk, chunks)
    # Processes would each want a share of the GPU's memory, and one fills the GPU.
    if device.type == "cuda":
        return map(segment_chunk, chunks)
    # To start processes takes about as long as to make the masks of a second chunk.
    return run_on_cores(segment_chunk, chunks, few=2 * MASKS_A_CHUNK["cpu"])


def _image_hashes(shards: ShardSet) -> list[bytes]:
    rows = range(len(shards.image_ids))
    return [hashlib.sha256(shards.take(np.array([row], dtype=np.int64)).tobytes()).digest() for row in rows]


def _read_known(store: Store) -> dict[bytes, NDArray[np.uint8]]:
    """Return the masks that are there, by the image's hash; a damaged file counts as none."""
    known: dict[bytes, NDArray[np.uint8]] = {}
    for path in store.local_files(store.names("")):
        with suppress(DamagedError):
            table = map_arrow(path, "its masks are made again")
            with whole(str(path), "its masks are made again"):
                packed = table.column("mask").combine_chunks().to_numpy_ndarray()
                known.update(zip(table.column("pixels_sha256").to_pylist(), packed, strict=True))
    return known


def _write_part(store: Store, part: dict[bytes, NDArray[np.uint8]]) -> None:
    table = pa.table(
        {
            "pixels_sha256": pa.array(list(part), pa.binary(32)),
            "mask": pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(list(part.values()))),
        }
    )
    write_arrow(store, f"{hashlib.sha256(b''.join(part)).hexdigest()[:32]}.arrow", table)


@functools.cache
def _segmenter(weights: Path, device: torch.device, precision: Precision) -> Segmenter:
    return Segmenter.load(weights, device, precision)


@functools.cache
def _shards(folder: Path) -> ShardSet:
    return ShardSet.open(folder)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one core: processes side by side use all of them, and threads would change the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
