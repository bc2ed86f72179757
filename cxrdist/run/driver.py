"""Running a study from its file to its predictions, once or in as many goes as it takes."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from cxrdist.cohort.chunks import ChunkRunner
from cxrdist.config.location import home_folder, is_remote
from cxrdist.config.models import ExecutionConfig, Study
from cxrdist.config.sweep import SweepConfig
from cxrdist.errors import CxrdistError
from cxrdist.machine import usable_cores
from cxrdist.run.artefacts import AGAIN, DamagedError
from cxrdist.run.board import Event, Outcome
from cxrdist.run.computing import Computing, differences, expected_facts, read_computing, settle
from cxrdist.run.context import Plan, feature_file, feature_folder, read_features
from cxrdist.run.inline import InlineExecutor, required_device
from cxrdist.run.lock import RunLock
from cxrdist.run.object_store import explained_cache, open_cache
from cxrdist.run.plan_file import cache_of, write_plan
from cxrdist.run.prepare import Prepared, prepare, with_choices
from cxrdist.run.results import Job, forget_damaged, has_diverged, is_done
from cxrdist.run.set_aside import make_room, open_jobs, require_same_study
from cxrdist.run.store import Store
from cxrdist.run.sweep import Choice, Sweep, TrialEvent, known_choice, make_choices, write_choice
from cxrdist.run.sweep_inline import InlineSweeper
from cxrdist.run.sweep_plan import write_search
from cxrdist.run.trial_work import TrialRules
from cxrdist.study.layout import JobFiles
from cxrdist.study.plan import FeatureJob, FoldJob, Variant
from cxrdist.study.queue import State, Unit


class Display(Protocol):
    """What the user sees of a run."""

    def say(self, text: str) -> None:
        """Print a sentence."""
        ...

    def decoded(self, done: int, total: int) -> None:
        """Show how many images are decoded."""
        ...

    def masked(self, done: int, total: int) -> None:
        """Show how many lung masks are made."""
        ...

    def begin(self, units: Sequence[Unit], epochs: Mapping[str, int]) -> None:
        """Show that work on these units begins; those with `epochs` train, the others pass images through trunks."""
        ...

    def event(self, event: Event) -> None:
        """Show what happened."""
        ...

    def end(self) -> None:
        """Show that no more happens."""
        ...

    def sweeping(self, sweep: Sweep) -> AbstractContextManager[Callable[[TrialEvent], None]]:
        """Show a sweep while the context lasts; what it gives is told what happens."""
        ...


class Sweeper(Protocol):
    """Does the trials of a sweep."""

    def run(self, sweep: Sweep, rules: TrialRules, computing: Computing) -> None:
        """Do all trials that are left."""
        ...


class Executor(Protocol):
    """Does units of work and returns how each ended."""

    def run(
        self,
        store: Store,
        units: Sequence[Unit],
        retries: int,
        listener: Callable[[Event], None],
        computing: Computing,
    ) -> dict[str, Outcome]:
        """Do all units."""
        ...


@dataclass(frozen=True)
class RunSummary:
    """How a run ended."""

    plan: Plan
    done_before: int
    """Fold jobs that an earlier run had done."""
    unfinished: dict[str, Outcome]
    """Fold jobs without predictions, with the reason."""


def run_study(study: Study, store: Store, display: Display, computing: Computing | None = None) -> RunSummary:
    """Do whatever of a study is not done yet; where it has a sweep, that comes first.

    Args:
        study: the study.
        store: the run directory.
        display: what the user sees.
        computing: how numbers are computed, where that is not decided here: as in a run whose results are taken over.

    Raises:
        UserError: the study, the cohort, the run directory or the cluster does not allow it.
        CxrdistError: a search of the sweep has no trial that was done to the end.
    """
    with _prepared(study, store, display, computing) as (prepared, tools):
        if study.sweep is not None:
            prepared = with_choices(prepared, _sweep(prepared, study.sweep, store, tools, display))
            make_room(store, display.say, prepared.plan.jobs, prepared.searches)
            write_plan(store, prepared.plan)
        return _work(prepared, store, tools.executor, display)


def run_sweep(study: Study, store: Store, display: Display) -> list[Choice]:
    """Do whatever of a study's sweep is not done yet, and return what was chosen.

    Raises:
        UserError: the study, the cohort, the run directory or the cluster does not allow it.
        CxrdistError: a search has no trial that was done to the end.
    """
    sweep = study.required_sweep()
    with _prepared(study, store, display) as (prepared, tools):
        choices = _sweep(prepared, sweep, store, tools, display)
        write_plan(store, with_choices(prepared, choices).plan)
        return choices


@contextmanager
def _prepared(
    study: Study, store: Store, display: Display, given: Computing | None = None
) -> Iterator[tuple[Prepared, "Tools"]]:
    with ExitStack() as stack:
        stack.enter_context(store.explained("choose another with --run-dir"))
        stack.enter_context(explained_cache(cache_of(study.execution)))
        store.create()
        stack.enter_context(RunLock(store, display.say))
        require_same_study(store, study)
        tools = open_tools(study.execution, stack, ranks=study.training.gpus_per_fold)
        earlier = given or read_computing(store)
        ranks, n_jobs = study.training.gpus_per_fold, number_of_jobs(study)
        prepared = prepare(
            study,
            store,
            device=tools.device,
            computing=lambda: settle(earlier, study.execution, ranks, lambda: tools.decide(n_jobs)),
            run_chunks=tools.run_chunks,
            run_mask_chunks=tools.run_mask_chunks,
            on_decoded=display.decoded,
            on_masked=display.masked,
            on_note=display.say,
            on_planned=lambda p: make_room(store, display.say, p.plan.jobs, p.searches, open_jobs(study, p.plan.jobs)),
        )
        yield prepared, tools


def number_of_jobs(study: Study) -> int:
    """Return how many fold jobs a study has."""
    n_folds = study.folds.k if study.folds.protocol == "kfold" else 1
    return len(study.variants.views) * len(study.variants.models) * n_folds


def pending_units(store: Store, plan: Plan, say: Callable[[str], None]) -> list[Unit]:
    """Return the fold jobs that are neither done nor known to diverge, and the features that they need."""
    jobs = [job for job in plan.jobs if not is_done(store, job) and not has_diverged(store, job)]
    wanted = {job.variant for job in jobs}
    features = missing_features(plan, wanted, say)
    needs = {v: frozenset(unit.key for unit in features if unit.variant == v) for v in wanted}
    return [Unit(unit.key, unit.cost) for unit in features] + [
        Unit(job.key, job.cost, needs[job.variant]) for job in jobs
    ]


def missing_features(plan: Plan, variants: Collection[Variant], say: Callable[[str], None]) -> list[FeatureJob]:
    """Return the features of these variants that are not in the cache; those that are damaged are said and removed."""
    cache = open_cache(plan.cache, plan.node_cache)
    wanted = [unit for unit in plan.features if unit.variant in variants]
    # One list instead of a question for each: of a large cohort there are thousands.
    there = {name for folder in {feature_folder(unit) for unit in wanted} for name in cache.names(folder)}
    return [unit for unit in wanted if feature_file(unit) not in there or not _are_whole(cache, unit, say)]


def _are_whole(cache: Store, unit: FeatureJob, say: Callable[[str], None]) -> bool:
    """Return whether features that are there are those that were written."""
    if is_remote(cache.location):
        # They came there as a whole, and would have to be copied to be looked at.
        return True
    try:
        read_features(cache.local(feature_file(unit)), unit, verify=True)
    except DamagedError as error:
        say(f"{str(error).removesuffix(f'; {AGAIN}.')}: it is made again.")
        cache.remove(feature_file(unit))
        return False
    return True


@dataclass(frozen=True)
class Tools:
    """What does the work, as `execution` of a study says."""

    executor: Executor
    """Does units."""
    sweeper: Sweeper
    """Does trials."""
    run_chunks: ChunkRunner | None
    """Applies a function to chunks of images; None: on this machine's cores."""
    run_mask_chunks: ChunkRunner | None
    """The same on GPUs, where there are any."""
    device: Callable[[], torch.device]
    """What kind of device there is for units and masks."""
    decide: Callable[[int], Computing]
    """How so many fold jobs of a new plan are computed here."""


