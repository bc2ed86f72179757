"""Panels of images, outlines of lung masks and heat maps, and the grid that they lie in."""

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from cxrdist.report.images import HeatMap, ShownImage
from cxrdist.report.style import PALETTE, new_figure

PAIR = 2.04
"""Width of two images side by side, in sides of an image."""

_WIDTH = 7.2
_LARGEST_SIDE = 1.8
_GAP = 0.06
_BAR = 0.44
_MOST_PIXELS = 160
_MOST_DPI = 140
_MOST_LINES = 2
_HEAT = "inferno"
_OPACITY = 0.5
_POINTS = 72


class _Wrapper(textwrap.TextWrapper):
    """Breaks names behind underscores and hyphens, and text at spaces."""

    wordsep_re = re.compile(r"(\s+)|(?<=[_-])")


@dataclass(frozen=True)
class PanelGrid:
    """Panels that fill the width of the page, with lines of text around them; lengths are in inches.

    A panel's coordinates are sides of an image, from its top left corner to the right and down.
    """

    rows: int
    columns: int
    across: float = 1.0
    """Width of a panel in sides of an image."""
    left: float = 0.0
    """Room for text to the left of all panels."""
    head: int = 0
    """Lines of text above the first row."""
    above: int = 0
    """Lines of text above each row."""
    below: int = 0
    """Lines of text below each row."""
    bar: bool = False
    """Whether there is a scale of heat below all panels."""

    @property
    def side(self) -> float:
        """Side of an image."""
        room = _WIDTH - self.left - (self.columns - 1) * self._gap
        return min(_LARGEST_SIDE, room / self.columns / self.across)

    @property
    def font_size(self) -> float:
        """In points."""
        return 7.0 if self.side >= 0.9 else 5.5

    def wrapped(self, text: str) -> str:
        """Return text broken into at most two lines that fit above a panel."""
        characters = int(self.across * self.side * _POINTS / (0.58 * self.font_size))
        return _Wrapper(max(characters, 8), max_lines=_MOST_LINES, placeholder="…").fill(text)

    def lines(self, texts: Iterable[str]) -> int:
        """Return how many lines the longest of these texts takes."""
        return max(self.wrapped(text).count("\n") + 1 for text in texts)

    def figure(self) -> Figure:
        """Return the empty figure, with the scale of heat."""
        figure = new_figure(*self._size)
        figure.set_layout_engine("none")
        # Images in an SVG have this resolution.
        figure.set_dpi(min(_MOST_DPI, _MOST_PIXELS / self.side))
        if self.bar:
            self._draw_bar(figure)
        return figure

    def panel(self, figure: Figure, row: int, column: int) -> Axes:
        """Return an empty panel."""
        width, height = self._size
        across = self.across * self.side
        x = self.left + column * (across + self._gap)
        y = height - self._text(self.head) - (row + 1) * self._row + self._text(self.below) + _GAP
        axes = figure.add_axes((x / width, y / height, across / width, self.side / height))
        axes.set_axis_off()
        axes.set(xlim=(0, self.across), ylim=(1, 0))
        return axes

    def write_above(self, axes: Axes, text: str) -> None:
        """Write over the middle of a panel."""
        axes.text(self.across / 2, -0.03, self.wrapped(text), ha="center", va="bottom", fontsize=self.font_size)

    def write_below(self, axes: Axes, text: str) -> None:
        """Write under the middle of a panel."""
        axes.text(self.across / 2, 1.03, self.wrapped(text), ha="center", va="top", fontsize=self.font_size)

    def write_left(self, axes: Axes, text: str) -> None:
        """Write upwards to the left of a panel."""
        axes.text(
            -0.06, 0.5, self.wrapped(text), ha="right", va="center", rotation=90, fontsize=self.font_size, weight="bold"
        )

    @property
    def _gap(self) -> float:
        """Between panels beside each other, wider than what is between the images of one."""
        return _GAP if self.across == 1 else 3 * _GAP

    @property
    def _row(self) -> float:
        return self.side + self._text(self.above) + self._text(self.below) + _GAP

    @property
    def _size(self) -> tuple[float, float]:
        width = self.left + self.columns * self.across * self.side + (self.columns - 1) * self._gap
        return width, self._text(self.head) + self.rows * self._row + (_BAR if self.bar else 0)

    def _text(self, lines: int) -> float:
        return lines * 1.25 * self.font_size / _POINTS + (0.05 if lines else 0)

    def _draw_bar(self, figure: Figure) -> None:
        width, height = self._size
        across = min(2.0, width - self.left - 0.1)
        axes = figure.add_axes(((self.left + 0.05) / width, 0.14 / height, across / width, 0.08 / height))
        bar = figure.colorbar(ScalarMappable(Normalize(0, 1), _HEAT), cax=axes, orientation="horizontal")
        axes.grid(visible=False)
        bar.set_ticks([0, 0.5, 1], labels=["0", ".5", "1"])
        bar.outline.set_visible(False)
        axes.tick_params(labelsize=self.font_size, length=2, pad=1)
        axes.set_title("Heat, least to most of each map", fontsize=self.font_size, fontweight="normal", pad=2)


