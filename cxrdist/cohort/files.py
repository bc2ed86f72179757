"""Reading image files, which nobody vouches for: bounded, and from below their folder only."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cxrdist.errors import ImageError


@dataclass(frozen=True)
class Limits:
    """What a file may cost: its bytes, and the pixels held while it is decoded."""

    max_bytes: int = 256 * 2**20
    max_pixels: int = 100_000_000


LIMITS = Limits()


def read_image_file(root: Path, relative: str, limits: Limits = LIMITS) -> bytes:
    """Return the bytes of a regular file below `root`.

    Raises:
        ImageError: it is missing, too large, not a regular file, cannot be read, or lies outside `root`, if only
            through a symbolic link.
    """
    with open_image_file(root, relative, limits) as file:
        data = file.read(limits.max_bytes + 1)
    check_bytes(len(data), limits)
    return data


@contextmanager
def open_image_file(root: Path, relative: str, limits: Limits) -> Iterator[BinaryIO]:
    """Open a regular file below `root` that has at most `limits.max_bytes`, for reading.

    Raises:
        ImageError: as `read_image_file`; also where reading inside the `with` statement fails.
    """
    try:
        path = (root / relative).resolve()
        if not path.is_relative_to(root.resolve()):
            raise ImageError("leads out of the image folder")
        # Without O_NONBLOCK the opening of a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("is not a regular file")
            check_bytes(status.st_size, limits)
            yield file
    except FileNotFoundError:
        raise ImageError("is missing") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def check_bytes(count: int, limits: Limits) -> None:
    """Refuse more bytes than the limit.

    Raises:
        ImageError: there are more.
    """
    if count > limits.max_bytes:
        raise ImageError(f"has {count:,} bytes, more than the limit of {limits.max_bytes:,}")


def check_pixels(size: tuple[int, int], limits: Limits, verb: str = "has") -> None:
    """Refuse a (width, height) of more pixels than the limit.

    Raises:
        ImageError: there are more.
    """
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageError(f"{verb} {by(size)} pixels, more than the limit of {limits.max_pixels:,}")


def by(size: tuple[int, int]) -> str:
    """Return `"640 x 480"`."""
    return f"{size[0]} x {size[1]}"


def is_dicom(data: bytes) -> bool:
    """Whether a file that begins with `data`, 132 bytes of it at least, says that it is DICOM (PS3.10 7.1)."""
    return data[128:132] == b"DICM"
