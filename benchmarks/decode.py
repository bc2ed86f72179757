"""Claim: checking and normalising an untrusted file costs little beside decoding it with Pillow.

Run with `python -m benchmarks.decode`; one core, medians of interleaved repetitions.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from cxrdist.cohort.decode import Preprocessing, decode_grey
from cxrdist.cohort.phantoms import draw_phantoms

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared" / "cxr"
SIZE = 224
REPETITIONS = 9


def phantoms(side: int) -> list[bytes]:
    """Eight phantoms as JPEG files of `side` pixels."""
    files = []
    with tempfile.TemporaryDirectory() as folder:
        manifest = draw_phantoms(
            Path(folder) / "phantoms", patients_per_class=2, images_per_patient=(1, 1), size=512, seed=0
        )
        for path in sorted((manifest.parent / "images").iterdir()):
            buffer = BytesIO()
            Image.open(path).resize((side, side)).save(buffer, format="JPEG", quality=90)
            files.append(buffer.getvalue())
    return files


def pillow_alone(data: bytes) -> object:
    return np.asarray(Image.open(BytesIO(data)).convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def ours(data: bytes) -> object:
    return decode_grey(data, Preprocessing(SIZE))


def seconds(decode: Callable[[bytes], object], files: Sequence[bytes]) -> float:
    start = time.perf_counter()
    for data in files:
        decode(data)
    return time.perf_counter() - start


def compare(label: str, files: Sequence[bytes]) -> None:
    own, pillow = [], []
    seconds(ours, files)
    for _ in range(REPETITIONS):
        own.append(seconds(ours, files))
        pillow.append(seconds(pillow_alone, files))
    ratio = median(p / o for o, p in zip(own, pillow, strict=True))
    print(
        f"{label}: {len(files) / median(own):,.0f} images/s decoded, {len(files) / median(pillow):,.0f} images/s by "
        f"Pillow alone, ratio {ratio:.2f}"
    )


def main() -> None:
    print(f"to {SIZE} x {SIZE} on one core, medians of {REPETITIONS} interleaved repetitions")
    compare("phantoms, 1024 px JPEG", phantoms(1024))
    if SHARED.is_dir():
        compare("real, 256 px JPEG", [path.read_bytes() for path in sorted((SHARED / "kaggle").glob("*.jp*g"))[:100]])
        originals = [path.read_bytes() for path in sorted((SHARED / "originals").glob("person*.jpeg"))]
        compare("real, untouched JPEG", originals)
    else:
        print("the shared folder of real chest X-rays is absent: phantoms only")


if __name__ == "__main__":
    main()
