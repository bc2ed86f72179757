"""PNG, decoded by Pillow: refused where rows are missing, and with all 16 bits of a colour or an opacity."""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from cxrdist.errors import ImageError

_DEPTH, _COLOUR, _HEADER_END = 24, 25, 29
"""Places in the file: bits of a sample, colour type, checksum of the header."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By colour type."""
_GREY_WITH_OPACITY, _COLOUR_WITH_OPACITY = 4, 6
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of interlaced files: first column and row, and steps from one to the next (PNG specification, 8.2)."""
_LUMA = np.array([19595, 38470, 7471], dtype=np.uint32)
"""Pillow's weights of red, green and blue, of 2 ** 16."""
_FILL = 77
_INFLATED_AT_ONCE = 2**20


def load_png(image: PngImageFile, data: bytes) -> None:
    """Decode the pixels of `image`, which was opened from `data`.

    Raises:
        ImageError: its compressed data end before its last row.
        OSError: they are truncated, or damaged.
    """
    bands = len(image.getbands())
    fill = _FILL if bands == 1 else (_FILL,) * bands
    # Pillow leaves rows as they are that the data do not come to.
    image.im = Image.new(image.mode, image.size, fill).im
    image.load()
    last = image.crop((0, image.height - 1, image.width, image.height))
    left = Image.new(image.mode, (1, 1), fill)
    if image.mode == "1" or image.info.get("interlace") or (np.asarray(last) == np.asarray(left)).all():
        _check_length(data)


def is_deep(data: bytes) -> bool:
    """Whether a PNG has colour or opacity of 16 bits, of which Pillow keeps 8."""
    return data[_DEPTH] == 16 and data[_COLOUR] != 0


def read_deep(data: bytes) -> tuple[NDArray[np.uint16], NDArray[np.uint16] | None]:
    """Return the luma [H, W] of a PNG that `is_deep`, by ITU-R 601 and rounded, and its opacity [H, W], if it has one.

    The orientation that the file tells is applied.

    Raises:
        ImageError, OSError: as `load_png`.
    """
    if data[_COLOUR] == _GREY_WITH_OPACITY:
        # Four bytes a pixel, which Pillow takes for four samples of 8 bits where the header says so.
        header = data[12:_DEPTH] + bytes([8, _COLOUR_WITH_OPACITY]) + data[_COLOUR + 1 : _HEADER_END]
        changed = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[_HEADER_END + 4 :]
        pairs = _samples(changed, "RGBA")
        grey = pairs[..., 0::2] << 8 | pairs[..., 1::2]
        return grey[..., 0], grey[..., 1]
    mode = "RGBA" if data[_COLOUR] == _COLOUR_WITH_OPACITY else "RGB"
    # The second of each two bytes is the upper one of a number in the other order.
    samples = _samples(data, f"{mode};16B") << 8 | _samples(data, f"{mode};16L")
    weighted = samples[..., :3].astype(np.uint32) @ _LUMA
    return ((weighted + 0x8000) >> 16).astype(np.uint16), samples[..., 3] if mode == "RGBA" else None


def _samples(data: bytes, raw_mode: str) -> NDArray[Any]:
    """Return the bytes that one of Pillow's raw modes picks, as uint16: [H, W, channels]."""
    image = PngImageFile(BytesIO(data))
    image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
    load_png(image, data)
    ImageOps.exif_transpose(image, in_place=True)
    return np.asarray(image).astype(np.uint16)


def _check_length(data: bytes) -> None:
    """Refuse compressed data that hold less than the header says.

    Raises:
        ImageError: they do.
        zlib.error: they are damaged.
    """
    width, height, depth, colour, _, _, interlaced = struct.unpack(">2L5B", data[16:_HEADER_END])
    bits = depth * _CHANNELS[colour]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    row_bytes, rows = [], []
    for left, top, step_x, step_y in passes:
        columns = max(0, width - left + step_x - 1) // step_x
        rows.append(max(0, height - top + step_y - 1) // step_y if columns else 0)
        row_bytes.append(1 + (columns * bits + 7) // 8)
    expected = sum(count * length for count, length in zip(rows, row_bytes, strict=True))
    there, inflater = 0, zlib.decompressobj()
    for chunk in _compressed(data):
        while chunk and there < expected:
            there += len(inflater.decompress(chunk, _INFLATED_AT_ONCE))
            chunk = inflater.unconsumed_tail
    if there < expected:
        missing = f"{height - there // row_bytes[0]:,} of its {height:,} rows" if not interlaced else "pixels"
        raise ImageError(f"is truncated or damaged: its data end too early, so that {missing} are missing")


def _compressed(data: bytes) -> Iterator[bytes]:
    """Yield what the chunks of pixels hold."""
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            yield data[at + 8 : at + 8 + length]
        at += 12 + length
