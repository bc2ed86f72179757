"""Masks as one bit a pixel: an eighth of the memory, on disk and mapped."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def pack_masks(masks: NDArray[np.uint8] | NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return masks [n, s, s] of 0 and 1 as [n, ceil(s * s / 8)].

    Pixels lie row by row, the first in a byte's highest bit; the last byte ends in zeros.
    """
    count, side, _ = masks.shape
    return np.packbits(masks.reshape(count, side * side), axis=1)


def unpack_masks(packed: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return what `pack_masks` was given, as 0 and 1: [n, side, side].

    Raises:
        ValueError: `packed` is not [n, ceil(side * side / 8)] uint8.
    """
    _check_packed(packed, side)
    return np.unpackbits(packed, axis=1, count=side * side).reshape(len(packed), side, side)


@dataclass(frozen=True, eq=False)
class PackedMasks:
    """Masks that are unpacked when they are taken."""

    packed: NDArray[np.uint8]
    """[n, ceil(side * side / 8)] of `pack_masks`; may be a read-only memory map."""
    side: int

    def __post_init__(self) -> None:
        _check_packed(self.packed, self.side)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the masks `rows` [m] as a new array [m, side, side] of 0 and 1.

        Raises:
            IndexError: a row is not in [0, n).
        """
        if len(rows) and not 0 <= np.min(rows) <= np.max(rows) < len(self.packed):
            raise IndexError(f"rows must be in [0, {len(self.packed)})")
        return unpack_masks(self.packed[rows], self.side)


def _check_packed(packed: NDArray[np.uint8], side: int) -> None:
    width = -(-side * side // 8)
    if packed.shape[1:] != (width,) or packed.dtype != np.uint8:
        raise ValueError(f"masks of {side} pixels a side are [n, {width}] uint8, not {packed.shape} {packed.dtype}")
