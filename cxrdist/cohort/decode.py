"""Image files, which nobody vouches for, as uint8 grey squares; whatever is wrong with one is an `ImageError`.

Formats are told from the first bytes, never from the name, and the number of pixels is known before any
is decoded, so that neither a renamed file nor a decompression bomb does harm.
"""

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, ImageFile, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from cxrdist.cohort.files import LIMITS, Limits, by, check_bytes, check_pixels, is_dicom, read_image_file
from cxrdist.cohort.foreign import what_else_it_is
from cxrdist.cohort.jpeg import load_jpeg
from cxrdist.cohort.mask_values import lung_pixels
from cxrdist.cohort.png import is_deep, load_png, read_deep
from cxrdist.cohort.tiff import is_tiff, open_tiff
from cxrdist.errors import ImageError

__all__ = [
    "DECODER_VERSION",
    "Equalize",
    "Limits",
    "Preprocessing",
    "decode_grey",
    "decode_image",
    "decode_mask",
    "image_size",
    "read_image_file",
    "read_lungs",
]

Equalize = Literal["none", "histogram", "clahe"]

DECODER_VERSION = 4
"""Raised whenever a file may become other pixels, or be refused, where it was not before: what was decoded is then
decoded again."""

_ASPECT_TOLERANCE = 0.02
_CLAHE_CLIP_LIMIT = 2.0
_CLAHE_TILES = (8, 8)
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
_PNG_ORIENTATION = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""What a PNG chunk that tells the orientation holds."""

# What Pillow's parsers are known to raise on damaged files; its own errors derive from OSError and ValueError.
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class Preprocessing:
    """How a file becomes a grey square of `size` pixels a side (see `PreprocessingConfig`)."""

    size: int
    resize: Literal["stretch", "pad"] = "stretch"
    equalize: Equalize = "none"


def decode_grey(data: bytes, preprocessing: Preprocessing, limits: Limits = LIMITS) -> NDArray[np.uint8]:
    """Return the image in `data` as [size, size] uint8.

    JPEG, PNG or WebP of any colour mode, or TIFF of grey (`open_tiff`); EXIF orientation is applied; transparent parts
    become black. Colour becomes ITU-R 601 luma, as in Pillow. Grey, or luma, of 16 bits is stretched from its own
    minimum and maximum, without what is wholly transparent, to 0-255, because scanners write 10 or 12 bits into it and
    a fixed scale would leave those nearly black; where minimum and maximum are equal, it becomes 0. Of an animation,
    the first frame is taken. DICOM becomes grey as `cxrdist.cohort.dicom.decode_dicom` says. A file whose data end
    before its pixels is refused: what its decoder would fill in is no image.

    Raises:
        ImageError: the reason, in words that follow the file's name ("is truncated: ...").
    """
    return decode_image(data, preprocessing, limits)[0]


def decode_image(
    data: bytes, preprocessing: Preprocessing, limits: Limits
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return `decode_grey` and the image's (width, height) in pixels after its EXIF orientation was applied."""
    with _damage_as_image_error():
        grey = _dicom_grey(data, limits) if is_dicom(data) else _open_grey(data, limits)
        square = np.array(_to_square(grey, preprocessing, limits), dtype=np.uint8)
    return _equalized(square, preprocessing.equalize), grey.size


