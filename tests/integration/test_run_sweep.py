"""A sweep while it goes on: what is handed out, what becomes of lost trials, and how trials continue."""

import math
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cxrdist.config.models import TrackingConfig
from cxrdist.errors import CxrdistError
from cxrdist.learn.train import Epoch
from cxrdist.run import trial_work
from cxrdist.run.context import Plan, feature_file
from cxrdist.run.store import Store
from cxrdist.run.sweep import (
    Choice,
    Sweep,
    TrialEvent,
    make_choices,
    read_choice,
    settings_by_fold,
    write_choice,
)
from cxrdist.run.sweep_plan import Search, SearchImages, write_search
from cxrdist.run.tracking import Measures
from cxrdist.run.trial import (
    OutOfTimeError,
    TrialData,
    TrialStep,
    do_trial,
    metric_value,
    read_record,
    write_record,
)
from cxrdist.run.trial_work import TrialRules, attempt_trial, trial_run_id
from cxrdist.study import layout
from cxrdist.study.folds import Folds, Part
from cxrdist.study.layout import SearchFiles
from cxrdist.study.plan import FeatureJob, Variant
from cxrdist.study.queue import LOSSES
from cxrdist.study.recipe import Network, Recipe
from cxrdist.study.search import Dimension, Proposal, SearchRules, TrialRecord, TrialState
from tests.unit.learn_examples import CPU

VARIANT = Variant("whole", "vgg16")
NETWORK = Network("vgg16", 2, 32, "frozen", vgg_head="average_pool", vgg_hidden=4, dropout=0.3)
RECIPE = Recipe(epochs=3, batch_size=4, learning_rate=3e-3)
RULES = SearchRules(
    space=(Dimension("learning_rate", low=1e-4, high=1e-1, log=True),),
    folds=2,
    larger_is_better=True,
    lag=2,
    seed=7,
    searcher="random",
    grace=0.4,
)
"""A trial may stop after epoch 2 of the first inner fold and after epoch 1 of the second."""
N_IMAGES = 12
STEPS = RULES.folds * RECIPE.epochs
RATE = (("learning_rate", 0.01),)
NEVER = 1e9

Selection = Literal["last", "best_validation_loss"]
SELECTIONS: tuple[Selection, ...] = ("last", "best_validation_loss")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Of so small a network, threads that wait for each other would take longer than its training."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def search(fold: int = 0, trials: int = 4, shared: bool = False, **changed) -> Search:  # noqa: FBT001
    values = {"rules": RULES, "metric": "val_auc", "recipe": RECIPE, "fingerprint": f"of fold {fold}", **changed}
    return Search(
        variant=VARIANT, fold=fold, shared=shared, trials=trials, network=NETWORK, seed=5, n_classes=2, **values
    )


def complete(number: int, *scores: float) -> TrialRecord:
    return TrialRecord(number, RATE, TrialState.COMPLETE, scores, work=len(scores))


# Handing out trials


def numbers(sweep: Sweep) -> list[tuple[int, int]]:
    """Claim all that can be claimed; return outer folds and numbers."""
    found: list[tuple[int, int]] = []
    while len(found) < 20 and (claimed := sweep.claim()) is not None:
        found.append((claimed[0].fold, claimed[1].number))
    return found


