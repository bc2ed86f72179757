"""Parallel coordinates of a variant's trials: one upright axis a setting, and one of the score."""

import math
from collections.abc import Sequence

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cxrdist.report.style import MARKERS, PALETTE, Picture, house_style, new_figure, svg_and_png
from cxrdist.report.sweep import (
    STATES,
    SweepSearch,
    SweepSummary,
    SweepTrial,
    key_title,
    show_setting,
)
from cxrdist.report.sweep_scale import ScoreScale
from cxrdist.report.table import show_number
from cxrdist.report.tables import file_name

_WITHOUT_SCORE: dict[str, tuple[str, str, tuple[float, tuple[float, ...]], float]] = {
    "diverged": (PALETTE[1], "x", (0, (1, 1.2)), -0.1),
    "failed": (PALETTE[3], "+", (0, (4, 1.2, 1, 1.2)), -0.17),
}
"""Colour, mark and dashes of trials that have no score, and where they end below the axis of scores."""
_LINE = "#333333"
_GOLDEN = (math.sqrt(5) - 1) / 2


def parallel_picture(summary: SweepSummary, variant: str) -> Picture:
    """Draw every trial of a variant's searches as a line through its settings to its score."""
    searches, scale = summary.of(variant), ScoreScale.of(summary, variant)
    trials = [trial for search in searches for trial in search.trials]
    with house_style():
        figure = new_figure(7.2, 3.7)
        axes = figure.subplots()
        _frame(axes, summary, scale)
        # The better ones on top of the others.
        for trial in sorted(trials, key=lambda one: (one.state == "complete", _height(scale, one), one.number)):
            _draw(axes, summary, scale, trial, opacity=max(0.35, min(0.9, 90 / len(trials))))
        marked = len(searches) <= len(MARKERS)
        for index, search in enumerate(searches):
            _draw_chosen(axes, summary, scale, search, MARKERS[index] if marked else MARKERS[0])
        handles = [*_state_handles(trials), *_chosen_handles(searches, marked=marked)]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False)
        if scale is not None:
            scale.draw_bar(figure, axes)
        svg, png = svg_and_png(figure)
    cut = " The last axis ends where few are worse; they are drawn at its lower end." if scale and scale.is_cut else ""
    chosen = "; ".join(
        f"{_name(search)}: "
        + ", ".join(f"{key_title(key)} {show_setting(value)}" for key, value in search.chosen_settings.items())
        + f", {show_number(search.score)}"
        for search in searches
    )
    return Picture(
        name=f"sweep_parallel_{file_name(variant)}",
        title=f"Trials of {variant}",
        caption=(
            "Each line is a trial: through its settings, to its score on the inner folds (of one that was stopped "
            f"early, the mean so far); the better, the darker. Listed values are spread a little.{cut}"
        ),
        alternative=f"Parallel coordinates of {len(trials)} trials of {variant}. Chosen: {chosen}.",
        svg=svg,
        png=png,
    )