def open_tools(execution: ExecutionConfig, stack: ExitStack, *, ranks: int = 1) -> Tools:
    """Return the executor and its like, with as many ranks for each lane; a Ray session ends with `stack`."""
    threads = None if execution.threads == "auto" else execution.threads
    if execution.executor == "inline":
        device = required_device(execution.device)
        cores = threads or usable_cores()
        here = Computing.decide(device, threads=cores, trial_threads=cores)
        return Tools(InlineExecutor(), InlineSweeper(), None, None, lambda: device, lambda _: here)
    # Ray Train asks for it while it is imported.
    home_folder()
    # Here, so that a study runs inline where Ray is not installed.
    from cxrdist.run.ray_executor import RayExecutor
    from cxrdist.run.ray_session import RaySession
    from cxrdist.run.sweep_tune import TuneSweeper

    session = stack.enter_context(RaySession(execution.address, uses_gpus=execution.device != "cpu"))
    workers = None if execution.workers == "auto" else execution.workers
    sweeper = TuneSweeper(session, workers=workers, threads=threads)
    executor = RayExecutor(
        session,
        workers=workers,
        fewest=execution.min_workers,
        threads=threads,
        gpus_each=execution.gpus_per_worker,
        worker_failures=execution.worker_failures,
        device=execution.device,
        resize_seconds=execution.resize_seconds,
        ranks=ranks,
    )

    def decide(n_jobs: int) -> Computing:
        kind = torch.device("cuda") if execution.device == "gpu" else session.device()
        each = executor.threads(n_jobs)
        return Computing.decide(kind, threads=each, trial_threads=sweeper.threads(), ranks=ranks)

    return Tools(executor, sweeper, session.run_chunks, session.run_device_chunks, session.device, decide)


