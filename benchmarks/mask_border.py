"""Claim: a border that is off by one pixel of 256 costs an IoU of .02 to .05, so that .956 leaves a network one pixel.

Run with `python -m benchmarks.mask_border --images DIR`: the scores of Montgomery's own masks, once their border is a
pixel further in, further out or to the side, against the masks as they are. No network has a part in it.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cxrdist.cohort.decode import Preprocessing
from cxrdist.cohort.shards import prepare_shards
from cxrdist.cohort.table import load_cohort
from cxrdist.lungs.inputs import SIDE
from cxrdist.stats.overlap import measure_overlap

COHORT = Path(__file__).parents[1] / "data_manifests" / "lungs_montgomery.yaml"

Masks = NDArray[np.bool_]


def moved_borders(masks: Masks) -> dict[str, Masks]:
    """Return the masks [n, h, w], changed by a pixel in each of some ways."""
    cross = ndimage.generate_binary_structure(2, 1)[np.newaxis]
    down, right = np.zeros_like(masks), np.zeros_like(masks)
    down[:, 1:], right[:, :, 1:] = masks[:, :-1], masks[:, :, :-1]
    return {
        "a pixel further in all round": np.asarray(ndimage.binary_erosion(masks, cross)),
        "a pixel further out all round": np.asarray(ndimage.binary_dilation(masks, cross)),
        "moved by a pixel to the side": right,
        "moved down by a pixel": down,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path, required=True, help="folder of the images of the cohort")
    cohort = load_cohort(COHORT, parser.parse_args().images, None)
    with tempfile.TemporaryDirectory() as cache:
        shards = prepare_shards(cohort, Preprocessing(SIDE), Path(cache), with_masks=True)
        masks = shards.take_masks(np.arange(len(shards.image_ids))) > 0
    print(f"{len(masks)} masks of {COHORT.name}, {SIDE} x {SIDE}, means over images")
    for name, changed in moved_borders(masks).items():
        overlap = measure_overlap(changed, masks)
        print(f"{name:30}  IoU {overlap.iou.mean():.4f}  Dice {overlap.dice.mean():.4f}")


if __name__ == "__main__":
    main()
