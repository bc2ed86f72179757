"""Figures of a sweep: two settings against each other, and the best score so far."""

import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from cxrdist.report.style import PALETTE, Picture, colour, dashes, house_style, new_figure, svg_and_png
from cxrdist.report.sweep import SweepSummary, SweepTrial, key_title, metric_title, show_setting
from cxrdist.report.sweep_scale import ScoreScale
from cxrdist.report.table import show_number
from cxrdist.report.tables import file_name

_MOST_WHOLE = 8
"""Whole numbers in a range that each have a row or column of their own."""
_HATCH, _EMPTY = "////", "#9a9a9a"
Colour = tuple[float, float, float]
_UNSCORED: Colour = (0.87, 0.87, 0.87)
_CHOSEN = PALETTE[1]
_MOST_PANELS_WIDE = 2


@dataclass(frozen=True)
class Bins:
    """Rows or columns that the values of a key are sorted into."""

    bounds: tuple[float, ...]
    """Of one bin and the next, ascending; a value that is one belongs to the upper bin."""
    labels: tuple[str, ...]
    """Of each bin, or of each end of one."""
    of_values: bool
    """Whether each bin is one value, and the labels are of bins."""

    @classmethod
    def of(cls, summary: SweepSummary, key: str) -> "Bins":
        """Return listed values as they are, and a range in equal parts: of logarithms, two a power of ten."""
        values = summary.ordered_choices(key) or _few_whole_numbers(summary, key)
        if values:
            between = tuple((one + other) / 2 for one, other in itertools.pairwise(values))
            return cls(between, tuple(show_setting(value) for value in values), of_values=True)
        low, high = summary.ranges[key]
        if key in summary.log_keys:
            edges = np.geomspace(low, high, 1 + min(8, max(3, round(2 * math.log10(high / low)))))
        else:
            edges = np.linspace(low, high, 6)
        return cls(tuple(edges[1:-1].tolist()), tuple(show_setting(float(value)) for value in edges), of_values=False)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.bounds) + 1

    def index(self, value: float) -> int:
        """Return the bin of a value."""
        return bisect_right(self.bounds, value)


def cells_picture(summary: SweepSummary, variant: str, keys: tuple[str, str]) -> Picture:
    """Draw the best score seen in each cell of two settings over a variant's searches, with its number of trials."""
    searches, scale = summary.of(variant), ScoreScale.of(summary, variant)
    columns, rows = (Bins.of(summary, key) for key in keys)
    cells: dict[tuple[int, int], list[SweepTrial]] = {}
    chosen = set()
    for search in searches:
        for trial in search.trials:
            cell = columns.index(trial.settings[keys[0]]), rows.index(trial.settings[keys[1]])
            cells.setdefault(cell, []).append(trial)
            if trial.number == search.chosen:
                chosen.add(cell)
    with house_style():
        figure = new_figure(7.2, min(7.0, 1.5 + 0.5 * rows.count))
        axes = figure.subplots()
        axes.grid(visible=False)
        for x in range(columns.count):
            for y in range(rows.count):
                _cell(axes, summary, scale, (x, y), cells.get((x, y), []), columns.count)
        for cell in sorted(chosen):
            axes.add_patch(Rectangle(cell, 1, 1, fill=False, edgecolor=_CHOSEN, linewidth=2.4, zorder=3))
        _label(axes, columns, rows, keys)
        handles = [Patch(facecolor="white", edgecolor=_CHOSEN, linewidth=2, label="chosen by a search")]
        if len(cells) < columns.count * rows.count:
            handles.append(Patch(facecolor="white", edgecolor=_EMPTY, hatch=_HATCH, label="no trial"))
        if any(all(trial.seen is None for trial in own) for own in cells.values()):
            handles.append(Patch(facecolor=_UNSCORED, label="trials without a score"))
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
        if scale is not None:
            scale.draw_bar(figure, axes)
        svg, png = svg_and_png(figure)
    titles = [key_title(key) for key in keys]
    return Picture(
        name=f"sweep_cells_{file_name(variant)}",
        title=f"{titles[0][:1].upper()}{titles[0][1:]} and {titles[1]} of {variant}",
        caption=(
            "In each cell the best score on the inner folds (of trials that were stopped early, the mean so far) and "
            "the number of trials (n), over all searches and whatever the other settings were; the better, the darker."
        ),
        alternative=(
            f"Best {metric_title(summary.metric)} of {variant} by {titles[0]} and {titles[1]}: {len(cells)} of "
            f"{columns.count * rows.count} cells have trials"
            + (f"; the best score is {show_number(scale.best)}." if scale else ".")
        ),
        svg=svg,
        png=png,
    )


