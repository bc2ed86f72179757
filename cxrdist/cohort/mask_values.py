"""Which pixels of a mask file are lung: masks are written with 0 and 1, 0 and 255, a label a lung, colours, alpha."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

from cxrdist.errors import ImageError

MASK_VERSION = 2
"""Of what is lung; part of the name of shards with masks."""
_MOST_LEVELS = 3
"""One outside, and one for each lung."""
_FEW = 16
"""Values up to which each is meant; more come from JPEG, or from a resize that softened the borders."""
_SOFT = 8
"""Part of the range within which values of a softened mask are one."""
_LEAST_SHARE = 0.005
"""Of the pixels, in even areas, from which on a value is a level and not a border."""
_LEAST_HELD = 0.75
"""Share of the pixels near a level; radiographs that are taken for masks have less, or levels near each other."""
_MOST_NAMED = 5

Values = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Pixels by what they hold."""

    codes: Values
    """[h, w], which value."""
    values: Values
    """[v, channels], ascending by code."""


def lung_pixels(image: Image.Image) -> NDArray[np.bool_]:
    """Return [h, w], where the mask `image` marks lung.

    The darkest value is outside, any other is lung: there may be one, or one for each lung, in grey, colour or
    alpha. Where JPEG or a resize softened the borders, pixels between two values belong to the nearer one; a value
    that no even area of 0.5 % of the image holds is such a border.

    Args:
        image: decoded, of any mode; fully transparent pixels are outside.

    Raises:
        ImageError: there are more values than that, or one alone, which is not 0.
    """
    pixels = _pixels(image)
    if len(pixels.values) == 1:
        if pixels.values.any():
            raise ImageError(f"has one value everywhere ({_name(pixels.values[0])}): what is outside must differ")
        return np.zeros(pixels.codes.shape, dtype=np.bool_)
    levels = pixels.values if len(pixels.values) <= _MOST_LEVELS else _levels(pixels)
    outside = int(levels.sum(axis=1).argmin())
    distance = np.abs(pixels.values[:, np.newaxis] - levels).max(axis=2)
    nearest_lung = np.delete(distance, outside, axis=1).min(axis=1)
    lung: NDArray[np.bool_] = (nearest_lung < distance[:, outside])[pixels.codes]
    return lung


def _pixels(image: Image.Image) -> _Pixels:
    if image.mode.startswith(("I", "F")):
        samples = np.asarray(image)
        if not np.isfinite(samples).all():
            raise ImageError("has pixels that are not finite")
        values, codes = np.unique(samples, return_inverse=True)
        if samples.dtype.kind == "f":
            # Levels are told apart by whole numbers; of 0 to 1 none would be left.
            values = np.rint((values - values[0]) * (65535 / max(values[-1] - values[0], 1e-9)))
        return _Pixels(codes.reshape(samples.shape), values.astype(np.int64)[:, np.newaxis])
    samples = _without_alpha(image)
    if (samples == samples[..., :1]).all():
        grey = samples[..., 0]
        values = np.flatnonzero(np.bincount(grey.ravel(), minlength=256))
        return _Pixels(np.searchsorted(values, grey), values[:, np.newaxis])
    packed = samples.astype(np.int64) @ (1 << np.array([16, 8, 0]))
    colours, codes = np.unique(packed, return_inverse=True)
    return _Pixels(codes.reshape(packed.shape), colours[:, np.newaxis] >> np.array([16, 8, 0]) & 255)


def _without_alpha(image: Image.Image) -> NDArray[np.uint8]:
    """Return [h, w, channels]: colours upon black, or the alpha itself where a shape is drawn in black."""
    if image.has_transparency_data:
        samples = np.asarray(image.convert("RGBA"))
        alpha = samples[..., 3:]
        seen = samples[..., :3] * (alpha > 0)
        if not seen.any() and alpha.min() < alpha.max():
            return alpha
        return np.asarray((seen.astype(np.uint16) * alpha + 127) // 255, dtype=np.uint8)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[..., np.newaxis]
    return np.asarray(image.convert("RGB"))


def _levels(pixels: _Pixels) -> Values:
    """Return the values [levels, channels] that hold even areas.

    Raises:
        ImageError: they are none or too many.
    """
    values, size = pixels.values, pixels.codes.size
    reach = 0 if len(values) <= _FEW else int(np.ptp(values, axis=0).max()) // _SOFT
    even = np.ones(pixels.codes.shape, dtype=np.bool_)
    for channel in values.T:
        plane = channel.astype(np.int32)[pixels.codes]
        even &= maximum_filter(plane, 3) - minimum_filter(plane, 3) <= reach // 2
    counts = np.bincount(pixels.codes[even], minlength=len(values))
    found: list[int] = []
    while len(found) <= _MOST_LEVELS:
        place = int(counts.argmax())
        near = np.abs(values - values[place]).max(axis=1) <= reach
        if counts[near].sum() < _LEAST_SHARE * size:
            break
        found.append(place)
        counts[near] = 0
    distances = np.abs(values[:, np.newaxis] - values[found]).max(axis=2)
    apart = distances[found] > 2 * reach
    held = np.bincount(pixels.codes.ravel())[(distances <= reach).any(axis=1)].sum()
    if len(found) > _MOST_LEVELS or not apart[~np.eye(len(found), dtype=np.bool_)].all() or held < _LEAST_HELD * size:
        raise ImageError(_too_many(values))
    if len(found) == 1:
        found.append(int(np.abs(values - values[found[0]]).sum(axis=1).argmax()))
    return values[found]


def _too_many(values: Values) -> str:
    places = np.unique(np.linspace(0, len(values) - 1, _MOST_NAMED).astype(np.int64))
    listed = (", " if len(places) == len(values) else " ... ").join(_name(value) for value in values[places])
    return (
        f"has {len(values)} values ({listed}), but a lung mask has one for what is outside, and one for lung or one "
        "for each lung"
    )


def _name(value: Values) -> str:
    return str(value[0]) if len(value) == 1 else "#" + "".join(f"{channel:02x}" for channel in value)