def test_searches_get_on_together_and_no_further_than_their_lag(tmp_path):
    sweep = Sweep(Store(tmp_path), [search(0), search(1)])
    assert numbers(sweep) == [(0, 0), (1, 0), (0, 1), (1, 1)]
    sweep.settle(search(1).key, complete(1, 0.5))
    assert numbers(sweep) == [], "trial 2 learns from trial 0, which is in work"
    sweep.settle(search(1).key, complete(0, 0.5))
    assert numbers(sweep) == [(1, 2), (1, 3)]
    sweep.settle(search(0).key, complete(0, 0.5))
    assert numbers(sweep) == [(0, 2)], "a search that waits holds up no other"


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 3))
@settings(deadline=None, max_examples=10)
def test_in_any_order_each_trial_is_done_once_and_proposed_alike(seed, lag, n_searches):
    order = random.Random(seed)
    rules = replace(RULES, lag=lag)
    searches = [search(fold, trials=6, rules=rules) for fold in range(n_searches)]
    # Whoever does a trial writes its record: nothing is written here.
    sweep = Sweep(Store(Path("nowhere")), searches)
    proposed: dict[tuple[str, int], Proposal] = {}
    in_work: list[tuple[Search, Proposal]] = []
    while not sweep.over:
        if order.random() < 0.6 and (claimed := sweep.claim()) is not None:
            assert (claimed[0].key, claimed[1].number) not in proposed
            proposed[claimed[0].key, claimed[1].number] = claimed[1]
            in_work.append(claimed)
        elif in_work:
            own, proposal = in_work.pop(order.randrange(len(in_work)))
            sweep.settle(own.key, replace(complete(proposal.number, 0.5), settings=proposal.settings))
        for own in searches:
            assert sum(other.key == own.key for other, _ in in_work) <= lag
    assert len(proposed) == 6 * n_searches
    assert not in_work
    # All searches have the same seed here.
    assert len({proposal.settings for proposal in proposed.values()}) == 6


def test_a_sweep_is_over_when_nothing_is_in_work_and_nothing_is_left(tmp_path):
    sweep = Sweep(Store(tmp_path), [search(trials=1)])
    assert not sweep.over
    assert numbers(sweep) == [(0, 0)]
    assert not sweep.over
    sweep.settle(search().key, complete(0, 0.5))
    assert sweep.over


def test_when_time_is_over_nothing_begins_and_what_is_in_work_is_waited_for(tmp_path):
    sweep = Sweep(Store(tmp_path), [search()])
    sweep.claim()
    sweep.out_of_time = True
    assert sweep.claim() is None
    assert not sweep.over
    sweep.give_back(search().key, 0)
    assert sweep.over


def test_records_that_are_there_count_but_for_failed_damaged_and_foreign_ones(tmp_path):
    store, own = Store(tmp_path), search(trials=6)
    for number, state in enumerate((TrialState.COMPLETE, TrialState.STOPPED, TrialState.DIVERGED, TrialState.FAILED)):
        record = TrialRecord(number, RATE, state, (0.5, 0.75), (0.25,), 2, 1.5, "a reason")
        write_record(store, own.key, own.fingerprint, record)
        assert read_record(store, own.key, own.fingerprint, number) == record
    write_record(store, own.key, "another search", complete(4, 0.9, 0.9))
    store.write_json(SearchFiles(own.key).trial(5), {"search": own.fingerprint, "number": 5})
    sweep = Sweep(store, [own])
    assert sorted(sweep.records[own.key]) == [0, 1, 2]
    assert numbers(sweep) == [(0, 3), (0, 4)]


def test_listeners_are_told_what_becomes_of_a_trial(tmp_path):
    events: list[TrialEvent] = []
    sweep = Sweep(Store(tmp_path), [search()], events.append)
    sweep.claim()
    sweep.give_back(search().key, 0, "why")
    sweep.claim()
    sweep.settle(search().key, complete(0, 0.25, 0.75))
    assert [(event.kind, event.number, event.text, event.mean) for event in events] == [
        ("left", 0, "why", None),
        ("ended", 0, "", 0.5),
    ]


# Lost workers


def lose(sweep: Sweep) -> int:
    """Claim a trial and lose its worker; return which it was."""
    claimed = sweep.claim()
    assert claimed is not None
    sweep.lose(claimed[0].key, claimed[1])
    return claimed[1].number


