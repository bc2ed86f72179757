"""Claim: batches are gathered from memory-mapped shards about as fast as memory can be copied.

Run with `python -m benchmarks.shards`.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

from cxrdist.cohort.chunks import DecodeChunk, DecodedChunk
from cxrdist.cohort.decode import Preprocessing
from cxrdist.cohort.shards import prepare_shards
from cxrdist.cohort.table import COHORT_SCHEMA, Cohort

IMAGES = 2031
SIZE = 224
BATCH = 32
REPETITIONS = 15


def noise_cohort(root: Path) -> Cohort:
    """A cohort of the first paper's size, whose files are never opened."""
    rows = [{"image_id": f"{i:05d}", "path": f"{i:05d}.png", "label": "a"} for i in range(IMAGES)]
    return Cohort(pa.Table.from_pylist(rows, schema=COHORT_SCHEMA), root, ("a",))


def noise_chunks(
    _function: Callable[[DecodeChunk], DecodedChunk], chunks: Sequence[DecodeChunk]
) -> Iterator[DecodedChunk]:
    """Noise in place of decoding, which is not what is measured here."""
    rng = np.random.default_rng(0)
    for chunk in chunks:
        ids = tuple(file.image_id for file in chunk.files)
        pixels = rng.integers(0, 256, (len(ids), SIZE, SIZE), dtype=np.uint8)
        yield DecodedChunk(chunk.index, ids, pixels, None, np.zeros(len(ids), dtype=np.bool_), ())


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def compare(folder: Path, label: str, max_shard_bytes: int) -> None:
    shards = prepare_shards(
        noise_cohort(folder),
        Preprocessing(SIZE),
        folder / label,
        with_masks=False,
        run_chunks=noise_chunks,
        max_shard_bytes=max_shard_bytes,
    )
    batch = np.empty((BATCH, SIZE, SIZE), dtype=np.uint8)
    resident = np.random.default_rng(1).integers(0, 256, (IMAGES, SIZE, SIZE), dtype=np.uint8)
    rng = np.random.default_rng(2)
    steps = IMAGES // BATCH

    def gather(order: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        for step in range(steps):
            shards.take(order[step * BATCH : (step + 1) * BATCH], batch)

    def copy() -> None:
        for step in range(steps):
            np.copyto(batch, resident[step * BATCH : (step + 1) * BATCH])

    gather(np.arange(IMAGES))
    copy()
    gathered, copied = [], []
    for _ in range(REPETITIONS):
        order = rng.permutation(IMAGES)
        gathered.append(seconds(lambda order=order: gather(order)))  # type: ignore[misc]
        copied.append(seconds(copy))
    ratio = median(c / g for g, c in zip(gathered, copied, strict=True))
    print(
        f"{label}: {steps * BATCH / median(gathered):,.0f} images/s gathered at random ({len(shards.parts)} parts), "
        f"{steps * BATCH / median(copied):,.0f} images/s copied within memory, ratio {ratio:.2f}"
    )


def main() -> None:
    print(f"{IMAGES} images of {SIZE} x {SIZE}, batches of {BATCH}, medians of {REPETITIONS} interleaved repetitions")
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), "one part", 2**28)
        compare(Path(folder), "several parts", 2**24)


if __name__ == "__main__":
    main()
