"""What is done to a lung mask after the network: specks and what is no lung go, pinholes are filled."""

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

    Those are the ones with the largest sum, over their pixels, of the distance to the nearer side of the image: large
    and well inside. The air beside a body can be larger than a lung, but is at the side.

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
    columns = np.arange(inside.shape[1])
    distances = np.minimum(columns, columns[::-1]) + 0.5
    weights = np.bincount(objects.ravel(), np.broadcast_to(distances, inside.shape).ravel(), len(areas))
    weights[0] = 0
    lungs = np.zeros(len(areas), dtype=np.bool_)
    lungs[np.argsort(-weights, kind="stable")[:LUNGS]] = True
    lungs[0] = False
    return np.asarray(lungs[objects])


def _regions(inside: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return [h, w] with the number of each pixel's region, 0 outside, and the regions' areas in pixels by number."""
    regions: NDArray[np.int32] = ndimage.label(inside)[0]
    return regions, np.bincount(regions.ravel())
