"""ROC curves of the classes of a variant, and variants side by side."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from cxrdist.report.results import Results
from cxrdist.report.scores import VariantScores
from cxrdist.report.style import (
    MARKERS,
    Picture,
    colour,
    dashes,
    house_style,
    new_figure,
    square_of_rates,
    svg_and_png,
)
from cxrdist.report.table import show_number
from cxrdist.report.tables import caption, file_name
from cxrdist.stats.averages import Floats
from cxrdist.stats.resampling import Interval
from cxrdist.stats.roc import RocCurve, roc_curve, vertical_average

_GRID = np.linspace(0, 1, 201)

_LONGEST_NAME = 24
"""Characters of a variant's name that there is room for beside a panel, and in a corner of the curves."""
_MOST_NAMES = 8
"""Variants whose legend leaves the curves to be seen."""


def roc_picture(results: Results, scores: VariantScores, areas: Sequence[Interval]) -> Picture:
    """Draw one panel a class: the pooled curve, the folds' curves, and their mean with a band of one SD.

    `areas` are the classes' pooled AUCs with their intervals.
    """
    classes = results.classes
    columns = 2 if len(classes) in (2, 4) else 3
    rows = -(-len(classes) // columns)
    with house_style():
        # Room for the title above each square panel, and for the label below all.
        figure = new_figure(7.2, 0.4 + rows * (6.9 / columns + 0.25))
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for index, axes in enumerate(grid.flat):
            if index < len(classes):
                _class_panel(axes, scores, index, areas[index])
                axes.set_title(classes[index])
            else:
                axes.set_visible(False)
        figure.supxlabel("False positive rate (1 − specificity)", fontsize=9)
        figure.supylabel("True positive rate (sensitivity)", fontsize=9)
        svg, png = svg_and_png(figure)
    values = ", ".join(f"{label} {show_number(area.value)}" for label, area in zip(classes, areas, strict=True))
    return Picture(
        name=f"roc_{file_name(scores.variant)}",
        title=f"ROC of {scores.variant}",
        caption=caption(
            results,
            "Each class against the rest. Bold: all folds' predictions pooled; thin: each fold; band: the folds' mean "
            "sensitivity at each false positive rate (vertical average) and one standard deviation to each side; "
            "dotted: chance. Brackets: 95 % interval.",
        ),
        alternative=f"One-vs-rest ROC curves of {scores.variant}. Pooled AUC: {values}.",
        svg=svg,
        png=png,
    )


def comparison_picture(results: Results, scores: Sequence[VariantScores]) -> Picture:
    """Draw all variants: macro ROC curves, and AUC and accuracy by fold; under numbers where names need much room."""
    numbered = len(scores) > _MOST_NAMES or any(len(one.variant) > _LONGEST_NAME for one in scores)
    names = [str(number) if numbered else one.variant for number, one in enumerate(scores, start=1)]
    key_height = 0.17 * len(scores) if numbered else 0.0
    with house_style():
        figure = new_figure(7.2, max(4.0, (0.4 if numbered else 0.7) * len(scores)) + key_height)
        panels = figure.subplot_mosaic([["roc", "auc"], ["roc", "accuracy"]], width_ratios=[1.5, 1])
        square_of_rates(panels["roc"])
        for index, one in enumerate(scores):
            macro = macro_curve(one)
            area = show_number(one.auc_averages.pooled_macro)
            if macro is not None or numbered:
                panels["roc"].plot(
                    [] if macro is None else _GRID,
                    [] if macro is None else macro,
                    color=colour(index),
                    linestyle=dashes(index),
                    label=f"{names[index]}  {one.variant}: {area}" if numbered else f"{one.variant}: {area}",
                )
        panels["roc"].set(
            title="A  Macro ROC and AUC, pooled",
            xlabel="False positive rate (1 − specificity)",
            ylabel="True positive rate (sensitivity)",
        )
        if numbered:
            figure.legend(loc="outside lower left", handlelength=3, frameon=False)
        elif panels["roc"].get_legend_handles_labels()[0]:
            panels["roc"].legend(loc="lower right", handlelength=3)
        _dots(panels["auc"], names, [one.auc.by_fold.mean(axis=1) for one in scores])
        panels["auc"].set_title("B  Macro AUC by fold")
        _dots(panels["accuracy"], names, [one.folds.accuracy for one in scores])
        panels["accuracy"].set_title("C  Accuracy by fold")
        svg, png = svg_and_png(figure)
    values = "; ".join(
        f"{one.variant}: macro AUC {show_number(one.auc_averages.pooled_macro)}, "
        f"accuracy {show_number(one.summary.accuracy)}"
        for one in scores
    )
    return Picture(
        name="comparison",
        title="All variants",
        caption=caption(
            results,
            "A: mean over classes of the pooled one-vs-rest curves at each false positive rate; dotted: chance. "
            "B, C: one mark a fold; the bar is the mean over folds.",
        ),
        alternative=f"Comparison of variants. {values}.",
        svg=svg,
        png=png,
    )


def macro_curve(scores: VariantScores) -> Floats | None:
    """Return the mean over classes of the pooled curves on the grid; None where a class has no curve."""
    curves = [_curve(scores, index) for index in range(len(scores.auc.pooled))]
    drawn = [curve for curve in curves if curve is not None]
    return vertical_average(drawn, _GRID).mean if len(drawn) == len(curves) else None


def _curve(scores: VariantScores, index: int, fold: int | None = None) -> RocCurve | None:
    predictions = scores.predictions
    chosen = np.ones(predictions.truth.shape, np.bool_) if fold is None else predictions.fold == fold
    positive = predictions.truth[chosen] == index
    if positive.all() or not positive.any():
        return None
    return roc_curve(positive, predictions.probabilities[chosen, index])


def _class_panel(axes: Axes, scores: VariantScores, index: int, area: Interval) -> None:
    square_of_rates(axes)
    folds = [_curve(scores, index, int(fold)) for fold in scores.auc.folds]
    drawn = [curve for curve in folds if curve is not None]
    for curve in drawn:
        axes.plot(curve.false_positive_rate, curve.true_positive_rate, color=colour(index), alpha=0.45, linewidth=0.7)
    if len(drawn) > 1:
        band = vertical_average(drawn, _GRID)
        low, high = np.clip(band.mean - band.sd, 0, 1), np.clip(band.mean + band.sd, 0, 1)
        axes.fill_between(_GRID, low, high, color=colour(index), alpha=0.18, linewidth=0)
    pooled = _curve(scores, index)
    if pooled is None:
        axes.text(0.5, 0.5, "undefined", ha="center")
        return
    axes.plot(pooled.false_positive_rate, pooled.true_positive_rate, color=colour(index))
    mean = show_number(scores.auc.mean_of_folds[index])
    words = f"AUC {show_number(area.value)} pooled\n[{show_number(area.low)}, {show_number(area.high)}]"
    axes.text(0.98, 0.05, f"{words}\n{mean} mean of folds", ha="right", va="bottom", transform=axes.transAxes)


def _dots(axes: Axes, names: Sequence[str], values: Sequence[Floats]) -> None:
    """Draw each variant's folds as marks on a line of their own, with a bar at their mean."""
    for index, own in enumerate(values):
        y = np.full(own.shape, index, np.float64) + np.linspace(-0.16, 0.16, len(own) + 2)[1:-1]
        axes.plot(
            own,
            y,
            linestyle="none",
            marker=MARKERS[index % len(MARKERS)],
            markersize=4.5,
            alpha=0.8,
            color=colour(index),
        )
        axes.vlines(own.mean(), index - 0.34, index + 0.34, color=colour(index), linewidth=2.2)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