def axis_ticks(summary: SweepSummary, key: str) -> list[tuple[float, str]]:
    """Return positions in [0, 1] with labels: listed values, or both bounds and round values between them."""
    choices = summary.ordered_choices(key)
    if choices:
        ticks = [(summary.position(key, value), show_setting(value)) for value in choices]
        return ticks[:: -(-len(ticks) // 9)]
    low, high = summary.ranges[key]
    if key in summary.log_keys:
        between = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    else:
        between = [float(value) for value in MaxNLocator(4).tick_values(low, high) if low <= value <= high]
    ends = [(0.0, show_setting(low)), (1.0, show_setting(high))]
    inner = [(summary.position(key, value), show_setting(value)) for value in between]
    return sorted([*ends, *(tick for tick in inner if 0.09 < tick[0] < 0.91)])


def _frame(axes: Axes, summary: SweepSummary, scale: ScoreScale | None) -> None:
    """Draw the upright axes with their ticks and titles."""
    last = len(summary.keys)
    axes.set_axis_off()
    axes.set(xlim=(-0.02, last + 0.02), ylim=(-0.2, 1.04))
    for x, key in enumerate(summary.keys):
        _upright(axes, x, axis_ticks(summary, key), key_title(key))
    ticks = [(scale.height(value), label) for value, label in scale.ticks()] if scale else []
    _upright(axes, last, ticks, scale.metric if scale else "score", side=1)


def _upright(axes: Axes, x: int, ticks: Sequence[tuple[float, str]], title: str, side: int = -1) -> None:
    """Draw one axis, its labels to the left (-1) or to the right (1)."""
    axes.plot([x, x], [0, 1], color=_LINE, linewidth=1, zorder=4)
    axes.text(x, 1.06, title, ha="center", va="bottom", fontsize=8.5, fontweight="bold", clip_on=False)
    for y, label in ticks:
        axes.annotate(
            label,
            (x, y),
            (6 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=7.5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
            zorder=6,
            annotation_clip=False,
        )
        axes.plot([x], [y], marker="_", markersize=6, color=_LINE, zorder=4, clip_on=False)


def _height(scale: ScoreScale | None, trial: SweepTrial) -> float:
    """Return where a trial ends on the axis of scores; those without a score below all others."""
    if scale is None or trial.seen is None:
        return _WITHOUT_SCORE.get(trial.state, _WITHOUT_SCORE["failed"])[-1]
    return scale.height(trial.seen)


def _points(summary: SweepSummary, scale: ScoreScale | None, trial: SweepTrial) -> list[float]:
    """Return the heights of a trial on all axes; at listed values they are spread, so that lines do not hide others."""
    # The golden ratio's multiples fill an interval evenly, however many there are.
    aside = (trial.number * _GOLDEN) % 1 - 0.5
    heights = []
    for key in summary.keys:
        choices = len(summary.choices.get(key, ()))
        spread = min(0.06, 0.4 / choices) if choices > 1 else 0.06 if choices else 0.0
        heights.append(summary.position(key, trial.settings[key]) + spread * aside)
    return [*heights, _height(scale, trial)]


def _draw(axes: Axes, summary: SweepSummary, scale: ScoreScale | None, trial: SweepTrial, opacity: float) -> None:
    heights = _points(summary, scale, trial)
    if trial.seen is None or scale is None:
        colour, mark, dashes, _ = _WITHOUT_SCORE.get(trial.state, _WITHOUT_SCORE["failed"])
        axes.plot(range(len(heights)), heights, color=colour, linestyle=dashes, linewidth=0.9, alpha=opacity)
        axes.plot(len(heights) - 1, heights[-1], color=colour, marker=mark, markersize=6, clip_on=False)
    elif trial.state == "complete":
        axes.plot(range(len(heights)), heights, color=scale.colour(trial.seen), linewidth=1.2, alpha=opacity)
    else:
        faint = scale.colour(trial.seen)
        axes.plot(range(len(heights)), heights, color=faint, linestyle="dashed", linewidth=0.8, alpha=0.6 * opacity)


def _draw_chosen(axes: Axes, summary: SweepSummary, scale: ScoreScale | None, search: SweepSearch, marker: str) -> None:
    trial = next(one for one in search.trials if one.number == search.chosen)
    if trial.seen is None or scale is None:
        return
    axes.plot(
        range(len(summary.keys) + 1),
        _points(summary, scale, trial),
        color=scale.colour(trial.seen),
        linewidth=3,
        marker=marker,
        markersize=6,
        markerfacecolor="white",
        markeredgecolor="black",
        markeredgewidth=1.1,
        path_effects=[patheffects.withStroke(linewidth=4.2, foreground="white"), patheffects.Normal()],
        zorder=5,
        clip_on=False,
    )


def _state_handles(trials: Sequence[SweepTrial]) -> list[Line2D]:
    """Return what the kinds of lines mean that there are."""
    kinds = {
        "complete": Line2D([], [], color=_LINE, linewidth=1.2),
        "stopped": Line2D([], [], color=_LINE, linewidth=0.8, linestyle="dashed", alpha=0.6),
        **{
            state: Line2D([], [], color=colour, marker=mark, linestyle=dashes, linewidth=0.9)
            for state, (colour, mark, dashes, _) in _WITHOUT_SCORE.items()
        },
    }
    present = {trial.state for trial in trials}
    for state, handle in kinds.items():
        handle.set_label(STATES[state])
    return [handle for state, handle in kinds.items() if state in present]


def _chosen_handles(searches: Sequence[SweepSearch], *, marked: bool) -> list[Line2D]:
    named = [(f"chosen, {_name(search)}", marker) for search, marker in zip(searches, MARKERS, strict=False)]
    if not marked or len(searches) == 1:
        named = [("chosen", MARKERS[0])]
    return [
        Line2D([], [], color=_LINE, linewidth=3, marker=marker, markerfacecolor="white", label=label)
        for label, marker in named
    ]


def _name(search: SweepSearch) -> str:
    return "all folds" if search.shared else f"fold {search.fold}"
