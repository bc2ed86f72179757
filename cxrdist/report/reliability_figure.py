"""Reliability diagrams: how often the predicted class is the true one, by its probability."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from cxrdist.report.results import Results
from cxrdist.report.style import PALETTE, Picture, house_style, new_figure, square_of_rates, svg_and_png
from cxrdist.report.table import show_number
from cxrdist.report.tables import caption
from cxrdist.stats.calibration import ReliabilityBins, expected_calibration_error
from cxrdist.stats.confusion import wilson

_COLOURS = (PALETTE[0], PALETTE[1])
_MARKERS = ("o", "s")
_FACES = (PALETTE[0], "white")
_STATES = ("As predicted", "After temperature scaling")


def reliability_picture(results: Results, diagrams: Mapping[str, Sequence[ReliabilityBins]]) -> Picture:
    """Draw one panel a variant; `diagrams` holds its bins as predicted and, where there are any, after scaling."""
    columns = 2 if len(diagrams) in (2, 4) else min(3, len(diagrams))
    rows = -(-len(diagrams) // columns)
    scaled = any(len(states) > 1 for states in diagrams.values())
    side = 2.2 if columns > 1 else 3.4
    with house_style():
        figure = new_figure(0.6 + columns * side, 0.8 + rows * (1.27 * side + 0.36))
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for number, (axes, (variant, states)) in enumerate(zip(grid.flat, diagrams.items(), strict=False)):
            strip = _panel(axes, states)
            axes.set_title(variant, fontsize=9)
            if number % columns == 0:
                axes.set_ylabel("Accuracy")
                strip.set_ylabel("Share")
            if number + columns >= len(diagrams):
                strip.set_xlabel("Probability of the class")
        for axes in grid.flat[len(diagrams) :]:
            axes.set_visible(False)
        figure.legend(handles=_legend(2 if scaled else 1), loc="outside upper left", ncols=2, frameon=False)
        svg, png = svg_and_png(figure)
    after = (
        " Open squares: after temperature scaling, each fold's temperature fitted on its validation images."
        if scaled
        else ""
    )
    return Picture(
        name="reliability",
        title="Reliability",
        caption=caption(
            results,
            "Accuracy by the mean probability of the predicted class, in "
            f"{len(next(iter(diagrams.values()))[0].count)} bins of equal width; on the dotted line the two agree, "
            f"below it the network is too sure of itself. Filled circles: as predicted.{after} Vertical bars: Wilson "
            "intervals (95 %), which take images as independent. Below: the share of images in each bin.",
        ),
        alternative="Reliability diagrams. Expected calibration error: "
        + "; ".join(f"{variant} {_errors_in_words(states)}" for variant, states in diagrams.items())
        + ".",
        svg=svg,
        png=png,
    )


def _panel(axes: Axes, states: Sequence[ReliabilityBins]) -> Axes:
    """Draw one variant and return the axes of the strip below, which shows how many images the marks stand for."""
    square_of_rates(axes)
    axes.set_anchor("N")
    strip = axes.inset_axes((0, -0.29, 1, 0.21), sharex=axes)
    strip.set_ylim(0, 1)
    strip.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
    axes.tick_params(axis="x", labelbottom=False)
    for index, bins in enumerate(states):
        filled = np.flatnonzero(bins.count)
        intervals = [
            wilson(round(bins.accuracy[row] * bins.count[row]), int(bins.count[row])) for row in filled.tolist()
        ]
        colour = _COLOURS[index]
        axes.vlines(
            bins.confidence[filled],
            [low for low, _ in intervals],
            [high for _, high in intervals],
            color=colour,
            linewidth=1.1,
            alpha=0.75,
        )
        axes.plot(
            bins.confidence[filled],
            bins.accuracy[filled],
            linestyle="none",
            marker=_MARKERS[index],
            markersize=5,
            color=colour,
            markerfacecolor=_FACES[index],
            zorder=3,
            clip_on=False,
        )
        share = bins.count / bins.count.sum()
        edges = np.append(bins.low, bins.high[-1])
        if index:
            strip.stairs(share, edges, color=colour, linewidth=1.3)
        else:
            strip.stairs(share, edges, color=colour, alpha=0.45, fill=True)
    axes.text(0.04, 0.96, f"ECE {_errors(states)}", ha="left", va="top", fontsize=8, transform=axes.transAxes)
    return strip


def _legend(states: int) -> list[Line2D]:
    return [
        Line2D([], [], linestyle="none", marker=marker, color=colour, markerfacecolor=face, label=label)
        for label, colour, marker, face in list(zip(_STATES, _COLOURS, _MARKERS, _FACES, strict=True))[:states]
    ]


def _errors(states: Sequence[ReliabilityBins]) -> str:
    return " → ".join(show_number(expected_calibration_error(bins)) for bins in states)


def _errors_in_words(states: Sequence[ReliabilityBins]) -> str:
    return f"{_errors(states)} after temperature scaling" if len(states) > 1 else _errors(states)
