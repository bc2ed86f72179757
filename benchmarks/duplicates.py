"""Claim: near hashes are found in time that grows little faster than their number, so that 400,000 images are feasible.

Run with `python -m benchmarks.duplicates`, or with `--quick` for a tiny run; one thread, in seconds of the processor,
which other work on the machine lengthens less than the clock's. Hashes are random, so that nearly all pairs that are
found were planted; all planted ones must be found. Brute force compares all pairs of the fewest hashes, in the same
run, and must find the same pairs.
"""

import argparse
import math
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cxrdist.cohort.duplicates import MAX_PHASH_DISTANCE, MarkedImages, find_duplicates
from cxrdist.cohort.perceptual import SIDE, Rows, mark_image, near_pairs

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Scale:
    images: tuple[int, ...]
    """Numbers of hashes; brute force takes the first."""
    copies: int
    """Pairs whose structure is compared."""
    side: int
    """Pixels a side of the image that is marked."""
    repetitions: int


FULL = Scale((10_000, 100_000, 1_000_000), copies=100_000, side=2048, repetitions=3)
QUICK = Scale((200, 400), copies=100, side=64, repetitions=1)


def planted(n: int, seed: int = 0) -> tuple[Hashes, Rows]:
    """Return n random hashes and the pairs [n // 100, 2] of them that differ in 0 to MAX_PHASH_DISTANCE bits."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, n, dtype=np.uint64)
    pairs = np.sort(rng.permutation(n)[: 2 * (n // 100)].reshape(-1, 2), axis=1)
    for original, copy in pairs:
        bits = rng.choice(64, rng.integers(0, MAX_PHASH_DISTANCE + 1), replace=False).astype(np.uint64)
        hashes[copy] = hashes[original] ^ np.bitwise_or.reduce(np.uint64(1) << bits, initial=np.uint64(0))
    return hashes, pairs


def by_brute_force(hashes: Hashes, distance: int) -> Iterator[Rows]:
    for row in range(len(hashes)):
        near = np.flatnonzero(np.bitwise_count(hashes[row + 1 :] ^ hashes[row]) <= distance)
        yield np.stack([np.full(len(near), row), near + row + 1], axis=1)


def gathered(chunks: Iterator[Rows]) -> set[tuple[int, int]]:
    return {(min(a, b), max(a, b)) for chunk in chunks for a, b in chunk.tolist()}


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def peak_mib(work: Callable[[], object]) -> float:
    """Return what `work` allocates at most, of Python and NumPy."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def search(scale: Scale) -> None:
    """Time the search for candidates at each size, and brute force at the first."""
    times: list[float] = []
    for n in scale.images:
        hashes, pairs = planted(n)

        def ours(hashes: Hashes = hashes) -> int:
            return sum(len(chunk) for chunk in near_pairs(hashes, MAX_PHASH_DISTANCE))

        found = gathered(near_pairs(hashes, MAX_PHASH_DISTANCE))
        missed = {(a, b) for a, b in pairs.tolist()} - found
        if missed:
            raise AssertionError(f"{len(missed)} planted pairs of {n:,} hashes were not found")
        runs = [seconds(ours) for _ in range(scale.repetitions)]
        growth = ""
        if times:
            exponent = math.log(median(runs) / times[-1]) / math.log(n / scale.images[len(times) - 1])
            growth = f", growth exponent {exponent:.2f}"
        times.append(median(runs))
        print(
            f"{n:,} hashes: {times[-1]:.3f} s, peak {peak_mib(ours):.1f} MiB beside {hashes.nbytes / 2**20:.1f} MiB of "
            f"hashes, {len(pairs):,} of {len(pairs):,} planted pairs found{growth}"
        )
    hashes, _ = planted(scale.images[0])
    if gathered(by_brute_force(hashes, MAX_PHASH_DISTANCE)) != gathered(near_pairs(hashes, MAX_PHASH_DISTANCE)):
        raise AssertionError("brute force finds other pairs")
    plain = median(seconds(lambda: list(by_brute_force(hashes, MAX_PHASH_DISTANCE))) for _ in range(scale.repetitions))
    print(f"brute force, {len(hashes):,} hashes: {plain:.3f} s, the same pairs, ratio {plain / times[0]:.1f}")


def confirm(scale: Scale) -> None:
    """Time the comparison of structure, of images that all have hashes of their own but for one other's."""
    rng = np.random.default_rng(0)
    n = 2 * scale.copies
    hashes = np.repeat(rng.integers(0, 2**64, scale.copies, dtype=np.uint64), 2)
    few = rng.integers(-100, 101, (64, SIDE, SIDE), dtype=np.int8)
    # The memory of all images is touched, as it is where they differ.
    images = MarkedImages(
        np.array([f"{row:064x}" for row in range(n)], dtype="S64"), hashes, hashes, np.resize(few, (n, SIDE, SIDE))
    )
    took = seconds(lambda: find_duplicates(images))
    print(f"structure of {scale.copies:,} candidates compared, both hashes searched: {took:.2f} s")


def mark(scale: Scale) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (scale.side, scale.side), dtype=np.uint8)
    took = median(seconds(lambda: mark_image(grey)) for _ in range(5 * scale.repetitions))
    print(f"marks of a decoded image of {scale.side} x {scale.side} pixels: {1e3 * took:.2f} ms")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.duplicates", description="The search for duplicates.")
    parser.add_argument("--quick", action="store_true", help="a tiny run to see that everything works")
    scale = QUICK if parser.parse_args(arguments).quick else FULL
    print(
        f"numpy {np.__version__}, one thread, processor time, load {os.getloadavg()[0]:.1f}; distance up to "
        f"{MAX_PHASH_DISTANCE} of 64 bits, medians of {scale.repetitions} repetitions"
    )
    with threadpool_limits(1):
        search(scale)
        confirm(scale)
        mark(scale)


if __name__ == "__main__":
    main()
