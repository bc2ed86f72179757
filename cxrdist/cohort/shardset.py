"""Reading shards: decoded images as memory-mapped arrays, in one or several files."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxrdist.cohort.chunks import Quarantined
from cxrdist.errors import CxrdistError

FORMAT_VERSION = 2
INDEX_NAME = "index.json"

FileState = tuple[int, int] | None
"""A file's size in bytes and modification time in ns; None where there is none."""


class ShardError(CxrdistError):
    """Shards that are missing, of another version, or not as they were written."""


@dataclass(frozen=True, eq=False)
class ImageStack:
    """Images [n, side, side] uint8 that lie in one or several read-only arrays."""

    parts: Sequence[NDArray[np.uint8]]
    """Each [m, side, side]; together in the order of the images."""
    side: int

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(n, side, side)."""
        return (sum(len(part) for part in self.parts), self.side, self.side)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(len(part) for part in self.parts)], dtype=np.int64)

    def take(self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Copy the images `rows` [m] into `out` [m, side, side], which is made where not given, and return it.

        Raises:
            IndexError: a row is not in [0, n).
            ValueError: `out` has another shape or type.
        """
        shape = (len(rows), self.side, self.side)
        if out is None:
            out = np.empty(shape, dtype=np.uint8)
        if out.shape != shape or out.dtype != np.uint8:
            raise ValueError(f"out must be {shape} uint8, not {out.shape} {out.dtype}")
        if len(rows) and not 0 <= np.min(rows) <= np.max(rows) < self.shape[0]:
            raise IndexError(f"rows must be in [0, {self.shape[0]})")
        if len(self.parts) == 1:
            # Rows were checked; with mode="raise" NumPy would fill a buffer first and copy twice.
            return np.take(self.parts[0], rows, axis=0, out=out, mode="clip")
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for position, (part, row) in enumerate(zip(owner.tolist(), (rows - self._starts[owner]).tolist(), strict=True)):
            out[position] = self.parts[part][row]
        return out

    def whole(self) -> NDArray[np.uint8]:
        """[n, side, side]: a view of the memory-mapped file where there is one part, else a copy of all."""
        if len(self.parts) == 1:
            return self.parts[0]
        return self.take(np.arange(self.shape[0], dtype=np.int64))


