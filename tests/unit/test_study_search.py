"""The rules of a search: what comes next, what stops, what is chosen."""

import itertools
import math
import random
import warnings

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.study.search import (
    REDUCTION,
    Dimension,
    Proposal,
    SearchRules,
    TrialRecord,
    TrialState,
    choose,
    combinations,
    known_to,
    passes,
    thresholds,
)
from cxrdist.study.suggest import STARTUP_TRIALS, distribution_of, propose, suggest

RATE = Dimension("learning_rate", low=1e-5, high=1e-2, log=True)
BATCH = Dimension("batch_size", choices=(8, 16, 32, 64), whole=True)


def rules(**changes):
    values = {"space": (RATE, BATCH), "folds": 3, "larger_is_better": True, "lag": 4, "seed": 7}
    return SearchRules(**{**values, **changes})


def goodness(chosen):
    """A smooth score with its best at a rate of 1e-3, a little better with small batches."""
    values = dict(chosen)
    return 1 - abs(math.log10(values["learning_rate"]) + 3) / 4 - values["batch_size"] / 1000


def done(proposal, search_rules, score=goodness):
    """Return the record of a trial whose score is the same after any amount of work."""
    value = score(proposal.settings)
    reached = []
    for threshold in proposal.thresholds:
        reached.append(value)
        if not passes(search_rules, value, threshold):
            return TrialRecord(
                proposal.number, proposal.settings, TrialState.STOPPED, rung_scores=tuple(reached), work=0.3
            )
    return TrialRecord(
        proposal.number, proposal.settings, TrialState.COMPLETE, (value,) * search_rules.folds, tuple(reached)
    )


def search_in_any_order(search_rules, trials, order, interrupted_after=None):
    """Make trials as workers would that take from 1 to `lag` at a time and end in a random order."""
    records: dict[int, TrialRecord] = {}
    running: dict[int, Proposal] = {}
    while len(records) < trials:
        waiting = [n for n in range(trials) if n not in records and n not in running]
        startable = [n for n in waiting if known_to(n, search_rules, records) is not None]
        if startable and (not running or order.random() < 0.6):
            number = startable[0]
            running[number] = propose(search_rules, number, known_to(number, search_rules, records) or [])
        else:
            number = order.choice(sorted(running))
            records[number] = done(running.pop(number), search_rules)
        if interrupted_after is not None and len(records) == interrupted_after:
            # What was in work is lost; the records are kept.
            running, interrupted_after = {}, None
    return records


@pytest.mark.parametrize("searcher", ["tpe", "random"])
@pytest.mark.parametrize("halving", [True, False])
def test_neither_timing_nor_interruption_changes_a_trial(searcher, halving):
    own = rules(searcher=searcher, halving=halving)
    undisturbed = search_in_any_order(own, 20, random.Random(0))
    for seed in range(1, 6):
        other = search_in_any_order(own, 20, random.Random(seed), interrupted_after=3 * seed)
        assert other == undisturbed
    assert choose(own, list(undisturbed.values())) is not None


def test_no_more_trials_are_in_work_than_the_lag():
    own = rules(lag=3)
    records: dict[int, TrialRecord] = {}
    for number in range(3):
        assert known_to(number, own, records) == []
    assert known_to(3, own, records) is None
    records[1] = TrialRecord(1, (), TrialState.FAILED)
    assert known_to(3, own, records) is None
    records[0] = TrialRecord(0, (), TrialState.COMPLETE, (0.5,))
    assert known_to(3, own, records) == [records[0]]
    assert known_to(4, own, records) == [records[0], records[1]]


def test_the_estimator_learns_where_the_good_values_are():
    own = rules(lag=1, halving=False)
    records: dict[int, TrialRecord] = {}
    for number in range(40):
        records[number] = done(propose(own, number, known_to(number, own, records) or []), own)
    early = [goodness(records[n].settings) for n in range(STARTUP_TRIALS)]
    late = [goodness(records[n].settings) for n in range(30, 40)]
    assert sum(late) / len(late) > sum(early) / len(early) + 0.1
    best = choose(own, list(records.values()))
    assert best is not None
    assert 3e-4 < dict(best.settings)["learning_rate"] < 3e-3


@given(st.sampled_from(["tpe", "random"]), st.integers(0, 10_000), st.integers(0, 2**60))
@settings(max_examples=30, deadline=None)
def test_every_suggestion_lies_in_the_space(searcher, number, seed):
    whole = Dimension("epochs", low=2, high=50, log=True, whole=True)
    share = Dimension("dropout", low=0.0, high=0.9)
    chosen = dict(suggest(rules(space=(RATE, BATCH, whole, share), searcher=searcher, seed=seed), number, []))
    assert list(chosen) == ["learning_rate", "batch_size", "epochs", "dropout"]
    assert 1e-5 <= chosen["learning_rate"] <= 1e-2
    assert chosen["batch_size"] in BATCH.choices
    assert isinstance(chosen["epochs"], int)
    assert 2 <= chosen["epochs"] <= 50
    assert 0 <= chosen["dropout"] <= 0.9


