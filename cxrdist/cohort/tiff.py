"""TIFF of one grey image, opened by Pillow once its directory was looked at: libtiff trusts what it says."""

import struct
from io import BytesIO

from PIL.TiffImagePlugin import TiffImageFile

from cxrdist.cohort.files import Limits, check_pixels
from cxrdist.errors import ImageError

_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_BIG = (b"II+\0", b"MM\0+")

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_SAMPLES, _ROWS_A_STRIP, _SAMPLE_FORMAT = 277, 278, 339
_STRIPS, _TILES, _TILE_WIDTH, _TILE_LENGTH = 273, 324, 322, 323
_UNIT_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
"""Of a value, by its type (TIFF 6.0, page 15)."""
_COMPRESSIONS = {1: "none", 5: "LZW", 8: "Deflate", 32946: "Deflate", 32773: "PackBits"}
_UNSIGNED = 1
_WHITE_IS_ZERO = 0


def is_tiff(data: bytes) -> bool:
    """Whether a file that begins with `data` is TIFF, classic or big."""
    return data[:4] in _ORDERS or data[:4] in _BIG


def open_tiff(data: bytes, limits: Limits) -> TiffImageFile:
    """Return the image, not yet decoded.

    Accepted is grey of 8 or 16 bits, in strips or tiles, not compressed, or by LZW, Deflate or PackBits; in 16 bits,
    0 is black.

    Raises:
        ImageError: the file is damaged, holds several pages, is of another kind, or costs more than the limits.
    """
    if data[:4] in _BIG:
        raise ImageError("is BigTIFF, which cannot be decoded; save it as TIFF of one page, or as PNG")
    directory = _Directory(data)
    if directory.next_page:
        raise ImageError("is TIFF of several pages; save the radiograph's alone")
    size = directory.number(_WIDTH, 0), directory.number(_LENGTH, 0)
    if 0 in size:
        raise ImageError("is damaged: it has no pixels")
    check_pixels(size, limits)
    samples, bits = directory.number(_SAMPLES, 1), directory.number(_BITS, 1)
    photometric = directory.number(_PHOTOMETRIC, -1)
    is_whole_numbers = directory.number(_SAMPLE_FORMAT, _UNSIGNED) == _UNSIGNED
    if samples != 1 or bits not in (8, 16) or photometric not in (0, 1) or not is_whole_numbers:
        raise ImageError("is TIFF, but not of grey with 8 or 16 bits a pixel; save it so, or as PNG")
    if bits == 16 and photometric == _WHITE_IS_ZERO:
        # Pillow does not turn it round, and knows it in one order of bytes only.
        raise ImageError("is TIFF of 16 bits in which 0 is white; save it with 0 as black (BlackIsZero), or as PNG")
    compression = directory.number(_COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        known = ", ".join(dict.fromkeys(_COMPRESSIONS.values()))
        raise ImageError(f"is TIFF of the compression {compression}, which cannot be decoded; save it with: {known}")
    _check_pieces(directory, size, limits)
    return TiffImageFile(BytesIO(data))


def _check_pieces(directory: "_Directory", size: tuple[int, int], limits: Limits) -> None:
    """Refuse strips or tiles that are too large, or not as many as the image needs."""
    if _TILES in directory.counts:
        tile = directory.number(_TILE_WIDTH, 0), directory.number(_TILE_LENGTH, 0)
        if 0 in tile:
            raise ImageError("is damaged: its tiles have no size")
        check_pixels(tile, limits, "has tiles of")
        expected, there = -(-size[0] // tile[0]) * -(-size[1] // tile[1]), directory.counts[_TILES]
    else:
        rows = min(directory.number(_ROWS_A_STRIP, size[1]), size[1])
        expected, there = -(-size[1] // max(rows, 1)), directory.counts.get(_STRIPS, 0)
    if there != expected:
        raise ImageError(f"is damaged: it has {there:,} strips or tiles, and should have {expected:,}")


class _Directory:
    """The first directory of a file (TIFF 6.0, section 2)."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = _ORDERS[data[:4]]
        self._places: dict[int, tuple[int, int]] = {}
        """By tag: type, and place of the value or of its offset."""
        self.counts: dict[int, int] = {}
        """By tag: how many values it has."""
        start = self._unpack("L", 4)
        count = self._unpack("H", start)
        total = 0
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, values = self._unpack("H", place), self._unpack("H", place + 2), self._unpack("L", place + 4)
            self._places[tag], self.counts[tag] = (kind, place + 8), values
            total += values * _UNIT_BYTES.get(kind, 1)
        # Else a few bytes of a file could stand for gigabytes of memory.
        if total > len(data) + 12 * count:
            raise ImageError("is damaged: its directory holds more than the file")
        self.next_page = self._unpack("L", start + 2 + 12 * count)

    def number(self, tag: int, default: int) -> int:
        """Return the first value of a tag of 16 or 32 bits."""
        if tag not in self._places:
            return default
        kind, place = self._places[tag]
        if kind not in (3, 4):
            raise ImageError(f"is damaged: its tag {tag} is not a whole number")
        return self._unpack("H" if kind == 3 else "L", place)

    def _unpack(self, code: str, place: int) -> int:
        size = 2 if code == "H" else 4
        if place + size > len(self._data):
            raise ImageError("is truncated in its header")
        return int(struct.unpack_from(f"{self._order}{code}", self._data, place)[0])
