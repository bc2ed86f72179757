"""The stored pixels of a DICOM file, native or one compressed frame.

What a frame says of its own size is compared with the header before a decoder sees it. Decoders are named, so that the
same file gives the same pixels everywhere: pydicom's own for native pixels, Pillow for JPEG of 8 bits, JPEG 2000 and
RLE, pyjpegls for JPEG-LS, and, in a process of its own, GDCM for JPEG of more bits and for lossless JPEG.
"""

import re
import signal
import struct
import subprocess
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder

from cxrdist.cohort.dicom_elements import NATIVE, PIXEL_DATA, UNDEFINED_LENGTH, DicomFile
from cxrdist.cohort.files import by
from cxrdist.cohort.jpeg import load_jpeg
from cxrdist.errors import CxrdistError, ImageError

Codes = NDArray[np.uint8] | NDArray[np.uint16]

_MOST_FRAGMENTS = 65_536

_GDCM_SCRIPT = Path(__file__).with_name("gdcm_frame.py")
_GDCM_SECONDS = 300
_GDCM_BYTES, _GDCM_BYTES_A_PIXEL = 2**30, 32
_GDCM_FAULTS = re.compile(rb"premature end of|bad Huffman code|\d{3,} extraneous bytes before")
"""What its libjpeg prints where it goes on with invented pixels; a few bytes too many are an encoder's habit."""

_START_OF_FRAME: dict[str, tuple[int, ...]] = {
    uid.JPEGBaseline8Bit: (0xC0, 0xC1),
    uid.JPEGExtended12Bit: (0xC0, 0xC1),
    uid.JPEGLossless: (0xC3,),
    uid.JPEGLosslessSV1: (0xC3,),
    uid.JPEGLSLossless: (0xF7,),
    uid.JPEGLSNearLossless: (0xF7,),
}
"""Markers by transfer syntax; that of progressive JPEG, which can have scans without end, is of none."""
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))


@dataclass(frozen=True, eq=False)
class StoredPixels:
    """The pixels as they are stored, before anything is made of them."""

    codes: Codes
    """[rows, columns], unsigned integers of `bits` bits; signed values as their bits."""
    bits: int
    is_signed: bool


@dataclass(frozen=True)
class _Codestream:
    """What a compressed frame says of itself."""

    size: tuple[int, int]
    """(columns, rows)."""
    components: int
    bits: int
    is_signed: bool


def read_pixels(dicom: DicomFile) -> StoredPixels:
    """Return the stored pixels.

    Native pixels and RLE have BitsStored bits; what is above these (overlays, or the sign's repetition) is cut off.
    Another frame says itself how many bits it has: all of them count where its pixels need more than BitsStored.

    Args:
        dicom: a file that `open_radiograph` returned, with the elements BitsStored, HighBit and PixelRepresentation.

    Raises:
        ImageError: there are no pixels, they are truncated, damaged, not of the size that the header says, or signed
            where it says otherwise.
    """
    elements = dicom.elements
    size = elements.required("Columns"), elements.required("Rows")
    allocated, stored = elements.required("BitsAllocated"), elements.required("BitsStored")
    if not 1 <= stored <= allocated:
        raise ImageError(f"has {stored} bits stored of {allocated} allocated")
    if elements.integer("HighBit") not in (None, stored - 1):
        raise ImageError("has pixels whose bits are not the lowest (HighBit)")
    representation = elements.required("PixelRepresentation")
    if representation not in (0, 1):
        raise ImageError(f"has the PixelRepresentation {representation}, neither 0 nor 1")
    is_signed = representation == 1
    vr, length = _pixel_element(dicom)
    if dicom.transfer_syntax in NATIVE:
        return _cut_to(stored, _native(dicom, vr, length, size, allocated), is_signed=is_signed)
    if length != UNDEFINED_LENGTH:
        raise ImageError("is damaged: its pixels should be compressed, and are not")
    frame = _frame(dicom.stream)
    if dicom.transfer_syntax == uid.RLELossless:
        return _cut_to(stored, _rle(frame, size, allocated), is_signed=is_signed)
    stream = _codestream(frame, dicom.transfer_syntax, size, allocated)
    if stream.is_signed and not is_signed:
        raise ImageError("has signed pixels in its frame, and unsigned ones by its header (PixelRepresentation)")
    codes = _decompressed(frame, dicom.transfer_syntax, stream)
    if is_signed and not stream.is_signed and stream.bits < stored and (codes >> (stream.bits - 1)).any():
        raise ImageError(f"has a frame of {stream.bits} bits a pixel, and signed pixels of {stored} bits by its header")
    bits = min(stored, stream.bits)
    if not _fits(codes, bits, stream.bits, is_signed=is_signed):
        bits = stream.bits
    return _cut_to(bits, codes, is_signed=is_signed)


def _cut_to(bits: int, codes: Codes, *, is_signed: bool) -> StoredPixels:
    if bits < 8 * codes.itemsize:
        codes = codes & codes.dtype.type(2**bits - 1)
    return StoredPixels(codes, bits, is_signed)


