"""Decoding: every format against Pillow, masks on the same pixels as images, and bad files always explained."""

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from cxrdist.cohort.decode import Limits, Preprocessing, decode_grey, decode_image, decode_mask, read_image_file
from cxrdist.errors import ImageError
from tests.unit.dicom_examples import codes_of, dicom_file

ORIGINALS = Path(__file__).resolve().parents[2] / ".." / "shared" / "cxr" / "originals"
MASK_CASES = ORIGINALS.parents[1] / "cases" / "masks"
BILINEAR = Image.Resampling.BILINEAR
STRETCH = Preprocessing(32)
NATIVE = Preprocessing(48)
"""The size of `grey()`, at which nothing is resized."""


def grey(width=48, height=48, seed=0):
    """A smooth, asymmetric picture of all grey levels."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 5), dtype=np.uint8)
    return ImageOps.autocontrast(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def colour(**size):
    return Image.merge("RGB", [grey(**size, seed=seed) for seed in (1, 2, 3)])


def encoded(image, file_format="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def rotated(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png_header(width, height, bit_depth=8, idat=b"\0", colour_type=0):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(idat)) + chunk(b"IEND", b"")


def through_pillow(data, size=32):
    return np.asarray(Image.open(BytesIO(data)).convert("RGB").convert("L").resize((size, size), BILINEAR))


@pytest.mark.parametrize(
    "data",
    [
        encoded(grey(70, 45)),
        encoded(colour(width=70, height=45)),
        encoded(grey(70, 45), "JPEG", quality=90),
        encoded(colour(width=70, height=45), "JPEG", progressive=True),
        encoded(colour(width=70, height=45).convert("CMYK"), "JPEG"),
        encoded(colour(width=70, height=45), "WEBP"),
        encoded(colour(width=70, height=45), "WEBP", lossless=True),
        encoded(colour(width=70, height=45).quantize(32)),
        encoded(grey(70, 45).convert("1")),
        encoded(grey(20, 10)),
        encoded(grey(32, 32)),
    ],
    ids=[
        "L",
        "RGB",
        "JPEG-L",
        "JPEG-RGB",
        "CMYK",
        "WebP",
        "WebP-lossless",
        "palette",
        "1-bit",
        "enlarged",
        "same-size",
    ],
)
def test_opaque_images_decode_as_in_pillow(data):
    decoded = decode_grey(data, STRETCH)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, through_pillow(data))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_become_black(mode):
    alpha = grey(seed=9)
    if mode == "P":
        image = colour().quantize(32)
        data = encoded(image, transparency=bytes(range(0, 256, 8)))
    else:
        image = colour().convert(mode)
        image.putalpha(alpha)
        data = encoded(image)
    red, green, blue, opacity = np.moveaxis(np.asarray(Image.open(BytesIO(data)).convert("RGBA"), dtype=float), -1, 0)
    assert opacity.min() < 128
    on_black = (0.299 * red + 0.587 * green + 0.114 * blue) * opacity / 255
    # Pillow rounds the luma to the nearest level and its product with the opacity down.
    np.testing.assert_allclose(decode_grey(data, NATIVE), on_black, atol=1.5)


def test_one_transparent_level_of_a_grey_image_becomes_black():
    levels = Image.fromarray(np.repeat(np.array([[10, 200]], dtype=np.uint8), 48, axis=0).repeat(24, axis=1))
    decoded = decode_grey(encoded(levels, transparency=200), NATIVE)
    assert set(np.unique(decoded)) == {0, 10}


def test_full_opacity_changes_nothing():
    opaque = colour().convert("RGBA")
    np.testing.assert_array_equal(decode_grey(encoded(opaque), NATIVE), decode_grey(encoded(colour()), NATIVE))


def test_16_bit_grey_fills_the_range_whatever_its_depth():
    deep = np.asarray(grey()).astype(np.uint16)
    for values in (deep * 16, deep * 257, deep + 1000):
        np.testing.assert_array_equal(decode_grey(encoded(Image.fromarray(values)), NATIVE), np.asarray(grey()))


def png_of_16_bits(samples):
    """[H, W] or [H, W, channels] uint16; each row is filtered by another of the five filters."""
    height, width, channels = samples.shape
    lines = samples.astype(">u2").view(np.uint8).reshape(height, -1).astype(np.int64)
    step = 2 * channels
    left, above = np.zeros_like(lines), np.zeros_like(lines)
    left[:, step:], above[1:] = lines[:, :-step], lines[:-1]
    corner = np.zeros_like(lines)
    corner[1:, step:] = lines[:-1, :-step]
    guess = left + above - corner
    distances = np.abs(np.stack([guess - left, guess - above, guess - corner]))
    paeth = np.choose(distances.argmin(axis=0), [left, above, corner])
    predicted = np.stack([np.zeros_like(lines), left, above, (left + above) // 2, paeth])
    rows = b"".join(
        bytes([y % 5]) + ((lines[y] - predicted[y % 5, y]) % 256).astype(np.uint8).tobytes() for y in range(height)
    )
    return png_header(width, height, 16, rows, colour_type={1: 0, 2: 4, 3: 2, 4: 6}[channels])


@pytest.mark.parametrize("highest", [1023, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_grey_is_the_same_however_many_channels_it_is_written_in(channels, highest):
    values = np.rint(np.asarray(grey()) / 255 * highest).astype(np.uint16)
    samples = np.repeat(values[..., None], channels, axis=2)
    if channels in (2, 4):
        samples[..., -1] = 65535
    reference = np.rint(values / highest * 255)
    np.testing.assert_array_equal(decode_grey(png_of_16_bits(samples), NATIVE), reference)


def test_16_bit_colour_becomes_luma_and_what_is_transparent_does_not_count():
    red, green, blue = (np.asarray(grey(seed=seed)).astype(np.uint16) * 16 for seed in (1, 2, 3))
    opacity = np.full((48, 48), 65535, dtype=np.uint16)
    opacity[:9] = 0
    opacity[9:14] = 40_000
    red[:9] = 65535
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    visible = luma[9:]
    on_black = (luma - visible.min()) / np.ptp(visible) * 255 * opacity / 65535
    decoded = decode_grey(png_of_16_bits(np.stack([red, green, blue, opacity], axis=-1)), NATIVE)
    # As with 8 bits, the product with the opacity is rounded down.
    np.testing.assert_allclose(decoded, on_black, atol=1.5)
    assert not decoded[:9].any()
    assert decoded[14:].max() - decoded[14:].min() > 200


def test_16_bits_wholly_transparent_are_black():
    assert not decode_grey(png_of_16_bits(np.dstack([codes_of((48, 48)), np.zeros((48, 48), np.uint16)])), NATIVE).any()


@pytest.mark.parametrize("value", [0, 77, 255])
def test_a_constant_image_is_valid(value):
    assert set(np.unique(decode_grey(encoded(Image.new("L", (9, 5), value)), STRETCH))) == {value}


def test_a_constant_16_bit_image_is_valid():
    assert not decode_grey(encoded(Image.fromarray(np.full((9, 5), 4000, dtype=np.uint16))), STRETCH).any()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_orientation_is_applied(orientation, file_format):
    data = encoded(grey(70, 45), file_format, exif=rotated(orientation))
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    assert (upright.size == (45, 70)) == (orientation >= 5)
    np.testing.assert_array_equal(decode_grey(data, STRETCH), through_pillow(encoded(upright)))
    assert decode_image(data, STRETCH, Limits())[1] == upright.size


@pytest.mark.parametrize(("width", "height"), [(70, 45), (45, 70), (31, 100), (1, 9)])
def test_padding_puts_the_image_in_the_middle_of_a_black_square(width, height):
    side = max(width, height)
    padded = np.zeros((side, side), dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    padded[top : top + height, left : left + width] = np.asarray(grey(width, height))
    reference = np.asarray(Image.fromarray(padded).resize((32, 32), BILINEAR))
    np.testing.assert_array_equal(decode_grey(encoded(grey(width, height)), Preprocessing(32, "pad")), reference)


def test_equalisation_is_opencvs_and_the_same_every_time():
    data = encoded(grey(64, 64).point(lambda level: 60 + level // 4))
    plain = decode_grey(data, Preprocessing(64))
    clahe = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8))
    for preprocessing, reference in [
        (Preprocessing(64, equalize="histogram"), cv2.equalizeHist(plain)),
        (Preprocessing(64, equalize="clahe"), clahe.apply(plain)),
    ]:
        for _ in range(3):
            np.testing.assert_array_equal(decode_grey(data, preprocessing), reference)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"A note about the patient.", "is not an image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer, not an image"),
        (encoded(grey(), "GIF"), "is GIF, which is not decoded; save it as PNG"),
        (encoded(grey(), "BMP"), "is BMP, which is not decoded"),
        (encoded(grey(), "JPEG2000"), "is JPEG 2000, which is not decoded"),
        (encoded(grey(), "JPEG2000", no_jp2=True), "is JPEG 2000, which is not decoded"),
        (b"%PDF-1.7\n", "is a PDF, not an image"),
        (dicom_file()[132:], "looks like DICOM without its first 132 bytes"),
        (encoded(grey(200, 200), "JPEG")[:900], "is truncated: "),
        (encoded(grey(200, 200))[:900], "is truncated: "),
        (encoded(colour(width=200, height=200), "WEBP")[:200], "is damaged: "),
        (b"\x89PNG\r\n\x1a\n", "is damaged: "),
        (b"\xff\xd8\xff", "is damaged: "),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "is damaged: "),
        (png_header(60_000, 60_000), "has 60000 x 60000 pixels, more than the limit of 100,000,000"),
        (png_header(0, 5), "is damaged: "),
        (encoded(Image.new("1", (11_000, 11_000))), "has 11000 x 11000 pixels, more than the limit"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[:24],
)
def test_a_bad_file_is_refused_with_a_reason(data, reason):
    with pytest.raises(ImageError, match=f"^{reason}"):
        decode_grey(data, STRETCH)


def test_limits_are_obeyed():
    data = encoded(grey(200, 100))
    with pytest.raises(ImageError, match=r"has [\d,]+ bytes, more than the limit of 50"):
        decode_grey(data, STRETCH, Limits(max_bytes=50))
    with pytest.raises(ImageError, match="has 200 x 100 pixels, more than the limit of 19,999"):
        decode_grey(data, STRETCH, Limits(max_pixels=19_999))
    assert decode_grey(data, STRETCH, Limits(max_pixels=20_000)).shape == (32, 32)


def test_padding_cannot_be_used_as_a_bomb():
    with pytest.raises(ImageError, match="would, padded to a square, have 200 x 200 pixels"):
        decode_grey(encoded(grey(200, 1)), Preprocessing(32, "pad"), Limits(max_pixels=1000))


def test_decoding_leaves_pillows_settings_alone():
    before = Image.MAX_IMAGE_PIXELS
    decode_grey(encoded(grey()), STRETCH)
    with pytest.raises(ImageError):
        decode_grey(png_header(60_000, 60_000), STRETCH)
    assert before == Image.MAX_IMAGE_PIXELS
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(2, 90),
    height=st.integers(2, 90),
    orientation=st.integers(1, 8),
    resize=st.sampled_from(["stretch", "pad"]),
    mask_is_upright=st.booleans(),
    inside=st.sampled_from([1, 255]),
    seed=st.integers(0, 5),
)
def test_a_mask_lands_on_the_pixels_of_its_image(width, height, orientation, resize, mask_is_upright, inside, seed):
    drawing = grey(width, height, seed).point(lambda level: 255 if level >= 128 else 0)
    # Neither nothing, nor all four corners, is lung.
    drawing.putpixel((0, 0), 0)
    drawing.putpixel((width - 1, height - 1), 255)
    preprocessing = Preprocessing(32, resize)
    image, size = decode_image(encoded(drawing, exif=rotated(orientation)), preprocessing, Limits())
    mask = drawing.point(lambda level: inside if level else 0)
    if mask_is_upright:
        # Drawn by a program that showed the image upright, and saved without EXIF.
        data = encoded(ImageOps.exif_transpose(Image.open(BytesIO(encoded(mask, exif=rotated(orientation))))))
    else:
        data = encoded(mask, exif=rotated(orientation))
    if not (image >= 128).any():
        with pytest.raises(ImageError, match="marks no pixel as lung"):
            decode_mask(data, preprocessing, Limits(), size)
    else:
        decoded = decode_mask(data, preprocessing, Limits(), size)
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, image >= 128)


def test_each_lung_may_have_a_label_of_its_own():
    values = np.repeat(np.array([[0, 127, 255]], dtype=np.uint8), 48, axis=0).repeat(16, axis=1)
    mask = decode_mask(encoded(Image.fromarray(values)), NATIVE, Limits(), (48, 48))
    np.testing.assert_array_equal(mask, values > 0)


@pytest.mark.parametrize(
    ("size", "fits"), [((100, 100), True), ((500, 508), True), ((500, 515), False), ((5, 9), False)]
)
def test_a_mask_of_another_aspect_ratio_is_refused(size, fits):
    mask = Image.new("L", size, 255)
    mask.paste(0, (0, 0, size[0] // 2, size[1]))
    data = encoded(mask)
    if fits:
        assert decode_mask(data, STRETCH, Limits(), (1000, 1000)).mean() == pytest.approx(0.5, abs=0.1)
    else:
        with pytest.raises(ImageError, match=f"has {size[0]} x {size[1]} pixels, another aspect ratio"):
            decode_mask(data, STRETCH, Limits(), (1000, 1000))


def test_a_mask_without_lung_is_refused():
    with pytest.raises(ImageError, match="marks no pixel as lung"):
        decode_mask(encoded(Image.new("L", (9, 9), 0)), STRETCH, Limits(), None)
    with pytest.raises(ImageError, match=r"has one value everywhere \(127\)"):
        decode_mask(encoded(Image.new("L", (9, 9), 127)), STRETCH, Limits(), None)


def test_an_inverted_mask_is_refused_as_one():
    mask = Image.new("L", (90, 90), 0)
    mask.paste(255, (20, 10, 70, 80))
    assert decode_mask(encoded(mask), NATIVE, Limits(), (90, 90)).mean() == pytest.approx(50 * 70 / 90**2, abs=0.01)
    with pytest.raises(ImageError, match="marks all four corners of the image as lung, as an inverted mask does"):
        decode_mask(encoded(ImageOps.invert(mask)), NATIVE, Limits(), (90, 90))


def test_files_are_read_from_below_the_root_only(tmp_path):
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "a.png").write_bytes(b"abc")
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to("loop")
    (root / "inner").symlink_to("a.png")
    os.mkfifo(root / "pipe")
    assert read_image_file(root, "a.png") == b"abc"
    assert read_image_file(root, "inner") == b"abc"
    for path, reason in [
        ("gone.png", "is missing"),
        ("folder", "(cannot be read|is not a regular file)"),
        ("pipe", "is not a regular file"),
        ("link", "leads out of the image folder"),
        ("out/secret", "leads out of the image folder"),
        ("../secret", "leads out of the image folder"),
        (str(tmp_path / "secret"), "leads out of the image folder"),
        ("loop", "(cannot be read|is missing)"),
        ("a.png/b", "cannot be read: Not a directory"),
        ("a\0b", "cannot be read"),
    ]:
        with pytest.raises(ImageError, match=f"^{reason}"):
            read_image_file(root, path)
    with pytest.raises(ImageError, match="has 3 bytes, more than the limit of 2"):
        read_image_file(root, "a.png", Limits(max_bytes=2))


VALID = [
    encoded(grey(40, 30)),
    encoded(colour(width=40, height=30).quantize(16), transparency=3),
    encoded(grey(40, 30), "JPEG", exif=rotated(6)),
    encoded(colour(width=40, height=30), "JPEG", progressive=True),
    encoded(colour(width=40, height=30), "WEBP", exif=rotated(6)),
    encoded(grey(40, 30), "TIFF"),
    encoded(Image.fromarray(codes_of((30, 40))), "TIFF", compression="tiff_lzw"),
    png_of_16_bits(np.dstack([codes_of((30, 40))] * 2)),
    png_of_16_bits(np.dstack([codes_of((30, 40))] * 4)),
]


@st.composite
def damaged(draw):
    data = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.integers(0, 6))] = draw(st.binary(max_size=6))
    return bytes(data)


@st.composite
def beginning_well(draw):
    return draw(st.sampled_from(VALID))[:12] + draw(st.binary(max_size=60))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(max_size=200) | beginning_well() | damaged())
def test_whatever_a_file_holds_it_decodes_or_is_refused(data):
    preprocessing, limits = Preprocessing(16, "pad"), Limits(max_pixels=1_000_000)
    for decode in (
        lambda: decode_grey(data, preprocessing, limits),
        lambda: decode_mask(data, preprocessing, limits, expected_size=None),
    ):
        try:
            decoded = decode()
        except ImageError as error:
            assert str(error)
        else:
            assert decoded.shape == (16, 16)


@pytest.mark.real_data
@pytest.mark.skipif(not ORIGINALS.is_dir(), reason="the shared folder of real chest X-rays is absent")
def test_odd_real_files_decode_or_are_refused():
    refused = {}
    for path in sorted(ORIGINALS.iterdir()):
        try:
            decoded = decode_grey(read_image_file(ORIGINALS, path.name), Preprocessing(64))
        except ImageError as error:
            refused[path.suffix] = str(error)
        else:
            assert 20 < decoded.mean() < 235, path.name
            assert decoded.std() > 10, path.name
    assert refused == {
        "": "is not an image (JPEG, PNG, TIFF, WebP or DICOM)",
        ".png": "is a Git LFS pointer, not an image",
    }


@pytest.mark.real_data
@pytest.mark.skipif(not MASK_CASES.is_dir(), reason="the shared folder of masks of all kinds is absent")
def test_masks_as_people_save_them_mark_both_lungs_or_are_refused():
    size = (256, 259)
    wanted = decode_mask(read_image_file(MASK_CASES, "m255.png"), Preprocessing(128), Limits(), size)
    refused = {}
    for path in sorted(MASK_CASES.iterdir()):
        try:
            mask = decode_mask(read_image_file(MASK_CASES, path.name), Preprocessing(128), Limits(), size)
        except ImageError as error:
            refused[path.stem] = str(error)
        else:
            assert (mask & wanted).sum() > 0.94 * (mask | wanted).sum(), path.name
    assert refused == {
        "m_black": "marks no pixel as lung",
        "m_other_aspect": "has 256 x 194 pixels, another aspect ratio than its image with 256 x 259",
        "m_transposed": "has 259 x 256 pixels, another aspect ratio than its image with 256 x 259",
        "m_white": "has one value everywhere (255): what is outside must differ",
    }
