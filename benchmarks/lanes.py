"""Claim: on Ray a fold job costs less than a second beyond its training, once the lanes are up.

Run with `python -m benchmarks.lanes`. Runs one study of 20 trivial fold jobs (heads on a frozen trunk, 80 phantoms)
with each executor, in a new process and with an empty cache, as `cxrdist run` would; two lanes on Ray, one thread each.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

import torch

# What `cxrdist run` imports, since the clock starts before that.
import cxrdist.cli.commands  # noqa: F401
from cxrdist.cohort.phantoms import draw_phantoms
from cxrdist.config import (
    CohortConfig,
    ExecutionConfig,
    FoldsConfig,
    ModelConfig,
    PreprocessingConfig,
    Study,
    TrainingConfig,
)
from cxrdist.errors import CxrdistError
from cxrdist.run.board import Event
from cxrdist.run.driver import run_study
from cxrdist.run.store import Store
from cxrdist.run.sweep import Sweep, TrialEvent
from cxrdist.study.layout import JobFiles
from cxrdist.study.queue import Unit

FOLDS = 20
LANES = 2
PATIENTS = 20
"""Of each class: one in each test part."""

ExecutorName = Literal["ray", "inline"]
Transfer = Literal["frozen", "finetune"]


@dataclass
class Recorder:
    """A display that notes when it was told what."""

    planned: float = 0.0
    events: list[tuple[float, Event]] = field(default_factory=list)

    def say(self, _text: str) -> None:
        pass

    def decoded(self, _done: int, _total: int) -> None:
        pass

    def masked(self, _done: int, _total: int) -> None:
        pass

    def begin(self, _units: Sequence[Unit], _epochs: Mapping[str, int]) -> None:
        self.planned = time.time()

    def event(self, event: Event) -> None:
        self.events.append((time.time(), event))

    def end(self) -> None:
        pass

    def sweeping(self, _sweep: Sweep) -> AbstractContextManager[Callable[[TrialEvent], None]]:
        return nullcontext(lambda _event: None)

    def times(self, kind: str, keys: frozenset[str]) -> list[float]:
        return [moment for moment, event in self.events if event.kind == kind and event.key in keys]


@dataclass(frozen=True)
class FinishedJob:
    """What a fold job left behind."""

    lane: str
    finished: float
    """Time of the day, by the file system."""
    training_seconds: float
    other_seconds: float
    """Spent within the job, but not in an epoch."""


@dataclass(frozen=True)
class Timing:
    """One executor's run: seconds since its process was started, and its fold jobs."""

    imported: float
    planned: float
    joined: tuple[float, ...]
    first_epoch: float
    ended: float
    fold_jobs: float
    """From the start of the first fold job to the end of the last."""
    jobs: tuple[FinishedJob, ...]

    @property
    def n_lanes(self) -> int:
        return len({job.lane for job in self.jobs})

    @property
    def overhead_per_job(self) -> float:
        """The lanes' time that no epoch took, divided between the jobs."""
        training = sum(job.training_seconds for job in self.jobs)
        return (self.fold_jobs * self.n_lanes - training) / len(self.jobs)

    @property
    def overheads(self) -> list[float]:
        """For each job but the first of a lane: from the end of the job before to its own, less its training."""
        lanes: dict[str, list[FinishedJob]] = {}
        for job in sorted(self.jobs, key=lambda job: job.finished):
            lanes.setdefault(job.lane, []).append(job)
        return [
            after.finished - before.finished - after.training_seconds
            for done in lanes.values()
            for before, after in itertools.pairwise(done)
        ]


def phantom_study(
    name: str, manifest: Path, *, folds: int, execution: ExecutionConfig, epochs: int = 2, transfer: Transfer = "frozen"
) -> Study:
    """A study of ResNet-34 with random weights on phantoms, small enough that all around it can be measured."""
    return Study(
        name=name,
        cohort=CohortConfig(
            manifest=str(manifest),
            images=str(manifest.parent),
            classes=["normal", "covid19", "viral_pneumonia", "bacterial_pneumonia"],
        ),
        preprocessing=PreprocessingConfig(size=32),
        folds=FoldsConfig(k=folds, stratify_by="class"),
        model=ModelConfig(weights="none", transfer=transfer),
        training=TrainingConfig(epochs=epochs),
        execution=execution,
    )


