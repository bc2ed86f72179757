"""Images that a report shows, with their masks and heat maps, and what was measured of all heat maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class HeatMap:
    """What made one variant say a class, by the network that was not trained on the image."""

    values: NDArray[np.float32]
    """[h, w] of the layer that is explained, scaled to [0, 1]."""
    label: str
    """The class explained: the one predicted."""
    probability: float
    """Of that class."""


@dataclass(frozen=True)
class ShownImage:
    """An image to look at."""

    image_id: str
    source: str
    label: str
    """The true class."""
    pixels: NDArray[np.uint8]
    """[side, side], grey."""
    mask: NDArray[np.uint8] | None = None
    """[side, side] of 0 and 1, where the run has lung masks."""
    views: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    """[side, side] by view: what a network saw."""
    heat: Mapping[str, HeatMap] = field(default_factory=dict)
    """By variant; its geometry is that of the variant's view."""


@dataclass(frozen=True)
class HeatShares:
    """How much of one variant's heat maps lies in the lungs: arrays [n] over test images."""

    variant: str
    method: str
    """`cam` or `gradcam`."""
    image_ids: Sequence[str]
    inside: NDArray[np.float64]
    """Share of the map's mass inside the lungs; NaN where the map is zero everywhere."""
    area: NDArray[np.float64]
    """Share of the view's area that is lung: what a map without any preference would have inside."""
