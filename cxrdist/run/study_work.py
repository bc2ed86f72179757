"""The units of a study: fold jobs, followed by a tracker, and features of frozen trunks."""

from dataclasses import asdict

from cxrdist.learn.ranks import Ranks
from cxrdist.learn.train import DivergedError, Epoch
from cxrdist.run.board import BoardClient
from cxrdist.run.context import Context
from cxrdist.run.jobs import do_feature_job, do_fold_job, follow_fold_job, tracking_id
from cxrdist.run.lane import UnitDivergedError
from cxrdist.run.tracking import GuardedTracker, NoTracker, Tracker
from cxrdist.run.tracking_wandb import WandbTracker, start_wandb
from cxrdist.study.folds import Part
from cxrdist.study.layout import JobFiles
from cxrdist.study.plan import FoldJob
from cxrdist.study.queue import State


class StudyWorkload:
    """Does fold jobs and feature jobs; of several ranks that do a fold job, the first alone writes and reports."""

    def __init__(self, context: Context, ranks: Ranks) -> None:
        self._context = context
        self._ranks = ranks

    def do(self, board: BoardClient, lane: str, key: str) -> None:
        """Do one unit, or this rank's part of it.

        Raises:
            UnitDivergedError: the loss of a fold job stopped being finite.
        """
        context = self._context
        if key in context.features:
            do_feature_job(context, context.features[key])
        elif self._ranks.rank == 0:
            _do_tracked(board, context, lane, context.jobs[key], self._ranks)
        else:
            try:
                follow_fold_job(context, context.jobs[key], self._ranks)
            except DivergedError as error:
                raise UnitDivergedError(str(error)) from error


def _do_tracked(board: BoardClient, context: Context, lane: str, job: FoldJob, ranks: Ranks) -> None:
    tracker = _tracker(board, context, lane, job)
    done = False

    passed = sum(len(context.folds.rows(job.fold, part)) for part in (Part.TRAINING, Part.VALIDATION))

    def on_epoch(epoch: Epoch) -> None:
        measures = {key: float(value) for key, value in asdict(epoch).items() if key != "epoch"}
        measures["images_per_second"] = passed / max(epoch.seconds, 1e-9)
        board.epoch(lane, job.key, epoch.epoch, tuple(measures.items()))

    try:
        do_fold_job(context, job, lane, tracker, on_epoch, lambda text: board.note(lane, text), ranks)
        done = True
    except DivergedError as error:
        end = {"fingerprint": job.fingerprint, "state": str(State.DIVERGED), "reason": str(error)}
        context.store.write_json(JobFiles(job.key).ended, end)
        raise UnitDivergedError(str(error)) from error
    finally:
        tracker.finish(failed=not done)


def _tracker(board: BoardClient, context: Context, lane: str, job: FoldJob) -> Tracker:
    study = context.study
    if study.tracking.wandb == "off":
        return NoTracker()
    return GuardedTracker(
        lambda: WandbTracker(
            start_wandb(
                study.tracking,
                run_id=tracking_id(context, job),
                name=job.key,
                group=study.name,
                job_type="fold",
                facts={
                    "variant": job.variant.name,
                    "fold": job.fold,
                    "seed": study.seed,
                    "training": {**study.training.model_dump(mode="json"), **dict(job.settings)},
                    "model": study.model.model_dump(mode="json", exclude={"weights"}),
                },
                store=context.store,
            ),
            context.store,
        ),
        lambda text: board.note(lane, text),
        context.store.location,
    )
