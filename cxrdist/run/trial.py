"""Doing one trial of a search: its settings on every inner fold, until it is done or stopped."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cxrdist.learn.checkpoint import load_progress, save_progress
from cxrdist.learn.train import DivergedError, Epoch, Evaluation, Progress, fit
from cxrdist.run.artefacts import AGAIN, read_json, whole
from cxrdist.run.context import Inputs, read_plan
from cxrdist.run.jobs import model_and_source
from cxrdist.run.store import Store
from cxrdist.run.sweep_plan import Search, read_search, read_search_images
from cxrdist.stats.averages import macro_average
from cxrdist.stats.confusion import confusion_matrix, summarize
from cxrdist.stats.roc import auc
from cxrdist.study.folds import Part
from cxrdist.study.layout import SearchFiles
from cxrdist.study.recipe import with_settings
from cxrdist.study.search import Proposal, TrialRecord, TrialState, passes


@dataclass(frozen=True)
class TrialStep:
    """What a trial tells after each epoch of each inner fold."""

    fold: int
    epoch: int
    """From 1, of the inner fold."""
    epochs: int
    measures: Epoch
    score: float
    """The metric on the held-out images of this inner fold, now."""
    mean: float
    """Mean of the inner folds that are done and of this one so far: what thresholds are held against."""
    work: float
    """Inner folds done so far, with the part of this one."""


class OutOfTimeError(Exception):
    """The time of the sweep is over; the trial is neither done nor bad."""


class _StoppedError(Exception):
    """Others that came as far did better."""


@dataclass
class TrialProgress:
    """What a trial in work did so far: from this, and a checkpoint, it continues."""

    fold_scores: list[float] = field(default_factory=list)
    rung_scores: list[float] = field(default_factory=list)
    seconds: float = 0.0
    epoch_scores: list[float] = field(default_factory=list)
    """Of the inner fold in work."""
    rungs_before: int = 0
    """Rungs that were reached before the inner fold in work."""
    seconds_before: float = 0.0

    def begin_fold(self) -> None:
        """Note that an inner fold begins anew."""
        self.epoch_scores = []
        self.rung_scores = self.rung_scores[: self.rungs_before]
        self.seconds = self.seconds_before

    def end_fold(self, score: float) -> None:
        """Note that the inner fold in work is done."""
        self.fold_scores.append(score)
        self.epoch_scores, self.rungs_before, self.seconds_before = [], len(self.rung_scores), self.seconds


class TrialData:
    """Everything that the trials of one search may see."""

    def __init__(self, store: Store, key: str, device: torch.device) -> None:
        self.store = store
        self.search, self.images = read_search(self.store, key), read_search_images(self.store, key)
        self.inputs = Inputs(read_plan(self.store), self.images.folds.image_ids, device, self.images.rows)
        self.labels = torch.from_numpy(self.images.labels.copy())

    @property
    def files(self) -> SearchFiles:
        """Names of the search's artefacts."""
        return SearchFiles(self.search.key)

    @property
    def n_images(self) -> int:
        """Number of images that a trial may see."""
        return len(self.images.rows)


