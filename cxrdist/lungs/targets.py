"""What the network is asked to answer: lung, not lung, or no answer where a mask cannot be trusted."""

import numpy as np
from numpy.typing import NDArray

OUTSIDE, LUNG, IGNORED = 0, 1, 2

LATERAL_SHARE = 0.4
"""Of each row of a lung in a mask that includes the heart, the lateral part that is surely lung."""


def without_heart(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a target [h, w] for a mask [h, w] of 0 and 1 whose lungs include the heart and mediastinum.

    Such a mask bounds the lungs from outside, but says nothing of their medial border. It is divided at the column
    of its centre of mass; of each row of a half, the lateral `LATERAL_SHARE` of its width is LUNG where the mask
    is, and the rest of the mask is IGNORED. Outside the mask is OUTSIDE.
    """
    target = np.where(mask > 0, np.uint8(IGNORED), np.uint8(OUTSIDE))
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(columns):
        return target
    weights = mask.sum(axis=0, dtype=np.int64)
    centre = float(weights @ np.arange(mask.shape[1]) / weights.sum())
    for row in np.flatnonzero(mask.any(axis=1)):
        inside = np.flatnonzero(mask[row])
        left, right = inside[inside < centre], inside[inside >= centre]
        if len(left):
            reach = left[0] + LATERAL_SHARE * (left[-1] + 1 - left[0])
            target[row, left[left < reach]] = LUNG
        if len(right):
            reach = right[-1] - LATERAL_SHARE * (right[-1] + 1 - right[0])
            target[row, right[right > reach]] = LUNG
    return target
