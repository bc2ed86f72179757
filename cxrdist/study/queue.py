"""The queue of a study: who does what, and what happens to the work of a lane that fails or dies."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

LOSSES = 3
"""A unit whose lane died this often without an epoch between is taken to be what kills the lanes."""


class State(StrEnum):
    """Where a unit of work stands."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    DIVERGED = "diverged"
    FAILED = "failed"


ENDED = (State.DONE, State.DIVERGED, State.FAILED)


@dataclass(frozen=True)
class Unit:
    """A unit of work: a fold job, or some images through a frozen trunk."""

    key: str
    cost: float
    after: frozenset[str] = frozenset()
    """Units that must be done before."""


@dataclass
class Entry:
    """A unit and what became of it so far."""

    unit: Unit
    state: State = State.PENDING
    lane: str = ""
    failures: int = 0
    losses: int = 0
    reason: str = ""


@dataclass
class JobQueue:
    """Hands units to lanes, longest first.

    A claim belongs to a lane of the present group of lanes. When Ray restarts its workers a new group joins, and
    whatever lanes of an older group had claimed goes back to the queue; what those lanes may still say is ignored.
    """

    units: Sequence[Unit]
    retries: int
    entries: dict[str, Entry] = field(init=False)
    group: str = field(init=False, default="")
    _lanes: dict[str, str] = field(init=False, default_factory=dict)
    _older_groups: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.entries = {unit.key: Entry(unit) for unit in self.units}
        if len(self.entries) != len(self.units):
            raise ValueError("two units have the same key")

    def join(self, lane: str, group: str) -> None:
        """Register a lane; the first one of a new group returns the claims of all older lanes."""
        if group in self._older_groups:
            return
        if group != self.group:
            self._older_groups.add(self.group)
            self.group = group
            for entry in self.entries.values():
                if entry.state is State.RUNNING:
                    self._lose(entry)
        self._lanes[lane] = group

    def claim(self, lane: str) -> Unit | None:
        """Return the next unit for this lane, or None where none is ready now; see `finished`."""
        if self._lanes.get(lane) != self.group:
            return None
        ready = [entry for entry in self.entries.values() if entry.state is State.PENDING and self._ready(entry.unit)]
        if not ready:
            return None
        entry = max(ready, key=lambda e: e.unit.cost)
        entry.state, entry.lane = State.RUNNING, lane
        return entry.unit

    def progressed(self, lane: str, key: str) -> None:
        """Note that the unit got further, so that a lost lane is not held against it."""
        if self._holds(lane, key):
            self.entries[key].losses = 0

    def settle(self, lane: str, key: str, state: State, reason: str = "") -> bool:
        """Take a lane's word of how a unit ended; return whether the lane's claim was still good.

        A failed unit goes back to the queue until its retries are used up; a diverged one would diverge again.
        """
        if not self._holds(lane, key):
            return False
        entry = self.entries[key]
        entry.lane, entry.reason, entry.state = "", reason, state
        if state is State.FAILED:
            entry.failures += 1
            if entry.failures <= self.retries:
                entry.state = State.PENDING
        self._fail_what_waits_in_vain()
        return True

    def finished(self, lane: str) -> bool:
        """Return whether nothing is left to do for this lane, now or later."""
        return self._lanes.get(lane) != self.group or all(e.state in ENDED for e in self.entries.values())

    def _holds(self, lane: str, key: str) -> bool:
        entry = self.entries.get(key)
        return entry is not None and entry.state is State.RUNNING and entry.lane == lane

    def _ready(self, unit: Unit) -> bool:
        return all(self.entries[key].state is State.DONE for key in unit.after)

    def _lose(self, entry: Entry) -> None:
        entry.losses += 1
        lane, entry.lane, entry.state = entry.lane, "", State.PENDING
        if entry.losses >= LOSSES:
            entry.state = State.FAILED
            entry.reason = f"its worker died {LOSSES} times in a row, the last time as {lane} (out of memory?)"
            self._fail_what_waits_in_vain()

    def _fail_what_waits_in_vain(self) -> None:
        for entry in self.entries.values():
            ended_badly = [key for key in sorted(entry.unit.after) if self.entries[key].state in ENDED[1:]]
            if entry.state is State.PENDING and ended_badly:
                entry.state = State.FAILED
                entry.reason = f"{ended_badly[0]}, which it needs, {self.entries[ended_badly[0]].state}"
                # What needs this one in turn may stand before it.
                self._fail_what_waits_in_vain()
