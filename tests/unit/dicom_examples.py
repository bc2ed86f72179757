"""Makers of DICOM files for tests, among them encoders of what no library here encodes."""

import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.tag import Tag
from scipy.fft import dctn


def codes_of(shape: tuple[int, int] = (24, 20), bits: int = 12, seed: int = 0) -> NDArray[Any]:
    """A smooth, asymmetric picture of unsigned integers, which holds 0 and the highest."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : shape[0] * 1j, 0 : 1 : shape[1] * 1j]
    waves = sum(np.sin(rng.uniform(2, 7) * x + rng.uniform(2, 7) * y + rng.uniform(0, 6)) for _ in range(4))
    waves = (waves - waves.min()) / np.ptp(waves)
    codes: NDArray[Any] = np.rint(waves * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)
    return codes


def as_signed(codes: NDArray[Any], bits: int) -> NDArray[np.int64]:
    """What the lowest `bits` of the codes mean in two's complement."""
    values: NDArray[np.int64] = codes.astype(np.int64) % 2**bits
    return np.where(values >= 2 ** (bits - 1), values - 2**bits, values)


def dicom_file(
    codes: NDArray[Any] | None = None,
    bits: int = 12,
    *,
    transfer_syntax: str = uid.ExplicitVRLittleEndian,
    frame: bytes | None = None,
    sop_class: str = uid.ComputedRadiographyImageStorage,
    **elements: Any,
) -> bytes:
    """A file of one radiograph of the chest.

    Args:
        codes: stored pixels [H, W], uint8 or uint16; `codes_of(bits=bits)` where None.
        bits: BitsStored.
        transfer_syntax: UID.
        frame: the compressed pixels, where the transfer syntax is of such.
        sop_class: UID.
        elements: more elements by keyword, or other ones; None leaves one out, bytes are written as they are.
    """
    codes = codes_of(bits=bits) if codes is None else codes
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.UID(transfer_syntax)
    dataset.file_meta.MediaStorageSOPClassUID = uid.UID(sop_class)
    dataset.file_meta.MediaStorageSOPInstanceUID = uid.UID("1.2.3.4")
    rows, columns = codes.shape
    known = {
        "SOPClassUID": sop_class,
        "SOPInstanceUID": "1.2.3.4",
        "Modality": "CR",
        "BodyPartExamined": "CHEST",
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": 8 * codes.itemsize,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
    }
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in (known | elements).items():
            if isinstance(value, bytes) and keyword != "PixelData":
                dataset[keyword] = _raw(keyword, value, transfer_syntax)
            elif value is not None:
                setattr(dataset, keyword, value)
        if "PixelData" not in elements:
            native = codes.astype(
                codes.dtype.newbyteorder("<" if _is_little_endian(transfer_syntax) else ">")
            ).tobytes()
            dataset.PixelData = encapsulate([frame]) if frame is not None else native + b"\0" * (len(native) % 2)
            dataset["PixelData"].VR = "OB" if frame is not None or codes.itemsize == 1 else "OW"
        buffer = BytesIO()
        # Else pydicom would convert what is given as bytes.
        correct_ambiguous_vr(dataset, _is_little_endian(transfer_syntax))
        dataset.set_original_encoding(
            _is_implicit(transfer_syntax), _is_little_endian(transfer_syntax), dataset._character_set
        )
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _raw(keyword: str, value: bytes, transfer_syntax: str) -> RawDataElement:
    tag = Tag(keyword)
    encoding = _is_implicit(transfer_syntax), _is_little_endian(transfer_syntax)
    return RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, *encoding)


def _is_implicit(transfer_syntax: str) -> bool:
    return transfer_syntax == uid.ImplicitVRLittleEndian


def _is_little_endian(transfer_syntax: str) -> bool:
    return transfer_syntax != uid.ExplicitVRBigEndian


