"""What the lung network sees of an image, and how its answer goes back to where it came from."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

SIDE = 256
"""Side of the network's input in pixels."""

_BLACK = 8
"""Grey values up to this are black: JPEG adds some noise to a black border."""
_BLACK_SHARE = 0.99
_SMALLEST_FRAME = 0.5


@dataclass(frozen=True)
class Frame:
    """The part of an image within its black borders: rows [top, bottom) and columns [left, right)."""

    top: int
    bottom: int
    left: int
    right: int

    def cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the part of `image` [h, w] within the frame."""
        return image[self.top : self.bottom, self.left : self.right]

    def put_back(self, mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return `mask` [any, any], made for the part within the frame, in an image of `shape`: [h, w].

        A pixel is inside where at least half of it is, as in mask files.
        """
        size = (self.right - self.left, self.bottom - self.top)
        whole = np.zeros(shape, dtype=np.bool_)
        whole[self.top : self.bottom, self.left : self.right] = _resized(np.uint8(255) * mask, size) >= 128
        return whole


def find_frame(grey: NDArray[np.uint8]) -> Frame:
    """Return the part of `grey` [h, w] without its black borders.

    A row or column at the border is black where 99 % of its pixels are. Of an image that would lose more than half
    of its height or width, such as a black one, nothing is cut.
    """
    height, width = grey.shape
    black = grey <= _BLACK
    rows = np.flatnonzero(black.mean(axis=1) < _BLACK_SHARE)
    columns = np.flatnonzero(black.mean(axis=0) < _BLACK_SHARE)
    if not len(rows) or not len(columns):
        return Frame(0, height, 0, width)
    frame = Frame(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
    if frame.bottom - frame.top < _SMALLEST_FRAME * height or frame.right - frame.left < _SMALLEST_FRAME * width:
        return Frame(0, height, 0, width)
    return frame


def is_black(grey: NDArray[np.uint8]) -> bool:
    """Return whether `grey` is nothing but border."""
    return bool((grey <= _BLACK).all())


def framed(grey: NDArray[np.uint8], frame: Frame) -> NDArray[np.uint8]:
    """Return the part of `grey` within the frame as [SIDE, SIDE] uint8: bilinear with antialiasing."""
    return _resized(frame.cut(grey), (SIDE, SIDE))


def equalized(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return `grey` [h, w] with its histogram equalised, so that exposure and gamma no longer matter."""
    return np.asarray(ImageOps.equalize(Image.fromarray(grey)), dtype=np.uint8)


@dataclass(frozen=True)
class Standard:
    """Mean and standard deviation of equalised images, of 0 to 1, over a training set."""

    mean: float
    sd: float

    @staticmethod
    def of(images: NDArray[np.uint8]) -> "Standard":
        """Measure equalised images [n, h, w]."""
        # Grey values are whole numbers: their histogram says all, exactly.
        counts = np.bincount(images.reshape(-1), minlength=256) / images.size
        values = np.arange(256) / 255
        mean = float(counts @ values)
        return Standard(mean, float(np.sqrt(counts @ (values - mean) ** 2)) or 1.0)

    def apply(self, images: NDArray[np.uint8]) -> Tensor:
        """Return equalised images [n, h, w] as float32 [n, 1, h, w]."""
        values = torch.from_numpy(images).unsqueeze(1).float()
        return values.mul_(1 / (255 * self.sd)).sub_(self.mean / self.sd)


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if image.shape == (size[1], size[0]):
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR), dtype=np.uint8)
