"""A trial as a worker does it: followed by a tracker, tried again after an error, recorded at its end."""

import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from cxrdist.config.models import Study, TrackingConfig
from cxrdist.run.sweep_plan import Search
from cxrdist.run.tracking import GuardedTracker, NoTracker, Tracker
from cxrdist.run.tracking_wandb import WandbTracker, start_wandb
from cxrdist.run.trial import OutOfTimeError, TrialData, TrialStep, do_trial, write_record
from cxrdist.study.search import Proposal, TrialRecord, TrialState
from cxrdist.study.seeds import derive_seed


@dataclass(frozen=True)
class TrialRules:
    """How trials are done, whatever they try; none of it changes a score."""

    study: str
    tracking: TrackingConfig
    retries: int
    checkpoint_seconds: float
    deadline: float | None

    @classmethod
    def of(cls, study: Study, deadline: float | None) -> "TrialRules":
        """Take them from a study."""
        execution = study.execution
        return cls(study.name, study.tracking, execution.retries, execution.checkpoint_seconds, deadline)


def attempt_trial(
    data: TrialData,
    proposal: Proposal,
    rules: TrialRules,
    on_step: Callable[[TrialStep], None],
    note: Callable[[str], None],
) -> TrialRecord:
    """Do a trial and write its record.

    Raises:
        OutOfTimeError: the sweep's time is over; no record is written.
    """
    runs = _TrialRuns(data, proposal, rules, note)

    def after_step(step: TrialStep) -> None:
        runs.step(step)
        on_step(step)

    record = None
    for attempt in range(rules.retries + 1):
        try:
            record = do_trial(
                data,
                proposal,
                after_step,
                checkpoint_seconds=rules.checkpoint_seconds,
                deadline=rules.deadline,
                note=note,
            )
            break
        except OutOfTimeError:
            runs.finish(None)
            raise
        except Exception as error:  # noqa: BLE001 - a trial's failure is an outcome: the others go on
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"
            if attempt < rules.retries:
                note(f"{data.search.key} trial {proposal.number} failed and is tried again: {reason}")
    record = record or TrialRecord(proposal.number, proposal.settings, TrialState.FAILED, reason=reason)
    # The run before the record: whoever sees the record may rely on both.
    runs.finish(record)
    write_record(data.store, data.search.key, data.search.fingerprint, record)
    return record


class _TrialRuns:
    """The W&B runs of one trial: one, or one for each inner fold where that is asked for."""

    def __init__(self, data: TrialData, proposal: Proposal, rules: TrialRules, note: Callable[[str], None]) -> None:
        self._search = data.search
        self._store = data.store
        self._proposal = proposal
        self._rules = rules
        self._note = note
        self._by_fold = rules.tracking.trial_runs == "inner_fold"
        self._fold: int | None = None
        self._tracker: Tracker = NoTracker() if self._by_fold else self._start(None)

    def step(self, step: TrialStep) -> None:
        """Log an epoch."""
        self._enter(step.fold)
        measures = {
            **{key: value for key, value in asdict(step.measures).items() if key != "epoch"},
            "inner_fold": step.fold,
            "epoch": step.epoch,
            self._search.metric: step.score,
            "mean_so_far": step.mean,
        }
        self._tracker.log(step.epoch + (0 if self._by_fold else step.fold * step.epochs), measures)

    def finish(self, record: TrialRecord | None) -> None:
        """End the run with what became of the trial; without a record it will be continued."""
        if record is None:
            self._tracker.finish(failed=True)
            return
        if record.state is TrialState.DIVERGED:
            # Of the epoch in which it did, nothing was told: it may be the first of its inner fold.
            self._enter(len(record.fold_scores))
        elif self._fold is None:
            self._enter(0)
        summary: dict[str, Any] = {"state": str(record.state), "inner_folds_done": record.work}
        if record.score is not None:
            summary[f"mean_{self._search.metric}"] = record.score
        self._tracker.finish(failed=record.state in (TrialState.FAILED, TrialState.DIVERGED), summary=summary)

    def _enter(self, fold: int) -> None:
        if self._by_fold and fold != self._fold:
            self._tracker.finish(failed=False)
            self._tracker = self._start(fold)
        self._fold = fold

    def _start(self, fold: int | None) -> Tracker:
        tracking = self._rules.tracking
        if tracking.wandb == "off":
            return NoTracker()
        search, number = self._search, self._proposal.number
        name = f"{search.key}/trial-{number:03d}" + ("" if fold is None else f"/inner-{fold}")
        return GuardedTracker(
            lambda: WandbTracker(
                start_wandb(
                    tracking,
                    run_id=trial_run_id(self._rules.study, search, number, fold),
                    name=name,
                    group=self._rules.study,
                    job_type="trial",
                    facts={
                        "variant": search.variant.name,
                        "fold": search.fold,
                        "search": search.key,
                        "trial": number,
                        "settings": dict(self._proposal.settings),
                        **({} if fold is None else {"inner_fold": fold}),
                    },
                    store=self._store,
                ),
                self._store,
            ),
            self._note,
            self._store.location,
        )


def trial_run_id(study: str, search: Search, number: int, fold: int | None) -> str:
    """Return a stable id of a trial for trackers: resumption continues it, another search starts another."""
    return f"{derive_seed(0, study, search.key, search.fingerprint, number, -1 if fold is None else fold):016x}"
