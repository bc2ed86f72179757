"""TIFF of grey against its own pixels; other kinds and hostile directories are refused before anything is decoded."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxrdist.cohort.decode import Limits, Preprocessing, decode_grey, decode_image, image_size
from cxrdist.cohort.files import LIMITS
from cxrdist.errors import ImageError
from tests.unit.dicom_examples import codes_of

SIDE = 48


def tiff(codes, **options):
    buffer = BytesIO()
    Image.fromarray(codes).save(buffer, "TIFF", **options)
    return buffer.getvalue()


def written(codes, order="<", tile=None, rows_a_strip=7, **tags):
    """A TIFF made by hand, [H, W] uint8 or uint16, in strips or square tiles of `tile` pixels; tags by their number."""
    height, width = codes.shape
    values = codes.astype(codes.dtype.newbyteorder(order))
    if tile is None:
        pieces = [values[top : top + rows_a_strip].tobytes() for top in range(0, height, rows_a_strip)]
    else:
        padded = np.zeros((-(-height // tile) * tile, -(-width // tile) * tile), dtype=values.dtype)
        padded[:height, :width] = values
        pieces = [
            padded[top : top + tile, left : left + tile].tobytes()
            for top in range(0, height, tile)
            for left in range(0, width, tile)
        ]
    at = 8 + np.cumsum([0, *map(len, pieces)])
    places, sizes = (322, 323, 324, 325), (273, 279)
    known: dict[int, Any] = {256: [width], 257: [height], 258: [8 * codes.itemsize], 259: [1], 262: [1], 277: [1]}
    if tile is None:
        known |= {sizes[0]: at[:-1], 278: [rows_a_strip], sizes[1]: [len(piece) for piece in pieces]}
    else:
        known |= {places[0]: [tile], places[1]: [tile], places[2]: at[:-1], places[3]: [len(piece) for piece in pieces]}
    known |= {int(tag.removeprefix("tag")): value for tag, value in tags.items()}
    known = dict(sorted(known.items()))
    start = int(at[-1])
    beyond = start + 2 + 12 * len(known) + 4
    entries, extra = b"", b""
    for tag, numbers in known.items():
        packed = struct.pack(f"{order}{len(numbers)}L", *map(int, numbers))
        if len(packed) > 4:
            packed, extra = struct.pack(f"{order}L", beyond + len(extra)), extra + packed
        entries += struct.pack(f"{order}HHL", tag, 4, len(numbers)) + packed
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HL", 42, start)
    directory = struct.pack(f"{order}H", len(known)) + entries + struct.pack(f"{order}L", 0)
    return head + b"".join(pieces) + directory + extra


def decoded(data, limits=LIMITS):
    return decode_grey(data, Preprocessing(SIDE), limits)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_grey_of_8_or_16_bits_is_read_in_every_compression(compression, bits):
    codes = codes_of((SIDE, SIDE), bits)
    reference = codes if bits == 8 else np.rint(codes / (2**bits - 1) * 255)
    np.testing.assert_array_equal(decoded(tiff(codes, compression=compression)), reference)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", [{}, {"rows_a_strip": 1}, {"rows_a_strip": 1000}, {"tile": 16}, {"tile": 64}])
@pytest.mark.parametrize("bits", [8, 12])
def test_the_order_of_bytes_and_of_pieces_does_not_matter(order, layout, bits):
    codes = codes_of((SIDE, SIDE), bits)
    reference = codes if bits == 8 else np.rint(codes / 4095 * 255)
    np.testing.assert_array_equal(decoded(written(codes, order, **layout)), reference)


def test_white_as_0_is_turned_round_in_8_bits_and_refused_in_16():
    codes = codes_of((SIDE, SIDE), 8)
    np.testing.assert_array_equal(decoded(written(codes, tag262=[0])), 255 - codes)
    with pytest.raises(ImageError, match=r"^is TIFF of 16 bits in which 0 is white"):
        decoded(written(codes.astype(np.uint16), tag262=[0]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_once(orientation):
    codes = codes_of((30, 48), 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    reference = BytesIO()
    Image.fromarray(codes).save(reference, "PNG", exif=exif)
    data = written(codes, tag274=[orientation])
    np.testing.assert_array_equal(decoded(data), decoded(reference.getvalue()))
    expected = (30, 48) if orientation >= 5 else (48, 30)
    assert image_size(data, LIMITS) == decode_image(data, Preprocessing(SIDE), LIMITS)[1] == expected


def several_pages():
    buffer = BytesIO()
    pages = [Image.fromarray(codes_of((9, 9), 8, seed)) for seed in range(3)]
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    return buffer.getvalue()


CODES = codes_of((SIDE, SIDE), 8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (several_pages(), "is TIFF of several pages"),
        (tiff(np.dstack([CODES] * 3)), "is TIFF, but not of grey with 8 or 16 bits"),
        (tiff(CODES > 99), "is TIFF, but not of grey with 8 or 16 bits"),
        (tiff(CODES.astype(np.float32)), "is TIFF, but not of grey with 8 or 16 bits"),
        (tiff(CODES, compression="jpeg"), "is TIFF of the compression 7, which cannot be decoded; save it with"),
        (tiff(CODES, big_tiff=True), "is BigTIFF"),
        (written(CODES)[:50], "is truncated in its header"),
        (written(CODES, tag256=[0]), "is damaged: it has no pixels"),
        (written(CODES, tag256=[60_000], tag257=[60_000]), "has 60000 x 60000 pixels, more than the limit"),
        (written(CODES, tile=16, tag322=[60_000], tag323=[60_000]), "has tiles of 60000 x 60000 pixels, more than"),
        (written(CODES, tile=16, tag322=[0]), "is damaged: its tiles have no size"),
        (written(CODES, tag278=[3]), "is damaged: it has 7 strips or tiles, and should have 16"),
        (written(CODES, tag273=[8] * 5000), "is damaged: it has 5,000 strips or tiles, and should have 7"),
        (written(CODES, tag257=[500], tag278=[72]), "is (damaged|truncated)"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[:40],
)  # fmt: skip
def test_other_kinds_and_damaged_directories_are_refused_with_the_reason(data, reason):
    with pytest.raises(ImageError, match=f"^{reason}"):
        decoded(data)


def test_a_directory_that_says_more_than_the_file_holds_is_refused_before_it_is_read():
    entry = struct.pack("<HHLL", 270, 2, 2**20, 8)
    data = bytearray(written(CODES))
    start = struct.unpack_from("<L", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    many = bytes(data[:start]) + struct.pack("<H", count + 4000) + bytes(data[start + 2 :])
    with pytest.raises(ImageError, match=r"^is damaged: its directory holds more than the file"):
        decoded(many[: start + 2 + 12 * count] + entry * 4000 + bytes(2**20))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_what_is_missing_is_not_invented(compression):
    codes = codes_of((SIDE, SIDE), 12)
    data = tiff(codes, compression=compression)
    start = struct.unpack_from("<L", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    sizes = next(
        at for at in range(start + 2, start + 2 + 12 * count, 12) if data[at : at + 2] == struct.pack("<H", 279)
    )
    whole = struct.unpack_from("<H" if data[sizes + 2] == 3 else "<L", data, sizes + 8)[0]
    for short in (whole // 2, whole - 20):
        fewer = data[: sizes + 2] + struct.pack("<HLL", 4, 1, short) + data[sizes + 12 :]
        if compression is None:
            # The strip goes on, whatever it says.
            np.testing.assert_array_equal(decoded(fewer), decoded(data))
        else:
            with pytest.raises(ImageError, match=r"^is damaged"):
                decoded(fewer)


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_a_directory_says_it_decodes_or_is_refused(data):
    codes = codes_of((20, 24), 12)
    whole = bytearray(
        data.draw(st.sampled_from([written(codes), written(codes, ">", tile=16), tiff(codes, compression="tiff_lzw")]))
    )
    start = struct.unpack_from("<L" if whole[:2] == b"II" else ">L", whole, 4)[0]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(start, len(whole) - 1) | st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    try:
        assert decoded(bytes(whole), Limits(max_pixels=1_000_000)).shape == (SIDE, SIDE)
    except ImageError as error:
        assert str(error)
