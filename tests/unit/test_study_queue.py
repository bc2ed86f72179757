"""The queue: every unit ends, none is done by two lanes at once, and dead lanes cost nothing but their work."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cxrdist.study.queue import ENDED, LOSSES, JobQueue, State, Unit

LANES = ["x", "y", "z"]


def queue_of(*costs, retries=0, after=None):
    """Units `u0`, `u1` ... with these costs; `after` gives the numbers of the units that each needs."""
    needs = after or {}
    units = [Unit(f"u{n}", cost, frozenset(f"u{m}" for m in needs.get(n, ()))) for n, cost in enumerate(costs)]
    queue = JobQueue(units, retries)
    queue.join("x", "g0")
    queue.join("y", "g0")
    return queue


def states(queue):
    return [entry.state for entry in queue.entries.values()]


def lose_all_lanes(queue, number):
    queue.join("x", f"after-{number}")


def test_the_longest_unit_is_handed_out_first_and_equals_in_their_order():
    queue = queue_of(1.0, 3.0, 2.0, 3.0)
    assert [queue.claim("x").key for _ in range(4)] == ["u1", "u3", "u2", "u0"]
    assert queue.claim("x") is None


def test_two_units_with_one_key_are_refused():
    with pytest.raises(ValueError, match="two units have the same key"):
        JobQueue([Unit("a", 1), Unit("a", 2)], 0)


def test_a_unit_waits_until_what_it_needs_is_done():
    queue = queue_of(1.0, 9.0, after={1: [0]})
    assert queue.claim("x").key == "u0"
    assert queue.claim("y") is None
    assert not queue.finished("y")
    queue.settle("x", "u0", State.DONE)
    assert queue.claim("y").key == "u1"


def test_units_that_need_what_failed_fail_with_the_reason_however_many_steps_away():
    queue = queue_of(1.0, 1.0, 1.0, 1.0, after={0: [1], 1: [2], 2: [3]})
    assert queue.claim("x").key == "u3"
    queue.settle("x", "u3", State.FAILED, "no disk")
    assert states(queue) == [State.FAILED] * 4
    assert queue.entries["u3"].reason == "no disk"
    assert queue.entries["u2"].reason == "u3, which it needs, failed"
    assert queue.finished("x")


def test_a_failed_unit_is_tried_as_often_again_as_was_asked_for():
    queue = queue_of(1.0, retries=2)
    for _ in range(3):
        assert queue.claim("x").key == "u0"
        assert queue.settle("x", "u0", State.FAILED, "out of luck")
    assert states(queue) == [State.FAILED]
    assert queue.entries["u0"].reason == "out of luck"
    assert queue.claim("x") is None


def test_a_diverged_unit_is_not_tried_again():
    queue = queue_of(1.0, retries=5)
    queue.claim("x")
    queue.settle("x", "u0", State.DIVERGED, "nan")
    assert states(queue) == [State.DIVERGED]
    assert queue.claim("x") is None
    assert queue.finished("x")


def test_the_claim_of_a_lost_lane_returns_and_costs_no_retry():
    queue = queue_of(1.0)
    queue.claim("x")
    queue.join("z", "g1")
    assert states(queue) == [State.PENDING]
    assert queue.claim("z").key == "u0"
    assert queue.entries["u0"].failures == 0


def test_the_word_of_a_lane_of_an_older_group_is_ignored():
    queue = queue_of(1.0, 2.0)
    queue.claim("x")
    queue.join("z", "g1")
    assert not queue.settle("x", "u1", State.DONE)
    assert queue.claim("x") is None
    assert queue.finished("x")
    assert queue.claim("z").key == "u1"
    assert not queue.settle("x", "u1", State.FAILED)
    queue.progressed("x", "u1")
    assert queue.entries["u1"].losses == 1
    assert queue.settle("z", "u1", State.DONE)


def test_a_lane_of_an_older_group_that_joins_late_takes_nothing():
    queue = queue_of(1.0)
    queue.join("z", "g1")
    assert queue.claim("z").key == "u0"
    queue.join("late", "g0")
    assert queue.finished("late")
    assert queue.claim("late") is None
    assert queue.settle("z", "u0", State.DONE)


def test_a_lane_may_not_settle_what_another_lane_holds_or_what_there_is_not():
    queue = queue_of(1.0)
    queue.claim("x")
    assert not queue.settle("y", "u0", State.DONE)
    assert not queue.settle("x", "unknown", State.DONE)
    assert queue.settle("x", "u0", State.DONE)
    assert not queue.settle("x", "u0", State.FAILED)
    assert states(queue) == [State.DONE]


def test_a_unit_whose_lane_dies_again_and_again_without_progress_fails():
    queue = queue_of(1.0, 5.0, after={0: [1]}, retries=9)
    for number in range(LOSSES):
        assert queue.claim("x").key == "u1"
        lose_all_lanes(queue, number)
    assert states(queue) == [State.FAILED, State.FAILED]
    assert "died 3 times in a row, the last time as x" in queue.entries["u1"].reason


def test_progress_between_losses_is_not_held_against_a_unit():
    queue = queue_of(1.0)
    for number in range(5 * LOSSES):
        assert queue.claim("x").key == "u0"
        if number % (LOSSES - 1) == 0:
            queue.progressed("x", "u0")
        lose_all_lanes(queue, number)
    assert states(queue) == [State.PENDING]


class QueueMachine(RuleBasedStateMachine):
    """Lanes join, claim, work, fail and die in any order, beside a plain record of who works at what."""

    @initialize(
        needs=st.lists(st.sets(st.integers(0, 5), max_size=2), min_size=1, max_size=6),
        backwards=st.booleans(),
        retries=st.integers(0, 2),
    )
    def start(self, needs, backwards, retries):
        # A unit needs units of lower numbers only, so that there is no circle; their order is any.
        after = {n: frozenset(f"u{m}" for m in wanted if m < n) for n, wanted in enumerate(needs)}
        units = [Unit(f"u{n}", float(n % 3), after[n]) for n in range(len(needs))]
        self.queue = JobQueue(units[::-1] if backwards else units, retries)
        self.retries = retries
        self.keys = {unit.key for unit in units}
        self.group = 0
        self.alive = set()
        self.working = {}
        self.stale = []
        self.failures = dict.fromkeys(self.keys, 0)

    @rule(lane=st.sampled_from(LANES))
    def join(self, lane):
        name = f"{lane}{self.group}"
        if name not in self.alive:
            self.queue.join(name, f"g{self.group}")
            self.alive.add(name)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def claim(self, data):
        lane = data.draw(st.sampled_from(sorted(self.alive - set(self.working.values())) or [None]))
        if lane is None:
            return
        unit = self.queue.claim(lane)
        if unit is not None:
            assert unit.key not in self.working
            assert all(self.queue.entries[key].state is State.DONE for key in unit.after)
            self.working[unit.key] = lane

    @precondition(lambda self: self.working)
    @rule(data=st.data(), state=st.sampled_from(ENDED))
    def settle(self, data, state):
        key = data.draw(st.sampled_from(sorted(self.working)))
        assert self.queue.settle(self.working.pop(key), key, state)
        self.failures[key] += state is State.FAILED
        again = state is State.FAILED and self.failures[key] <= self.retries
        assert self.queue.entries[key].state is (State.PENDING if again else state)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def progress(self, data):
        key = data.draw(st.sampled_from(sorted(self.working)))
        self.queue.progressed(self.working[key], key)
        assert self.queue.entries[key].losses == 0

    @precondition(lambda self: self.alive)
    @rule()
    def restart(self):
        self.stale = [(lane, key) for key, lane in self.working.items()]
        self.group += 1
        self.alive, self.working = set(), {}
        self.join("x")

    @rule()
    def dead_lanes_speak(self):
        for lane, key in self.stale:
            assert not self.queue.settle(lane, key, State.DONE)
            assert self.queue.claim(lane) is None
            assert self.queue.finished(lane)

    @invariant()
    def nothing_is_lost_and_what_runs_is_held_by_a_living_lane(self):
        running = {key: e.lane for key, e in self.queue.entries.items() if e.state is State.RUNNING}
        assert running == self.working
        assert set(self.queue.entries) == self.keys
        assert all(e.losses <= LOSSES and e.failures <= self.retries + 1 for e in self.queue.entries.values())

    def teardown(self):
        """Whatever happened, living lanes bring every unit to an end."""
        if not hasattr(self, "queue"):
            return
        self.join("x")
        lane = f"x{self.group}"
        for key, holder in self.working.items():
            self.queue.settle(holder, key, State.DONE)
        for _ in range(len(self.keys) * (self.retries + 2)):
            unit = self.queue.claim(lane)
            if unit is None:
                break
            self.queue.settle(lane, unit.key, State.DONE)
        assert all(entry.state in ENDED for entry in self.queue.entries.values())
        assert self.queue.finished(lane)


QueueMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestAnyCourseOfEvents = QueueMachine.TestCase
