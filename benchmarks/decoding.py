"""Claim: large originals are decoded about as fast as by the plain libraries; what decoding JPEG at a scale would give.

Run with `python -m benchmarks.decoding [--images DIR]`: medians of interleaved repetitions, in processor time, which
other work on the machine disturbs little. DIR is a folder of originals; without it, phantoms alone.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.decode import SIZE, pillow_alone
from cxrdist.cohort.decode import Preprocessing, decode_grey, image_size
from cxrdist.cohort.files import LIMITS
from cxrdist.cohort.phantoms import draw_phantoms
from cxrdist.errors import ImageError

LARGE = (3000, 2500)
"""Width and height in pixels, as of a digital radiograph."""
NOISE = 3.0
"""Standard deviation in grey levels; without noise, a phantom is compressed far better than a radiograph."""
LARGE_PIXELS = 1_000_000
"""Real files with fewer are left out."""
REPETITIONS = 5

Decode = Callable[[bytes], NDArray[np.uint8]]


def large_phantoms(count: int, size: tuple[int, int], form: str) -> list[bytes]:
    """Phantoms of (width, height) pixels with noise, as files."""
    rng = np.random.default_rng(0)
    files = []
    with tempfile.TemporaryDirectory() as folder:
        manifest = draw_phantoms(
            Path(folder) / "phantoms", patients_per_class=2, images_per_patient=(1, 1), size=512, seed=0
        )
        for path in sorted((manifest.parent / "images").iterdir())[:count]:
            smooth = np.asarray(Image.open(path).convert("L").resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
            noisy = np.clip(smooth + NOISE * rng.standard_normal(smooth.shape, dtype=np.float32), 0, 255)
            buffer = BytesIO()
            Image.fromarray(np.rint(noisy).astype(np.uint8)).save(buffer, form, quality=90)
            files.append(buffer.getvalue())
    return files


def large_originals(folder: Path) -> dict[str, list[bytes]]:
    """The files of a folder that have LARGE_PIXELS, by format."""
    files: dict[str, list[bytes]] = {"JPEG": [], "PNG": []}
    for path in sorted(folder.iterdir()):
        form = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}.get(path.suffix.lower())
        if form is None:
            continue
        data = path.read_bytes()
        try:
            width, height = image_size(data, LIMITS)
        except ImageError:
            continue
        if width * height >= LARGE_PIXELS:
            # A name does not tell the format.
            files["PNG" if data.startswith(b"\x89PNG") else "JPEG"].append(data)
    return files


def ours(data: bytes) -> NDArray[np.uint8]:
    return decode_grey(data, Preprocessing(SIZE))


def pillow(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(pillow_alone(data), dtype=np.uint8)


def scaled(data: bytes, least: int) -> NDArray[np.uint8]:
    """Decode JPEG at the smallest of 1/1 to 1/8 that leaves `least` pixels a side, then resize."""
    image = Image.open(BytesIO(data))
    drafted = image.draft("L", (least, least))
    # Sides are rounded up to whole pixels; the box says how much of the last ones is image.
    box = drafted[1] if drafted is not None else None
    return np.asarray(image.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR, box))


def opencv() -> Decode | None:
    """OpenCV's decoder and antialiased resizing in one thread, or None where it is not installed."""
    if find_spec("cv2") is None:
        return None
    import cv2

    cv2.setNumThreads(1)

    def decode(data: bytes) -> NDArray[np.uint8]:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise ValueError("OpenCV cannot decode a file")
        return np.asarray(cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA), dtype=np.uint8)

    return decode


def ways(form: str) -> dict[str, Decode]:
    """What is compared, ours first."""
    decoders: dict[str, Decode] = {"ours": ours, "Pillow": pillow}
    by_opencv = opencv()
    if by_opencv is not None:
        decoders["OpenCV"] = by_opencv
    if form == "JPEG":
        decoders[f"Pillow, scaled to {SIZE} px or more"] = lambda data: scaled(data, SIZE)
        decoders[f"Pillow, scaled to {2 * SIZE} px or more"] = lambda data: scaled(data, 2 * SIZE)
    return decoders


def seconds(decode: Decode, files: Sequence[bytes]) -> float:
    """Processor time."""
    start = time.process_time()
    for data in files:
        decode(data)
    return time.process_time() - start


def compare(label: str, form: str, files: Sequence[bytes], repetitions: int) -> None:
    """Print a table of speeds, as ratios to ours, and how much each result differs from ours."""
    decoders = ways(form)
    spent: dict[str, list[float]] = {name: [] for name in decoders}
    references = [ours(data).astype(np.int16) for data in files]
    for _ in range(repetitions):
        for name, decode in decoders.items():
            spent[name].append(seconds(decode, files))
    print(f"\n{label}, {len(files)} files of {np.mean([len(data) for data in files]) / 1e6:.1f} MB on average\n")
    print("| | images/s | as fast as ours (median of pairs) | grey levels from ours, mean | most |")
    print("|---|---|---|---|---|")
    for name, decode in decoders.items():
        gaps = [np.abs(decode(data) - reference) for data, reference in zip(files, references, strict=True)]
        ratio = median(o / s for o, s in zip(spent["ours"], spent[name], strict=True))
        print(
            f"| {name} | {len(files) / median(spent[name]):,.1f} | {ratio:.2f} "
            f"| {np.mean([gap.mean() for gap in gaps]):.2f} | {max(int(gap.max()) for gap in gaps)} |"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description="Decoding of large originals.")
    parser.add_argument("--images", type=Path, help="folder of real originals")
    parser.add_argument("--quick", action="store_true", help="a tiny run to see that everything works")
    options = parser.parse_args(arguments)
    count, size, repetitions = (1, (300, 250), 1) if options.quick else (4, LARGE, REPETITIONS)
    print(
        f"to {SIZE} x {SIZE} on one core, medians of {repetitions} interleaved repetitions, processor time, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    for form in ("JPEG", "PNG"):
        compare(f"phantoms, {size[0]} x {size[1]} px, {form}", form, large_phantoms(count, size, form), repetitions)
    for form, files in large_originals(options.images).items() if options.images else ():
        if files:
            compare(f"originals of {LARGE_PIXELS:,} pixels or more, {form}", form, files, repetitions)


if __name__ == "__main__":
    main()