def test_a_trial_that_loses_its_worker_every_time_fails_with_a_reason_and_the_others_go_on(tmp_path):
    store, own = Store(tmp_path), search()
    events: list[TrialEvent] = []
    sweep = Sweep(store, [own], events.append)
    assert [lose(sweep) for _ in range(LOSSES)] == [0] * LOSSES
    assert [event.kind for event in events] == ["left"] * (LOSSES - 1) + ["ended"]
    record = sweep.records[own.key][0]
    assert record.state is TrialState.FAILED
    assert "lost 3 times in a row" in record.reason
    assert read_record(store, own.key, own.fingerprint, 0) == record
    assert numbers(sweep) == [(0, 1), (0, 2)]
    assert numbers(Sweep(store, [own]))[0] == (0, 0), "the next command tries it again"


def test_progress_between_two_losses_is_in_the_trials_favour(tmp_path):
    sweep = Sweep(Store(tmp_path), [search()])
    for work in (0.1, 0.2, 0.3):
        assert [lose(sweep) for _ in range(LOSSES - 1)] == [0] * (LOSSES - 1)
        sweep.progressed(search().key, 0, work)
    assert not sweep.records[search().key]


def test_a_trial_that_gets_no_further_than_before_is_given_up(tmp_path):
    sweep = Sweep(Store(tmp_path), [search()])
    for _ in range(LOSSES):
        sweep.progressed(search().key, 0, 0.1)
        lose(sweep)
    assert sweep.records[search().key][0].state is TrialState.FAILED


def test_losses_are_held_against_the_trial_that_had_them_alone(tmp_path):
    sweep = Sweep(Store(tmp_path), [search(0), search(1)])
    lost = [lose(sweep) for _ in range(LOSSES - 1)]
    assert lost == [0] * (LOSSES - 1)
    sweep.claim()
    assert lose(sweep) == 0, "of the other search"
    assert not any(sweep.records.values())


# Choices


def chosen(own: Search, trials: int = 4, *, whole: bool = True) -> Choice:
    return Choice(own, 2, RATE, 0.75, trials, whole)


def test_a_choice_is_read_as_it_was_written(tmp_path):
    store, choice = Store(tmp_path), chosen(search())
    assert read_choice(store, search(), None) is None
    write_choice(store, choice, None)
    assert read_choice(store, search(), None) == choice
    assert read_choice(store, search(), 5.0) == choice, "a search that went to its end needs no time"


@pytest.mark.parametrize("other", [search(fingerprint="another search"), search(trials=5), search(trials=3)])
def test_the_choice_of_another_search_or_of_other_trials_is_not_taken(tmp_path, other):
    write_choice(Store(tmp_path), chosen(search()), None)
    assert read_choice(Store(tmp_path), other, None) is None


def test_a_choice_for_want_of_time_holds_as_long_as_the_time_is_the_same(tmp_path):
    store, choice = Store(tmp_path), chosen(search(), trials=3, whole=False)
    write_choice(store, choice, 5.0)
    assert read_choice(store, search(), 5.0) == choice
    assert read_choice(store, search(trials=9), 5.0) is not None, "there was no time for more anyway"
    assert read_choice(store, search(), 6.0) is None
    assert read_choice(store, search(), None) is None
    assert read_choice(store, search(fingerprint="another search"), 5.0) is None
    write_choice(store, choice, None)
    assert read_choice(store, search(), None) is None, "there is time enough"


def test_the_best_complete_trial_is_chosen_and_said_to_be_of_a_whole_search_or_not(tmp_path):
    sweep = Sweep(Store(tmp_path), [search(trials=3)])
    key = search().key
    sweep.settle(key, complete(0, 0.25, 0.75))
    sweep.settle(key, TrialRecord(1, RATE, TrialState.STOPPED, (0.9,), (0.9, 0.9), 1.5))
    assert make_choices(sweep) == [Choice(search(trials=3), 0, RATE, 0.5, 2, whole=False)]
    sweep.settle(key, complete(2, 0.5, 0.75))
    assert make_choices(sweep) == [Choice(search(trials=3), 2, RATE, 0.625, 3, whole=True)]


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ([], "time was over before the search whole-vgg16/fold-0 finished a trial"),
        ([TrialState.DIVERGED] * 2, "All 2 trials of whole-vgg16/fold-0 diverged .*lower learning rates"),
        ([TrialState.DIVERGED, TrialState.FAILED], r"whole-vgg16/fold-0 .*\(1 diverged, 1 failed\): reason 1"),
    ],
)
def test_where_nothing_can_be_chosen_the_reason_is_said(tmp_path, states, words):
    sweep = Sweep(Store(tmp_path), [search()])
    for number, state in enumerate(states):
        sweep.settle(search().key, TrialRecord(number, RATE, state, reason=f"reason {number}"))
    with pytest.raises(CxrdistError, match=words):
        make_choices(sweep)


