"""How much each searched setting matters: functional analysis of variance (fANOVA) of a search's complete trials."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from cxrdist.report.sweep import SweepSearch, SweepSummary
from cxrdist.study.seeds import derive_seed

FEWEST_TRIALS = 8
"""Complete trials below which a forest tells next to nothing."""

Importance = Mapping[str, float]
"""For each key the share of the score's variance that it explains alone, in [0, 1]."""


def importances(summary: SweepSummary) -> list[Importance | None]:
    """Return the importance of the keys in each search, in the summary's order; None where there are too few trials."""
    return [importance_of_keys(summary, search) for search in summary.searches]


def importance_of_keys(summary: SweepSummary, search: SweepSearch) -> Importance | None:
    """Return the share of the score's variance over the searched space that each key explains alone.

    A random forest of 64 trees is fitted to the complete trials, and its variance over the space divided among the keys
    and their interplay (fANOVA; Hutter, Hoos and Leyton-Brown 2014), in Optuna's implementation. The space is as the
    search draws from it: logarithms where it does so, and listed values equally often. What the shares lack to 1 is
    interplay.

    Returns:
        None with fewer than eight complete trials with a finite score, or where the scores or the settings do not
        differ.
    """
    trials = [trial for trial in search.trials if trial.state == "complete" and trial.seen is not None]
    if len(trials) < FEWEST_TRIALS:
        return None
    spaces = {key: max(1, len(summary.choices.get(key, ()))) for key in summary.keys}
    places = [
        {key: _place(summary.position(key, trial.settings[key]), n) for key, n in spaces.items()} for trial in trials
    ]
    # Slow to load, and most reports have no sweep.
    import optuna
    from optuna.distributions import FloatDistribution
    from optuna.importance import FanovaImportanceEvaluator

    with _quiet():
        study = optuna.create_study()
        for trial, params in zip(trials, places, strict=True):
            study.add_trial(
                optuna.trial.create_trial(
                    value=trial.seen,
                    params=params,
                    distributions={key: FloatDistribution(0, 1) for key in summary.keys},
                )
            )
        seed = derive_seed(summary.seed, "importance", search.variant, search.fold) % 2**32
        try:
            shares = FanovaImportanceEvaluator(seed=seed).evaluate(study)
        except RuntimeError:
            # No tree finds anything to tell apart.
            return None
    return {key: float(shares[key]) for key in summary.keys}


def important_pair(summary: SweepSummary, found: Sequence[Importance | None]) -> tuple[str, str] | None:
    """Return two keys to look at together: learning rate and batch size, else the two that matter most on average.

    Returns:
        None where a single key was searched; the first two of the space where no importance is known.
    """
    if len(summary.keys) < 2:
        return None
    if {"learning_rate", "batch_size"} <= set(summary.keys):
        return "learning_rate", "batch_size"
    known = [one for one in found if one is not None]
    # `sorted` is stable: of equal ones the first of the space.
    first, second = itertools.islice(sorted(summary.keys, key=lambda key: -sum(one[key] for one in known)), 2)
    return first, second


def _place(position: float, choices: int) -> float:
    """Return where a position lies in [0, 1] when each of the listed values takes an equal part of it."""
    return position if choices == 1 else (position * (choices - 1) + 0.5) / choices


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from telling of each study that it makes."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
