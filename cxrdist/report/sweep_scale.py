"""Colours and heights of scores in the figures of a sweep."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxrdist.report.sweep import SweepSummary, metric_title

_FARTHEST = 2.5
"""Scores farther from the best than so many times the median distance share the colour of the worst: a few trials that
learned nothing would leave one colour to all others."""
_PALEST = 0.95
"""The end of viridis is too pale for lines on white."""


@dataclass(frozen=True)
class ScoreScale:
    """What is drawn at the bottom and pale, and what at the top and dark."""

    worst: float
    best: float
    metric: str
    is_cut: bool
    """Whether there are scores beyond `worst`."""

    @classmethod
    def of(cls, summary: SweepSummary, variant: str) -> "ScoreScale | None":
        """Return the scale of a variant's trials; None where none has a score."""
        scores = [trial.seen for search in summary.of(variant) for trial in search.trials if trial.seen is not None]
        if not scores:
            return None
        best = summary.best(scores)
        distances = np.abs(np.array(scores) - best)
        farthest, median = float(distances.max()), float(np.median(distances))
        reach = min(farthest, _FARTHEST * median) if median > 0 else farthest
        return cls(
            worst=best - reach if summary.larger_is_better else best + reach,
            best=best,
            metric=metric_title(summary.metric),
            is_cut=reach < farthest,
        )

    def height(self, score: float) -> float:
        """Return 0 for the worst or what is beyond it, and 1 for the best; 1 where all are equal."""
        if self.worst == self.best:
            return 1.0
        return min(1.0, max(0.0, (score - self.worst) / (self.best - self.worst)))

    def colour(self, score: float) -> tuple[float, float, float]:
        """Return the colour of a score: the better, the darker."""
        red, green, blue, _ = _colours()(self.height(score))
        return red, green, blue

    def ticks(self) -> list[tuple[float, str]]:
        """Return round scores between worst and best, with their labels."""
        low, high = sorted((self.worst, self.best))
        if low == high:
            return [(low, f"{low:.3f}")]
        values = MaxNLocator(5).tick_values(low, high)
        decimals = max(2, math.ceil(-math.log10(values[1] - values[0]) - 1e-9))
        return [(float(value), f"{value:z.{decimals}f}") for value in values if low <= value <= high]

    def draw_bar(self, figure: Figure, axes: Axes | Sequence[Axes]) -> None:
        """Draw the colour bar beside `axes`, the best on top; nothing where all scores are equal."""
        low, high = sorted((self.worst, self.best))
        if low == high:
            return
        falling = self.best < self.worst
        bar = figure.colorbar(
            ScalarMappable(Normalize(low, high), _colours().reversed() if falling else _colours()),
            ax=axes,
            aspect=28,
            extend=("max" if falling else "min") if self.is_cut else "neither",
        )
        bar.set_label(f"{self.metric[:1].upper()}{self.metric[1:]}{' (less is better)' if falling else ''}")
        bar.set_ticks([value for value, _ in self.ticks()], labels=[label for _, label in self.ticks()])
        bar.outline.set_linewidth(0.6)
        if bar.solids is not None:
            # Else some viewers show white seams between the colours.
            bar.solids.set_edgecolor("face")
        if falling:
            bar.ax.invert_yaxis()


def _colours() -> LinearSegmentedColormap:
    """Return viridis from pale to dark, without its palest end."""
    return LinearSegmentedColormap.from_list("score", colormaps["viridis"](np.linspace(_PALEST, 0, 256)))