def decode_mask(
    data: bytes, preprocessing: Preprocessing, limits: Limits, expected_size: tuple[int, int] | None
) -> NDArray[np.uint8]:
    """Return the lung mask in `data` as [size, size] uint8, 1 inside, in the geometry of `decode_grey`.

    Which pixels are lung, `cxrdist.cohort.mask_values.lung_pixels` says. After the antialiased resize, a pixel is
    inside where at least half of it is.

    Args:
        data: JPEG, PNG or WebP.
        preprocessing: the image's.
        limits: what the file may cost.
        expected_size: (width, height) of its image after orientation; a mask may be smaller or larger.

    Raises:
        ImageError: as `decode_grey` and `lung_pixels`; also a mask without any pixel inside, with all four corners
            inside, or of another aspect ratio than its image's (by more than 2 %).
    """
    with _damage_as_image_error():
        image = _open_mask(data, limits)
        if expected_size is not None and _aspect_differs(image.size, expected_size):
            raise ImageError(
                f"has {by(image.size)} pixels, another aspect ratio than its image with {by(expected_size)}"
            )
        inside = lung_pixels(image)
        if inside[[0, 0, -1, -1], [0, -1, 0, -1]].all():
            raise ImageError(
                "marks all four corners of the image as lung, as an inverted mask does; the darkest value must be what "
                "is outside the lungs"
            )
        square = _to_square(Image.fromarray(np.where(inside, np.uint8(255), np.uint8(0))), preprocessing, limits)
        mask = (np.asarray(square) >= 128).astype(np.uint8)
        if not mask.any():
            raise ImageError("marks no pixel as lung")
        return mask


def read_lungs(data: bytes, limits: Limits) -> NDArray[np.bool_]:
    """Return which pixels the mask in `data` marks as lung, at its own size: [h, w], possibly none.

    Raises:
        ImageError: as `decode_grey` and `lung_pixels`.
    """
    with _damage_as_image_error():
        return lung_pixels(_open_mask(data, limits))


def image_size(data: bytes, limits: Limits) -> tuple[int, int]:
    """Return the (width, height) in pixels that `decode_image` returns, without decoding the pixels.

    Raises:
        ImageError: as `decode_grey`, as far as the header tells.
    """
    if is_dicom(data):
        from cxrdist.cohort.dicom import dicom_size

        return dicom_size(data, limits)
    with _damage_as_image_error():
        image = _open(data, limits)
        if isinstance(image, TiffImageFile):
            # Pillow has turned its size already.
            return image.size
        if isinstance(image, PngImageFile) and _png_orientation_may_follow(data):
            image.load()
        # Not PngImageFile's own, which always decodes the pixels to read what may follow them.
        orientation = ImageFile.ImageFile.getexif(image).get(ExifTags.Base.Orientation)
    width, height = image.size
    return (height, width) if orientation in _SIDEWAYS else (width, height)


@contextmanager
def _damage_as_image_error() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Image.DecompressionBombError:
        raise ImageError("has far more pixels than an X-ray") from None
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(
            f"is truncated: {reason}" if "truncated" in reason.lower() else f"is damaged: {reason}"
        ) from None


def _dicom_grey(data: bytes, limits: Limits) -> Image.Image:
    # pydicom takes long to import, and few cohorts need it.
    from cxrdist.cohort.dicom import decode_dicom

    return Image.fromarray(decode_dicom(data, limits))


def _open_grey(data: bytes, limits: Limits) -> Image.Image:
    """Return the oriented image in mode L."""
    image = _open(data, limits)
    if isinstance(image, PngImageFile) and is_deep(data):
        return _deep_grey(*read_deep(data))
    return _grey(_upright(image, data))


def _open_mask(data: bytes, limits: Limits) -> Image.Image:
    """Return the oriented image in a mode that keeps its values."""
    image = _open(data, limits)
    if isinstance(image, PngImageFile) and is_deep(data):
        luma, opacity = read_deep(data)
        seen = luma if opacity is None else np.where(opacity > 0, luma, np.uint16(0))
        # A shape may be drawn in black, by its opacity alone.
        return Image.fromarray(seen if opacity is None or seen.any() else opacity)
    return _upright(image, data)