def _fits(codes: Codes, bits: int, of: int, *, is_signed: bool) -> bool:
    """Whether the upper ones of a frame's bits tell nothing: none is set, or all repeat the sign."""
    if bits == of:
        return True
    # Above the frame's own bits, a decoder may repeat the sign.
    upper = (codes & codes.dtype.type(2**of - 1)) >> bits
    if not is_signed:
        return not upper.any()
    negative = (codes >> (bits - 1)) & 1 == 1
    return not upper.any() or bool((upper == np.where(negative, 2 ** (of - bits) - 1, 0)).all())


def _pixel_element(dicom: DicomFile) -> tuple[str, int]:
    """Return the VR and length of the pixels, before which the stream then stands."""
    order = "<" if dicom.is_little_endian else ">"
    head = dicom.stream.read(8)
    if len(head) < 8 or struct.unpack(f"{order}HH", head[:4]) != (PIXEL_DATA >> 16, PIXEL_DATA & 0xFFFF):
        raise ImageError("has no pixel data")
    if dicom.is_implicit:
        return "OW", struct.unpack(f"{order}L", head[4:])[0]
    if head[4:6] not in (b"OB", b"OW"):
        raise ImageError("is damaged: its pixel data are not of bytes")
    length = dicom.stream.read(4)
    if len(length) < 4:
        raise ImageError("is truncated: it has no pixels")
    return head[4:6].decode(), struct.unpack(f"{order}L", length)[0]


def _native(dicom: DicomFile, vr: str, length: int, size: tuple[int, int], allocated: int) -> Codes:
    expected = size[0] * size[1] * allocated // 8
    if length < expected:
        raise ImageError(f"has {length:,} bytes of pixels, fewer than its {by(size)} pixels need")
    # 8 bits in words of 16: an odd one has company.
    data = dicom.stream.read(expected + expected % 2)
    if len(data) < expected:
        raise ImageError(f"is truncated: it has {len(data):,} of {expected:,} bytes of pixels")
    return _by_pydicom(data, dicom.transfer_syntax, size, allocated, vr=vr)


def _frame(stream: BinaryIO) -> bytes:
    """Return the joined fragments of encapsulated pixels (PS3.5 A.4), but for the table of offsets."""
    fragments: list[bytes] = []
    while len(fragments) <= _MOST_FRAGMENTS:
        head = stream.read(8)
        if len(head) < 8:
            raise ImageError("is truncated: its compressed pixels have no end")
        group, element, length = struct.unpack("<HHL", head)
        if (group, element) == (0xFFFE, 0xE0DD):
            return b"".join(fragments[1:])
        if (group, element) != (0xFFFE, 0xE000) or length == UNDEFINED_LENGTH:
            raise ImageError("is damaged: its compressed pixels are no items")
        fragments.append(stream.read(length))
    raise ImageError(f"has more than {_MOST_FRAGMENTS:,} fragments of compressed pixels")


def _codestream(frame: bytes, transfer_syntax: str, size: tuple[int, int], allocated: int) -> _Codestream:
    """Return what a frame says of itself, if the header agrees."""
    if transfer_syntax in _START_OF_FRAME:
        stream = _jpeg_codestream(frame, _START_OF_FRAME[transfer_syntax])
    else:
        stream = _jpeg_2000_codestream(frame)
    if stream.size != size:
        raise ImageError(f"has {by(stream.size)} pixels, and {by(size)} by its header")
    if stream.components != 1:
        raise ImageError(f"is in colour: its frame has {stream.components} components")
    if not 1 < stream.bits <= allocated:
        raise ImageError(f"has a frame of {stream.bits} bits a pixel where {allocated} are allocated")
    return stream


def _decompressed(frame: bytes, transfer_syntax: str, stream: _Codestream) -> Codes:
    size = stream.size
    if transfer_syntax in (uid.JPEG2000Lossless, uid.JPEG2000):
        return _by_pydicom(encapsulate([frame]), transfer_syntax, size, stream.bits, "pillow", signed=stream.is_signed)
    if stream.bits == 8 and transfer_syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit):
        return _jpeg_of_8_bits(frame, size)
    # At an end before its marker, GDCM invents pixels and pyjpegls takes seconds to refuse them.
    if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise ImageError("is truncated in its compressed pixels")
    if transfer_syntax in (uid.JPEGLSLossless, uid.JPEGLSNearLossless):
        return _by_pydicom(encapsulate([frame]), transfer_syntax, size, stream.bits, "pyjpegls")
    return _by_gdcm(frame, transfer_syntax, stream)


def _jpeg_of_8_bits(frame: bytes, size: tuple[int, int]) -> Codes:
    try:
        image = JpegImageFile(BytesIO(frame))
        if image.size != size:
            raise ImageError("is damaged: its frame tells several sizes")
        load_jpeg(image, frame)
    except (OSError, ValueError, SyntaxError):
        raise ImageError("is damaged: pillow cannot decode its pixels") from None
    return np.asarray(image)