def test_random_rates_are_spread_evenly_over_orders_of_magnitude():
    own = rules(searcher="random")
    rates = [dict(suggest(own, number, []))["learning_rate"] for number in range(300)]
    by_decade = [sum(10.0**k <= rate < 10.0 ** (k + 1) for rate in rates) for k in (-5, -4, -3)]
    assert min(by_decade) > 70


def test_a_small_space_is_gone_through_once():
    space = (BATCH, Dimension("dropout", choices=(0.0, 0.5)))
    assert combinations(space) == 8
    assert combinations((*space, RATE)) is None
    own = rules(space=space, exhaustive=True)
    every = [suggest(own, number, []) for number in range(8)]
    assert len(set(every)) == 8


def test_with_fewer_than_two_others_nothing_stops():
    own = rules()
    one = TrialRecord(0, (), TrialState.COMPLETE, (0.9,) * 3, (0.9, 0.9, 0.9))
    assert all(math.isnan(value) for value in thresholds(own, [one]))
    assert thresholds(own, [one, one]) == (0.9, 0.9, 0.9)
    assert passes(own, 0.1, math.nan)


@given(st.lists(st.floats(0, 1), min_size=REDUCTION - 1, max_size=30), st.floats(0, 1), st.booleans())
def test_a_trial_goes_on_if_and_only_if_it_is_among_the_best_third(others, score, larger):
    own = rules(larger_is_better=larger)
    known = [TrialRecord(n, (), TrialState.STOPPED, rung_scores=(value,)) for n, value in enumerate(others)]
    goes_on = passes(own, score, thresholds(own, known)[0])
    better = sum(own.better(value, score) for value in others)
    assert goes_on == (better < math.ceil((len(others) + 1) / REDUCTION))


def test_rungs_are_parts_of_the_work_three_times_as_long_each():
    assert rules(grace=0.3).rungs == pytest.approx((0.3, 0.9, 2.7))
    assert rules(grace=1, folds=10).rungs == (1, 3, 9)
    assert rules(halving=False).rungs == ()


def test_a_trial_that_did_not_do_all_folds_is_never_chosen():
    bad = [
        TrialRecord(0, (("learning_rate", 1.0),), TrialState.DIVERGED, (0.99,), (0.99,)),
        TrialRecord(1, (("learning_rate", 2.0),), TrialState.STOPPED, (0.99, 0.99), (0.99,)),
        TrialRecord(2, (("learning_rate", 3.0),), TrialState.FAILED),
    ]
    good = TrialRecord(3, (("learning_rate", 4.0),), TrialState.COMPLETE, (0.5, 0.6, 0.7))
    assert choose(rules(), [*bad, good]) == good
    assert choose(rules(), bad) is None
    assert good.score == pytest.approx(0.6)


@given(st.permutations(range(6)), st.booleans())
def test_of_equal_trials_the_first_is_chosen_in_any_order(order, larger):
    scores = [0.5, 0.7, 0.3, 0.7, 0.3, 0.5]
    records = [TrialRecord(n, (), TrialState.COMPLETE, (scores[n],)) for n in order]
    best = choose(rules(larger_is_better=larger), records)
    assert best is not None
    assert best.number == (1 if larger else 2)


def test_a_diverged_trial_counts_as_the_worst_for_the_estimator():
    own = rules(lag=1, halving=False)

    def records(bad_state):
        found = []
        for number in range(25):
            chosen = suggest(rules(searcher="random"), number, [])
            if dict(chosen)["learning_rate"] > 1e-3:
                found.append(TrialRecord(number, chosen, bad_state))
            else:
                found.append(TrialRecord(number, chosen, TrialState.COMPLETE, (goodness(chosen),) * 3))
        return found

    known = records(TrialState.DIVERGED)
    rates = [dict(suggest(own, number, known))["learning_rate"] for number in range(25, 45)]
    assert sum(rate > 1e-3 for rate in rates) <= 4


def test_optuna_is_told_the_truth_about_dimensions():
    assert distribution_of(RATE) == optuna.distributions.FloatDistribution(1e-5, 1e-2, log=True)
    assert distribution_of(BATCH) == optuna.distributions.CategoricalDistribution((8, 16, 32, 64))
    whole = Dimension("epochs", low=2, high=9, whole=True)
    assert distribution_of(whole) == optuna.distributions.IntDistribution(2, 9)


def test_suggestions_say_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = optuna.logging.get_verbosity()
        suggest(rules(), 0, [])
        assert optuna.logging.get_verbosity() == before


def test_trials_of_one_search_differ():
    own = rules()
    pairs = itertools.combinations([suggest(own, number, []) for number in range(10)], 2)
    assert all(a != b for a, b in pairs)