@dataclass(frozen=True)
class Explained:
    """What a variant's network saw of an image, and the heat map of the same geometry."""

    seen: NDArray[np.uint8]
    """[side, side]."""
    heat: HeatMap


def explained(image: ShownImage, variant: str) -> Explained | None:
    """Return what there is of a variant, which is named VIEW-MODEL; None where either part is missing."""
    view = variant.partition("-")[0]
    seen = image.views.get(view, image.pixels if view == "whole" else None)
    heat = image.heat.get(variant)
    return None if seen is None or heat is None else Explained(seen, heat)


def draw_image(axes: Axes, pixels: NDArray[np.uint8], left: float = 0.0) -> None:
    """Draw an image [side, side] of greys with its left border at `left`."""
    axes.imshow(
        _reduced(pixels), cmap="gray", vmin=0, vmax=255, extent=(left, left + 1, 1, 0), interpolation="bilinear"
    )


def draw_heat(axes: Axes, one: Explained, left: float = 0.0) -> None:
    """Draw a heat map over what the network saw, with the left border at `left`; all maps have the same colours."""
    axes.imshow(overlay(_reduced(one.seen), one.heat), extent=(left, left + 1, 1, 0), interpolation="bilinear")


def overlay(pixels: NDArray[np.uint8], heat: HeatMap) -> NDArray[np.uint8]:
    """Return the colours [side, side, 3] of an image [side, side] with a heat map, enlarged bilinearly, over it.

    They are mixed here: matplotlib mixes transparent images differently in an SVG and in a PNG.
    """
    size = (pixels.shape[1], pixels.shape[0])
    enlarged = np.asarray(Image.fromarray(np.asarray(heat.values, np.float32)).resize(size, Image.Resampling.BILINEAR))
    colours = 255 * colormaps[_HEAT](enlarged)[:, :, :3]
    mixed = (1 - _OPACITY) * pixels[:, :, None] + _OPACITY * colours
    return np.asarray(np.rint(mixed), np.uint8)


def draw_outline(axes: Axes, mask: NDArray[np.uint8]) -> None:
    """Draw the outline of a mask [side, side] of 0 and 1; of none or all of the image there is none."""
    if mask.any() and not mask.all():
        share = _reduced(255 * mask) / 255
        centres = (np.arange(len(share)) + 0.5) / len(share)
        axes.contour(centres, centres, share, levels=[0.5], colors=PALETTE[4], linewidths=0.9)


def _reduced(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image with at most as many pixels a side as a page shows."""
    if len(pixels) <= _MOST_PIXELS:
        return pixels
    smaller = Image.fromarray(pixels).resize((_MOST_PIXELS, _MOST_PIXELS), Image.Resampling.BOX)
    return np.asarray(smaller)