def _upright(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    if isinstance(image, JpegImageFile):
        load_jpeg(image, data)
    elif isinstance(image, PngImageFile):
        load_png(image, data)
    else:
        image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _open(data: bytes, limits: Limits) -> ImageFile.ImageFile:
    check_bytes(len(data), limits)
    stream = BytesIO(data)
    image: ImageFile.ImageFile
    # Not Image.open: its own bound on pixels is a global, and would refuse before the size can be told.
    if not data:
        raise ImageError("is empty")
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        image = PngImageFile(stream)
    elif data.startswith(b"\xff\xd8\xff"):
        image = JpegImageFile(stream)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        image = WebPImageFile(stream)
    elif is_tiff(data):
        image = open_tiff(data, limits)
    elif is_dicom(data):
        raise ImageError("is DICOM, not JPEG, PNG, TIFF or WebP")
    else:
        raise ImageError(what_else_it_is(data))
    check_pixels(image.size, limits)
    return image


def _png_orientation_may_follow(data: bytes) -> bool:
    """Whether the orientation may be told behind the pixels, where some programs write it."""
    pixels = data.find(b"IDAT")
    return any(data.find(key, pixels) >= 0 for key in _PNG_ORIENTATION)


def _grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _stretched_grey(np.asarray(image))
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("L", "LA", "1") else "RGBA")
        # Luma is linear, so that this is what compositing the colours on black would give.
        return ImageChops.multiply(_grey_of_opaque(image), image.getchannel("A"))
    return _grey_of_opaque(image)


def _deep_grey(luma: NDArray[np.uint16], opacity: NDArray[np.uint16] | None) -> Image.Image:
    if opacity is None:
        return _stretched_grey(luma)
    grey = _stretched_grey(luma, luma[opacity > 0])
    return ImageChops.multiply(grey, Image.fromarray(np.rint(opacity / np.float32(257)).astype(np.uint8)))


def _grey_of_opaque(image: Image.Image) -> Image.Image:
    if image.mode in ("1", "L", "LA", "RGB", "RGBA"):
        return image.convert("L")
    return image.convert("RGB").convert("L")


def _stretched_grey(values: NDArray[Any], counted: NDArray[Any] | None = None) -> Image.Image:
    """Return `values` [H, W] from the lowest to the highest of those that are counted, of any shape; all by default."""
    counted = values if counted is None else counted
    low, high = (float(counted.min()), float(counted.max())) if counted.size else (0.0, 0.0)
    if not np.isfinite([low, high]).all():
        raise ImageError("has pixels that are not finite")
    if low == high:
        return Image.new("L", (values.shape[1], values.shape[0]), 0)
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return Image.fromarray(np.rint(scaled).clip(0, 255).astype(np.uint8))


def _to_square(grey: Image.Image, preprocessing: Preprocessing, limits: Limits) -> Image.Image:
    if preprocessing.resize == "pad":
        side = max(grey.size)
        check_pixels((side, side), limits, "would, padded to a square, have")
        padded = Image.new("L", (side, side), 0)
        padded.paste(grey, ((side - grey.width) // 2, (side - grey.height) // 2))
        grey = padded
    return grey.resize((preprocessing.size, preprocessing.size), Image.Resampling.BILINEAR)


def _aspect_differs(size: tuple[int, int], expected: tuple[int, int]) -> bool:
    ratio = (size[0] * expected[1]) / (size[1] * expected[0])
    return max(ratio, 1 / ratio) > 1 + _ASPECT_TOLERANCE


def _equalized(square: NDArray[np.uint8], method: Equalize) -> NDArray[np.uint8]:
    if method == "none":
        return square
    return np.ascontiguousarray(_equalizer(method)(image=square)["image"], dtype=np.uint8)


@cache
def _equalizer(method: Literal["histogram", "clahe"]) -> Any:
    # Importing it would otherwise ask the network for a newer version.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations

    if method == "histogram":
        return albumentations.Equalize(mode="cv", p=1)
    limits = (_CLAHE_CLIP_LIMIT, _CLAHE_CLIP_LIMIT)
    return albumentations.CLAHE(clip_limit=limits, tile_grid_size=_CLAHE_TILES, p=1)