@dataclass(frozen=True, eq=False)
class ShardSet:
    """The decoded images of a cohort; everything but `quarantine` is of those that could be decoded."""

    folder: Path
    image_ids: list[str]
    """Sorted."""
    quarantine: list[Quarantined]
    pixels_hash: str
    """64 hexadecimal digits over ids and pixels; the same however they are divided into files, and without masks."""
    masks_hash: str
    """The same over ids and masks."""
    pixels: ImageStack
    lung_masks: ImageStack | None
    """0 and 1 (all 0 where an image has none); None where shards were made without masks."""
    has_mask: NDArray[np.bool_]
    """[n]."""

    @property
    def images(self) -> NDArray[np.uint8]:
        """[n, side, side], read-only and memory-mapped; a copy where there are several parts."""
        return self.pixels.whole()

    @property
    def masks(self) -> NDArray[np.uint8] | None:
        """[n, side, side] of 0 and 1, as `images`; None where shards were made without masks."""
        return None if self.lung_masks is None else self.lung_masks.whole()

    @property
    def parts(self) -> Sequence[NDArray[np.uint8]]:
        """The memory-mapped pixels of each file."""
        return self.pixels.parts

    def take(self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Copy the images `rows` (see `ImageStack.take`)."""
        return self.pixels.take(rows, out)

    def take_masks(self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Copy the masks of `rows` (see `ImageStack.take`).

        Raises:
            ShardError: the shards were made without masks.
        """
        if self.lung_masks is None:
            raise ShardError(f"The shards in {str(self.folder)!r} were made without masks.")
        return self.lung_masks.take(rows, out)

    def __reduce__(self) -> tuple[Any, ...]:
        # Sent to another process, shards are mapped there again, not copied.
        return ShardSet.open, (self.folder,)

    @staticmethod
    def open(folder: Path, *, verify: bool = False) -> "ShardSet":
        """Map the shards in `folder`.

        Args:
            folder: what `prepare_shards` made.
            verify: whether all content is hashed and compared (about 1 GB/s).

        Raises:
            ShardError: they are missing, incomplete, of another version or changed.
        """
        index = read_index(folder)
        try:
            names = [(str(part["name"]), str(part["sha256"])) for part in index["parts"]]
            side, with_masks = int(index["preprocessing"]["size"]), bool(index["with_masks"])
            quarantine = [Quarantined(q["image_id"], q["path"], q["reason"]) for q in index["quarantine"]]
            count, hashes = int(index["n"]), (str(index["pixels_hash"]), str(index["masks_hash"]))
            parts = [_map_part(folder / Path(name).name, side, with_masks=with_masks) for name, _ in names]
        except (OSError, KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
            raise ShardError(f"The shards in {str(folder)!r} cannot be read ({error}).") from None
        shards = ShardSet(
            folder=folder,
            image_ids=[image_id for part in parts for image_id in part.image_ids],
            quarantine=quarantine,
            pixels_hash=hashes[0],
            masks_hash=hashes[1],
            pixels=ImageStack([part.pixels for part in parts], side),
            lung_masks=ImageStack([p.masks for p in parts if p.masks is not None], side) if with_masks else None,
            has_mask=np.concatenate([np.empty(0, dtype=np.bool_), *(part.has_mask for part in parts)]),
        )
        if len(shards.image_ids) != count:
            raise ShardError(f"The shards in {str(folder)!r} hold {len(shards.image_ids)} images, not {count}.")
        if verify:
            digests: list[ImageDigests] = []
            for part, (name, sha256) in zip(parts, names, strict=True):
                own = part.digests()
                if part_hash(own) != sha256:
                    raise ShardError(f"The shard {name!r} in {str(folder)!r} was changed since it was written.")
                digests += own
            if joined_hashes(digests, side) != hashes:
                raise ShardError(f"The index of the shards in {str(folder)!r} does not belong to them.")
        return shards


class ImageDigests(NamedTuple):
    """SHA-256 of an image's id with its pixels, and of its id with its mask."""

    pixels: bytes
    mask: bytes


@dataclass(frozen=True, eq=False)
class Part:
    """The images of one file."""

    image_ids: Sequence[str]
    pixels: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None
    has_mask: NDArray[np.bool_]

    def digests(self) -> list[ImageDigests]:
        """Hash each image and its mask."""
        return [self._digest(row, json.dumps(image_id).encode()) for row, image_id in enumerate(self.image_ids)]

    def _digest(self, row: int, name: bytes) -> ImageDigests:
        pixels, mask = hashlib.sha256(name), hashlib.sha256(name)
        pixels.update(self.pixels[row])
        if self.masks is not None and self.has_mask[row]:
            mask.update(self.masks[row])
        return ImageDigests(pixels.digest(), mask.digest())


def part_hash(digests: Iterable[ImageDigests]) -> str:
    """Return the hash of all that a part holds."""
    return hashlib.sha256(b"".join(one.pixels + one.mask for one in digests)).hexdigest()


def joined_hashes(digests: Iterable[ImageDigests], side: int) -> tuple[str, str]:
    """Return `ShardSet.pixels_hash` and `ShardSet.masks_hash` of images with these digests."""
    every = list(digests)
    joined = (b"".join(one.pixels for one in every), b"".join(one.mask for one in every))
    pixels, masks = (hashlib.sha256(b"%d:" % side + one).hexdigest() for one in joined)
    return pixels, masks


def read_index(folder: Path) -> dict[str, Any]:
    """Return the index of the shards in `folder`.

    Raises:
        ShardError: it is missing, unreadable or of another version.
    """
    try:
        index = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ShardError(f"The shards in {str(folder)!r} have no readable index ({error}).") from None
    version = index.get("version") if isinstance(index, dict) else None
    if version != FORMAT_VERSION:
        raise ShardError(f"The shards in {str(folder)!r} are of version {version!r}, not {FORMAT_VERSION}.")
    return dict(index)


def _map_part(path: Path, side: int, *, with_masks: bool) -> Part:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    if reader.num_record_batches != 1:
        raise ValueError(f"{path.name} has {reader.num_record_batches} record batches instead of one")
    batch = reader.get_batch(0)
    return Part(
        image_ids=batch.column("image_id").to_pylist(),
        pixels=_images(batch.column("pixels"), side),
        masks=_images(batch.column("mask"), side) if with_masks else None,
        has_mask=(
            batch.column("has_mask").to_numpy(zero_copy_only=False)
            if with_masks
            else np.zeros(batch.num_rows, dtype=np.bool_)
        ),
    )


def _images(column: Any, side: int) -> NDArray[np.uint8]:
    images: NDArray[np.uint8] = column.to_numpy_ndarray()
    if images.shape[1:] != (side, side) or images.dtype != np.uint8:
        raise ValueError(f"its images are {images.shape[1:]} {images.dtype}, not {(side, side)} uint8")
    return images
