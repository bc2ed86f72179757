"""A lane: takes units from the board and does them one after another, whatever becomes of each."""

import time
import traceback
from typing import Protocol

from cxrdist.run.board import BoardClient
from cxrdist.study.queue import State

IDLE_SECONDS = 0.2
"""How long a lane waits before it asks again, where all that is left is being done by others."""


class UnitDivergedError(Exception):
    """A unit whose training diverged: doing it again would end the same."""


class Workload(Protocol):
    """What the units of a run directory are, opened once in each lane."""

    def do(self, board: BoardClient, lane: str, key: str) -> None:
        """Do one unit; what it raises is its outcome.

        Raises:
            UnitDivergedError: doing it again would end the same.
        """
        ...


def work(board: BoardClient, workload: Workload, lane: str) -> None:
    """Do units until nothing is left for this lane; a unit that fails is told to the board, and the next is taken."""
    while not board.finished(lane):
        unit = board.claim(lane)
        if unit is None:
            time.sleep(IDLE_SECONDS)
            continue
        state, reason = _attempt(board, workload, lane, unit.key)
        board.settle(lane, unit.key, state, reason)


def _attempt(board: BoardClient, workload: Workload, lane: str, key: str) -> tuple[State, str]:
    try:
        workload.do(board, lane, key)
    except UnitDivergedError as error:
        return State.DIVERGED, str(error)
    except Exception as error:  # noqa: BLE001 - a unit's failure is an outcome: the others go on
        place = traceback.extract_tb(error.__traceback__)[-1]
        return State.FAILED, f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"
    return State.DONE, ""
