"""A search for settings: which trial comes next, when one stops early, and which is chosen.

Everything here is a function of the seed and of trials that are over, never of the order in which they ended. A trial
learns from those that are at least `lag` numbers before it, and `lag` is also how many may be in work at a time; so a
search that was interrupted, or ran on other machines, proposes the same trials and chooses the same one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from cxrdist.study.recipe import Settings

REDUCTION = 3
"""Successive halving keeps one trial of so many, and gives it so many times the work (Li et al., 2020)."""


SELECTION_ON_REPORTED_FOLDS = (
    "selection on reported folds: one search on the training part of fold 0 chose the settings of all folds, so test "
    "images of the other folds had a part in the choice, and their scores may be too good (sweep.nesting: shared)"
)
"""What must be said of a study whose folds share one search."""


class TrialState(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    STOPPED = "stopped"
    """Early, since others that came as far did better."""
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass(frozen=True)
class Dimension:
    """The values that a search may give to one setting."""

    key: str
    choices: tuple[int | float, ...] = ()
    """All values; empty for a range."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False


def combinations(space: Sequence[Dimension]) -> int | None:
    """Return how many settings there are, None for infinitely many."""
    if not all(dimension.choices for dimension in space):
        return None
    return math.prod(len(dimension.choices) for dimension in space)


@dataclass(frozen=True)
class SearchRules:
    """What decides which trials a search makes, and which of them it chooses."""

    space: tuple[Dimension, ...]
    folds: int
    """Inner folds of a trial."""
    larger_is_better: bool
    lag: int
    seed: int
    searcher: Literal["tpe", "random"] = "tpe"
    halving: bool = True
    grace: float = 0.3
    """Inner folds that every trial does before it may stop."""
    exhaustive: bool = False
    """Go through all settings of a finite space, in order, instead of sampling."""

    @property
    def rungs(self) -> tuple[float, ...]:
        """Work, in inner folds, after which a trial may be stopped: ascending, less than all of it."""
        if not self.halving:
            return ()
        rungs = []
        work = self.grace
        while work < self.folds:
            rungs.append(work)
            work *= REDUCTION
        return tuple(rungs)

    def better(self, a: float, b: float) -> bool:
        """Return whether score `a` is better than `b`."""
        return a > b if self.larger_is_better else a < b


@dataclass(frozen=True)
class TrialRecord:
    """A trial that is over."""

    number: int
    """From 0, in the order of being proposed."""
    settings: Settings
    state: TrialState
    fold_scores: tuple[float, ...] = ()
    """Of the inner folds that were done to the end."""
    rung_scores: tuple[float, ...] = ()
    """Mean score so far at each rung that was reached."""
    work: float = 0.0
    """Inner folds that were done, with the part of the last one."""
    seconds: float = 0.0
    """Of training and testing."""
    reason: str = ""

    @property
    def score(self) -> float | None:
        """Mean over all inner folds; None for a trial that did not do all of them."""
        if self.state is not TrialState.COMPLETE:
            return None
        return math.fsum(self.fold_scores) / len(self.fold_scores)


@dataclass(frozen=True)
class Proposal:
    """A trial to be made."""

    number: int
    settings: Settings
    thresholds: tuple[float, ...]
    """At each rung, the mean score below which (above, where less is better) the trial stops; NaN for none."""


def known_to(number: int, rules: SearchRules, records: Mapping[int, TrialRecord]) -> list[TrialRecord] | None:
    """Return the records that trial `number` learns from, by number; None while one of them is still in work."""
    needed = range(number - rules.lag + 1)
    if any(other not in records for other in needed):
        return None
    return [records[other] for other in needed]


def thresholds(rules: SearchRules, known: Sequence[TrialRecord]) -> tuple[float, ...]:
    """Return for each rung the score that a new trial needs to be among the best third of those that came as far.

    With fewer than two others there, nothing stops.
    """
    found = []
    for rung in range(len(rules.rungs)):
        others = sorted(
            (record.rung_scores[rung] for record in known if len(record.rung_scores) > rung),
            reverse=rules.larger_is_better,
        )
        kept = math.ceil((len(others) + 1) / REDUCTION)
        found.append(others[kept - 1] if len(others) >= REDUCTION - 1 else math.nan)
    return tuple(found)


def passes(rules: SearchRules, score: float, threshold: float) -> bool:
    """Return whether a trial with this mean score so far goes on."""
    return math.isnan(threshold) or not rules.better(threshold, score)


def choose(rules: SearchRules, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the complete trial with the best mean score, of equal ones the first; None where none is complete."""
    best: TrialRecord | None = None
    for record in sorted(records, key=lambda record: record.number):
        if record.score is None:
            continue
        if best is None or best.score is None or rules.better(record.score, best.score):
            best = record
    return best
