"""What decoded images look like, in a few numbers, and which of them look like no radiograph of their cohort.

The limits come from 3,634 radiographs of seven public sets at 224 pixels a side, of which none is odd. The largest
share of one grey value is 0.58, of nearly black pixels 0.67, of nearly white ones 0.27; the narrowest range of values
is 54 levels. The least correlation with what the images have in common is -0.13, its median 0.79; of their negatives
96 % are found where 2, 20, 50 or 60 % of the images are, and no other image is called one; 97 % where 12 of any 24 are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMB = 16
"""Pixels a side of `Look.thumb`."""
BLACK, WHITE = 8, 247
"""Grey values up to which pixels are nearly black, and from which they are nearly white."""
MOST_ALIKE = 0.85
"""Largest share of one grey value, and of nearly black or white pixels."""
LEAST_RANGE = 32
"""Grey levels from the darkest to the brightest hundredth of the pixels."""
NEGATIVE = -0.25
"""Correlation below which an image is a negative of what most have in common."""
_FEWEST = 12
"""Images that show what they have in common."""
_LEAST_IN_COMMON = 1 / 3
"""Mean squared correlation from which on images have anything in common: of those radiographs 0.36 and more, of noise
0.27 and less."""
_TIED = 0.35
"""Share of images of the other polarity from which on their number does not tell which of both is the right one."""
_TAIL = 0.01
_STEPS = 40
"""What radiographs have in common is several times as strong as what comes next."""

OddKind = Literal["value", "range", "dark", "bright", "negative"]


class Look(NamedTuple):
    """What one image looks like."""

    mean: float
    """Of the grey values."""
    sd: float
    """Their standard deviation."""
    black: float
    """Share of the pixels of at most BLACK."""
    white: float
    """Share of the pixels of at least WHITE."""
    common: float
    """Share of the pixels with the most frequent grey value."""
    value: int
    """The most frequent grey value."""
    low: int
    """Grey value of the darkest hundredth of the pixels."""
    high: int
    """Grey value of the brightest hundredth of the pixels."""
    thumb: NDArray[np.uint8]
    """[THUMB, THUMB], the image made small."""


@dataclass(frozen=True, eq=False)
class Looks:
    """What n images look like, by column (see `Look`)."""

    mean: NDArray[np.float32]
    sd: NDArray[np.float32]
    black: NDArray[np.float32]
    white: NDArray[np.float32]
    common: NDArray[np.float32]
    value: NDArray[np.uint8]
    low: NDArray[np.uint8]
    high: NDArray[np.uint8]
    thumbs: NDArray[np.uint8]
    """[n, THUMB, THUMB]."""

    @staticmethod
    def of(looks: Sequence[Look]) -> "Looks":
        """Return the looks of images by column."""
        shares = np.array([one[:5] for one in looks], dtype=np.float32).reshape(len(looks), 5)
        levels = np.array([one[5:8] for one in looks], dtype=np.uint8).reshape(len(looks), 3)
        thumbs = np.array([one.thumb for one in looks], dtype=np.uint8).reshape(len(looks), THUMB, THUMB)
        columns: list[NDArray[Any]] = [*shares.T, *levels.T, thumbs]
        return Looks(*columns)


@dataclass(frozen=True)
class OddLook:
    """Why an image looks like no radiograph of its cohort."""

    row: int
    kind: OddKind
    reason: str
    """In words that follow the image's name."""


def look_at(grey: NDArray[np.uint8]) -> Look:
    """Measure a decoded image, [H, W] uint8 with at least one pixel."""
    image = Image.fromarray(grey)
    shares = np.array(image.histogram()) / grey.size
    levels = np.arange(256)
    below = np.cumsum(shares)
    mean = float(shares @ levels)
    thumb = np.asarray(image.resize((THUMB, THUMB), Image.Resampling.BOX))
    return Look(
        mean=mean,
        sd=float(np.sqrt(shares @ (levels - mean) ** 2)),
        black=float(shares[: BLACK + 1].sum()),
        white=float(shares[WHITE:].sum()),
        common=float(shares.max()),
        value=int(shares.argmax()),
        low=int((below >= _TAIL).argmax()),
        high=int((below >= 1 - _TAIL).argmax()),
        thumb=thumb,
    )


def find_odd(looks: Looks) -> list[OddLook]:
    """Return the images that look like no radiograph of their cohort, each once, ascending.

    Negatives are told by the first principal axis of the images' thumbnails, which is what radiographs have in common:
    the polarity of most images is the cohort's own. Where both are about as frequent, the one is right in which the
    middle of the image is brighter than its left and right border. Of fewer than 12 images, and of images that have
    little in common, none is called a negative.
    """
    found = []
    kinds = np.select(
        [
            looks.common >= MOST_ALIKE,
            looks.black >= MOST_ALIKE,
            looks.white >= MOST_ALIKE,
            looks.high.astype(np.int64) - looks.low < LEAST_RANGE,
            correlations(looks.thumbs) < NEGATIVE,
        ],
        [1, 2, 3, 4, 5],
    )
    for row in np.flatnonzero(kinds).tolist():
        kind, reason = _described(looks, row, int(kinds[row]))
        found.append(OddLook(row, kind, reason))
    return found


def _described(looks: Looks, row: int, number: int) -> tuple[OddKind, str]:
    match number:
        case 1 if looks.common[row] == 1:
            return "value", f"has one grey value everywhere ({looks.value[row]} of 0 to 255)"
        case 1:
            return (
                "value",
                f"has {looks.common[row]:.0%} of its pixels of one grey value ({looks.value[row]} of 0 to 255)",
            )
        case 2:
            return "dark", f"is nearly black ({looks.black[row]:.0%} of its pixels are at most {BLACK} of 255)"
        case 3:
            return "bright", f"is nearly white ({looks.white[row]:.0%} of its pixels are at least {WHITE} of 255)"
        case 4:
            return (
                "range",
                f"uses few grey values (98% of its pixels are {looks.low[row]} to {looks.high[row]} of 255)",
            )
    return "negative", "looks like a negative of what most images have in common"


def correlations(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return how much each of `thumbs` [n, THUMB, THUMB] correlates with what they have in common: [n] in [-1, 1].

    0 for all where they are fewer than 12 or have little in common, and for those of one grey.
    """
    if len(thumbs) < _FEWEST:
        return np.zeros(len(thumbs), dtype=np.float32)
    centred = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    centred -= centred.mean(axis=1, keepdims=True)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), np.float32(1e-6))
    along: NDArray[np.float32] = centred @ (axis := _first_axis(centred.T @ centred))
    if (along**2).mean() < _LEAST_IN_COMMON:
        return np.zeros_like(along)
    opposed = float((along < NEGATIVE).sum() / max(1, (np.abs(along) > -NEGATIVE).sum()))
    upright = axis.reshape(THUMB, THUMB)
    middle_brighter = upright[:, THUMB // 2 - 2 : THUMB // 2 + 2].mean() > upright[:, [0, 1, -2, -1]].mean()
    right = opposed < 0.5 if min(opposed, 1 - opposed) < _TIED else middle_brighter
    return along if right else -along


def _first_axis(products: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the first principal axis [p] of inner products [p, p] by power iteration; zeros where all are 0."""
    axis: NDArray[np.float32] = products[:, products.diagonal().argmax()]
    for _ in range(_STEPS):
        axis = products @ axis / np.maximum(np.linalg.norm(axis), np.float32(1e-6))
    return np.asarray(axis / np.maximum(np.linalg.norm(axis), np.float32(1e-6)), dtype=np.float32)
