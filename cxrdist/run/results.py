"""Reading what fold jobs left: which are done, and their predictions."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np

from cxrdist.config.location import is_remote
from cxrdist.learn.train import Epoch
from cxrdist.run.artefacts import AGAIN, Checked, DamagedError, read_json, whole
from cxrdist.run.context import Plan, read_folds
from cxrdist.run.store import Store
from cxrdist.study.folds import Part
from cxrdist.study.layout import JobFiles
from cxrdist.study.outoffold import FoldPredictions, OutOfFold, aggregate
from cxrdist.study.plan import FoldJob
from cxrdist.study.queue import State

_SUM_TOLERANCE = 1e-4
"""How far from 1 probabilities may sum: they come from a softmax in single precision."""


class Standing(StrEnum):
    """How a fold job stands, as the files say."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    DIVERGED = "diverged"
    STALE = "stale"
    """Done for another study file, cohort or image: to be done again."""
    DAMAGED = "damaged"
    """Done, but what it left is not as it was written: to be done again."""


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
    try:
        return _status(store, job, driver_lives=driver_lives)
    except DamagedError as error:
        return JobStatus(job, Standing.DAMAGED, reason=str(error))


def _status(store: Store, job: Job, *, driver_lives: bool) -> JobStatus:
    files = JobFiles(job.key)
    done = read_mark(store, job)
    if done is not None:
        check_job(store, job, done)
        return JobStatus(
            job,
            Standing.DONE,
            epoch=done["epochs"],
            epochs=done["epochs"],
            seconds=done["seconds"],
            accuracy=done.get("accuracy"),
            lane=done["lane"],
        )
    ended = read_json(store, files.ended)
    if ended is not None and ended.get("fingerprint") == job.fingerprint:
        with whole(store.where(files.ended), AGAIN):
            return JobStatus(job, Standing(ended["state"]), reason=ended["reason"])
    progress = read_json(store, files.progress)
    if progress is not None and progress.get("fingerprint") == job.fingerprint:
        with whole(store.where(files.progress), AGAIN):
            measures = {key: progress[key] for key in ("epoch", "epochs", "seconds", "lane")}
        return JobStatus(job, Standing.RUNNING if driver_lives else Standing.PENDING, **measures)
    stale = ended is not None or store.exists(files.done)
    return JobStatus(job, Standing.STALE if stale else Standing.PENDING)


def all_statuses(store: Store, jobs: Sequence[Job], *, driver_lives: bool) -> list[JobStatus]:
    """Say how every job of a plan stands."""
    return [job_status(store, job, driver_lives=driver_lives) for job in jobs]


def read_mark(store: Store, job: Job) -> dict[str, Any] | None:
    """Return what a job wrote when it was done; None where it is not done, or was for another plan.

    Raises:
        DamagedError: it is not what was written.
    """
    name = JobFiles(job.key).done
    done = read_json(store, name)
    if done is None or done.get("fingerprint") != job.fingerprint:
        return None
    lacking = [key for key in ("epochs", "seconds", "lane", "machine") if key not in done]
    if lacking:
        raise DamagedError(f"{store.where(name)} lacks {lacking[0]!r}; {AGAIN}.")
    return done


def files_of(store: Store, mark: Mapping[str, Any]) -> Checked:
    """Return what reads the artefacts of a job that is done.

    Args:
        store: the run directory.
        mark: of `read_mark`.
    """
    # Versions before this one noted the predictions alone.
    before = {"predictions.parquet": mark["predictions_sha256"]} if "predictions_sha256" in mark else {}
    return Checked(store, mark.get("artefacts", before), "done.json")


def check_job(store: Store, job: Job, mark: Mapping[str, Any], *, network: bool = False) -> None:
    """Refuse what a job that is done left, where that is not what was written.

    Args:
        store: the run directory.
        job: that is done.
        mark: of `read_mark`.
        network: whether its network is compared, too, if it is there: hundreds of megabytes. Whoever needs room may
            remove networks.

    Raises:
        DamagedError: an artefact is missing or another.
    """
    names, kept = JobFiles(job.key), files_of(store, mark)
    for name in (names.predictions, names.validation, names.history):
        if kept.knows(name):
            kept.bytes(name)
    if network and kept.knows(names.model) and store.exists(names.model):
        kept.check_file(names.model, store.local(names.model))


def is_done(store: Store, job: Job) -> bool:
    """Return whether a job is done, and what it left is as it was written."""
    try:
        mark = read_mark(store, job)
        if mark is not None:
            check_job(store, job, mark)
    except DamagedError:
        return False
    return mark is not None


def forget_damaged(store: Store, jobs: Sequence[Job], say: Callable[[str], None]) -> None:
    """Let jobs be done again whose artefacts are not what was written, and say so."""
    # What is in an object store came there as a whole, and would have to be copied to be looked at.
    network = not is_remote(store.location)
    for job in jobs:
        try:
            mark = read_mark(store, job)
            if mark is not None:
                check_job(store, job, mark, network=network)
        except DamagedError as error:
            say(f"{str(error).removesuffix(f'; {AGAIN}.')}: {job.key} is done again.")
            store.remove(JobFiles(job.key).done)


