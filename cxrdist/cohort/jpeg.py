"""JPEG of 8 bits, decoded by Pillow; refused where the decoder would fill in what the file lacks.

libjpeg goes on without a word where the data of a scan end early, and gives grey, or what zeros happen to mean. That it
needs more than there is can be seen by keeping the image's end from it: with all its data it is done, or looks for that
end; without, it waits for data.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from cxrdist.errors import ImageError

_END, _SCAN, _TABLES = 0xD9, 0xDA, 0xC4
_WITHOUT_LENGTH = (0x01, 0xD8)
_NO_FRAMES = (_TABLES, 0xC8, 0xCC)
_HUFFMAN = (0xC0, 0xC1, 0xC2)
"""Frames of Huffman-coded DCT; the decoder of others cannot wait for data."""
_PROGRESSIVE = 0xC2
_READ_AHEAD = 10
"""Bytes that the decoder wants to have beyond those that it needs."""
_SPARE = 24
"""Bytes that a scan may have too many, and read ahead; those of real files have up to 6."""
_HOLE = bytes(64)
_FILL = 77


def load_jpeg(image: JpegImageFile, data: bytes) -> None:
    """Decode the pixels of `image`, which was opened from `data`.

    Of a file of several images the first is decoded. What lies behind its end does not matter.

    Raises:
        ImageError: pixels or scans are missing, or the data do not fit the pixels.
    """
    structure = _Structure(data)
    if structure.frame not in _HUFFMAN:
        image.load()
        return
    structure.check()
    try:
        # Some encoders pad with zeros.
        pixels = _decoded(image, data, structure, structure.end_without_zeros)
    except ImageError:
        if structure.end == structure.end_without_zeros or not structure.zeros_may_be_flat:
            raise
        pixels = _decoded(image, data, structure, structure.end)
    image.im = pixels.im
    image.tile = []


def _decoded(image: JpegImageFile, data: bytes, structure: "_Structure", end: int) -> Image.Image:
    """Return the pixels by the data up to `end`.

    Raises:
        ImageError: these are fewer than the pixels need, or more.
    """
    tile = image.tile[0]
    bands = len(image.getbands())
    pixels = Image.new(image.mode, image.size, _FILL if bands == 1 else (_FILL,) * bands)
    # What `Image.load` does for one tile, but for the pieces in which the decoder gets the data.
    decoder = Image._getdecoder(image.mode, tile.codec_name, tile.args, image.decoderconfig)
    try:
        decoder.setimage(pixels.im, tile.extents)
        feed = _Feed(decoder)
        tail = max(structure.last_scan, end - _SPARE)
        feed.give(data[:tail])
        if end - tail == _SPARE and feed.is_over(data[tail : tail + 4]):
            raise ImageError("is damaged within its pixels: it has more data than they need")
        feed.give(data[tail + 4 if end - tail == _SPARE else tail : end] + bytes(_READ_AHEAD))
        if not feed.is_over(bytes(4)):
            kind = "truncated or damaged within its pixels" if structure.has_end else "truncated"
            raise ImageError(f"is {kind}: {_lacking(pixels)}")
        feed.give(b"\xff\xd9")
        if not feed.is_done:
            raise ImageError("is damaged within its pixels")
    finally:
        decoder.cleanup()
    return pixels


class _Feed:
    """Gives a decoder data piece by piece, and keeps what it does not take yet."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._kept = b""
        self.is_done = False

    def give(self, data: bytes) -> None:
        """Let the decoder go on, unless it is done."""
        if self.is_done:
            return
        taken, error = self._decoder.decode(self._kept + data)
        if error < 0:
            raise ImageError("is damaged: its decoder cannot read it")
        self.is_done = taken < 0
        self._kept = (self._kept + data)[taken:]

    def is_over(self, data: bytes) -> bool:
        """Whether the decoder is done, or throws away each of these bytes as it comes, looking for the image's end.

        For pixels it fills a reserve of bits, by several bytes at once, or waits.
        """
        each = True
        for byte in data:
            is_empty = not self._kept
            self.give(bytes([byte]))
            each = each and is_empty and not self._kept
        return each or self.is_done


