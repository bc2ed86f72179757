"""Claim: making lung masks costs little beside the network's forward pass alone.

Run with `python -m benchmarks.masks [--images N]`; one core, interleaved repetitions in one process. What is timed
besides the forward pass: cutting black borders, resizing, equalising, cleaning, putting back.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from cxrdist.lungs.inputs import SIDE
from cxrdist.lungs.segmenter import BATCH, BUILT_IN_FILE, Segmenter, load_lung_net
from cxrdist.lungs.train import lung_autocast, lung_precision

COHORT = 2031
"""Images of paper 1's cohort."""
REPETITIONS = 5
TARGET = 0.8


def images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return noise with two dark ellipses, [count, SIDE, SIDE]: what is in an image does not change the work much."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    lungs = sum(((rows - 0.5) / 0.35) ** 2 + ((columns - c) / 0.15) ** 2 < 1 for c in (0.28, 0.72))
    grey = 170 - 110 * np.asarray(lungs)[np.newaxis] + rng.normal(0, 12, (count, SIDE, SIDE))
    return np.clip(grey, 0, 255).astype(np.uint8)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=4 * BATCH, help="images a repetition")
    count = parser.parse_args().images
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    segmenter = Segmenter.load(BUILT_IN_FILE, device)
    network = load_lung_net(BUILT_IN_FILE)[0].to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    grey = images(count)
    batch = torch.zeros(BATCH, 1, SIDE, SIDE, device=device).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward_alone() -> None:
        with lung_autocast("auto", device):
            for _ in range(count // BATCH):
                network(batch).sum().item()

    def masks() -> None:
        segmenter.masks(grey)

    forward_alone()
    ours, alone = [], []
    for _ in range(REPETITIONS):
        ours.append(seconds(masks))
        alone.append(seconds(forward_alone))
    ratio = median(a / o for o, a in zip(ours, alone, strict=True))
    rate = count / median(ours)
    print(
        f"{device.type}, {lung_precision('auto', device)}, one thread, {SIDE} x {SIDE}, medians of {REPETITIONS}: "
        f"{rate:.2f} masks/s, {count / median(alone):.2f} images/s through the network alone, ratio {ratio:.2f} "
        f"(target over {TARGET}); {COHORT:,} images: {COHORT / rate / 60:.1f} min on one such core"
    )


if __name__ == "__main__":
    main()