def _sweep(prepared: Prepared, config: SweepConfig, store: Store, tools: Tools, display: Display) -> list[Choice]:
    """Do the searches that are not over, and return the choices of all."""
    known = {search.key: known_choice(store, search, config.minutes) for search in prepared.searches}
    pending = [search for search in prepared.searches if known[search.key] is None]
    if pending:
        for search in pending:
            write_search(store, search, prepared.search_images[search.fold])
        _compute_features(prepared, {search.variant for search in pending}, store, tools, display)
        deadline = None if config.minutes is None else time.time() + 60 * config.minutes
        sweep = Sweep(store, pending)
        with display.sweeping(sweep) as listener:
            sweep.listener = listener
            tools.sweeper.run(sweep, TrialRules.of(prepared.study, deadline), prepared.computing)
        for choice in make_choices(sweep):
            write_choice(store, choice, config.minutes)
            known[choice.search.key] = choice
    return [choice for choice in known.values() if choice is not None]


def _compute_features(
    prepared: Prepared, variants: Collection[Variant], store: Store, tools: Tools, display: Display
) -> None:
    units = [Unit(unit.key, unit.cost) for unit in missing_features(prepared.plan, variants, display.say)]
    if not units:
        return
    display.begin(units, {})
    try:
        outcomes = tools.executor.run(store, units, prepared.study.execution.retries, display.event, prepared.computing)
    finally:
        display.end()
    failed = next((outcome for outcome in outcomes.values() if outcome.state is not State.DONE), None)
    if failed is not None:
        raise CxrdistError(f"The features of a frozen trunk could not be computed: {failed.reason}.")


def _work(prepared: Prepared, store: Store, executor: Executor, display: Display) -> RunSummary:
    plan = prepared.plan
    for job in plan.jobs:
        _forget_failure(store, job)
    forget_damaged(store, plan.jobs, display.say)
    units = pending_units(store, plan, display.say)
    fold_units = [unit for unit in units if unit.key in {job.key for job in plan.jobs}]
    outcomes: dict[str, Outcome] = {}
    if fold_units:
        say_differences(store, plan.jobs, prepared.computing, prepared.study.execution, display)
        display.begin(units, {job.key: plan.trained(job)[1].epochs for job in plan.jobs})
        try:
            outcomes = executor.run(store, units, prepared.study.execution.retries, display.event, prepared.computing)
        finally:
            display.end()
    return RunSummary(
        plan=plan,
        done_before=sum(is_done(store, job) for job in plan.jobs if job.key not in outcomes),
        unfinished=settle_failures(store, plan.jobs, outcomes),
    )


def say_differences(
    store: Store, jobs: Sequence[Job], computing: Computing, execution: ExecutionConfig, display: Display
) -> None:
    """Say in what the computing of jobs that are left will differ from that of the jobs that are done."""
    marks = {job.key: store.read_json(JobFiles(job.key).done) or {} for job in jobs if is_done(store, job)}
    left = expected_facts(computing, is_here=execution.executor == "inline" or execution.address is None)
    for sentence in differences({**marks, "what is left": left}):
        display.say(f"Note: {sentence}.")


def settle_failures(store: Store, jobs: Sequence[Job], outcomes: dict[str, Outcome]) -> dict[str, Outcome]:
    """Write down which jobs failed, and return those that are not done, with the reason."""
    for job in jobs:
        outcome = outcomes.get(job.key)
        if outcome is not None and outcome.state is State.FAILED:
            end = {"fingerprint": job.fingerprint, "state": str(outcome.state), "reason": outcome.reason}
            store.write_json(JobFiles(job.key).ended, end)
    return {job.key: _why(store, job, outcomes) for job in jobs if not is_done(store, job)}


def _forget_failure(store: Store, job: FoldJob) -> None:
    """A failed job is tried again when the study is run again; a diverged one would end the same."""
    if not has_diverged(store, job):
        store.remove(JobFiles(job.key).ended)


def _why(store: Store, job: Job, outcomes: dict[str, Outcome]) -> Outcome:
    if job.key in outcomes:
        return outcomes[job.key]
    ended = store.read_json(JobFiles(job.key).ended) or {}
    return Outcome(State(ended.get("state", State.PENDING)), str(ended.get("reason", "")))