def has_diverged(store: Store, job: Job) -> bool:
    """Return whether an earlier attempt at the same job diverged; another would again."""
    ended = store.read_json(JobFiles(job.key).ended) or {}
    return ended.get("fingerprint") == job.fingerprint and ended.get("state") == State.DIVERGED


def read_predictions(store: Store, job: FoldJob, mark: Mapping[str, Any], classes: Sequence[str]) -> FoldPredictions:
    """Read one fold job's predictions of its test part.

    Raises:
        DamagedError: they are not what was written, of other classes, or no probabilities.
    """
    return _read(files_of(store, mark), job, JobFiles(job.key).predictions, classes)


def read_validation(store: Store, plan: Plan, classes: Sequence[str]) -> list[FoldPredictions]:
    """Read the predictions of the validation parts of the fold jobs that are done and have kept them.

    Raises:
        DamagedError: they are not what was written, of other classes, no probabilities, or not of their fold's
            validation images.
    """
    folds = read_folds(store)
    parts = []
    for job in plan.jobs:
        mark = read_mark(store, job)
        name = JobFiles(job.key).validation
        if mark is None or not (files_of(store, mark).knows(name) or store.exists(name)):
            continue
        predictions = _read(files_of(store, mark), job, name, classes)
        expected = [folds.image_ids[row] for row in folds.rows(job.fold, Part.VALIDATION)]
        if predictions.cohort_hash != plan.cohort or list(predictions.image_ids) != expected:
            raise DamagedError(f"{store.where(name)} does not hold the validation images of {job.key}; {AGAIN}.")
        parts.append(predictions)
    return parts


def _read(files: Checked, job: FoldJob, name: str, classes: Sequence[str]) -> FoldPredictions:
    table = files.parquet(name)
    with files.whole(name):
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        if metadata["fingerprint"] != job.fingerprint:
            raise ValueError(f"is of another fold job than {job.key}")
        if json.loads(metadata["classes"]) != list(classes):
            raise ValueError(f"holds the classes {metadata['classes']}, not those of the study")
        index = {label: number for number, label in enumerate(classes)}
        predictions = FoldPredictions(
            variant=job.variant.name,
            fold=job.fold,
            cohort_hash=metadata["cohort"],
            image_ids=table.column("image_id").to_pylist(),
            truth=np.array([index[label] for label in table.column("truth").to_pylist()], dtype=np.int64),
            probabilities=np.column_stack([table.column(f"p_{name}").to_numpy() for name in classes]),
        )
        _check_probabilities(predictions)
        return predictions


def _check_probabilities(predictions: FoldPredictions) -> None:
    values = predictions.probabilities
    in_range = ((values >= 0) & (values <= 1)).all(axis=1)
    if not in_range.all():
        first = int(np.argmin(in_range))
        raise ValueError(
            f"gives {predictions.image_ids[first]!r} the probabilities {values[first].tolist()}, which are not all "
            "from 0 to 1"
        )
    off = np.abs(values.sum(axis=1) - 1) > _SUM_TOLERANCE
    if off.any():
        first = int(np.argmax(off))
        raise ValueError(
            f"gives {predictions.image_ids[first]!r} probabilities that sum to {values[first].sum():.4g}, not to 1"
        )


def collect(store: Store, plan: Plan, classes: Sequence[str], *, partial: bool) -> dict[str, OutOfFold]:
    """Join the predictions of all fold jobs that are done.

    Raises:
        IncompleteStudyError: some are missing and `partial` is false.
        DamagedError: a file is not what was written; `partial` or not, since what is left out must be known.
        CxrdistError: predictions contradict each other or the cohort.
    """
    marks = [(job, read_mark(store, job)) for job in plan.jobs]
    parts = [read_predictions(store, job, mark, classes) for job, mark in marks if mark is not None]
    return aggregate(
        parts,
        variants=[variant.name for variant in plan.variants],
        expected=read_folds(store).test_ids(),
        cohort_hash=plan.cohort,
        allow_missing=partial,
    )


def read_history(store: Store, job: FoldJob, mark: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the epochs of a job that is done, empty where there are none.

    Raises:
        DamagedError: they are not what was written.
    """
    files, name = files_of(store, mark), JobFiles(job.key).history
    if not files.knows(name) and not store.exists(name):
        return []
    history = files.lines(name)
    with files.whole(name):
        for epoch in history:
            Epoch(**epoch)
            if not all(isinstance(value, int | float) for value in epoch.values()):
                raise ValueError("holds what is no number")
        if len(history) != mark["epochs"]:
            raise ValueError(f"holds {len(history)} epochs, not {mark['epochs']}")
        return history
