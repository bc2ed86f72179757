"""Small cohorts of drawn images that the tests of the check share."""

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from cxrdist.cohort.check_cohort import CohortCheck, check_cohort

Row = dict[str, str]

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "=cmd|' /C calc'!A0",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[31mred\x1b[0m\x00\x07",
    "\u202egnp.exe",
    "-2+3",
    "@SUM(A1)",
    "$x^2$ \\frac",
    "'; DROP TABLE images; --",
    "é漢字\U0001f9b4",
)


def radiograph(seed: int, height: int = 60, width: int = 48) -> NDArray[np.uint8]:
    """Blurred noise: large shapes, and finer ones of a rib's size."""
    rng = np.random.default_rng(seed)
    shapes = [gaussian_filter(rng.standard_normal((height, width)), sigma) * sigma for sigma in (8, 2, 1)]
    field = 2 * shapes[0] + shapes[1] + shapes[2]
    return np.asarray(np.clip(128 + 40 * field / field.std(), 10, 245), dtype=np.uint8)


def file_of(pixels: NDArray[Any], form: str = "PNG", **options: Any) -> bytes:
    """An image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def add_image(folder: Path, name: str, data: bytes, **row: str) -> Row:
    """Write an image file, and return its row."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"image_id": name.partition(".")[0], "path": name, "sha256": hashlib.sha256(data).hexdigest(), **row}


def draw_rows(folder: Path, n: int = 12, classes: Sequence[str] = ("covid19", "normal")) -> list[Row]:
    """Draw n images of as many patients, classes and sources in turn, and return their rows."""
    return [
        add_image(
            folder,
            f"x{i:02d}.png",
            file_of(radiograph(i)),
            label=classes[i % len(classes)],
            patient_id=f"p{i}",
            source=f"s{i // len(classes) % 2}",
        )
        for i in range(n)
    ]


def write_manifest(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Write rows as .csv."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def in_this_process(function: Any, chunks: Sequence[Any]) -> Iterator[Any]:
    """Do the work of chunks here."""
    return map(function, chunks)


def checked(folder: Path, rows: Sequence[Mapping[str, str]], **options: Any) -> CohortCheck:
    """Check the cohort of these rows, whose images are in `folder`, with the cache beside it."""
    manifest = write_manifest(folder.parent / f"{folder.name}.csv", rows)
    options = {"run_chunks": in_this_process, **options}
    return check_cohort(manifest, folder, folder.parent / "cache", **options)
