"""What is lung in a mask file: however a mask was saved, both lungs are found, and what is no mask is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cxrdist.cohort.decode import read_lungs
from cxrdist.cohort.files import LIMITS
from cxrdist.cohort.mask_values import lung_pixels
from cxrdist.errors import ImageError

SIDE = 96


def lungs():
    """[SIDE, SIDE] of 0 outside, 1 the left and 2 the right part."""
    labels = np.zeros((SIDE, SIDE), dtype=np.uint8)
    y, x = np.mgrid[:SIDE, :SIDE]
    labels[(x - 30) ** 2 / 14**2 + (y - 50) ** 2 / 32**2 < 1] = 1
    labels[(x - 66) ** 2 / 15**2 + (y - 48) ** 2 / 34**2 < 1] = 2
    return labels


LABELS = lungs()


def saved_as_jpeg(image, quality=75):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def coloured(*colours):
    return np.array(colours, dtype=np.uint8)[LABELS]


def palette(*colours):
    image = Image.fromarray(LABELS).convert("P")
    image.putpalette([part for colour in colours for part in colour])
    return image


BLACK, WHITE, RED, GREEN, BLUE = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)


@given(
    st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255)).filter(
        lambda levels: levels[0] < min(levels[1:])
    )
)
def test_any_value_that_is_not_the_darkest_is_lung(levels):
    image = Image.fromarray(np.array(levels, dtype=np.uint8)[LABELS])
    np.testing.assert_array_equal(lung_pixels(image), LABELS > 0)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(LABELS > 0),
        Image.fromarray(LABELS.astype(np.uint16)),
        Image.fromarray((LABELS > 0).astype(np.uint16) * 65535),
        Image.fromarray(LABELS.astype(np.int32)),
        Image.fromarray(LABELS.astype(np.float32) / 2),
        Image.fromarray(coloured(BLACK, RED, GREEN)),
        Image.fromarray(coloured(BLACK, BLUE, BLUE)),
        Image.fromarray(coloured(BLACK, (128, 0, 0), (0, 128, 0))),
        Image.fromarray(coloured((*BLACK, 0), (*BLACK, 255), (*BLACK, 255))),
        Image.fromarray(coloured((*WHITE, 0), (*WHITE, 255), (*WHITE, 255))),
        Image.fromarray(coloured((9, 80, 7, 0), (*RED, 128), (*GREEN, 128))),
        Image.fromarray(np.stack([np.full_like(LABELS, 255), LABELS * 127], axis=2), "LA"),
        palette(BLACK, WHITE, WHITE),
        palette(BLACK, (128, 0, 0), (0, 128, 0)),
    ],
    ids=[
        *("one bit", "16 bits, labels", "16 bits, white", "32 bits", "floats", "red and green", "blue", "VOC colours"),
        *("black with alpha", "white with alpha", "colours with alpha", "grey with alpha", "palette", "VOC palette"),
    ],
)
def test_masks_of_all_modes_mark_both_lungs(image):
    np.testing.assert_array_equal(lung_pixels(image), LABELS > 0)


def png_of_16_bits(samples):
    """A PNG of samples [h, w, channels], which Pillow cannot write: grey with alpha, colour, or both."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("factors", [(1, 1, 1), (1, None), (1, 1, 1, None), (0, 9000)])
def test_masks_of_16_bits_in_colour_or_with_alpha_mark_both_lungs(factors):
    opaque = np.full_like(LABELS, 65535, dtype=np.uint16)
    planes = [opaque if factor is None else LABELS.astype(np.uint16) * factor for factor in factors]
    np.testing.assert_array_equal(read_lungs(png_of_16_bits(np.dstack(planes)), LIMITS), LABELS > 0)


@pytest.mark.parametrize("quality", [75, 90])
@pytest.mark.parametrize("levels", [(0, 255, 255), (0, 1, 1), (0, 100, 100), (0, 127, 255)])
def test_what_jpeg_adds_between_two_values_goes_to_the_nearer_one(levels, quality):
    mask = lung_pixels(saved_as_jpeg(Image.fromarray(np.array(levels, dtype=np.uint8)[LABELS]), quality))
    wanted = LABELS > 0
    assert (mask & wanted).sum() / (mask | wanted).sum() > 0.85


def test_a_colour_mask_saved_as_jpeg_marks_both_lungs():
    mask = lung_pixels(saved_as_jpeg(Image.fromarray(coloured(BLACK, RED, GREEN)), 90))
    wanted = LABELS > 0
    assert (mask & wanted).sum() / (mask | wanted).sum() > 0.85


@pytest.mark.parametrize("side", [40, 61, 333])
def test_a_mask_with_soft_borders_is_cut_in_the_middle(side):
    soft = Image.fromarray((LABELS > 0) * np.uint8(255)).resize((side, side), Image.Resampling.BILINEAR)
    assert len(np.unique(np.asarray(soft))) > 3
    np.testing.assert_array_equal(lung_pixels(soft), np.asarray(soft) >= 128)


def test_a_third_structure_is_refused_with_its_values():
    labels = LABELS.copy()
    labels[40:60, 44:54] = 3
    with pytest.raises(ImageError, match=r"has 4 values \(0, 1, 2, 3\), but a lung mask has one for what is outside"):
        lung_pixels(Image.fromarray(labels))
    colours = np.array([BLACK, RED, GREEN, BLUE], dtype=np.uint8)[labels]
    with pytest.raises(ImageError, match="#000000, #0000ff, #00ff00, #ff0000"):
        lung_pixels(Image.fromarray(colours))
    labels[:, 0] = 200
    with pytest.raises(ImageError, match=r"has 5 values \(0, 1, 2, 3, 200\)"):
        lung_pixels(Image.fromarray(labels))


@pytest.mark.parametrize("smooth", [False, True])
def test_a_picture_is_no_mask(smooth):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    if smooth:
        picture = np.add.outer(np.arange(SIDE), np.arange(SIDE)).astype(np.uint8)
    with pytest.raises(ImageError, match=r"has \d+ values \("):
        lung_pixels(Image.fromarray(picture))


def test_one_value_marks_nothing_if_it_is_zero_and_is_refused_else():
    assert not lung_pixels(Image.new("L", (9, 9), 0)).any()
    with pytest.raises(ImageError, match=r"has one value everywhere \(255\): what is outside must differ"):
        lung_pixels(Image.new("L", (9, 9), 255))


def test_a_mask_with_pixels_that_are_not_finite_is_refused():
    with pytest.raises(ImageError, match="not finite"):
        lung_pixels(Image.fromarray(np.array([[0, np.nan]], dtype=np.float32)))