def test_a_shared_choice_serves_all_folds_and_others_their_own():
    rates = [replace(chosen(search(fold)), settings=(("learning_rate", rate),)) for fold, rate in ((0, 0.1), (1, 0.2))]
    assert settings_by_fold(rates, 2) == {VARIANT.name: {0: rates[0].settings, 1: rates[1].settings}}
    assert settings_by_fold([chosen(search(shared=True))], 3) == {VARIANT.name: dict.fromkeys(range(3), RATE)}


# Doing and continuing trials


class InterruptedTrialError(Exception):
    """Ends a trial's process, as far as the test is concerned."""


class FragileStore(Store):
    """A store whose process ends just before or just after one of its writes."""

    def __init__(self, root: Path, writes: int, *, after: bool) -> None:
        super().__init__(root)
        self._left = writes
        self._after = after

    def write_file(self, name: str, write: Callable[[Path], object]) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise InterruptedTrialError
        super().write_file(name, write)
        if self._left == 0:
            raise InterruptedTrialError


def open_trials(folder: Path, selection: Selection = "last", **changed) -> TrialData:
    """Lay out a search on features that tell two classes apart, a little, and open it."""
    own = search(recipe=replace(RECIPE, selection=selection), **changed)
    store, cache = Store(folder / "run"), Store(folder / "cache")
    labels = np.arange(N_IMAGES) % 2
    features = np.random.default_rng(0).normal(size=(N_IMAGES, 512)).astype(np.float32)
    features[:, :4] += labels[:, None]
    table = pa.table({"features": pa.FixedShapeTensorArray.from_numpy_ndarray(features)})
    unit = FeatureJob(VARIANT, "f", 0, N_IMAGES, 1.0)

    def write(path: Path) -> None:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    cache.write_file(feature_file(unit), write)
    plan = Plan(
        study="s",
        cohort="c",
        pixels="p",
        shards="",
        masks=None,
        cache=str(cache.root),
        recipe=RECIPE,
        networks={"vgg16": NETWORK},
        weights={"vgg16": None},
        jobs=(),
        features=(unit,),
    )
    store.write_json(layout.PLAN, plan.to_json())
    half = np.arange(N_IMAGES) % 4 < 2
    parts = np.stack([np.where(half, Part.TEST, Part.TRAINING), np.where(half, Part.TRAINING, Part.TEST)])
    ids = [f"i{row:02}" for row in range(N_IMAGES)]
    write_search(store, own, SearchImages(np.arange(N_IMAGES), labels, Folds(ids, parts.astype(np.int8))))
    return TrialData(store, own.key, CPU)


@pytest.fixture(scope="module")
def searches(tmp_path_factory) -> dict[Selection, TrialData]:
    """The same search by either rule of selection."""
    return {selection: open_trials(tmp_path_factory.mktemp("search"), selection) for selection in SELECTIONS}


def fresh(data: TrialData) -> TrialData:
    """Forget what was done of the trial."""
    data.store.remove(data.files.trial(0), data.files.progress(0), data.files.checkpoint(0))
    return data


def proposal_stopping_at(rung: int | None) -> Proposal:
    """Return a trial that cannot pass a rung, or passes all."""
    return Proposal(0, RATE, tuple(2.0 if rung == index else math.nan for index in range(len(RULES.rungs))))


def timeless(record: TrialRecord) -> TrialRecord:
    return replace(record, seconds=0)


def quiet(_: TrialStep) -> None:
    pass


