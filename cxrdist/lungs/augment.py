"""Augmentation for segmentation: image and target together, the same for the same (seed, epoch, image) for ever."""

import os
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cxrdist.study.seeds import derive_seed

Augmentation = Literal["paper", "strong"]


def augment(
    image: NDArray[np.uint8],
    target: NDArray[np.uint8],
    kind: Augmentation,
    *,
    seed: int,
    epoch: int,
    image_id: str,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return image and target [h, w], moved alike; what comes in from outside is black, and no lung.

    Args:
        image: grey.
        target: small whole numbers, which are never mixed (nearest neighbour).
        kind: `paper`: rotation up to 10 degrees, shifts up to 0.1, zoom up to 0.2, no flip. `strong`: rotation up
            to 15 degrees, zoom of 0.6 to 1.3 with up to a tenth between height and width, shear, and now and then
            blur, noise, or a coarse copy, for films of children, phones and publications.
        seed, epoch, image_id: what the draw depends on.
    """
    pipeline = _pipeline(kind)
    pipeline.set_random_seed(derive_seed(seed, "augment", epoch, image_id) % 2**32)
    moved = pipeline(image=image, mask=target)
    return moved["image"], moved["mask"]


@cache
def _pipeline(kind: Augmentation) -> Any:
    # Importing it would otherwise ask the network for a newer version.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as A  # noqa: N812 - its customary name

    shift = (-0.1, 0.1)
    if kind == "paper":
        return A.Compose([A.Affine(rotate=(-10, 10), translate_percent=shift, scale=(0.8, 1.2), p=1)])
    return A.Compose(
        [
            A.Affine(rotate=(-15, 15), translate_percent=shift, scale=(0.6, 1.3), shear=(-6, 6), p=1),
            A.Affine(scale={"x": (0.9, 1.1), "y": (0.9, 1.1)}, keep_ratio=False, p=0.5),
            A.OneOf(
                [
                    A.GaussianBlur(sigma_limit=(0.5, 2.0), blur_limit=0),
                    A.GaussNoise(std_range=(0.02, 0.08)),
                    A.Downscale(scale_range=(0.3, 0.6)),
                ],
                p=0.3,
            ),
        ]
    )
