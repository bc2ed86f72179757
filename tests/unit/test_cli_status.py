"""How long a run will still take, as its files say."""

from dataclasses import dataclass

from cxrdist.cli.status import time_left
from cxrdist.run.results import JobStatus, Standing


@dataclass(frozen=True)
class Job:
    key: str
    fingerprint: str = ""


def status(standing: Standing, epoch: int = 0, seconds: float = 0.0, lane: str = "", epochs: int = 10) -> JobStatus:
    return JobStatus(Job("job"), standing, epoch, epochs if epoch else 0, seconds, lane=lane)


def test_the_time_left_is_that_of_the_epochs_left_divided_between_the_workers() -> None:
    done = status(Standing.DONE, 10, 20.0, "a")
    halfway = [status(Standing.RUNNING, 5, 10.0, lane) for lane in ("a", "b")]
    waiting = [status(Standing.PENDING)] * 3
    # 40 epochs are left, of 2 s each, on two workers.
    assert time_left([done, *halfway, *waiting]) == 40.0


def test_nothing_is_said_where_nobody_works_or_no_epoch_is_done() -> None:
    assert time_left([status(Standing.DONE, 10, 20.0, "a"), status(Standing.PENDING)]) is None
    assert time_left([status(Standing.RUNNING), status(Standing.PENDING)]) is None


def test_jobs_that_ended_badly_are_not_waited_for() -> None:
    running = status(Standing.RUNNING, 5, 10.0, "a")
    assert time_left([running, status(Standing.DIVERGED), status(Standing.FAILED)]) == 10.0
