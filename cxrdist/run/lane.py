"""A lane: takes units from the board and does them one after another, whatever becomes of each."""

import time
import traceback
from dataclasses import asdict

from cxrdist.learn.train import DivergedError, Epoch
from cxrdist.run.board import BoardClient
from cxrdist.run.context import Context
from cxrdist.run.jobs import do_feature_job, do_fold_job, tracking_id
from cxrdist.run.tracking import GuardedTracker, NoTracker, Tracker, WandbTracker
from cxrdist.study.layout import JobFiles
from cxrdist.study.plan import FoldJob
from cxrdist.study.queue import State

IDLE_SECONDS = 0.2
"""How long a lane waits before it asks again, where all that is left is being done by others."""


def work(board: BoardClient, context: Context, lane: str) -> None:
    """Do units until nothing is left for this lane; a unit that fails is told to the board, and the next is taken."""
    while not board.finished(lane):
        unit = board.claim(lane)
        if unit is None:
            time.sleep(IDLE_SECONDS)
            continue
        state, reason = _attempt(board, context, lane, unit.key)
        board.settle(lane, unit.key, state, reason)


def _attempt(board: BoardClient, context: Context, lane: str, key: str) -> tuple[State, str]:
    try:
        if key in context.features:
            do_feature_job(context, context.features[key])
        else:
            _do_tracked(board, context, lane, context.jobs[key])
    except DivergedError as error:
        return State.DIVERGED, str(error)
    except Exception as error:  # noqa: BLE001 - a unit's failure is an outcome: the others go on
        place = traceback.extract_tb(error.__traceback__)[-1]
        return State.FAILED, f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"
    return State.DONE, ""


def _do_tracked(board: BoardClient, context: Context, lane: str, job: FoldJob) -> None:
    tracker = _tracker(board, context, lane, job)
    done = False

    def on_epoch(epoch: Epoch) -> None:
        measures = tuple((key, float(value)) for key, value in asdict(epoch).items() if key != "epoch")
        board.epoch(lane, job.key, epoch.epoch, measures)

    try:
        do_fold_job(context, job, lane, tracker, on_epoch)
        done = True
    except DivergedError as error:
        _write_end(context, job, State.DIVERGED, str(error))
        raise
    finally:
        tracker.finish(failed=not done)


def _write_end(context: Context, job: FoldJob, state: State, reason: str) -> None:
    end = {"fingerprint": job.fingerprint, "state": str(state), "reason": reason}
    context.store.write_json(JobFiles(job.key).ended, end)


def _tracker(board: BoardClient, context: Context, lane: str, job: FoldJob) -> Tracker:
    study = context.study
    if study.tracking.wandb == "off":
        return NoTracker()
    return GuardedTracker(
        lambda: WandbTracker(
            study.tracking,
            run_id=tracking_id(context, job),
            name=job.key,
            group=study.name,
            facts={
                "variant": job.variant.name,
                "fold": job.fold,
                "seed": study.seed,
                "training": study.training.model_dump(mode="json"),
                "model": study.model.model_dump(mode="json", exclude={"weights"}),
            },
            folder=context.store.root,
        ),
        lambda text: board.note(lane, text),
    )
