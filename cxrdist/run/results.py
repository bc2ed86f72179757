"""Reading what fold jobs left: which are done, and their predictions."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from cxrdist.cohort.parquet import parquet_table
from cxrdist.errors import CxrdistError
from cxrdist.run.context import Plan, read_folds
from cxrdist.run.store import Store
from cxrdist.study.folds import Part
from cxrdist.study.layout import JobFiles
from cxrdist.study.outoffold import FoldPredictions, OutOfFold, aggregate
from cxrdist.study.plan import FoldJob
from cxrdist.study.queue import State


class Standing(StrEnum):
    """How a fold job stands, as the files say."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    DIVERGED = "diverged"
    STALE = "stale"
    """Done for another study file, cohort or image: to be done again."""


class Job(Protocol):
    """A unit of work that leaves predictions: a fold job, or one of the lung network's."""

    @property
    def key(self) -> str:
        """Names it and its folder."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of everything that can change its predictions."""
        ...


@dataclass(frozen=True)
class JobStatus:
    """A job as the files show it."""

    job: Job
    standing: Standing
    epoch: int = 0
    epochs: int = 0
    seconds: float = 0.0
    accuracy: float | None = None
    lane: str = ""
    reason: str = ""


def job_status(store: Store, job: Job, *, driver_lives: bool) -> JobStatus:
    """Say how a fold job stands."""
    files = JobFiles(job.key)
    done = store.read_json(files.done)
    if done is not None and is_done(store, job):
        return JobStatus(
            job,
            Standing.DONE,
            epoch=done["epochs"],
            epochs=done["epochs"],
            seconds=done["seconds"],
            accuracy=done.get("accuracy"),
            lane=done["lane"],
        )
    ended = store.read_json(files.ended)
    if ended is not None and ended.get("fingerprint") == job.fingerprint:
        return JobStatus(job, Standing(ended["state"]), reason=ended["reason"])
    progress = store.read_json(files.progress)
    if progress is not None and progress.get("fingerprint") == job.fingerprint:
        measures = {key: progress[key] for key in ("epoch", "epochs", "seconds", "lane")}
        return JobStatus(job, Standing.RUNNING if driver_lives else Standing.PENDING, **measures)
    return JobStatus(job, Standing.STALE if done is not None or ended is not None else Standing.PENDING)


def all_statuses(store: Store, jobs: Sequence[Job], *, driver_lives: bool) -> list[JobStatus]:
    """Say how every job of a plan stands."""
    return [job_status(store, job, driver_lives=driver_lives) for job in jobs]


def is_done(store: Store, job: Job) -> bool:
    """Return whether the job's own mark of being done holds, and its predictions are those it was written for."""
    files = JobFiles(job.key)
    done = store.read_json(files.done)
    if done is None or done.get("fingerprint") != job.fingerprint:
        return False
    try:
        return hashlib.sha256(store.read_bytes(files.predictions)).hexdigest() == done.get("predictions_sha256")
    except OSError:
        return False


def has_diverged(store: Store, job: Job) -> bool:
    """Return whether an earlier attempt at the same job diverged; another would again."""
    ended = store.read_json(JobFiles(job.key).ended) or {}
    return ended.get("fingerprint") == job.fingerprint and ended.get("state") == State.DIVERGED


def read_predictions(store: Store, job: FoldJob, classes: Sequence[str]) -> FoldPredictions:
    """Read one fold job's predictions of its test part.

    Raises:
        CxrdistError: the file is damaged, or of other classes.
    """
    return _read(store, job, JobFiles(job.key).predictions, classes)


def read_validation(store: Store, plan: Plan, classes: Sequence[str]) -> list[FoldPredictions]:
    """Read the predictions of the validation parts of the fold jobs that are done and have kept them.

    Raises:
        CxrdistError: a file is damaged, of other classes, or not of its fold's validation images.
    """
    folds = read_folds(store)
    kept = []
    for job in plan.jobs:
        name = JobFiles(job.key).validation
        if store.exists(name) and is_done(store, job):
            predictions = _read(store, job, name, classes)
            expected = [folds.image_ids[row] for row in folds.rows(job.fold, Part.VALIDATION)]
            if predictions.cohort_hash != plan.cohort or list(predictions.image_ids) != expected:
                raise CxrdistError(f"{store.where(name)} does not hold the validation images of {job.key}.")
            kept.append(predictions)
    return kept


def _read(store: Store, job: FoldJob, name: str, classes: Sequence[str]) -> FoldPredictions:
    """Read predictions of one part.

    Raises:
        CxrdistError: the file is damaged, or of other classes.
    """
    try:
        table = parquet_table(store.read_bytes(name))
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        if json.loads(metadata["classes"]) != list(classes):
            raise CxrdistError(f"{store.where(name)} holds classes {metadata['classes']}, not those of the study.")
        index = {label: number for number, label in enumerate(classes)}
        return FoldPredictions(
            variant=job.variant.name,
            fold=job.fold,
            cohort_hash=metadata["cohort"],
            image_ids=table.column("image_id").to_pylist(),
            truth=np.array([index[label] for label in table.column("truth").to_pylist()], dtype=np.int64),
            probabilities=np.column_stack([table.column(f"p_{name}").to_numpy() for name in classes]),
        )
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise CxrdistError(f"{store.where(name)} cannot be read as predictions: {error}.") from None


def collect(store: Store, plan: Plan, classes: Sequence[str], *, partial: bool) -> dict[str, OutOfFold]:
    """Join the predictions of all fold jobs that are done.

    Raises:
        IncompleteStudyError: some are missing and `partial` is false.
        CxrdistError: predictions contradict each other or the cohort.
    """
    parts = [read_predictions(store, job, classes) for job in plan.jobs if is_done(store, job)]
    return aggregate(
        parts,
        variants=[variant.name for variant in plan.variants],
        expected=read_folds(store).test_ids(),
        cohort_hash=plan.cohort,
        allow_missing=partial,
    )


def read_history(store: Store, job: FoldJob) -> list[dict[str, Any]]:
    """Return the job's epochs, empty where there are none."""
    try:
        lines = store.read_bytes(JobFiles(job.key).history).decode().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]
