"""The data elements of a DICOM file that are asked for, and no others, from files that nobody vouches for.

pydicom finds them. Their bytes are interpreted here, because pydicom's own conversion warns and logs with the values
in its words, and because it accepts what no radiograph has.
"""

import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import SEEK_END, SEEK_SET, BytesIO
from typing import Any, BinaryIO, cast

from pydicom import config, uid
from pydicom.charset import decode_bytes
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_sequence

from cxrdist.cohort.files import Limits, is_dicom
from cxrdist.errors import ImageError

# Its records may quote a header.
logging.getLogger("pydicom").propagate = False

PIXEL_DATA = 0x7FE00010
UNDEFINED_LENGTH = 0xFFFFFFFF

NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)
COMPRESSED = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.RLELossless,
)

_LONGEST_HEADER = 4 * 2**20
"""Bytes that are read, not skipped: pydicom parses sequences even to skip them, and makes 400 bytes of each 8."""
_LONGEST_TEXT = 1024
_PREAMBLE = 132
_AFTER_META = 0x00030000
"""The first tag that cannot be of the group of file meta information."""

# What pydicom is known to raise on damaged files. Its words may quote the header: they are not repeated.
_DAMAGE = (
    InvalidDicomError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


class Elements:
    """Data elements by keyword; bytes until they are asked for as something else."""

    def __init__(self, dataset: Dataset, encodings: Sequence[str]) -> None:
        self._dataset = dataset
        self._encodings = encodings

    def data(self, keyword: str) -> bytes:
        """Return a value's bytes, none where the element is absent or empty."""
        element = self._element(keyword)
        if element is None:
            return b""
        if not isinstance(element, RawDataElement):
            raise ImageError(f"has a {keyword} that is a sequence")
        value = element.value or b""
        if len(value) < element.length != UNDEFINED_LENGTH:
            raise ImageError("is truncated in its header")
        return value

    def text(self, keyword: str) -> str | None:
        """Return text without the spaces and nulls that pad it, None where nothing is left."""
        data = self.data(keyword)
        if len(data) > _LONGEST_TEXT:
            raise ImageError(f"has a {keyword} of {len(data):,} bytes, more than the limit of {_LONGEST_TEXT:,}")
        text = decode_bytes(data, self._encodings, set()).rstrip(" \0").lstrip(" ")
        if "\N{REPLACEMENT CHARACTER}" in text:
            raise ImageError(f"has a {keyword} that its character set cannot decode")
        if not text.isprintable():
            raise ImageError(f"has a {keyword} with control characters")
        return text or None

    def word(self, keyword: str) -> str | None:
        """Return text in capitals, as the standard has it, whatever some devices write."""
        text = self.text(keyword)
        return None if text is None else text.upper()

    def number(self, keyword: str) -> float | None:
        """Return the first of decimal or integer strings."""
        first = (self.text(keyword) or "").split("\\")[0].strip()
        if not first:
            return None
        try:
            number = float(first)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ImageError(f"has a {keyword} that is not a number")
        return number

    def integer(self, keyword: str) -> int | None:
        """Return one unsigned integer of 16 bits."""
        values = self.integers(keyword)
        if len(values) > 1:
            raise ImageError(f"has {len(values)} values of {keyword}")
        return values[0] if values else None

    def integers(self, keyword: str) -> tuple[int, ...]:
        """Return unsigned integers of 16 bits."""
        data = self.data(keyword)
        if len(data) % 2 or len(data) > _LONGEST_TEXT:
            raise ImageError(f"has a {keyword} that is not of 16-bit integers")
        return struct.unpack(f"{'<' if self.is_little_endian(keyword) else '>'}{len(data) // 2}H", data)

    def required(self, keyword: str) -> int:
        """Return one unsigned integer of 16 bits that must be there."""
        value = self.integer(keyword)
        if value is None:
            raise ImageError(f"lacks {keyword}")
        return value

    def first_item(self, keyword: str) -> "Elements | None":
        """Return the first item of a sequence, None where the sequence is absent or empty."""
        element = self._element(keyword)
        if isinstance(element, RawDataElement):
            data = self.data(keyword)
            # PS3.5 6.2.2: what UN holds is of implicit VR.
            implicit = element.is_implicit_VR or element.VR == "UN"
            encodings = list(self._encodings)
            items: Any = read_sequence(BytesIO(data), implicit, element.is_little_endian, len(data), encodings)
        else:
            items = element.value if element is not None else None
        return Elements(items[0], self._encodings) if items else None

    def vr(self, keyword: str) -> str | None:
        """Return the value representation, None where the file does not tell."""
        element = self._element(keyword)
        return element.VR if element is not None else None

    def is_little_endian(self, keyword: str) -> bool:
        """Whether the least significant byte comes first."""
        element = self._element(keyword)
        return not isinstance(element, RawDataElement) or element.is_little_endian

    def _element(self, keyword: str) -> RawDataElement | DataElement | None:
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        return cast(RawDataElement | DataElement | None, self._dataset.get_item(tag, keep_deferred=True))


@dataclass(frozen=True)
class DicomFile:
    """A DICOM file, read as far as its pixels."""

    transfer_syntax: str
    """UID, one of NATIVE and COMPRESSED."""
    sop_class: str | None
    """UID."""
    elements: Elements
    stream: BinaryIO
    """Stands before the element of the pixels, or where the file ends without any."""
    is_implicit: bool
    is_little_endian: bool


@contextmanager
def dicom_damage_as_image_error() -> Iterator[None]:
    """Turn whatever pydicom raises on a damaged file into an `ImageError`, and keep its warnings quiet."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _DAMAGE as error:
        raise ImageError(f"is damaged: pydicom cannot read it ({type(error).__name__})") from None


def open_dicom(stream: BinaryIO, limits: Limits, keywords: Iterable[str]) -> DicomFile:
    """Read some elements that precede the pixels.

    Args:
        stream: the file from its first byte; can be positioned.
        limits: bound the bytes that a deflated data set may inflate to.
        keywords: the elements.

    Raises:
        ImageError: the file is not DICOM, a DICOMDIR, truncated, has far too long a header, or a transfer syntax
            that cannot be decoded.
    """
    if not is_dicom(stream.read(_PREAMBLE)):
        raise ImageError("is not DICOM: it does not have the letters DICM after 128 bytes")
    meta, _ = _read(stream, ("MediaStorageSOPClassUID", "TransferSyntaxUID"), uid.ExplicitVRLittleEndian, _AFTER_META)
    sop_class, transfer_syntax = meta.text("MediaStorageSOPClassUID"), meta.text("TransferSyntaxUID")
    if sop_class == uid.MediaStorageDirectoryStorage:
        raise ImageError("is a DICOMDIR, a list of DICOM files")
    if transfer_syntax is None:
        raise ImageError("does not tell its transfer syntax")
    if transfer_syntax not in NATIVE + COMPRESSED:
        name = uid.UID(transfer_syntax, config.IGNORE).name
        raise ImageError(f"has the transfer syntax {name!r}, which cannot be decoded")
    if transfer_syntax == uid.DeflatedExplicitVRLittleEndian:
        stream = BytesIO(_inflated(stream.read(limits.max_bytes), limits))
    elements, (is_implicit, is_little_endian) = _read(stream, keywords, transfer_syntax, PIXEL_DATA)
    return DicomFile(transfer_syntax, sop_class, elements, stream, is_implicit, is_little_endian)


def _read(
    stream: BinaryIO, keywords: Iterable[str], transfer_syntax: str, end: int
) -> tuple[Elements, tuple[bool, bool]]:
    """Read elements before the tag `end`; also return whether they are of implicit VR and little endian."""
    bounded = _Bounded(stream)
    try:
        dataset = read_dataset(
            cast(BinaryIO, bounded),
            is_implicit_VR=transfer_syntax == uid.ImplicitVRLittleEndian,
            is_little_endian=transfer_syntax != uid.ExplicitVRBigEndian,
            stop_when=lambda tag, vr, length: tag >= end,
            specific_tags=[cast(int, tag_for_keyword(keyword)) for keyword in keywords],
        )
    finally:
        # What pydicom raises at an end that it does not expect says less.
        bounded.check()
    encodings = dataset.original_character_set
    is_implicit, is_little_endian = dataset.original_encoding
    return (
        Elements(dataset, [encodings] if isinstance(encodings, str) else encodings),
        (bool(is_implicit), bool(is_little_endian)),
    )


class _Bounded:
    """A stream that ends where too much was read: of lengths in a file that are lies, nothing is allocated."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        start = stream.tell()
        self._size = stream.seek(0, SEEK_END)
        stream.seek(start)
        self._left = _LONGEST_HEADER

    def read(self, count: int) -> bytes:
        count = min(count, self._size - self._stream.tell())
        if count > self._left:
            count = self._left = 0
        self._left -= max(0, count)
        return self._stream.read(max(0, count))

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def check(self) -> None:
        if self._left == 0:
            raise ImageError(f"has a header of more than {_LONGEST_HEADER:,} bytes")
        if self._stream.tell() > self._size:
            raise ImageError("is truncated in its header")


def _inflated(data: bytes, limits: Limits) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data, limits.max_bytes + 1)
    if len(inflated) > limits.max_bytes:
        raise ImageError(f"inflates to more bytes than the limit of {limits.max_bytes:,}")
    if not inflater.eof:
        raise ImageError("is truncated: its deflated data have no end")
    return inflated