@pytest.fixture(scope="module")
def undisturbed(searches) -> dict[tuple[Selection, int | None], TrialRecord]:
    """What becomes of the trial by rule of selection and the rung where it stops."""
    return {
        (selection, rung): timeless(do_trial(fresh(data), proposal_stopping_at(rung), quiet, checkpoint_seconds=NEVER))
        for selection, data in searches.items()
        for rung in (None, 0, 1)
    }


def steps_until(data: TrialData, proposal: Proposal, last: int | None, every: float) -> list[int]:
    """Do a trial until its step `last` (from 0, of all inner folds) is told; return the steps that were told."""
    told: list[int] = []

    def on_step(step: TrialStep) -> None:
        told.append(step.fold * RECIPE.epochs + step.epoch - 1)
        if told[-1] == last:
            raise InterruptedTrialError

    try:
        do_trial(data, proposal, on_step, checkpoint_seconds=every)
    except InterruptedTrialError:
        return told
    return told


def test_a_trial_stops_where_it_does_not_pass_in_either_inner_fold(undisturbed):
    reached = [undisturbed["last", stop] for stop in (None, 0, 1)]
    assert [record.state for record in reached] == [TrialState.COMPLETE, TrialState.STOPPED, TrialState.STOPPED]
    assert [record.work for record in reached] == pytest.approx([2, 2 / 3, 4 / 3])
    assert [len(record.rung_scores) for record in reached] == [2, 1, 2]
    assert [len(record.fold_scores) for record in reached] == [2, 0, 1]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_an_inner_folds_score_is_that_of_the_epoch_that_the_recipe_selects(searches, selection):
    data = fresh(searches[selection])
    steps: list[TrialStep] = []
    record = do_trial(data, proposal_stopping_at(None), steps.append, checkpoint_seconds=NEVER)
    for fold, score in enumerate(record.fold_scores):
        own = [step for step in steps if step.fold == fold]
        selected = own[-1] if selection == "last" else min(own, key=lambda step: step.measures.validation_loss)
        assert score == selected.score
    assert record.rung_scores == (steps[1].mean, steps[3].mean)
    assert record.seconds == pytest.approx(sum(step.measures.seconds for step in steps), abs=1e-3)


def test_the_selection_rules_make_a_difference_here(undisturbed):
    assert undisturbed["last", None].fold_scores != undisturbed["best_validation_loss", None].fold_scores


@given(
    selection=st.sampled_from(SELECTIONS),
    stops_at=st.sampled_from([None, 0, 1]),
    interruptions=st.lists(st.integers(0, STEPS - 1), min_size=1, max_size=3),
    every=st.sampled_from([0.0, NEVER]),
)
@example(selection="best_validation_loss", stops_at=None, interruptions=list(range(STEPS)), every=0.0)
@example(selection="last", stops_at=1, interruptions=[2, 3], every=0.0)
@example(selection="last", stops_at=None, interruptions=[4], every=NEVER)
@settings(deadline=None, max_examples=15)
def test_a_trial_interrupted_after_any_epoch_continues_to_the_same_record(
    searches, undisturbed, selection, stops_at, interruptions, every
):
    data = fresh(searches[selection])
    proposal = proposal_stopping_at(stops_at)
    expected = undisturbed[selection, stops_at]
    last = round(expected.work * RECIPE.epochs) - 1
    begin = 0
    for step in sorted(min(step, last) for step in interruptions):
        told = steps_until(data, proposal, step, every)
        assert told == list(range(begin, step + 1)), "what was done before is not done again"
        begin = step if every == 0 else step - step % RECIPE.epochs
    steps: list[TrialStep] = []
    record = do_trial(data, proposal, steps.append, checkpoint_seconds=every)
    assert timeless(record) == expected
    assert len(steps) == last + 1 - begin