def lookup_table(
    first: int, entries: NDArray[Any], bits: int, *, packed: bool = False, big_endian: bool = False
) -> Any:
    """The one item of a LUT sequence; `packed` puts two entries of 8 bits into a word."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 2**16, first, bits])
    words = np.frombuffer(entries.astype(np.uint8).tobytes(), "<u2") if packed else entries.astype(np.uint16)
    item.add_new("LUTData", "OW", words.astype(">u2" if big_endian else "<u2").tobytes())
    return [item]


def jpeg_lossless(codes: NDArray[Any], bits: int, predictor: int = 1) -> bytes:
    """Lossless JPEG (ITU-T T.81 H) with one of the predictors 1 to 7."""
    values = codes.astype(np.int64)
    left, above, corner = (np.roll(values, shift, axis) for shift, axis in ((1, 1), (1, 0), ((1, 1), (0, 1))))
    predicted = {
        1: left,
        2: above,
        3: corner,
        4: left + above - corner,
        5: left + ((above - corner) >> 1),
        6: above + ((left - corner) >> 1),
        7: (left + above) >> 1,
    }[predictor].copy()
    predicted[0], predicted[:, 0] = left[0], above[:, 0]
    predicted[0, 0] = 2 ** (bits - 1)
    differences = (values - predicted + 2**15) % 2**16 - 2**15
    pieces = (piece for difference in differences.ravel().tolist() for piece in _lossless_pieces(difference))
    return _jpeg(0xC3, codes.shape, bits, [(0x00, range(17), 5)], predictor, 0, pieces)


def _lossless_pieces(difference: int) -> Iterator[tuple[int, int]]:
    size = abs(difference).bit_length()
    yield size, 5
    # H.1.2.2: -32768 is its category alone.
    if 0 < size < 16:
        yield _additional(difference, size)


def jpeg_dct(codes: NDArray[Any], bits: int) -> bytes:
    """Sequential DCT JPEG (ITU-T T.81 F) of up to 12 bits, with all quantisers 1; sides are multiples of 8."""
    height, width = codes.shape
    blocks = (codes.astype(np.float64) - 2 ** (bits - 1)).reshape(height // 8, 8, width // 8, 8).swapaxes(1, 2)
    coefficients = np.rint(dctn(blocks, axes=(2, 3), norm="ortho")).astype(np.int64)
    # Along the diagonals, up the even ones and down the odd ones.
    zigzag = sorted(np.ndindex(8, 8), key=lambda at: (sum(at), at[0] if sum(at) % 2 else at[1]))
    rows, columns = np.transpose(zigzag)
    scanned = coefficients[..., rows, columns].reshape(-1, 64).tolist()
    symbols = [run * 16 + size for run in range(16) for size in range(1, 15)] + [0x00, 0xF0]
    tables = [(0x00, range(16), 5), (0x10, symbols, 8)]
    return _jpeg(0xC1, codes.shape, bits, tables, 0, 63, _dct_pieces(scanned, symbols))


def _dct_pieces(blocks: Iterable[list[int]], symbols: list[int]) -> Iterator[tuple[int, int]]:
    previous = 0
    for first, *others in blocks:
        difference, previous = first - previous, first
        size = abs(difference).bit_length()
        yield size, 5
        yield _additional(difference, size)
        run = 0
        for value in others:
            if value == 0:
                run += 1
                continue
            for _ in range(run // 16):
                yield symbols.index(0xF0), 8
            size = abs(value).bit_length()
            yield symbols.index(run % 16 * 16 + size), 8
            yield _additional(value, size)
            run = 0
        if run:
            yield symbols.index(0x00), 8


def _additional(value: int, size: int) -> tuple[int, int]:
    """The bits that tell a value within its category (F.1.2.1)."""
    return (value if value >= 0 else value + 2**size - 1), size


def _jpeg(
    start: int,
    shape: tuple[int, ...],
    bits: int,
    tables: Sequence[tuple[int, Iterable[int], int]],
    first: int,
    last: int,
    pieces: Iterable[tuple[int, int]],
) -> bytes:
    """One component; each table gives its symbols codes of one length, in their order."""

    def segment(marker: int, content: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content

    digits = "".join(format(value, f"0{length}b") if length else "" for value, length in pieces)
    digits += "1" * (-len(digits) % 8)
    data = int(digits, 2).to_bytes(len(digits) // 8, "big").replace(b"\xff", b"\xff\0")
    parts = [b"\xff\xd8"]
    if start != 0xC3:
        parts.append(segment(0xDB, b"\0" + b"\1" * 64))
    parts.append(segment(start, struct.pack(">BHHBBBB", bits, *shape, 1, 1, 0x11, 0)))
    for name, symbols, length in tables:
        values = bytes(symbols)
        counts = bytes(len(values) if each == length else 0 for each in range(1, 17))
        parts.append(segment(0xC4, bytes([name]) + counts + values))
    parts += [segment(0xDA, bytes([1, 1, 0, first, last, 0])), data, b"\xff\xd9"]
    return b"".join(parts)
