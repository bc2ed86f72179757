"""Whether a lung mask is plausible: what can be told from its shape, without a true mask.

The limits come from the true masks of 2,229 frontal images at 224 pixels a side: Montgomery (138), Shenzhen (250),
Cohen (428) and Kaggle (1,413). Of these, 0, 5, 1 and 5 have a fault (0 %, 2.0 %, 0.2 % and 0.4 %): four of Shenzhen's
show a lung that is largely lost, and one of Kaggle's marks one lung alone. Of the same masks without one of the lungs,
98 % have a fault; without the lower 80 % of one, 100 %; without the lower 60 % of one, 95 %; of the inverted ones, all.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

PART = 0.005
"""Share of the image from which a connected object counts as a part of the mask."""

AREA = (0.10, 0.65)
"""Smallest and largest share of the image. Quantiles 0.01, 0.5, 0.99 by source: Montgomery 0.12, 0.26, 0.39; Shenzhen
0.14, 0.25, 0.40; Cohen 0.20, 0.37, 0.57; Kaggle 0.21, 0.33, 0.50; all lie between 0.09 and 0.62."""

MOST_PARTS = 2
"""Every true mask has two parts, but for the one with one lung; one part may be two lungs that touch."""

BALANCE = 0.5
"""Smallest balance. Quantiles 0, 0.01, 0.5: Montgomery 0.59, 0.62, 0.86; Shenzhen 0.17, 0.39, 0.84; Cohen 0.61, 0.66,
0.90; Kaggle 0.61, 0.71, 0.93."""

ELONGATION = 0.7
"""Smallest ratio of width to height of the parts' box; one lung is balanced about its own centre, but narrow.
Quantiles 0, 0.01, 0.5: Montgomery 0.81, 0.83, 1.19; Shenzhen 0.82, 0.83, 1.05; Cohen 0.71, 0.80, 1.12; Kaggle 0.38 (the
mask with one lung), 0.74, 1.00. Without one of the lungs the median is 0.48."""

BORDER = 0.25
"""Largest share of the image's border that lies in the mask. Quantiles 0.5, 0.99, 1: Montgomery 0, 0.04, 0.07; Shenzhen
0, 0, 0; Cohen 0, 0.10, 0.20; Kaggle 0, 0.09, 0.12. An inverted mask covers at least 0.80."""


ALMOST_ALL = 0.9
"""Share of implausible masks from which on they are no masks of the images' lungs: no policy helps then."""


@dataclass(frozen=True)
class MaskQuality:
    """What was measured of a mask, and what is implausible about it."""

    area: float
    """Share of the image."""
    components: int
    """Parts: connected objects (by sides, not corners) of at least `PART` of the image."""
    balance: float
    """Smaller by larger area of the parts left and right of the centre of their box, in [0, 1]; 0 without parts."""
    faults: tuple[str, ...]
    """Phrases that follow "the mask"; none if it is plausible."""


def judge_mask(mask: NDArray[np.uint8] | NDArray[np.bool_]) -> MaskQuality:
    """Measure a mask [h, w] of 0 and 1 in the geometry of a decoded image, and name its faults."""
    inside = mask != 0
    if not inside.any():
        return MaskQuality(area=0.0, components=0, balance=0.0, faults=("is empty",))
    area = float(inside.mean())
    regions = ndimage.label(inside)[0]
    is_part = np.bincount(regions.ravel()) >= PART * inside.size
    is_part[0] = False
    components = int(is_part.sum())
    box = _cut_to_box(is_part[regions])
    balance = _balance(box)
    faults = []
    if not AREA[0] <= area <= AREA[1]:
        limits = f"{_percent(AREA[0])} to {_percent(AREA[1])} %"
        faults.append(f"marks {_percent(area)} % of the image as lung (plausible: {limits})")
    if not 1 <= components <= MOST_PARTS:
        faults.append(f"has {components} separate parts (plausible: 1 to {MOST_PARTS})")
    if 0 < balance < BALANCE:
        differ = f"{1 / balance:.1f} to 1 (plausible: at most {1 / BALANCE:.1f} to 1)"
        faults.append(f"is one-sided: left and right differ {differ}")
    if components and box.shape[1] < ELONGATION * box.shape[0]:
        ratio = f"{box.shape[1] / box.shape[0]:.2f} times as wide as high (plausible: at least {ELONGATION:.2f})"
        faults.append(f"is one-sided: as narrow as one lung, {ratio}")
    if (share := _border_share(inside)) > BORDER:
        faults.append(f"covers {_percent(share)} % of the image's border (plausible: at most {_percent(BORDER)} %)")
    return MaskQuality(area, components, balance, tuple(faults))


def _cut_to_box(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the rows and columns from the first to the last that hold a pixel; [0, 0] if none does."""
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    if not len(rows):
        return inside[:0, :0]
    return inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _balance(box: NDArray[np.bool_]) -> float:
    """Return the smaller by the larger of the two halves' areas; 0 if there is none."""
    columns = box.sum(axis=0)
    half = len(columns) // 2
    # Twice the area on the left: of an odd number of columns, the middle one belongs to both sides by half.
    left = int(columns[:half].sum() + columns[: len(columns) - half].sum())
    right = 2 * int(columns.sum()) - left
    return min(left, right) / max(left, right, 1)


def _border_share(inside: NDArray[np.bool_]) -> float:
    return float(np.concatenate([inside[0], inside[-1], inside[1:-1, 0], inside[1:-1, -1]]).mean())


def _percent(share: float) -> str:
    return f"{100 * share:.3g}"
