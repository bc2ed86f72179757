"""What is done to a lung mask after the network: specks and what is no lung go, pinholes are filled."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SMALLEST = 0.02
"""Share of the image below which an object or a hole is taken for an error of the network."""

LUNGS = 2
"""Most objects that are kept. The publication keeps all: a third one was on an arm, the stomach or the air beside the
body in nearly all masks of the papers' images that had one."""


def clean_mask(inside: NDArray[np.bool_], smallest: float = SMALLEST) -> NDArray[np.bool_]:
    """Remove small objects, fill small holes, then keep the two objects that are most likely the lungs.

    Of more than two, those are the ones in the left and the right half (by their centres) with the largest sum, over
    their pixels, of the distance to the nearer side of the image: large and well inside. The air beside a body can be
    larger than a lung, but is at the side. Where all are in one half, it is the two largest by that sum.

    Objects and holes are connected by their sides, not by corners (scikit-image's connectivity 1). A hole is
    background that does not touch the image's border.

    Args:
        inside: [h, w].
        smallest: share of the image's area; what is smaller is removed or filled, what is as large stays.

    Returns:
        A new mask [h, w]; cleaning it again changes nothing.
    """
    limit = smallest * inside.size
    objects, areas = _regions(inside)
    large = areas >= limit
    large[0] = False
    kept: NDArray[np.bool_] = large[objects]
    background, areas = _regions(~kept)
    small = areas < limit
    for edge in (background[0], background[-1], background[:, 0], background[:, -1]):
        small[edge] = False
    objects, areas = _regions(kept | small[background])
    lungs = np.zeros(len(areas), dtype=np.bool_)
    lungs[list(_likely_lungs(objects, len(areas) - 1))] = True
    return np.asarray(lungs[objects])


def _likely_lungs(objects: NDArray[np.int32], count: int) -> Sequence[int]:
    """Return the numbers of at most LUNGS of the `count` objects that are numbered from 1 in `objects` [h, w]."""
    if count <= LUNGS:
        return range(1, count + 1)
    columns = np.arange(objects.shape[1])
    mirrored = columns[::-1]

    def sums(of_column: NDArray[np.int64]) -> list[float]:
        values: list[float] = np.bincount(objects.ravel(), np.broadcast_to(of_column, objects.shape).ravel()).tolist()
        return values

    sizes, offsets = sums(2 * np.minimum(columns, mirrored) + 1), sums(columns - mirrored)
    by_size = sorted(range(1, count + 1), key=lambda number: -sizes[number])
    pairs = list(combinations(by_size, LUNGS))
    beside = [(one, other) for one, other in pairs if offsets[one] * offsets[other] <= 0]
    return max(beside or pairs, key=lambda pair: sizes[pair[0]] + sizes[pair[1]])


def _regions(inside: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return [h, w] with the number of each pixel's region, 0 outside, and the regions' areas in pixels by number."""
    regions: NDArray[np.int32] = ndimage.label(inside)[0]
    return regions, np.bincount(regions.ravel())
