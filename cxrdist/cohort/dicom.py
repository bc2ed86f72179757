"""DICOM radiographs as grey images, as the standard means them to be displayed."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from cxrdist.cohort.dicom_elements import Elements, dicom_damage_as_image_error
from cxrdist.cohort.dicom_frames import Codes, StoredPixels, read_pixels
from cxrdist.cohort.dicom_header import open_radiograph
from cxrdist.cohort.files import Limits, check_bytes
from cxrdist.errors import ImageError

Values = NDArray[np.float64]

_KEYWORDS = (
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PresentationLUTShape",
)
_BLOCK_PIXELS = 2**22
"""Pixels looked up at once: numpy makes 8 bytes of each index."""


def decode_dicom(data: bytes, limits: Limits) -> NDArray[np.uint8]:
    """Return the radiograph in a DICOM file as grey [H, W] uint8.

    The rule, by parts of PS3.3:

    1. Stored values become the modality's by ModalityLUTSequence, else by RescaleSlope and RescaleIntercept (C.11.1).
    2. These become brightness from 0 to 1 by the first item of VOILUTSequence, else by the first window of
       WindowCenter and WindowWidth, as VOILUTFunction says: LINEAR, LINEAR_EXACT or SIGMOID (C.11.2). 0 and 1 are the
       ends of the window's output, or of the LUT's, which has as many levels as the bits of its highest entry (8 at
       least) can tell: how many bits LUTDescriptor says is often wrong. Where there is
       neither, they are the lowest and the highest value of the image itself; an image of one value is black.
    3. Brightness is inverted, once, where PhotometricInterpretation is MONOCHROME1 (C.7.6.3.1.2) or
       PresentationLUTShape is INVERSE (C.11.6), which in radiographs mean the same (C.8.11.3).
    4. Brightness times 255 is rounded, half to even.

    Pixels of PixelPaddingValue, or between it and PixelPaddingRangeLimit, are black and do not count for the lowest
    and the highest value (C.7.5.1.1.2). The size of a pixel, overlays and annotations are ignored.

    Args:
        data: a file.
        limits: what it may cost; also bounds the inflated bytes of a deflated file.

    Raises:
        ImageError: as `open_radiograph` and `read_pixels`; also a LUT or a window that the standard forbids.
    """
    check_bytes(len(data), limits)
    with dicom_damage_as_image_error():
        dicom = open_radiograph(BytesIO(data), limits, _KEYWORDS)
        pixels = read_pixels(dicom)
        codes = pixels.codes
        levels = _grey_levels(pixels, dicom.elements)
        grey = np.empty(codes.shape, dtype=np.uint8)
        for rows in _blocks(codes):
            grey[rows] = levels[codes[rows]]
    return grey


def dicom_size(data: bytes, limits: Limits) -> tuple[int, int]:
    """Return (width, height) in pixels, without decoding any.

    Raises:
        ImageError: as `open_radiograph`.
    """
    check_bytes(len(data), limits)
    with dicom_damage_as_image_error():
        elements = open_radiograph(BytesIO(data), limits, ()).elements
        return elements.required("Columns"), elements.required("Rows")


def windowed(values: Values, center: float, width: float, function: str) -> Values:
    """Return brightness from 0 to 1 of `values`, of any shape, by PS3.3 C.11.2.1.2.1 and C.11.2.1.3.

    Args:
        values: after the modality LUT.
        center: WindowCenter.
        width: WindowWidth; at least 1 for LINEAR, else more than 0.
        function: VOILUTFunction.

    Raises:
        ImageError: the function is none of LINEAR, LINEAR_EXACT and SIGMOID, or the width is too small for it.
    """
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ImageError(f"has the VOILUTFunction {function[:16]!r}, not LINEAR, LINEAR_EXACT or SIGMOID")
    if width < 1 if function == "LINEAR" else width <= 0:
        raise ImageError(f"has a window of width {width:g}, which {function} cannot have")
    brightness: Values
    with np.errstate(over="ignore"):
        if function == "SIGMOID":
            brightness = 1 / (1 + np.exp(-4 * (values - center) / width))
        elif function == "LINEAR_EXACT":
            brightness = (values - center) / width + 0.5
        elif width == 1:
            brightness = np.where(values > center - 0.5, 1.0, 0.0)
        else:
            brightness = (values - (center - 0.5)) / (width - 1) + 0.5
    return brightness.clip(0, 1)


@dataclass(frozen=True)
class _LookupTable:
    first: int
    """The value that the first entry is for."""
    entries: Values

    def __call__(self, values: Values) -> Values:
        index = (np.rint(values) - self.first).clip(0, len(self.entries) - 1)
        return self.entries.take(index.astype(np.int64))


def _grey_levels(pixels: StoredPixels, elements: Elements) -> NDArray[np.uint8]:
    """Return the grey level of every code that the pixels' bits can make: [2 ** bits]."""
    codes, is_signed = pixels.codes, pixels.is_signed
    n_codes = 2**pixels.bits
    stored = np.arange(n_codes)
    if is_signed:
        stored[n_codes // 2 :] -= n_codes
    padding = _padding(stored, elements, is_signed=is_signed)
    present = np.zeros(n_codes, dtype=np.bool_)
    for rows in _blocks(codes):
        present[codes[rows]] = True
    present &= ~padding
    values = _modality_values(stored.astype(np.float64), elements, is_signed=is_signed)
    if not np.isfinite(np.ptp(values)):
        raise ImageError("has a RescaleSlope or RescaleIntercept beyond all numbers")
    brightness = _voi_brightness(values, elements)
    if brightness is None:
        brightness = _stretched(values, present)
    if brightness is None:
        return np.zeros(n_codes, dtype=np.uint8)
    levels = np.rint(255 * brightness).astype(np.uint8)
    is_inverse = elements.word("PresentationLUTShape") == "INVERSE"
    if is_inverse or elements.word("PhotometricInterpretation") == "MONOCHROME1":
        levels = 255 - levels
    levels[padding] = 0
    return levels


def _padding(stored: NDArray[np.int64], elements: Elements, *, is_signed: bool) -> NDArray[np.bool_]:
    value = elements.integer("PixelPaddingValue")
    if value is None:
        return np.zeros(len(stored), dtype=np.bool_)
    limit = elements.integer("PixelPaddingRangeLimit")
    ends = [_signed(end) if is_signed else end for end in (value, value if limit is None else limit)]
    return (stored >= min(ends)) & (stored <= max(ends))


def _modality_values(stored: Values, elements: Elements, *, is_signed: bool) -> Values:
    item = elements.first_item("ModalityLUTSequence")
    if item is not None:
        return _lookup_table(item, may_be_negative=is_signed)(stored)
    slope, intercept = elements.number("RescaleSlope"), elements.number("RescaleIntercept")
    if slope == 0:
        raise ImageError("has a RescaleSlope of 0")
    return stored * (1.0 if slope is None else slope) + (intercept or 0.0)


def _voi_brightness(values: Values, elements: Elements) -> Values | None:
    item = elements.first_item("VOILUTSequence")
    if item is not None:
        table = _lookup_table(item, may_be_negative=values.min() < 0)
        bits = max(8, int(table.entries.max()).bit_length())
        return table(values) / float(2**bits - 1)
    center, width = elements.number("WindowCenter"), elements.number("WindowWidth")
    if center is None or width is None:
        return None
    return windowed(values, center, width, elements.word("VOILUTFunction") or "LINEAR")


def _stretched(values: Values, present: NDArray[np.bool_]) -> Values | None:
    """Return brightness by the values that are present, None where these are not two at least."""
    seen = np.unique(values[present])
    if len(seen) < 2:
        return None
    low, high = float(seen[0]), float(seen[-1])
    return ((values - low) / (high - low)).clip(0, 1)


def _lookup_table(item: Elements, *, may_be_negative: bool) -> _LookupTable:
    """Read LUTDescriptor and LUTData (PS3.3 C.11.1.1.1 and C.11.2.1.1).

    Args:
        item: of the sequence.
        may_be_negative: whether values are signed that are looked up; decides where the file does not tell.
    """
    descriptor = item.integers("LUTDescriptor")
    if len(descriptor) != 3:
        raise ImageError("has a LUTDescriptor that is not of three numbers")
    count, first, bits = descriptor[0] or 2**16, descriptor[1], descriptor[2]
    if not 8 <= bits <= 16:
        raise ImageError(f"has a LUT of {bits} bits, which must be 8 to 16")
    if item.vr("LUTDescriptor") == "SS" or (item.vr("LUTDescriptor") is None and may_be_negative):
        first = _signed(first)
    data = item.data("LUTData")
    words = np.frombuffer(data[: len(data) // 2 * 2], dtype="<u2" if item.is_little_endian("LUTData") else ">u2")
    if len(words) < count:
        # Two entries of 8 bits in a word, the first in its lower half.
        words = words.astype("<u2").view(np.uint8).astype(np.uint16) if bits == 8 else words[:0]
    if len(words) < count:
        raise ImageError(f"has a LUT of fewer than its {count:,} entries")
    return _LookupTable(first, words[:count].astype(np.float64))


def _signed(word: int) -> int:
    return word - 2**16 if word >= 2**15 else word


def _blocks(codes: Codes) -> Iterator[slice]:
    step = max(1, _BLOCK_PIXELS // codes.shape[1])
    for start in range(0, codes.shape[0], step):
        yield slice(start, start + step)
