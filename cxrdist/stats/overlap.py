"""How well predicted masks cover true ones: intersection over union, and Dice's coefficient."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrdist.stats.averages import Floats, ratio
from cxrdist.stats.confusion import Counts


@dataclass(frozen=True)
class Overlaps:
    """Pixel counts of pairs of masks, arrays [n] in the order of the images."""

    intersection: Counts
    """Pixels in both masks."""
    predicted: Counts
    """Pixels in the predicted mask."""
    truth: Counts
    """Pixels in the true mask."""

    @property
    def union(self) -> Counts:
        """[n], pixels in at least one of the masks."""
        return self.predicted + self.truth - self.intersection

    @property
    def iou(self) -> Floats:
        """[n], (intersection + 1) / (union + 1): 1 where both masks are empty, never 0."""
        return (self.intersection + 1) / (self.union + 1)

    @property
    def dice(self) -> Floats:
        """[n], (2 intersection + 1) / (predicted + truth + 1): 1 where both masks are empty, never 0."""
        return (2 * self.intersection + 1) / (self.predicted + self.truth + 1)

    @property
    def pooled_iou(self) -> float:
        """Intersection / union, each added up over all images; NaN where every mask is empty."""
        return float(ratio(self.intersection.sum(), self.union.sum()))

    @property
    def pooled_dice(self) -> float:
        """2 intersection / (predicted + truth), each added up over all images; NaN where every mask is empty."""
        return float(ratio(2 * self.intersection.sum(), self.predicted.sum() + self.truth.sum()))

    @staticmethod
    def join(parts: Sequence["Overlaps"]) -> "Overlaps":
        """Return the images of all parts, one part after the other.

        Raises:
            ValueError: there is no part.
        """
        return Overlaps(
            intersection=np.concatenate([part.intersection for part in parts]),
            predicted=np.concatenate([part.predicted for part in parts]),
            truth=np.concatenate([part.truth for part in parts]),
        )


def measure_overlap(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Overlaps:
    """Count the pixels that predicted and true masks have, and have in common.

    Args:
        predicted: [n, h, w], True inside the predicted mask.
        truth: [n, h, w], True inside the true mask.

    Raises:
        ValueError: the arrays are not of bool, not [n, h, w], or differ in shape.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    # A mask of probabilities or of 0 and 255 would be counted without an error, and wrongly.
    if predicted.dtype != np.bool_ or truth.dtype != np.bool_:
        raise ValueError(f"masks must be of bool, not of {predicted.dtype} and {truth.dtype}")
    if predicted.ndim != 3 or predicted.shape != truth.shape:
        raise ValueError(f"predicted and truth must be [n, h, w] alike, not {predicted.shape} and {truth.shape}")
    return Overlaps(
        intersection=_pixels(predicted & truth),
        predicted=_pixels(predicted),
        truth=_pixels(truth),
    )


def _pixels(masks: NDArray[np.bool_]) -> Counts:
    return np.asarray(masks.sum(axis=(1, 2)), np.int64)