@given(
    selection=st.sampled_from(SELECTIONS),
    stops_at=st.sampled_from([None, 1]),
    write=st.integers(1, 9),
    after=st.booleans(),
)
@settings(deadline=None, max_examples=15)
def test_a_trial_killed_at_any_write_continues_to_the_same_record(
    searches, undisturbed, selection, stops_at, write, after
):
    data = fresh(searches[selection])
    whole, proposal = data.store, proposal_stopping_at(stops_at)
    data.store = FragileStore(whole.root, write, after=after)
    try:
        steps_until(data, proposal, None, 0.0)
    finally:
        data.store = whole
    record = do_trial(data, proposal, quiet, checkpoint_seconds=0.0)
    assert timeless(record) == undisturbed[selection, stops_at]


def test_another_proposal_does_not_continue_from_what_is_there(searches):
    data = fresh(searches["last"])
    steps_until(data, proposal_stopping_at(None), 4, 0.0)
    assert data.store.exists(data.files.checkpoint(0))
    other = replace(proposal_stopping_at(None), settings=(("learning_rate", 0.02),))
    assert steps_until(data, other, None, NEVER)[0] == 0


def test_a_trial_out_of_time_is_left_without_a_record_and_continues_later(searches, undisturbed):
    data = fresh(searches["last"])
    proposal = proposal_stopping_at(None)
    told: list[TrialStep] = []
    rules = TrialRules("s", TrackingConfig(), 1, NEVER, deadline=0.0)
    while len(told) < 2:
        with pytest.raises(OutOfTimeError):
            attempt_trial(data, proposal, rules, told.append, pytest.fail)
    assert [(step.fold, step.epoch) for step in told] == [(0, 1), (0, 2)]
    assert read_record(data.store, data.search.key, data.search.fingerprint, 0) is None
    record = attempt_trial(data, proposal, replace(rules, deadline=None), told.append, pytest.fail)
    assert timeless(record) == undisturbed["last", None]
    assert len(told) == STEPS
    assert read_record(data.store, data.search.key, data.search.fingerprint, 0) == record
    assert not data.store.exists(data.files.progress(0))
    assert not data.store.exists(data.files.checkpoint(0))


def test_time_that_ends_in_a_folds_last_epoch_does_not_cost_the_fold(searches, undisturbed):
    data = fresh(searches["last"])
    proposal = proposal_stopping_at(None)
    told: list[int] = []
    record = None
    while record is None:
        assert len(told) < 2 * STEPS, "an epoch was done twice"
        try:
            record = do_trial(
                data,
                proposal,
                lambda step: told.append(step.fold * RECIPE.epochs + step.epoch - 1),
                checkpoint_seconds=NEVER,
                deadline=0.0,
            )
        except OutOfTimeError:
            continue
    assert told == list(range(STEPS))
    assert timeless(record) == undisturbed["last", None]


@pytest.mark.parametrize("failures", [1, 2])
def test_an_error_is_tried_again_and_then_recorded_with_its_place(searches, undisturbed, failures):
    data = fresh(searches["last"])
    notes: list[str] = []
    left = [RuntimeError("out of luck")] * failures

    def on_step(_: TrialStep) -> None:
        if left:
            raise left.pop()

    rules = TrialRules("s", TrackingConfig(), retries=1, checkpoint_seconds=NEVER, deadline=None)
    record = attempt_trial(data, proposal_stopping_at(None), rules, on_step, notes.append)
    (note,) = notes
    assert "trial 0 failed and is tried again: RuntimeError: out of luck (on_step, line" in note
    if failures == 1:
        assert timeless(record) == undisturbed["last", None]
    else:
        assert record.state is TrialState.FAILED
        assert record.reason.startswith("RuntimeError: out of luck (on_step, line")
        assert read_record(data.store, data.search.key, data.search.fingerprint, 0) == record


class TrackerOfList:
    """Notes what W&B would be told: the run, a step's number, how it ended."""

    def __init__(self, told: list[object], run_id: str, name: str) -> None:
        self._told = told
        told.append((run_id, name))

    def resume(self, steps: int) -> None:
        pass

    def log(self, step: int, measures: Measures) -> None:
        self._told.append(step)

    def finish(self, *, failed: bool, summary: Measures | None = None) -> None:
        self._told.append((failed, dict(summary or {}).get("state")))