def measure(executor: ExecutorName, manifest: Path, folder: Path, started: float, *, folds: int) -> Timing:
    """Run the study in `folder`; `started` is the time of the day from which to count."""
    imported = time.time()
    recorder = Recorder()
    store = Store(folder / "run")
    execution = ExecutionConfig(executor=executor, workers=LANES, threads=1, cache=str(folder / "cache"))
    study = phantom_study("lanes", manifest, folds=folds, execution=execution)
    summary = run_study(study, store, recorder)
    if summary.unfinished:
        raise CxrdistError(f"{len(summary.unfinished)} fold jobs were not done: {summary.unfinished}")
    ended = time.time()
    keys = frozenset(job.key for job in summary.plan.jobs)
    return Timing(
        imported=imported - started,
        planned=recorder.planned - started,
        joined=tuple(moment - started for moment in recorder.times("joined", frozenset([""]))),
        first_epoch=min(recorder.times("epoch", keys)) - started,
        ended=ended - started,
        fold_jobs=max(recorder.times("settled", keys)) - min(recorder.times("started", keys)),
        jobs=tuple(finished_job(store, key) for key in sorted(keys)),
    )


def finished_job(store: Store, key: str) -> FinishedJob:
    name = JobFiles(key).done
    done = store.read_json(name) or {}
    return FinishedJob(done["lane"], store.local(name).stat().st_mtime, done["seconds"], done["overhead_seconds"])


def measure_in_new_process(executor: ExecutorName, manifest: Path, folder: Path) -> Timing:
    # Not as `__main__` and not by multiprocessing: processes for decoding would import this module again.
    code = "import sys, benchmarks.lanes; benchmarks.lanes.write_measure(*sys.argv[1:])"
    arguments = [executor, str(manifest), str(folder), str(time.time())]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    values = json.loads((folder / "timing.json").read_text())
    return Timing(**{**values, "jobs": tuple(FinishedJob(**job) for job in values["jobs"])})


def write_measure(executor: ExecutorName, manifest: str, folder: str, started: str) -> None:
    """What the new process does."""
    timing = measure(executor, Path(manifest), Path(folder), float(started), folds=FOLDS)
    (Path(folder) / "timing.json").write_text(json.dumps(asdict(timing)))


def report(executor: str, timing: Timing) -> str:
    within = [job.other_seconds for job in timing.jobs]
    training = median(job.training_seconds for job in timing.jobs)
    joined = " and ".join(f"{seconds:.1f}" for seconds in timing.joined)
    return (
        f"{executor}: imported at {timing.imported:.1f} s, decoded and planned at {timing.planned:.1f} s, lanes ready "
        f"at {joined} s, first epoch at {timing.first_epoch:.1f} s, ended at {timing.ended:.1f} s\n"
        f"  {len(timing.jobs)} fold jobs in {timing.fold_jobs:.1f} s on {timing.n_lanes} lanes, {training:.3f} s of "
        f"training each (median)\n"
        f"  beyond training: {timing.overhead_per_job:.3f} s a job in all; between the ends of two jobs of a lane "
        f"median {median(timing.overheads):.3f} s, max {max(timing.overheads):.3f} s; within a job "
        f"median {median(within):.3f} s, max {max(within):.3f} s"
    )


def main() -> None:
    print(
        f"{FOLDS} fold jobs, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}; "
        "seconds since the process was started"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        manifest = draw_phantoms(
            folder / "phantoms", patients_per_class=PATIENTS, images_per_patient=(1, 1), size=64, seed=0
        )
        executors: tuple[ExecutorName, ...] = ("ray", "inline")
        for executor in executors:
            print(report(executor, measure_in_new_process(executor, manifest, folder / executor)), flush=True)
    print(f"load at the end {os.getloadavg()[0]:.1f}; events on Ray are read every half second")


if __name__ == "__main__":
    main()
