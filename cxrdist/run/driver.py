"""Running a study from its file to its predictions, once or in as many goes as it takes."""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from cxrdist.cohort.chunks import ChunkRunner
from cxrdist.config.models import ExecutionConfig, Study
from cxrdist.run.board import Event, Outcome
from cxrdist.run.context import Plan
from cxrdist.run.inline import InlineExecutor, available_device
from cxrdist.run.jobs import feature_file
from cxrdist.run.lock import RunLock
from cxrdist.run.prepare import Prepared, prepare
from cxrdist.run.results import Job, has_diverged, is_done
from cxrdist.run.store import Store, explained
from cxrdist.study.layout import JobFiles
from cxrdist.study.plan import FoldJob
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

    def begin(self, units: Sequence[Unit], jobs: Collection[str], epochs: int) -> None:
        """Show that work on these units begins; `jobs` are the keys of those that train, for `epochs`."""
        ...

    def event(self, event: Event) -> None:
        """Show what happened."""
        ...

    def end(self) -> None:
        """Show that no more happens."""
        ...


class Executor(Protocol):
    """Does units of work and returns how each ended."""

    def run(
        self, run_dir: Path, units: Sequence[Unit], retries: int, listener: Callable[[Event], None]
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


def run_study(study: Study, run_dir: Path, display: Display) -> RunSummary:
    """Do whatever of a study is not done yet.

    Raises:
        UserError: the study, the cohort, the run directory or the cluster does not allow it.
    """
    store = Store(run_dir)
    with ExitStack() as stack:
        stack.enter_context(explained(f"The run directory {run_dir}", "choose another with --run-dir"))
        run_dir.mkdir(parents=True, exist_ok=True)
        stack.enter_context(RunLock(store))
        tools = open_tools(study.execution, stack)
        prepared = prepare(
            study,
            store,
            device=tools.device,
            run_chunks=tools.run_chunks,
            run_mask_chunks=tools.run_mask_chunks,
            on_decoded=display.decoded,
            on_masked=display.masked,
            on_note=display.say,
        )
        return _work(prepared, store, tools.executor, display)


def pending_units(store: Store, plan: Plan) -> list[Unit]:
    """Return the fold jobs that are neither done nor known to diverge, and the features that they need."""
    jobs = [job for job in plan.jobs if not is_done(store, job) and not has_diverged(store, job)]
    wanted = {job.variant for job in jobs}
    cache = Store(Path(plan.cache))
    features = [unit for unit in plan.features if unit.variant in wanted and not cache.exists(feature_file(unit))]
    needs = {v: frozenset(unit.key for unit in features if unit.variant == v) for v in wanted}
    return [Unit(unit.key, unit.cost) for unit in features] + [
        Unit(job.key, job.cost, needs[job.variant]) for job in jobs
    ]


@dataclass(frozen=True)
class Tools:
    """What does the work, as `execution` of a study says."""

    executor: Executor
    """Does units."""
    run_chunks: ChunkRunner | None
    """Applies a function to chunks of images; None: on this machine's cores."""
    run_mask_chunks: ChunkRunner | None
    """The same on GPUs, where there are any."""
    device: Callable[[], torch.device]
    """What kind of device units and masks are computed on."""


def open_tools(execution: ExecutionConfig, stack: ExitStack) -> Tools:
    """Return the executor and its like; a Ray session ends with `stack`."""
    threads = None if execution.threads == "auto" else execution.threads
    if execution.executor == "inline":
        return Tools(InlineExecutor(threads), None, None, available_device)
    # Here, so that a study runs inline where Ray is not installed.
    from cxrdist.run.ray_executor import RayExecutor
    from cxrdist.run.ray_session import RaySession

    session = stack.enter_context(RaySession(execution.address))
    executor = RayExecutor(
        session,
        workers=None if execution.workers == "auto" else execution.workers,
        fewest=execution.min_workers,
        threads=threads,
        gpus_each=execution.gpus_per_worker,
        worker_failures=execution.worker_failures,
    )
    return Tools(executor, session.run_chunks, session.run_device_chunks, session.device)


def _work(prepared: Prepared, store: Store, executor: Executor, display: Display) -> RunSummary:
    plan = prepared.plan
    for job in plan.jobs:
        _forget_failure(store, job)
    units = pending_units(store, plan)
    fold_units = [unit for unit in units if unit.key in {job.key for job in plan.jobs}]
    outcomes: dict[str, Outcome] = {}
    if fold_units:
        display.begin(units, [job.key for job in plan.jobs], plan.recipe.epochs)
        try:
            outcomes = executor.run(store.root, units, prepared.study.execution.retries, display.event)
        finally:
            display.end()
    return RunSummary(
        plan=plan,
        done_before=sum(is_done(store, job) for job in plan.jobs if job.key not in outcomes),
        unfinished=settle_failures(store, plan.jobs, outcomes),
    )


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
