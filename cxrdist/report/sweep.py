"""What a sweep did, as plain values, and the words about it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

STATES: Mapping[str, str] = {
    "complete": "complete",
    "stopped": "stopped early",
    "diverged": "diverged",
    "failed": "failed",
}
"""How a trial may have ended, and the words for it."""
NEAR_AN_END = 0.05
"""A value lies at an end of what was searched where no more than this part of the range is beyond it."""
FEWEST_CHOICES = 3
"""With fewer values every one is at an end, which says nothing."""

SELECTION_ON_REPORTED_FOLDS = (
    "selection on reported folds: one search on the training part of fold 0 chose the settings of all folds, so test "
    "images of the other folds had a part in the choice, and their scores may be too good (sweep.nesting: shared)"
)


@dataclass(frozen=True)
class SweepTrial:
    """One trial that is over."""

    number: int
    settings: Mapping[str, int | float]
    state: str
    """`complete`, `stopped`, `diverged` or `failed`."""
    score: float | None
    """Mean of the metric over all inner folds; None for a trial that did not do all of them."""
    best_seen: float | None
    """Mean so far where it was stopped; the score of a complete one."""
    inner_folds: float
    """Inner folds done, with the part of the last one."""
    seconds: float

    @property
    def seen(self) -> float | None:
        """The score, or of a trial that was stopped its mean so far; None where there is no such number."""
        value = {"complete": self.score, "stopped": self.best_seen}.get(self.state)
        return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class SweepSearch:
    """One search: what it tried, and what it chose."""

    variant: str
    fold: int
    """The outer fold in whose training part it searched."""
    shared: bool
    """Whether its choice serves all folds."""
    planned: int
    """Trials that it was to make."""
    trials: Sequence[SweepTrial]
    """By number."""
    chosen: int
    """Number of the chosen trial."""
    score: float

    @property
    def chosen_settings(self) -> Mapping[str, int | float]:
        """What was chosen."""
        return next(trial.settings for trial in self.trials if trial.number == self.chosen)

    @property
    def place(self) -> str:
        """The outer folds that its choice serves, as a table names them."""
        return "all" if self.shared else str(self.fold)

    def count(self, state: str) -> int:
        """Return how many trials ended so."""
        return sum(trial.state == state for trial in self.trials)


@dataclass(frozen=True)
class SweepSummary:
    """All searches of a study."""

    keys: tuple[str, ...]
    """What was searched, in the order of the space."""
    choices: Mapping[str, Sequence[int | float]]
    """For each key that has a list of values, the list."""
    ranges: Mapping[str, tuple[float, float]]
    """For each other key, lowest and highest value."""
    log_keys: frozenset[str]
    """Keys searched evenly over orders of magnitude."""
    metric: str
    """Such as `val_auc`."""
    larger_is_better: bool
    inner_folds: int
    searcher: str
    scheduler: str
    searches: Sequence[SweepSearch]
    """By variant and fold, in the study's order."""
    seed: int

    @property
    def shared(self) -> bool:
        """Whether one search a variant chose for all folds: selection on reported folds."""
        return any(search.shared for search in self.searches)

    @property
    def variants(self) -> list[str]:
        """Variants with a search, in the study's order."""
        return list(dict.fromkeys(search.variant for search in self.searches))

    def of(self, variant: str) -> list[SweepSearch]:
        """Return the searches of a variant, by fold."""
        return [search for search in self.searches if search.variant == variant]

    @property
    def tries_everything(self) -> bool:
        """Whether the space is finite and each search goes through all of it."""
        every = math.prod(len(self.choices.get(key, ())) for key in self.keys)
        return all(search.planned == every for search in self.searches)

    def best(self, scores: Sequence[float]) -> float:
        """Return the best of one score or more."""
        return max(scores) if self.larger_is_better else min(scores)

    def ordered_choices(self, key: str) -> list[int | float]:
        """Return the listed values of a key in ascending order; empty for a range."""
        return sorted(self.choices.get(key, ()))

    def position(self, key: str, value: float) -> float:
        """Return where a value lies between the lowest (0) and the highest (1) that was searched.

        Listed values are evenly apart, and those of `log_keys` by their logarithms; a lone value is in the middle.
        """
        choices = self.ordered_choices(key)
        if choices:
            return choices.index(value) / (len(choices) - 1) if len(choices) > 1 else 0.5
        low, high = self.ranges[key]
        if key in self.log_keys:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def end_of_range(self, key: str, value: float) -> Literal["lower", "upper"] | None:
        """Return the end of what was searched that a value lies at, where a wider space might do better.

        That is the first or last of at least three listed values, or 5 % of the range next to a bound (of the range
        of logarithms for `log_keys`). Nothing lies below 0, so a lowest value of 0 is no such end.
        """
        choices = self.ordered_choices(key)
        if 0 < len(choices) < FEWEST_CHOICES:
            return None
        place = self.position(key, value)
        near = 0.0 if choices else NEAR_AN_END
        lowest = choices[0] if choices else self.ranges[key][0]
        if place <= near and lowest > 0:
            return "lower"
        return "upper" if place >= 1 - near else None

    def best_so_far(self, search: SweepSearch) -> list[float]:
        """Return after each of its trials, by number, the best score of a complete one; NaN before the first."""
        best: list[float] = []
        for trial in search.trials:
            known = [value for value in (best[-1:] or [math.nan]) if not math.isnan(value)]
            known += [trial.seen] if trial.state == "complete" and trial.seen is not None else []
            best.append(self.best(known) if known else math.nan)
        return best


_METRICS = {"val_auc": "macro AUC", "val_accuracy": "accuracy", "val_macro_f1": "macro F1", "val_loss": "log loss"}


def metric_title(metric: str) -> str:
    """Return what a metric of a sweep is called in a report."""
    return _METRICS.get(metric, metric)


def key_title(key: str) -> str:
    """Return what a key of the study file is called in a report."""
    return key.replace("_", " ")


def show_setting(value: float) -> str:
    """Return a value of a setting with three significant digits, such as "3.16e-5"; a whole number as it is."""
    if isinstance(value, int):
        return str(value)
    mantissa, e, exponent = f"{value:.3g}".partition("e")
    return f"{mantissa}{e}{int(exponent)}" if e else mantissa


def show_searched(summary: SweepSummary, key: str) -> str:
    """Return what was searched of a key, such as "1e-5 to 0.01 (log)" or "8, 16, 32"."""
    choices = summary.ordered_choices(key)
    if choices:
        return ", ".join(show_setting(value) for value in choices)
    low, high = summary.ranges[key]
    return f"{show_setting(low)} to {show_setting(high)}{' (log)' if key in summary.log_keys else ''}"
