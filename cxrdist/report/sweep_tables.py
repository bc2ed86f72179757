"""The tables of a sweep: what was chosen, whether the choices agree, which settings matter, and what it cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxrdist.report.sweep import (
    STATES,
    SweepSearch,
    SweepSummary,
    SweepTrial,
    key_title,
    metric_title,
    show_searched,
    show_setting,
)
from cxrdist.report.sweep_importance import FEWEST_TRIALS, Importance
from cxrdist.report.table import Cell, Column, Table
from cxrdist.report.tables import SCORE_DIGITS

TOO_FEW = "too few trials"


@dataclass(frozen=True)
class SettingColumn(Column):
    """A column of settings, shown with significant digits: a learning rate of 1e-5 has no use for decimals."""

    def show(self, value: Cell) -> str:
        """Return a cell as people read it."""
        return show_setting(value) if isinstance(value, float) and math.isfinite(value) else super().show(value)


def best_table(summary: SweepSummary) -> Table:
    """One row a search: the settings that it chose, their score on the inner folds, and how its trials ended."""
    rows: list[tuple[Cell, ...]] = [
        (
            search.variant,
            search.place,
            *(search.chosen_settings[key] for key in summary.keys),
            search.score,
            search.chosen,
            *(search.count(state) for state in STATES),
        )
        for search in summary.searches
    ]
    better = "more" if summary.larger_is_better else "less"
    where = f"outside fold {summary.searches[0].fold} is doubtful, too" if summary.shared else "is not"
    return Table(
        name="sweep_best",
        title="Chosen settings",
        caption="What each search chose, by variant and outer fold.",
        columns=(
            Column("Variant"),
            Column("Fold"),
            *(SettingColumn(key_title(key), "Chosen") for key in summary.keys),
            Column("Inner score", digits=SCORE_DIGITS),
            Column("Trial"),
            *(Column(state, "Trials") for state in STATES),
        ),
        rows=tuple(rows),
        keys=2,
        notes=(
            f"Inner score: mean of the {metric_title(summary.metric)} ({summary.metric}; {better} is better) over "
            f"{summary.inner_folds} inner folds. It is that of the best of many trials, and so too good as an "
            f"estimate; what the outer folds' test parts give {where}.",
            "Trial: number of the chosen trial, from 0.",
        ),
    )


def agreement_table(summary: SweepSummary) -> Table:
    """One row a variant and setting: the range of what was searched and of what its searches chose."""
    rows: list[tuple[Cell, ...]] = []
    for variant in summary.variants:
        searches = summary.of(variant)
        for key in summary.keys:
            chosen = [search.chosen_settings[key] for search in searches]
            ends = [summary.end_of_range(key, value) for value in chosen]
            rows.append(
                (
                    variant,
                    key_title(key),
                    show_searched(summary, key),
                    len(searches),
                    min(chosen),
                    # The middle one that was chosen, not a value between two.
                    sorted(chosen)[(len(chosen) - 1) // 2],
                    max(chosen),
                    ends.count("lower"),
                    ends.count("upper"),
                )
            )
    return Table(
        name="sweep_agreement",
        title="Agreement of the choices",
        caption="The range of the settings that the searches of a variant chose.",
        columns=(
            Column("Variant"),
            Column("Setting"),
            Column("Searched"),
            Column("Searches"),
            *(SettingColumn(title, "Chosen") for title in ("lowest", "median", "highest")),
            *(Column(title, "At an end") for title in ("lower", "upper")),
        ),
        rows=tuple(rows),
        keys=2,
        notes=(
            "Median: the lower one of two in the middle.",
            "At an end: searches whose choice is the first or last of at least three listed values, or within 5 % of "
            "the range (log: of the logarithms) next to a bound; a bound of 0, below which nothing lies, is none.",
        ),
    )


def importance_table(summary: SweepSummary, found: Sequence[Importance | None]) -> Table:
    """One row a variant and setting: how much of the score's variance it explains alone.

    Args:
        summary: the searches.
        found: of each of them, in its order.
    """
    rows: list[tuple[Cell, ...]] = []
    for variant in summary.variants:
        known = [
            one
            for search, one in zip(summary.searches, found, strict=True)
            if search.variant == variant and one is not None
        ]
        for key in summary.keys:
            shares = np.array([one[key] for one in known])
            values: tuple[Cell, ...] = (TOO_FEW, None, None)
            if known:
                values = (float(shares.mean()), float(shares.min()), float(shares.max()))
            rows.append((variant, key_title(key), len(known), *values))
    return Table(
        name="sweep_importance",
        title="Importance of the settings",
        caption=f"Share of the variance of the {metric_title(summary.metric)} that each setting explains alone.",
        columns=(
            Column("Variant"),
            Column("Setting"),
            Column("Searches"),
            *(Column(title, "Importance", SCORE_DIGITS) for title in ("mean", "lowest", "highest")),
        ),
        rows=tuple(rows),
        keys=2,
        notes=(
            "Importance: functional analysis of variance (fANOVA; Hutter, Hoos and Leyton-Brown 2014) of a random "
            "forest of each search's complete trials; what a variant's shares lack to 1 is interplay of settings. "
            "Trials that stopped early have no part in it, so it is of the better settings more than of all.",
            f"Searches: those with at least {FEWEST_TRIALS} complete trials whose scores differ; with none, "
            f"“{TOO_FEW}”. Lowest and highest are over searches.",
        ),
    )


def cost_table(summary: SweepSummary) -> Table:
    """One row a variant, and one of all: trials, inner folds done and saved by stopping early, time."""
    rows = [_cost(summary, variant, summary.of(variant)) for variant in summary.variants]
    several = len(rows) > 1
    if several:
        rows.append(_cost(summary, "all", summary.searches))
    return Table(
        name="sweep_cost",
        title="Cost of the sweep",
        caption="What the searches of each variant took.",
        columns=(
            Column("Variant"),
            Column("Searches"),
            Column("done", "Trials"),
            Column("planned", "Trials"),
            Column("done", "Inner folds", 1),
            Column("without stopping", "Inner folds", 1),
            Column("share saved", "Inner folds", SCORE_DIGITS),
            Column("Seconds"),
        ),
        rows=tuple(rows),
        totals=frozenset({len(rows) - 1}) if several else frozenset(),
        notes=(
            f"Without stopping: all {summary.inner_folds} inner folds of each trial that was complete or stopped "
            "early, and what diverged and failed trials did. Parts of inner folds count as parts.",
            "Seconds of training and testing, added up over trials, however many ran at a time.",
        ),
    )


def full_work(summary: SweepSummary, trial: SweepTrial) -> float:
    """Return the inner folds that a trial would have done if none were stopped early."""
    return float(summary.inner_folds) if trial.state in ("complete", "stopped") else trial.inner_folds


def _cost(summary: SweepSummary, name: str, searches: Sequence[SweepSearch]) -> tuple[Cell, ...]:
    trials = [trial for search in searches for trial in search.trials]
    done = math.fsum(trial.inner_folds for trial in trials)
    full = math.fsum(full_work(summary, trial) for trial in trials)
    return (
        name,
        len(searches),
        len(trials),
        sum(search.planned for search in searches),
        done,
        full,
        1 - done / full if full else math.nan,
        math.fsum(trial.seconds for trial in trials),
    )