def do_trial(
    data: TrialData,
    proposal: Proposal,
    on_step: Callable[[TrialStep], None],
    *,
    checkpoint_seconds: float,
    deadline: float | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> TrialRecord:
    """Train and score the settings on each inner fold in turn; continue where an earlier attempt stopped.

    Args:
        data: of the search.
        proposal: the trial.
        on_step: told of each epoch.
        checkpoint_seconds: a checkpoint is due so long after the last one.
        deadline: time of the day (seconds since 1970) when the trial is to be left as it is.
        note: told what the user should know, a sentence each.

    Raises:
        OutOfTimeError: the deadline has passed.
    """
    progress = _read_progress(data, proposal)
    try:
        while len(progress.fold_scores) < data.search.rules.folds:
            _do_fold(data, proposal, progress, on_step, checkpoint_seconds, deadline, note)
            if _is_past(deadline) and len(progress.fold_scores) < data.search.rules.folds:
                raise OutOfTimeError
        state, reason = TrialState.COMPLETE, ""
    except _StoppedError as stopped:
        state, reason = TrialState.STOPPED, str(stopped)
    except DivergedError as error:
        state, reason = TrialState.DIVERGED, f"inner fold {len(progress.fold_scores)}: {error}"
    epochs = with_settings(data.search.network, data.search.recipe, proposal.settings)[1].epochs
    return TrialRecord(
        number=proposal.number,
        settings=proposal.settings,
        state=state,
        fold_scores=tuple(progress.fold_scores),
        rung_scores=tuple(progress.rung_scores),
        work=len(progress.fold_scores) + len(progress.epoch_scores) / epochs,
        seconds=round(progress.seconds, 3),
        reason=reason,
    )


def metric_value(metric: str, truth: NDArray[np.int64], probabilities: NDArray[np.float64], loss: float) -> float:
    """Return a sweep's metric of held-out images.

    Args:
        metric: as in `sweep.metric` of the study file.
        truth: [n] class of each.
        probabilities: [n, classes].
        loss: mean cross-entropy in nats.
    """
    if metric == "val_loss":
        return loss
    if metric == "val_auc":
        return macro_average([auc(truth == index, column) for index, column in enumerate(probabilities.T)])
    summary = summarize(confusion_matrix(truth, probabilities.argmax(axis=1), probabilities.shape[1]))
    return summary.accuracy if metric == "val_accuracy" else summary.f1.macro


def write_record(store: Store, key: str, search: str, record: TrialRecord) -> None:
    """Write a trial that is over, and remove what it continued from."""
    files = SearchFiles(key)
    store.write_json(files.trial(record.number), {"search": search, **asdict(record)})
    store.remove(files.progress(record.number), files.checkpoint(record.number))


def read_record(store: Store, key: str, search: str, number: int) -> TrialRecord | None:
    """Return a trial that is over; None where there is none, or one of another search.

    Raises:
        DamagedError: it is not what was written.
    """
    name = SearchFiles(key).trial(number)
    data = read_json(store, name)
    if data is None or data.pop("search", None) != search:
        return None
    with whole(store.where(name), AGAIN):
        record = TrialRecord(
            **{
                **data,
                "settings": tuple((name, value) for name, value in data["settings"]),
                "state": TrialState(data["state"]),
                "fold_scores": tuple(data["fold_scores"]),
                "rung_scores": tuple(data["rung_scores"]),
            }
        )
        if record.number != number:
            raise ValueError(f"is of trial {record.number}")
        return record


def _do_fold(
    data: TrialData,
    proposal: Proposal,
    progress: TrialProgress,
    on_step: Callable[[TrialStep], None],
    checkpoint_seconds: float,
    deadline: float | None,
    note: Callable[[str], None],
) -> None:
    search, store, files, device = data.search, data.store, data.files, data.inputs.device
    number, fold, rules = proposal.number, len(progress.fold_scores), search.rules
    network, recipe = with_settings(search.network, search.recipe, proposal.settings)
    training, held_out = (torch.from_numpy(data.images.folds.rows(fold, part)) for part in (Part.TRAINING, Part.TEST))
    mark = f"{_mark(search, proposal)} {fold}"
    where = store.where(files.checkpoint(number))
    checkpoint = load_progress(
        store.local(files.checkpoint(number)),
        mark,
        Epoch,
        lambda: note(f"{where} is damaged: inner fold {fold} of trial {number} of {search.key} starts anew."),
    )
    if checkpoint is None or len(checkpoint.history) != len(progress.epoch_scores):
        checkpoint = None
        progress.begin_fold()
    model, source = model_and_source(
        data.inputs, search.variant, network, torch.cat([training, held_out]), seed=search.seed, fold=fold
    )
    truth = data.images.labels[held_out.numpy()]
    written = time.monotonic()

    def after_validation(held: Evaluation) -> None:
        progress.epoch_scores.append(metric_value(search.metric, truth, held.probabilities.numpy(), held.loss))

    def after_epoch(epoch: Epoch, snapshot: Callable[[], Progress[Epoch]]) -> None:
        nonlocal written
        progress.seconds += epoch.seconds
        work = fold + epoch.epoch / recipe.epochs
        score = progress.epoch_scores[-1]
        mean = math.fsum([*progress.fold_scores, score]) / (fold + 1)
        on_step(TrialStep(fold, epoch.epoch, recipe.epochs, epoch, score, mean, work))
        for rung in range(len(progress.rung_scores), len(rules.rungs)):
            if work < rules.rungs[rung] - 1e-9:
                break
            progress.rung_scores.append(mean)
            if not passes(rules, mean, proposal.thresholds[rung]):
                raise _StoppedError(
                    f"{search.metric} {mean:.4f} after {work:.2g} inner folds, {proposal.thresholds[rung]:.4f} needed"
                )
        if epoch.epoch == recipe.epochs:
            # What is done is about to be recorded.
            return
        out_of_time = _is_past(deadline)
        if out_of_time or time.monotonic() - written >= checkpoint_seconds:
            state = snapshot()
            store.write_file(files.checkpoint(number), lambda path: save_progress(path, state, mark))
            _write_progress(data, proposal, progress)
            written = time.monotonic()
        if out_of_time:
            raise OutOfTimeError

    history = fit(
        model,
        source,
        data.labels,
        training,
        held_out,
        recipe,
        seed=search.seed,
        stream=(search.variant.name, fold),
        device=device,
        progress=checkpoint,
        on_validation=after_validation,
        on_epoch=after_epoch,
    )
    selected = len(history) - 1
    if recipe.selection == "best_validation_loss":
        selected = int(np.argmin([epoch.validation_loss for epoch in history]))
    progress.end_fold(progress.epoch_scores[selected])
    if fold + 1 < rules.folds:
        _write_progress(data, proposal, progress)


def _is_past(deadline: float | None) -> bool:
    return deadline is not None and time.time() > deadline


def _mark(search: Search, proposal: Proposal) -> str:
    """Name what a checkpoint is of."""
    return f"{search.fingerprint} {json.dumps(asdict(proposal), default=str)}"


def _write_progress(data: TrialData, proposal: Proposal, progress: TrialProgress) -> None:
    name = data.files.progress(proposal.number)
    data.store.write_json(name, {"mark": _mark(data.search, proposal), **asdict(progress)})


def _read_progress(data: TrialData, proposal: Proposal) -> TrialProgress:
    stored: dict[str, Any] = data.store.read_json(data.files.progress(proposal.number)) or {}
    if stored.pop("mark", None) != _mark(data.search, proposal):
        return TrialProgress()
    try:
        return TrialProgress(**stored)
    except TypeError:
        return TrialProgress()
