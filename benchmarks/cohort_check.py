"""Claim: a cohort of a million images is checked in bounded memory, and copies planted in it are found and joined.

Run with `python -m benchmarks.cohort_check`. Of most rows the file is absent; of the others the marks are in the
cache, as after an interruption, so that what is measured is everything but decoding (see `benchmarks/duplicates.py`).
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from cxrdist.cohort.check_cache import MarksCache, file_key
from cxrdist.cohort.check_cohort import check_cohort
from cxrdist.cohort.check_table import read_table
from cxrdist.cohort.check_write import write_lists
from cxrdist.cohort.chunks import C, R
from cxrdist.cohort.looks import THUMB, look_at
from cxrdist.cohort.marking import MarkedFile
from cxrdist.cohort.perceptual import SIDE, ImageMarks
from cxrdist.report.cohort_page import render_cohort_page

T = TypeVar("T")

A_PART = 4096
A_COPY_EVERY = 100
"""Images; the copy is of the image before, of another patient."""
CLASSES = ("normal", "covid19", "viral_pneumonia", "bacterial_pneumonia")


@dataclass(frozen=True)
class Scale:
    rows: int
    marked: int
    """Of the rows, how many have a file, and marks in the cache."""


FULL = Scale(1_000_000, 100_000)
QUICK = Scale(3000, 400)


def path_of(row: int) -> str:
    return f"source-{row % 7}/{row // 1000:04d}/image-{row:07d}.jpg"


def digest_of(row: int) -> str:
    return f"{row:064x}"


def write_rows(path: Path, scale: Scale) -> None:
    with path.open("w") as file:
        file.write("image_id,path,label,patient_id,source,view_position,sha256,age\n")
        for row in range(scale.rows):
            file.write(
                f"image-{row:07d},{path_of(row)},{CLASSES[row % 4]},patient-{row // 3:06d},source-{row % 7},"
                f"{('AP', 'PA', '')[row % 3]},{digest_of(row)},{row % 97}\n"
            )


def fill_cache(cache: MarksCache, images: Path, scale: Scale) -> int:
    """Write empty files and marks of them; return how many of them are copies."""
    rng = np.random.default_rng(0)
    copies = 0
    look = look_at(np.arange(256, dtype=np.uint8).reshape(THUMB, THUMB))
    marks = ImageMarks("", 0, 0, np.empty(0, dtype=np.int8))
    for first in range(0, scale.marked, A_PART):
        part = []
        for row in range(first, min(first + A_PART, scale.marked)):
            path = images / path_of(row)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            is_copy = row % A_COPY_EVERY == A_COPY_EVERY - 1
            copies += is_copy
            if not is_copy:
                phash, dhash = rng.integers(0, 2**64, 2, dtype=np.uint64).tolist()
                structure = rng.integers(-60, 61, (SIDE, SIDE), dtype=np.int8)
                marks = ImageMarks("", phash, dhash, structure)
            own = ImageMarks(digest_of(row), marks.phash, marks.dhash, marks.structure)
            status = path.stat()
            key = file_key(path_of(row), status.st_size, status.st_mtime_ns)
            part.append((key, MarkedFile(digest_of(row), 256 + row % 50, 256, 8, "JPEG", False, own, look)))
        cache.add(part)
    return copies


def nothing(function: Callable[[C], R], chunks: Sequence[C]) -> Iterator[R]:
    if chunks:
        raise AssertionError(f"{len(chunks)} chunks should have been in the cache")
    return iter(())


def timed(what: str, action: Callable[[], T]) -> T:
    """Do it, and print how long it took and the most memory that the process ever had."""
    start = time.perf_counter()
    result = action()
    print(f"{what}: {time.perf_counter() - start:.1f} s, peak memory so far {peak_mib():,.0f} MiB")
    return result


def peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def measure(scale: Scale, folder: Path) -> None:
    images, cache, manifest, out = (folder / name for name in ("images", "cache", "manifest.csv", "out"))
    images.mkdir()
    write_rows(manifest, scale)
    planted = fill_cache(MarksCache(cache, images.resolve()), images, scale)
    print(f"{scale.rows:,} rows ({manifest.stat().st_size / 1e6:.0f} MB), {scale.marked:,} files, {planted:,} copies")
    print(f"before: peak memory {peak_mib():,.0f} MiB")
    timed("rows alone", lambda: read_table(manifest, images, None))
    check = timed("rows, files and copies", lambda: check_cohort(manifest, images, cache, run_chunks=nothing))
    written = timed("lists", lambda: write_lists(check, out, 100))
    page = timed("page", lambda: render_cohort_page(check, written))
    joined = len(check.table) - len(set(check.copies.groups))
    print(
        f"{len(check.copies.pairs):,} of {planted:,} planted pairs found; {len(check.files.faults):,} files absent; "
        f"page of {len(page) / 1e6:.2f} MB, manifest of {(out / 'manifest.csv').stat().st_size / 1e6:.0f} MB"
    )
    if len(check.copies.pairs) != planted or len(check.files.faults) != scale.rows - scale.marked or not joined:
        raise AssertionError("what was planted is not what was found")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cohort_check", description="The check of a cohort.")
    parser.add_argument("--quick", action="store_true", help="a tiny run to see that everything works")
    scale = QUICK if parser.parse_args(arguments).quick else FULL
    print(f"numpy {np.__version__}, wall time, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        measure(scale, Path(folder))


if __name__ == "__main__":
    main()
