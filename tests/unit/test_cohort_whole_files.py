"""Files whose data end before their pixels are refused, whatever a decoder would fill in; whole files never are."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pydicom import uid

from cxrdist.cohort.decode import Preprocessing, decode_grey
from cxrdist.cohort.dicom import decode_dicom
from cxrdist.cohort.files import LIMITS
from cxrdist.errors import ImageError
from tests.unit.dicom_examples import codes_of, dicom_file

SIZE = 200
END = b"\xff\xd9"


def radiograph(size=SIZE, seed=0):
    """A smooth picture with noise, of which each part has its own pixels."""
    noise = np.random.default_rng(seed).integers(0, 40, (size, size))
    return Image.fromarray((codes_of((size, size), 8, seed) * 0.8 + noise).astype(np.uint8))


def flat(size=SIZE):
    return Image.new("L", (size, size), 0)


def jpeg(image, **options):
    buffer = BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def png(image, **options):
    buffer = BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def decoded(data, size=SIZE):
    return decode_grey(data, Preprocessing(size))


def start_of_scan(data):
    return data.rindex(b"\xff\xda") + 14


KINDS: dict[str, dict[str, Any]] = {
    "grey": {},
    "fine": {"quality": 98},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
}
COLOURS: dict[str, dict[str, Any]] = {
    "colour": {},
    "colour 4:2:0": {"subsampling": 2},
    "progressive colour": {"progressive": True},
}
JPEGS = {name: jpeg(radiograph(), **options) for name, options in KINDS.items()} | {
    name: jpeg(Image.merge("RGB", [radiograph(seed=seed) for seed in range(3)]), **options)
    for name, options in COLOURS.items()
}


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.97])
def test_a_jpeg_that_was_cut_and_closed_is_refused(name, share):
    data = JPEGS[name]
    first = data.index(b"\xff\xda") + 14
    kept = data[: first + int(share * (len(data) - first))]
    for closed in (kept, kept + END, kept + bytes(500), kept + bytes(500) + END, kept.rstrip(b"\xff") + END + bytes(9)):
        with pytest.raises(ImageError, match=r"^is (truncated|damaged)"):
            decoded(closed)


@pytest.mark.parametrize("name", JPEGS)
def test_a_whole_jpeg_decodes_as_in_pillow_whatever_follows_it(name):
    data = JPEGS[name]
    expected = np.asarray(Image.open(BytesIO(data)).convert("L"))
    for whole in (data, data + bytes(700), data + b"a comment", data + data, data[:-2] + b"\xff" * 5 + END):
        np.testing.assert_array_equal(decoded(whole), expected)


@settings(max_examples=60)
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    quality=st.sampled_from([5, 50, 90, 100]),
    progressive=st.booleans(),
    optimize=st.booleans(),
    subsampling=st.sampled_from([None, 0, 1, 2]),
    level=st.sampled_from([None, 0, 77, 128, 255]),
    seed=st.integers(0, 9),
)
def test_no_whole_jpeg_is_refused(width, height, quality, progressive, optimize, subsampling, level, seed):
    image = radiograph(70, seed).crop((0, 0, width, height))
    if level is not None:
        image = Image.new("L", (width, height), level)
    if subsampling is not None:
        image = Image.merge("RGB", [image, ImageOps.invert(image), image])
    options = {} if subsampling is None else {"subsampling": subsampling}
    data = jpeg(image, quality=quality, progressive=progressive, optimize=optimize, **options)
    expected = np.asarray(Image.open(BytesIO(data)).convert("L").resize((70, 70), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decoded(data, 70), expected)


def test_a_flat_jpeg_whose_data_are_zeros_is_no_damage():
    data = jpeg(flat(600), optimize=True)
    assert bytes(64) in data
    assert not decoded(data, 600).any()


@pytest.mark.parametrize("name", ["grey", "fine", "restarts", "colour"])
@pytest.mark.parametrize("place", [0.05, 0.4, 0.8])
@pytest.mark.parametrize("length", [64, 512])
def test_a_jpeg_with_a_hole_of_zeros_is_refused(name, place, length):
    data = bytearray(JPEGS[name])
    first = start_of_scan(data)
    at = first + int(place * (len(data) - first))
    data[at : at + length] = bytes(length)
    with pytest.raises(ImageError, match=r"^is (truncated|damaged)"):
        decoded(bytes(data[:-2]) + END)


def test_bytes_that_a_jpeg_has_too_many_are_damage_unless_they_pad():
    data = JPEGS["grey"]
    rubbish = bytes(range(1, 200))
    with pytest.raises(ImageError, match=r"^is damaged within its pixels: it has more data"):
        decoded(data[:-2] + rubbish + END)
    for padding in (bytes(300), rubbish[:9]):
        np.testing.assert_array_equal(decoded(data[:-2] + padding + END), decoded(data))


def test_a_progressive_jpeg_without_its_last_scan_is_refused():
    data = JPEGS["progressive"]
    at = len(data)
    for _ in range(2):
        at = data.rindex(b"\xff\xda", 0, at)
        # What precedes the scan, tables of its codes, does no harm.
        with pytest.raises(ImageError, match=r"^is truncated: it lacks scans"):
            decoded(data[:at] + END)


def test_how_many_rows_of_a_jpeg_are_missing_is_said():
    data = JPEGS["grey"]
    with pytest.raises(ImageError) as error:
        decoded(data[: len(data) // 2] + END)
    count = int(str(error.value).split(" of its 200 rows are missing")[0].split()[-1])
    assert 80 < count < 130


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_jpeg_frame_of_dicom_that_was_cut_and_closed_is_refused(share):
    frame = JPEGS["grey"]
    codes = np.asarray(radiograph())
    options = {"transfer_syntax": uid.JPEGBaseline8Bit}
    whole = decode_dicom(dicom_file(codes, 8, frame=frame, **options), LIMITS)
    assert whole.shape == (SIZE, SIZE)
    first = start_of_scan(frame)
    kept = frame[: first + int(share * (len(frame) - first))]
    for cut, reason in ((kept + END, "is truncated or damaged within its pixels: "), (kept, "is truncated: ")):
        with pytest.raises(ImageError, match=f"^{reason}about"):
            decode_dicom(dicom_file(codes, 8, frame=cut, **options), LIMITS)


def with_rows(data, kept):
    """The PNG with the first bytes of its pixels alone, in a compressed stream that is whole."""
    at, chunks, pixels = 8, [], b""
    while at < len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if kind == b"IDAT":
            pixels += content
        else:
            chunks.append((kind, content))
        at += 12 + length
    there = zlib.decompress(pixels)
    chunks.insert(-1, (b"IDAT", zlib.compress(there[: int(kept * len(there))])))
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


PNGS = {
    "grey": png(radiograph()),
    "black": png(flat()),
    "77": png(Image.new("L", (SIZE, SIZE), 77)),
    "16 bits": png(Image.fromarray(codes_of((SIZE, SIZE), 12))),
    "1 bit": png(radiograph().convert("1")),
    "white, 1 bit": png(flat().point(lambda _: 255).convert("1")),
    "colour": png(Image.merge("RGB", [radiograph()] * 3)),
    "opacity": png(Image.merge("LA", [radiograph(), flat().point(lambda _: 255)])),
    "palette": png(radiograph().quantize(32)),
}


@pytest.mark.parametrize("name", PNGS)
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_png_without_all_its_rows_is_refused(name, kept):
    with pytest.raises(ImageError, match=r"^is truncated or damaged: its data end too early|^is truncated: "):
        decoded(with_rows(PNGS[name], kept))


@pytest.mark.parametrize("name", PNGS)
def test_a_whole_png_decodes_as_in_pillow(name):
    data = with_rows(PNGS[name], 1.0)
    if name == "16 bits":
        expected = np.rint(codes_of((SIZE, SIZE), 12) / 4095 * 255)
    else:
        expected = np.asarray(Image.open(BytesIO(data)).convert("L"))
    np.testing.assert_array_equal(decoded(data), expected)


def interlaced(pixels):
    """A PNG [H, W] uint8 in Adam7's seven passes."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [pixels[top::step_y, left::step_x] for top, left, step_y, step_x in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    height, width = pixels.shape
    chunks = [
        (b"IHDR", struct.pack(">2L5B", width, height, 8, 0, 0, 0, 1)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (4, 3), (7, 8), (33, 50)])
def test_an_interlaced_png_is_whole_with_all_its_passes_only(shape):
    pixels = codes_of((50, 50), 8)[: shape[0], : shape[1]]
    data = interlaced(np.ascontiguousarray(pixels))
    expected = Image.fromarray(pixels).resize((50, 50), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decoded(data, 50), np.asarray(expected))
    with pytest.raises(ImageError, match=r"^is truncated or damaged: its data end too early|^is truncated: "):
        decoded(with_rows(data, 0.9), 50)
