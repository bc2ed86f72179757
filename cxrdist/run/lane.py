"""A lane: takes units from the board and does them one after another, whatever becomes of each."""

import time
import traceback
from contextlib import suppress
from typing import Protocol

from cxrdist.run.board import BoardClient
from cxrdist.run.crew import Orders
from cxrdist.study.queue import State

IDLE_SECONDS = 0.2
"""How long a lane waits before it asks again, where all that is left is being done by others."""


class UnitDivergedError(Exception):
    """A unit whose training diverged: doing it again would end the same."""


class Workload(Protocol):
    """What the units of a run directory are, opened once in each lane."""

    def do(self, board: BoardClient, lane: str, key: str) -> None:
        """Do one unit, or this rank's part of it; what it raises is its outcome.

        Raises:
            UnitDivergedError: doing it again would end the same.
        """
        ...


def work(board: BoardClient, workload: Workload, lane: str, orders: Orders | None = None) -> None:
    """Do units until nothing is left for this lane; a unit that fails is told to the board, and the next is taken.

    Where the lane has followers, a unit that fails is raised: they wait for this rank in the middle of it, and only
    new processes can begin anew.

    Args:
        board: where units are.
        workload: what they are.
        lane: who does them.
        orders: for the followers of this lane, if it has any.
    """
    orders = orders or Orders()
    while not board.finished(lane):
        unit = board.claim(lane)
        if unit is None:
            orders.wait()
            time.sleep(IDLE_SECONDS)
            continue
        orders.begin(unit.key)
        state, reason = _attempt(board, workload, lane, unit.key, raises=orders.have_followers)
        board.settle(lane, unit.key, state, reason)
    orders.end()


def follow(board: BoardClient, workload: Workload, lane: str, orders: Orders) -> None:
    """Do this rank's part of the units that the lead of its lane does, until it says that all is over."""
    while (key := orders.take()) is not None:
        with suppress(UnitDivergedError):
            workload.do(board, lane, key)


def describe(error: BaseException) -> str:
    """Say in a line what went wrong, and where."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"


def _attempt(board: BoardClient, workload: Workload, lane: str, key: str, *, raises: bool) -> tuple[State, str]:
    try:
        workload.do(board, lane, key)
    except UnitDivergedError as error:
        return State.DIVERGED, str(error)
    except Exception as error:
        if raises:
            raise
        # A unit's failure is an outcome: the others go on.
        return State.FAILED, describe(error)
    return State.DONE, ""
