"""What a check needs to know of each image file: its shape, and the marks by which copies are found."""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np

from cxrdist.cohort.decode import Limits, Preprocessing, decode_image, image_size, read_image_file
from cxrdist.cohort.files import LIMITS, is_dicom
from cxrdist.cohort.looks import Look, look_at
from cxrdist.cohort.perceptual import ImageMarks, mark_image
from cxrdist.cohort.tiff import is_tiff, open_tiff
from cxrdist.errors import ImageError

FileFormat = Literal["JPEG", "PNG", "WebP", "DICOM", "TIFF"]
Problem = Literal["missing", "changed", "unreadable"]


@dataclass(frozen=True)
class FileToMark:
    """An image file of a manifest."""

    index: int
    """Of its row."""
    path: str
    sha256: str | None
    """What the manifest says, in lower case."""


@dataclass(frozen=True)
class MarkChunk:
    """Files to mark together; picklable."""

    root: Path
    files: tuple[FileToMark, ...]
    limits: Limits = LIMITS

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True, eq=False)
class MarkedFile:
    """What was seen of an image file that can be used."""

    sha256: str
    """64 hexadecimal digits."""
    width: int
    height: int
    bits: int
    """Of a sample."""
    format: FileFormat
    is_doubtful: bool
    """Whether a DICOM header says that this may be no radiograph of the chest."""
    marks: ImageMarks
    look: Look


@dataclass(frozen=True)
class FileFault:
    """Why an image cannot be used."""

    index: int
    """Of its row."""
    problem: Problem
    reason: str
    """In words that follow the file's name."""


@dataclass(frozen=True)
class MarkedChunk:
    """What became of a chunk; picklable."""

    marked: tuple[tuple[int, MarkedFile], ...]
    """With the index of each row."""
    faults: tuple[FileFault, ...]


def mark_chunk(chunk: MarkChunk) -> MarkedChunk:
    """Mark the chunk's files; one that cannot be used is a fault with the reason, never an exception."""
    marked, faults = [], []
    for file in chunk.files:
        try:
            data = read_image_file(chunk.root, file.path, chunk.limits)
            digest = hashlib.sha256(data).hexdigest()
            changed = fault_of_hash(file.index, digest, file.sha256)
            if changed is None:
                marked.append((file.index, mark_file(data, chunk.limits, digest)))
            else:
                faults.append(changed)
        except ImageError as error:
            faults.append(FileFault(file.index, "unreadable", str(error)))
    return MarkedChunk(tuple(marked), tuple(faults))


def fault_of_hash(index: int, digest: str, expected: str | None) -> FileFault | None:
    """Return what is wrong with a file of the SHA-256 `digest` where the manifest says `expected`."""
    if expected is None or digest == expected:
        return None
    return FileFault(index, "changed", f"has the SHA-256 {digest[:12]}..., the manifest says {expected[:12]}...")


def mark_file(data: bytes, limits: Limits, digest: str) -> MarkedFile:
    """Decode the image in `data`, whose SHA-256 is `digest`, at its full size, and mark it.

    Raises:
        ImageError: as `decode_image`.
    """
    width, height = image_size(data, limits)
    side = max(width, height)
    # Padded to a square of its own size, no pixel is resampled.
    square, _ = decode_image(data, Preprocessing(side, "pad"), limits)
    top, left = (side - height) // 2, (side - width) // 2
    grey = np.ascontiguousarray(square[top : top + height, left : left + width])
    form, bits, is_doubtful = _form(data, limits)
    return MarkedFile(digest, width, height, bits, form, is_doubtful, mark_image(grey), look_at(grey))


def _form(data: bytes, limits: Limits) -> tuple[FileFormat, int, bool]:
    """Return the format, the bits of a sample, and whether it is doubtful, of an image that was decoded."""
    if is_dicom(data):
        # pydicom takes long to import, and few cohorts need it.
        from cxrdist.cohort.dicom_elements import dicom_damage_as_image_error
        from cxrdist.cohort.dicom_header import doubt_of_chest, open_radiograph

        with dicom_damage_as_image_error():
            dicom = open_radiograph(BytesIO(data), limits, ("BitsStored",))
            return "DICOM", dicom.elements.required("BitsStored"), doubt_of_chest(dicom) is not None
    if data.startswith(b"\x89PNG"):
        # Of the chunk IHDR, which comes first.
        return "PNG", data[24], False
    if is_tiff(data):
        return "TIFF", 16 if open_tiff(data, limits).mode.startswith("I") else 8, False
    # JPEG of more bits is not decoded, and WebP has none.
    return ("WebP" if data.startswith(b"RIFF") else "JPEG"), 8, False
