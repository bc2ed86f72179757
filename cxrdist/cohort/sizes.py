"""The sizes of image files, which can tell where an image comes from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrdist.cohort.decode import Limits, image_size, read_image_file
from cxrdist.errors import CxrdistError, ImageError

_LIMITS = Limits()


def read_sizes(root: Path, paths: Sequence[str], limits: Limits = _LIMITS) -> NDArray[np.int64]:
    """Return the width and height in pixels of images that were decoded before: [n, 2], EXIF orientation applied.

    Args:
        root: the folder that `paths` start from.
        paths: [n].
        limits: what a file may cost.

    Raises:
        CxrdistError: a file cannot be read any more; it is named.
    """
    sizes = np.empty((len(paths), 2), dtype=np.int64)
    for row, path in enumerate(paths):
        try:
            sizes[row] = image_size(read_image_file(root, path, limits), limits)
        except ImageError as error:
            raise CxrdistError(
                f"{path!r} {error}, though it was decoded before; the files in {str(root)!r} must stay as they are."
            ) from None
    return sizes
