"""Where a network's input comes from: decoded images, or features of a frozen trunk."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrdist.learn.views import apply_view
from cxrdist.study.recipe import ViewName

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SD = (0.229, 0.224, 0.225)
VIEW_BATCH = 64
"""Images whose view is made in one call; `lung_box` needs about 50 bytes a pixel for it."""
RESIDENT_BLOCK = 4096
"""Images that are copied to a device in one go: 200 MB of 224 x 224."""


class Rows(Protocol):
    """Rows of uint8 images [n, H, W] that can be gathered, such as a memory map of shards."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the given rows as one array [len(rows), H, W]."""
        ...


class Source(Protocol):
    """Gives the network's input for rows of the cohort."""

    def batch(self, rows: Tensor) -> Tensor:
        """Return the input for int64 [n] rows (on the CPU), on the device."""
        ...


class ImageSource:
    """One view of decoded images: uint8 until it is on the device, normalised and made three channels there.

    On a GPU the rows that a fold job uses are copied once into its memory (50 kB an image), so that no step waits for
    the host; on a CPU a batch is gathered from the memory map.
    """

    def __init__(self, images: Rows, masks: Rows | None, view: ViewName, device: torch.device) -> None:
        if view != "whole" and masks is None:
            raise ValueError(f"view {view!r} needs masks")
        self._images = images
        self._masks = masks if view != "whole" else None
        self._view = view
        self._device = device
        mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
        sd = torch.tensor(IMAGENET_SD).view(1, 3, 1, 1)
        self._scale = (1 / (255 * sd)).to(device)
        self._offset = (-mean / sd).to(device)
        self._resident: Tensor | None = None
        self._position: Tensor | None = None

    def make_resident(self, rows: NDArray[np.int64]) -> None:
        """Keep these rows in the device's memory; a batch may then hold no others."""
        blocks = [rows[start : start + RESIDENT_BLOCK] for start in range(0, len(rows), RESIDENT_BLOCK)]
        first = self._gather(blocks[0])
        resident = torch.empty((len(rows), *first.shape[1:]), dtype=first.dtype, device=self._device)
        for number, block in enumerate(blocks):
            start = number * RESIDENT_BLOCK
            resident[start : start + len(block)] = self._gather(block)
        self._resident = resident
        self._position = torch.full((int(rows.max()) + 1,), -1, dtype=torch.int64)
        self._position[torch.from_numpy(rows)] = torch.arange(len(rows))

    def batch(self, rows: Tensor) -> Tensor:
        """Return float32 [n, 3, H, W], channels last, normalised by ImageNet's mean and standard deviation."""
        if self._resident is not None and self._position is not None:
            position = self._position[rows]
            if len(rows) and int(position.min()) < 0:
                raise IndexError("a batch holds a row that was not made resident")
            grey = self._resident[position.to(self._device, non_blocking=True)]
        else:
            grey = self._gather(rows.numpy())
        images = torch.addcmul(self._offset, grey.unsqueeze(1).float(), self._scale)
        return images.contiguous(memory_format=torch.channels_last)

    def _gather(self, rows: NDArray[np.int64]) -> Tensor:
        grey = torch.from_numpy(self._images.take(rows)).to(self._device)
        if self._masks is not None:
            masks = torch.from_numpy(self._masks.take(rows)).to(self._device)
            for start in range(0, len(rows), VIEW_BATCH):
                part = slice(start, start + VIEW_BATCH)
                grey[part] = apply_view(grey[part], masks[part], self._view)
        return grey


class FeatureRows:
    """Features float32 [n, values] that lie in one or several read-only arrays, such as memory maps.

    Args:
        parts: each [m, values], in the order of the rows.
        select: int64 [n], which of all rows these are; None for all.
    """

    def __init__(self, parts: Sequence[NDArray[np.float32]], select: NDArray[np.int64] | None = None) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
        self._select = np.arange(self._starts[-1]) if select is None else select

    def __len__(self) -> int:
        return len(self._select)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return len(self) * int(self._parts[0].shape[1]) * self._parts[0].itemsize

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Copy the given rows, [len(rows), values]."""
        there = self._select[rows]
        out = np.empty((len(rows), self._parts[0].shape[1]), dtype=np.float32)
        owner = np.searchsorted(self._starts, there, side="right") - 1
        for part in np.unique(owner):
            own = owner == part
            out[own] = self._parts[part][there[own] - self._starts[part]]
        return out


class MappedFeatureSource:
    """Features of a frozen trunk that are more than memory holds: gathered from a memory map batch by batch."""

    def __init__(self, features: FeatureRows, shape: tuple[int, ...], device: torch.device) -> None:
        self._features = features
        self._shape = shape
        self._device = device

    def batch(self, rows: Tensor) -> Tensor:
        """Return float32 [n, channels, height, width]."""
        return torch.from_numpy(self._features.take(rows.numpy())).view(-1, *self._shape).to(self._device)


class FeatureSource:
    """Features of a frozen trunk, computed before: float32 [N, channels, height, width]."""

    def __init__(self, features: Tensor, device: torch.device) -> None:
        self._features = features.to(device)
        self._device = device

    def batch(self, rows: Tensor) -> Tensor:
        """Return float32 [n, channels, height, width]."""
        return self._features[rows.to(self._device)]
