"""Sizes of files: those that decoding tells, but from the header alone."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxrdist.cohort.decode import Limits, Preprocessing, decode_image, image_size
from cxrdist.cohort.sizes import read_sizes
from cxrdist.errors import CxrdistError, ImageError

SIZE = (70, 45)
XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def encoded(file_format, size=SIZE, **options):
    buffer = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, size[::-1], dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format=file_format, **options)
    return buffer.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def chunks(png):
    """The chunks of a PNG by kind, each with its length and checksum, in their order."""
    found, at = [], 8
    while at < len(png):
        end = at + 12 + struct.unpack(">I", png[at : at + 4])[0]
        found.append((png[at + 4 : at + 8], png[at:end]))
        at = end
    return found


def moved_behind_the_pixels(png, kind):
    """A PNG with its chunk of this kind last but for the end."""
    parts = chunks(png)
    moved = [chunk for one, chunk in parts if one == kind]
    assert len(moved) == 1
    others = [chunk for one, chunk in parts if one != kind]
    return png[:8] + b"".join([*others[:-1], *moved, others[-1]])


def with_xmp():
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP)
    return encoded("PNG", pnginfo=text)


def with_exif_as_text():
    data = exif(6).tobytes()
    text = PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(data):8}\n{data.hex()}\n")
    return encoded("PNG", pnginfo=text)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_sizes_are_those_after_orientation(orientation, file_format):
    data = encoded(file_format, exif=exif(orientation))
    assert image_size(data, Limits()) == (SIZE if orientation < 5 else SIZE[::-1])
    assert image_size(data, Limits()) == decode_image(data, Preprocessing(32), Limits())[1]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded("PNG"), SIZE),
        (with_xmp(), SIZE[::-1]),
        (with_exif_as_text(), SIZE[::-1]),
        (moved_behind_the_pixels(encoded("PNG", exif=exif(6)), b"eXIf"), SIZE[::-1]),
        (moved_behind_the_pixels(with_xmp(), b"iTXt"), SIZE[::-1]),
        (moved_behind_the_pixels(with_exif_as_text(), b"tEXt"), SIZE[::-1]),
    ],
    ids=["none", "XMP", "text", "eXIf behind", "XMP behind", "text behind"],
)
def test_the_orientation_of_a_png_is_found_wherever_it_is_told(data, expected):
    assert image_size(data, Limits()) == expected
    assert decode_image(data, Preprocessing(32), Limits())[1] == expected


@pytest.mark.parametrize("options", [{}, {"exif": exif(6)}], ids=["plain", "EXIF"])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_pixels_are_not_decoded(file_format, options):
    data = encoded(file_format, (300, 200), **options)
    cut = data[: len(data) // 2]
    with pytest.raises(ImageError, match="is truncated"):
        decode_image(cut, Preprocessing(32), Limits())
    assert image_size(cut, Limits()) == image_size(data, Limits())


@pytest.mark.parametrize(
    ("data", "limits", "reason"),
    [
        (b"", Limits(), "is empty"),
        (encoded("GIF"), Limits(), "is GIF, which is not decoded"),
        (encoded("JPEG")[:20], Limits(), "is (damaged|truncated)"),
        (encoded("PNG"), Limits(max_bytes=50), "more than the limit of 50"),
        (encoded("PNG"), Limits(max_pixels=3149), "has 70 x 45 pixels, more than the limit"),
    ],
    ids=["empty", "GIF", "cut", "bytes", "pixels"],
)
def test_a_bad_file_is_refused_as_in_decoding(data, limits, reason):
    with pytest.raises(ImageError, match=reason):
        image_size(data, limits)


def test_a_compression_bomb_is_not_unpacked():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"eXIf", exif(6).tobytes()[6:])):
        bomb += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    with pytest.raises(ImageError, match="60000 x 60000 pixels, more than the limit"):
        image_size(bomb, Limits())


def test_sizes_are_width_and_height_in_the_order_of_the_paths(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "wide.png").write_bytes(encoded("PNG", (30, 20)))
    (tmp_path / "high.jpg").write_bytes(encoded("JPEG", (30, 20), exif=exif(8)))
    sizes = read_sizes(tmp_path, ["high.jpg", "b/wide.png"])
    assert sizes.dtype == np.int64
    assert sizes.tolist() == [[20, 30], [30, 20]]
    assert read_sizes(tmp_path, []).shape == (0, 2)


def test_a_file_that_cannot_be_read_any_more_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    with pytest.raises(CxrdistError, match=r"'gone\.png' is missing, though it was decoded before"):
        read_sizes(tmp_path, ["a.png", "gone.png"])
    with pytest.raises(CxrdistError, match=r"'\.\./a\.png' leads out of the image folder"):
        read_sizes(tmp_path / ".", ["a.png", "../a.png"])
    with pytest.raises(CxrdistError, match=r"'a\.png' has .* more than the limit of 9"):
        read_sizes(tmp_path, ["a.png"], Limits(max_bytes=9))
