"""The look of the figures, and their bytes: the same on every run, whatever matplotlib is set to elsewhere."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito (2008), told apart with any colour vision; yellow is left out, too faint on white."""
DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
"""Line styles, so that lines differ in grey print too."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_STYLE: dict[str, object] = {
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.size": 9,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.5,
    "legend.fontsize": 8,
    "legend.framealpha": 0.9,
    "lines.linewidth": 1.8,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "cxrdist",
    # Names come from users: a dollar sign is a dollar sign.
    "text.parse_math": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


@dataclass(frozen=True)
class Picture:
    """A finished figure with the words that belong to it."""

    name: str
    """Name of its files."""
    title: str
    caption: str
    alternative: str
    """What it shows, for readers who cannot see it."""
    svg: bytes
    png: bytes


@contextmanager
def house_style() -> Iterator[None]:
    """Draw with the report's own settings instead of the user's."""
    with style.context(["default", _STYLE]):
        yield


def svg_and_png(figure: Figure) -> tuple[bytes, bytes]:
    """Return a figure as the bytes of an SVG and of a PNG file, without date or software version in them."""
    figure.draw_without_rendering()
    # The layout is settled; without this line each format would compute it again.
    figure.set_layout_engine("none")
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
    return svg.getvalue(), png.getvalue()


def colour(index: int) -> str:
    """Return the colour of the class or variant of this index."""
    return PALETTE[index % len(PALETTE)]


def dashes(index: int) -> str | tuple[float, tuple[float, ...]]:
    """Return the line style of the class or variant of this index."""
    return DASHES[index % len(DASHES)]


def square_of_rates(axes: Axes) -> None:
    """Set up the axes of an ROC curve, with the line of chance."""
    axes.plot([0, 1], [0, 1], color="#767676", linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches that lays itself out."""
    return Figure(figsize=(width, height), layout="constrained")