class _Structure:
    """Where the parts of a JPEG file are (ITU-T T.81 B), and what they tell."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.frame = 0
        """The marker of the frame's kind."""
        self.last_scan = 0
        """Where the data of the last scan begin."""
        self.end = len(data.rstrip(b"\0"))
        """Where they end."""
        self.end_without_zeros = self.end
        self.has_end = False
        self._first_scan = 0
        self._missing: set[tuple[int, int]] = set()
        """Component and coefficient of what no scan tells to its lowest bit."""
        self._zeros_mean: dict[int, int] = {}
        """By table of AC coefficients: the symbol whose code is zeros."""
        self._table = 0
        """That of the first component."""
        self._read()

    def check(self) -> None:
        """Refuse an image without all of its scans, or with a hole in them.

        Raises:
            ImageError: the reason.
        """
        if not self._first_scan:
            raise ImageError("is truncated: it has no pixels")
        if self._missing:
            raise ImageError("is truncated: it lacks scans, without which its pixels are not all there")
        if not self.zeros_may_be_flat and self._data.find(_HOLE, self._first_scan, self.end_without_zeros) >= 0:
            raise ImageError("is damaged within its pixels: it has zeros where its data should be")

    @property
    def zeros_may_be_flat(self) -> bool:
        """Whether a run of zeros may be blocks without detail, because a code of zeros ends a block.

        Else all 63 coefficients of block after block are as small as can be, which no picture has.
        """
        return self.frame == _PROGRESSIVE or self._zeros_mean.get(self._table, 1) == 0

    def _read(self) -> None:
        at = 2
        places = _markers(self._data)
        while (next_one := np.searchsorted(places, at)) < len(places):
            place = int(places[next_one])
            code, at = self._data[place + 1], place + 2
            if code == _END:
                self.end, self.has_end = place, True
                self.end_without_zeros = len(self._data[:place].rstrip(b"\0"))
                return
            if code in _WITHOUT_LENGTH:
                continue
            length = max(2, int.from_bytes(self._data[at : at + 2], "big"))
            segment = self._data[at + 2 : at + length]
            at += length
            if code == _SCAN:
                self._first_scan, self.last_scan = self._first_scan or at, at
                self._add_scan(segment)
            elif code == _TABLES:
                self._add_tables(segment)
            elif 0xC0 <= code <= 0xCF and code not in _NO_FRAMES:
                self.frame = code
                told = range(64) if code == _PROGRESSIVE else range(1)
                self._missing = {(component, each) for component in segment[6::3] for each in told}

    def _add_scan(self, segment: bytes) -> None:
        count = segment[0] if segment else 0
        if len(segment) < 4 + 2 * count:
            return
        if self._first_scan == self.last_scan:
            self._table = segment[2] & 0x0F
        first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
        if self.frame != _PROGRESSIVE:
            first = last = bits = 0
        if bits & 0x0F == 0:
            told = range(first, min(last, 63) + 1)
            self._missing -= {(component, each) for component in segment[1 : 1 + 2 * count : 2] for each in told}

    def _add_tables(self, segment: bytes) -> None:
        while len(segment) > 17:
            if segment[0] >> 4 == 1:
                self._zeros_mean.setdefault(segment[0] & 0x0F, segment[17])
            segment = segment[17 + sum(segment[1:17]) :]


def _markers(data: bytes) -> NDArray[np.int64]:
    """Return where bytes are that may be markers, in order; not those of restarts, which are part of a scan's data."""
    values = np.frombuffer(data, dtype=np.uint8)
    places: NDArray[np.int64] = np.flatnonzero(values[:-1] == 0xFF)
    following = values[places + 1]
    is_marker = (following != 0) & (following != 0xFF) & ((following < 0xD0) | (following > 0xD7))
    markers: NDArray[np.int64] = places[is_marker]
    return markers


def _lacking(pixels: Image.Image) -> str:
    """Say how many rows the decoder did not come to, if it gives rows as it goes."""
    is_told = (np.asarray(pixels).reshape(pixels.height, -1) != _FILL).any(axis=1)
    count = int(is_told[::-1].argmax())
    return f"about {count:,} of its {pixels.height:,} rows are missing" if count else "its data end too early"
