"""Which settings a trial of a search tries: by Optuna's samplers, as a pure function of seed and history."""

import itertools
from collections.abc import Sequence

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from cxrdist.study.recipe import Settings
from cxrdist.study.search import Dimension, Proposal, SearchRules, TrialRecord, TrialState, thresholds
from cxrdist.study.seeds import derive_seed

STARTUP_TRIALS = 10
"""Trials at random before the estimator begins to learn: Optuna's own number."""


def propose(rules: SearchRules, number: int, known: Sequence[TrialRecord]) -> Proposal:
    """Return trial `number`.

    Args:
        rules: of the search.
        number: from 0.
        known: what the trial learns from; see `known_to`.
    """
    return Proposal(number, suggest(rules, number, known), thresholds(rules, known))


def suggest(rules: SearchRules, number: int, known: Sequence[TrialRecord]) -> Settings:
    """Return the settings of trial `number`, which is less than the number of settings where all are gone through."""
    if rules.exhaustive:
        choices = itertools.product(*(dimension.choices for dimension in rules.space))
        values = next(itertools.islice(choices, number, None))
        return tuple((dimension.key, value) for dimension, value in zip(rules.space, values, strict=True))
    distributions = {dimension.key: distribution_of(dimension) for dimension in rules.space}
    # An own study each time, and a seed of the trial's own: nothing to keep, nothing that depends on what came between.
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            sampler=_sampler(rules, number), direction="maximize" if rules.larger_is_better else "minimize"
        )
        study.add_trials([_frozen(record, distributions) for record in known])
        asked = study.ask(distributions)
    finally:
        optuna.logging.set_verbosity(level)
    return tuple((dimension.key, asked.params[dimension.key]) for dimension in rules.space)


def distribution_of(dimension: Dimension) -> BaseDistribution:
    """Return Optuna's name for what a dimension is."""
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _sampler(rules: SearchRules, number: int) -> BaseSampler:
    seed = derive_seed(rules.seed, "trial", number) % 2**32
    if rules.searcher == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)


def _frozen(record: TrialRecord, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    """Return a trial as Optuna knows it: stopped ones by how far they came, diverged ones as the worst."""
    complete = record.state is TrialState.COMPLETE
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE if complete else optuna.trial.TrialState.PRUNED,
        value=record.score,
        params=dict(record.settings),
        distributions=distributions,
        # Optuna takes a pruned trial without any such value for worse than all others.
        intermediate_values=dict(enumerate(record.rung_scores)) if record.state is TrialState.STOPPED else {},
    )
