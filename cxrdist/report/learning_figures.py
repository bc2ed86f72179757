"""Loss, accuracy and error rate by epoch."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from cxrdist.report.results import Results
from cxrdist.report.style import Picture, colour, dashes, house_style, new_figure, svg_and_png
from cxrdist.report.table import show_number
from cxrdist.report.tables import caption, file_name
from cxrdist.stats.averages import Floats, mean_and_sd_by_column

History = Sequence[Mapping[str, float]]


def learning_picture(results: Results, variant: str) -> Picture | None:
    """Draw the mean over a variant's folds with a band of one SD, by epoch; None without histories."""
    histories = [own for (name, _), own in sorted(results.histories.items()) if name == variant and own]
    if not histories:
        return None
    with house_style():
        figure = new_figure(7.2, 2.9)
        panels = figure.subplots(1, 3)
        _panel(panels[0], histories, "loss", lambda value: value)
        panels[0].set(title="A  Loss", ylabel="Cross-entropy")
        _panel(panels[1], histories, "accuracy", lambda value: value)
        panels[1].set(title="B  Accuracy")
        _panel(panels[2], histories, "accuracy", lambda value: 1 - value)
        panels[2].set(title="C  Error rate")
        panels[2].set_ylim(bottom=0)
        for axes in panels:
            axes.set_xlabel("Epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        svg, png = svg_and_png(figure)
    loss, accuracy = (
        show_number(float(np.mean([own[-1][key] for own in histories])))
        for key in ("validation_loss", "validation_accuracy")
    )
    return Picture(
        name=f"learning_{file_name(variant)}",
        title=f"Learning curves of {variant}",
        caption=caption(
            results,
            f"Mean over {len(histories)} of {results.n_folds} folds; band: one standard deviation to each side. "
            "Error rate = 1 − accuracy.",
        ),
        alternative=(
            f"Loss, accuracy and error rate of {variant} by epoch. At the end, on validation images, the mean loss "
            f"is {loss} and the mean accuracy {accuracy}."
        ),
        svg=svg,
        png=png,
    )


def by_epoch(histories: Sequence[History], key: str) -> tuple[Floats, Floats]:
    """Return the epochs [E] that occur, and the values of `key` [folds, E].

    NaN stands for an epoch that a fold has not, and for a value that is not finite (a diverged run).
    """
    epochs = sorted({int(one["epoch"]) for own in histories for one in own})
    column = {epoch: index for index, epoch in enumerate(epochs)}
    values = np.full((len(histories), len(epochs)), np.nan)
    for row, own in enumerate(histories):
        for one in own:
            if np.isfinite(one[key]):
                values[row, column[int(one["epoch"])]] = one[key]
    return np.asarray(epochs, np.float64), values


def _panel(axes: Axes, histories: Sequence[History], key: str, shown: Callable[[Floats], Floats]) -> None:
    for index, part in enumerate(("train", "validation")):
        epochs, values = by_epoch(histories, f"{part}_{key}")
        mean, sd = mean_and_sd_by_column(shown(values))
        label = {"train": "training", "validation": "validation"}[part]
        marker = "o" if len(epochs) == 1 else None
        axes.plot(epochs, mean, color=colour(index), linestyle=dashes(index), marker=marker, label=label)
        top = 1.0 if key == "accuracy" else np.inf
        axes.fill_between(
            epochs, np.clip(mean - sd, 0, top), np.clip(mean + sd, 0, top), color=colour(index), alpha=0.18, linewidth=0
        )