def progress_picture(summary: SweepSummary) -> Picture:
    """Draw the best score so far by the number of trials, a panel a variant and a line a search."""
    variants = summary.variants
    wide = min(_MOST_PANELS_WIDE, len(variants))
    rows = -(-len(variants) // wide)
    folds = sorted({search.fold for search in summary.searches})
    with house_style():
        figure = new_figure(7.2 if wide > 1 else 5.4, 0.7 + 2.3 * rows)
        grid = figure.subplots(rows, wide, squeeze=False)
        for axes, variant in zip(grid.flat, variants, strict=False):
            for search in summary.of(variant):
                _progress(axes, summary.best_so_far(search), folds.index(search.fold), f"fold {search.fold}")
            longest = max(len(search.trials) for search in summary.of(variant))
            axes.set_xlim(0.5, longest + 0.5)
            axes.set_title(variant, fontsize=9)
            axes.set_xlabel("Trials")
            axes.set_ylabel(f"Best {metric_title(summary.metric)}")
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        for axes in grid.flat[len(variants) :]:
            axes.set_visible(False)
        if not summary.shared:
            handles = {
                label: handle
                for axes in grid.flat
                for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
            }
            ordered = {f"fold {fold}": handles[f"fold {fold}"] for fold in folds}
            figure.legend(ordered.values(), ordered.keys(), loc="outside lower center", ncols=6, frameon=False)
        svg, png = svg_and_png(figure)
    ends = "; ".join(
        f"{search.variant}{'' if search.shared else f' fold {search.fold}'} {show_number(search.score)}, reached "
        f"after {1 + [trial.number for trial in search.trials].index(search.chosen)} of {len(search.trials)} trials"
        for search in summary.searches
    )
    return Picture(
        name="sweep_progress",
        title="Best score so far",
        caption=(
            "The best score of a complete trial, by the number of trials that were over, by their numbers; the mark is "
            "the chosen one. A line that still rises (of a loss: falls) towards its end says that more trials might "
            "have found better settings."
        ),
        alternative=f"Best {metric_title(summary.metric)} so far, by the number of trials. At the end: {ends}.",
        svg=svg,
        png=png,
    )


def _few_whole_numbers(summary: SweepSummary, key: str) -> list[int]:
    """Return the whole numbers of a range where there are few, and nothing else was tried."""
    low, high = summary.ranges[key]
    tried = [trial.settings[key] for search in summary.searches for trial in search.trials]
    if high - low >= _MOST_WHOLE or not all(isinstance(value, int) for value in tried):
        return []
    return list(range(round(low), round(high) + 1))


def _cell(
    axes: Axes,
    summary: SweepSummary,
    scale: ScoreScale | None,
    cell: tuple[int, int],
    trials: Sequence[SweepTrial],
    columns: int,
) -> None:
    if not trials:
        axes.add_patch(Rectangle(cell, 1, 1, facecolor="white", edgecolor=_EMPTY, hatch=_HATCH, linewidth=0))
        return
    scores = [trial.seen for trial in trials if trial.seen is not None]
    x, y = cell
    words, ground = f"n={len(trials)}", _UNSCORED
    if scores and scale is not None:
        best = summary.best(scores)
        words, ground = f"{show_number(best)}\n{words}", scale.colour(best)
    axes.add_patch(Rectangle(cell, 1, 1, facecolor=ground, edgecolor="white", linewidth=0.8))
    size = 7.5 if columns <= 10 else 5.5
    axes.text(x + 0.5, y + 0.5, words, ha="center", va="center", color=_ink_on(ground), fontsize=size)


def _ink_on(ground: Colour) -> str:
    """Return black or white, whichever has more contrast (relative luminance, WCAG 2)."""
    red, green, blue = (part**2.2 for part in ground)
    return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.18 else "black"


def _label(axes: Axes, columns: Bins, rows: Bins, keys: tuple[str, str]) -> None:
    axes.set(xlim=(0, columns.count), ylim=(0, rows.count))
    for bins, place in ((columns, axes.set_xticks), (rows, axes.set_yticks)):
        place([index + 0.5 * bins.of_values for index in range(len(bins.labels))], bins.labels)
    axes.set_xlabel(key_title(keys[0]).capitalize())
    axes.set_ylabel(key_title(keys[1]).capitalize())


def _progress(axes: Axes, best: Sequence[float], index: int, label: str) -> None:
    numbers = list(range(1, len(best) + 1))
    axes.plot(numbers, best, drawstyle="steps-post", color=colour(index), linestyle=dashes(index), label=label)
    known = [(number, value) for number, value in zip(numbers, best, strict=True) if not math.isnan(value)]
    if known:
        reached = next(number for number, value in known if value == known[-1][1])
        axes.plot(reached, known[-1][1], marker="o", markersize=4.5, color=colour(index))
