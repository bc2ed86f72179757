"""The board where lanes take work and say how it goes, and where the driver reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cxrdist.study.queue import JobQueue, State, Unit


@dataclass(frozen=True)
class Event:
    """Something that happened, for the display."""

    kind: str
    """`joined`, `started`, `epoch`, `settled` or `note`."""
    key: str = ""
    lane: str = ""
    state: State = State.RUNNING
    text: str = ""
    epoch: int = 0
    measures: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a unit stands, and why where it ended badly."""

    state: State
    reason: str


class BoardClient(Protocol):
    """What a lane needs of the board: the board itself, or a proxy of the one in a Ray actor."""

    def join(self, lane: str, group: str) -> None:
        """Register a lane of a group of lanes."""
        ...

    def claim(self, lane: str) -> Unit | None:
        """Take the next unit, None where none is ready now."""
        ...

    def epoch(self, lane: str, key: str, epoch: int, measures: tuple[tuple[str, float], ...]) -> None:
        """Report an epoch."""
        ...

    def settle(self, lane: str, key: str, state: State, reason: str) -> None:
        """Report how a unit ended."""
        ...

    def finished(self, lane: str) -> bool:
        """Return whether this lane has nothing left to do."""
        ...

    def note(self, lane: str, text: str) -> None:
        """Say something to the user."""
        ...


class Board:
    """A job queue with a list of events; the same object inline and inside a Ray actor."""

    def __init__(self, units: Sequence[Unit], retries: int, listener: Callable[[Event], None] | None = None) -> None:
        self._queue = JobQueue(units, retries)
        self._events: list[Event] = []
        self._listener = listener

    def join(self, lane: str, group: str) -> None:
        """Register a lane of a group of lanes."""
        before = {key: entry.state for key, entry in self._queue.entries.items()}
        self._queue.join(lane, group)
        self._tell(Event("joined", lane=lane))
        for key, entry in self._queue.entries.items():
            if before[key] is State.RUNNING and entry.state is not State.RUNNING:
                text = entry.reason or "its worker was lost; it continues from its last checkpoint"
                self._tell(Event("settled", key, lane, entry.state, text))

    def claim(self, lane: str) -> Unit | None:
        """Take the next unit, None where none is ready now."""
        unit = self._queue.claim(lane)
        if unit is not None:
            self._tell(Event("started", unit.key, lane))
        return unit

    def epoch(self, lane: str, key: str, epoch: int, measures: tuple[tuple[str, float], ...]) -> None:
        """Report an epoch."""
        self._queue.progressed(lane, key)
        self._tell(Event("epoch", key, lane, epoch=epoch, measures=measures))

    def settle(self, lane: str, key: str, state: State, reason: str) -> None:
        """Report how a unit ended."""
        if self._queue.settle(lane, key, state, reason):
            self._tell(Event("settled", key, lane, self._queue.entries[key].state, reason))

    def finished(self, lane: str) -> bool:
        """Return whether this lane has nothing left to do."""
        return self._queue.finished(lane)

    def note(self, lane: str, text: str) -> None:
        """Say something to the user."""
        self._tell(Event("note", lane=lane, text=text))

    def events(self, since: int) -> list[Event]:
        """Return the events from number `since` on."""
        return self._events[since:]

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        if self._listener is not None:
            self._listener(event)

    def outcome(self) -> dict[str, Outcome]:
        """Return how each unit stands."""
        return {key: Outcome(entry.state, entry.reason) for key, entry in self._queue.entries.items()}