def told_to_trackers(data: TrialData, monkeypatch: pytest.MonkeyPatch, *deadlines: float | None) -> list[object]:
    """Attempt a trial with each deadline, one run for each inner fold; return what trackers were told."""
    told: list[object] = []
    monkeypatch.setattr(trial_work, "start_wandb", lambda _, run_id, name, **__: (run_id, name.rpartition("/")[2]))
    monkeypatch.setattr(trial_work, "WandbTracker", lambda run, _: TrackerOfList(told, *run))
    rules = TrialRules("s", TrackingConfig(wandb="offline", trial_runs="inner_fold"), 0, NEVER, None)
    for deadline in deadlines:
        with suppress(OutOfTimeError):
            attempt_trial(data, proposal_stopping_at(None), replace(rules, deadline=deadline), quiet, pytest.fail)
    return told


def test_a_trial_that_is_continued_continues_its_run(searches, monkeypatch):
    data = fresh(searches["last"])
    told = told_to_trackers(data, monkeypatch, 0.0, 0.0, None)
    first, second = (trial_run_id("s", data.search, 0, fold) for fold in (0, 1))
    left, done = (True, None), (False, "complete")
    assert told == [
        *((first, "inner-0"), 1, left),
        *((first, "inner-0"), 2, left),
        *((first, "inner-0"), 3, (False, None)),
        *((second, "inner-1"), 1, 2, 3, done),
    ]


def test_a_trial_that_ends_before_its_first_epoch_has_a_run_all_the_same(searches, monkeypatch):
    data = fresh(searches["last"])

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(trial_work, "do_trial", fail)
    told = told_to_trackers(data, monkeypatch, None)
    assert told == [(trial_run_id("s", data.search, 0, 0), "inner-0"), (True, "failed")]


def test_a_trial_that_diverges_at_once_in_a_later_inner_fold_says_so_in_that_ones_run(searches, monkeypatch):
    data = fresh(searches["last"])
    measures = Epoch(1, 0.7, 0.5, 0.7, 0.5, 0.1)

    def diverge(_: TrialData, proposal: Proposal, on_step: Callable[[TrialStep], None], **__: object) -> TrialRecord:
        on_step(TrialStep(0, 1, 1, measures, 0.5, 0.5, 1.0))
        return TrialRecord(proposal.number, RATE, TrialState.DIVERGED, (0.5,), work=1)

    monkeypatch.setattr(trial_work, "do_trial", diverge)
    first, second = (trial_run_id("s", data.search, 0, fold) for fold in (0, 1))
    assert told_to_trackers(data, monkeypatch, None) == [
        *((first, "inner-0"), 1, (False, None)),
        *((second, "inner-1"), (True, "diverged")),
    ]


def test_ids_of_runs_differ_by_all_that_makes_another_run():
    ids = [
        trial_run_id(study, own, number, fold)
        for study in ("s", "t")
        for own in (search(0), search(1), search(fingerprint="another search"))
        for number in (0, 1)
        for fold in (None, 0, 1)
    ]
    assert len(set(ids)) == len(ids)
    assert ids[0] == trial_run_id("s", search(0), 0, None)


def test_metrics_are_those_of_the_held_out_images():
    truth = np.array([0, 0, 1, 1, 2])
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2]])
    assert metric_value("val_loss", truth, probabilities, 0.7) == 0.7
    assert metric_value("val_accuracy", truth, probabilities, 0.7) == pytest.approx(3 / 5)
    # Pairs in the right order, ties half: 4 of 6, 5 of 6, 2 of 4.
    assert metric_value("val_auc", truth, probabilities, 0.7) == pytest.approx((4 / 6 + 5 / 6 + 2 / 4) / 3)
    # A class that is never predicted has F1 0.
    assert metric_value("val_macro_f1", truth, probabilities, 0.7) == pytest.approx((1 / 2 + 4 / 5 + 0) / 3)