def _by_pydicom(
    data: bytes,
    transfer_syntax: str,
    size: tuple[int, int],
    bits: int,
    plugin: str = "",
    *,
    vr: str = "OB",
    signed: bool = False,
) -> Codes:
    options: dict[str, Any] = {
        "pixel_keyword": "PixelData",
        "pixel_vr": vr,
        "number_of_frames": 1,
        "columns": size[0],
        "rows": size[1],
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": 8 if bits <= 8 else 16,
        "bits_stored": bits,
        "pixel_representation": int(signed),
    }
    try:
        pixels, _ = get_decoder(transfer_syntax).as_array(data, raw=True, decoding_plugin=plugin, **options)
    except (RuntimeError, ValueError):
        raise ImageError(f"is damaged: {plugin or 'pydicom'} cannot decode its pixels") from None
    native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    codes: NDArray[Any] = native.view(np.uint8 if bits <= 8 else np.uint16)
    return codes


def _by_gdcm(frame: bytes, transfer_syntax: str, stream: _Codestream) -> Codes:
    """Decode in a process that may die, print and take memory as it likes."""
    columns, rows = stream.size
    memory = _GDCM_BYTES + _GDCM_BYTES_A_PIXEL * rows * columns
    arguments = [str(value) for value in (rows, columns, stream.bits, transfer_syntax, memory)]
    try:
        process = subprocess.run(  # noqa: S603 - a list without a shell, of numbers and one of a few UIDs
            [sys.executable, "-P", str(_GDCM_SCRIPT), *arguments],
            input=frame,
            capture_output=True,
            timeout=_GDCM_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ImageError(f"is damaged: GDCM does not decode it in {_GDCM_SECONDS} s") from None
    if process.returncode == -signal.SIGKILL:
        raise CxrdistError("GDCM was killed, perhaps for want of memory, before it told pixels; run the command again.")
    itemsize = 1 if stream.bits <= 8 else 2
    if process.returncode != 0 or len(process.stdout) != rows * columns * itemsize:
        raise ImageError("is damaged: GDCM cannot decode it")
    if _GDCM_FAULTS.search(process.stderr):
        raise ImageError("is truncated or damaged within its compressed pixels")
    pixels: NDArray[Any] = np.frombuffer(process.stdout, dtype=f"<u{itemsize}").reshape(rows, columns)
    return pixels


def _rle(frame: bytes, size: tuple[int, int], allocated: int) -> Codes:
    """Decode PackBits segments, one for each byte of a pixel, the highest first (PS3.5 G).

    Pillow's decoder stops at the number of pixels; pydicom's would first expand whatever a segment holds.
    """
    count = allocated // 8
    if len(frame) < 64:
        raise ImageError("is truncated in its compressed pixels")
    segments, *starts = struct.unpack("<16L", frame[:64])
    if segments != count:
        raise ImageError(f"is damaged: it has {segments} RLE segments, not {count}")
    ends = (*starts[1:count], len(frame))
    codes = np.zeros((size[1], size[0]), dtype=np.uint8 if count == 1 else np.uint16)
    for start, end in zip(starts[:count], ends, strict=True):
        # One row, because runs of some encoders go on in the next.
        try:
            plane = Image.frombytes("L", (size[0] * size[1], 1), frame[start:end], "packbits", "L")
        except ValueError:
            raise ImageError("is truncated in its compressed pixels") from None
        codes = codes * codes.dtype.type(1 if count == 1 else 256) + np.asarray(plane).reshape(codes.shape)
    return codes


def _jpeg_codestream(frame: bytes, markers: tuple[int, ...]) -> _Codestream:
    """Read the frame header of JPEG (ITU-T T.81 B.2.2) or JPEG-LS (T.87 C.2.2)."""
    if frame[:2] != b"\xff\xd8":
        raise ImageError("is damaged: its frame is no JPEG")
    at = 2
    while at + 10 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker in markers:
            bits, rows, columns, components = struct.unpack(">BHHB", frame[at + 4 : at + 10])
            return _Codestream((columns, rows), components, bits, is_signed=False)
        if marker == 0xFF:
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    raise ImageError("is damaged: its frame is not JPEG of the kind that its transfer syntax says")


def _jpeg_2000_codestream(frame: bytes) -> _Codestream:
    """Read the image and tile size (ITU-T T.800 A.5.1); PS3.5 A.4.4 allows no boxes of JP2 around it."""
    if frame[:4] != b"\xff\x4f\xff\x51" or len(frame) < 45:
        raise ImageError("is damaged: its frame is no JPEG 2000 codestream")
    right, bottom, left, top = struct.unpack(">4L", frame[8:24])
    components, depth = struct.unpack(">HB", frame[40:43])
    return _Codestream((right - left, bottom - top), components, (depth & 0x7F) + 1, is_signed=bool(depth & 0x80))
