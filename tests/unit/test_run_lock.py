"""One driver a run directory: whoever lives keeps it, whoever is dead gives it up, and no clock is asked."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import pytest

from cxrdist.errors import CxrdistError, UserError
from cxrdist.run import lock
from cxrdist.run.lock import RunLock, Sign, Watch
from cxrdist.run.store import Store
from cxrdist.study import layout


@pytest.fixture
def quick(monkeypatch):
    """A minute of a real study is two seconds here."""
    for name in ("BEAT_SECONDS", "DEAD_AFTER_SECONDS", "LOOK_SECONDS", "_LONGEST_PAUSE", "_SILENT_SECONDS"):
        monkeypatch.setattr(lock, name, getattr(lock, name) / 30)


@pytest.fixture(autouse=True)
def sigterm_as_the_command_line_takes_it():
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "run")


def sign(token="other", machine="elsewhere", pid=1, **more):
    return Sign(**{"token": token, "host": "node", "pid": pid, "machine": machine, "started": "1", "ticket": 1, **more})


def put(store, one):
    store.write_json(one.name, asdict(one))


def beating(store, one, ended):
    """Keeps a sign alive as another machine would, with a clock of its own that is never asked."""

    def beat():
        count = 0
        while not ended.wait(lock.BEAT_SECONDS):
            count += 1
            put(store, sign(**{**asdict(one), "beat": count}))

    thread = threading.Thread(target=beat)
    thread.start()
    return thread


STARTS_AT_ONCE = """
import sys, time
from pathlib import Path
from cxrdist.errors import UserError
from cxrdist.run.lock import RunLock
from cxrdist.run.store import Store

print("ready", flush=True)
began = float(sys.stdin.readline())
for attempt in range(10):
    while time.time() < began + attempt / 4:
        pass
    try:
        with RunLock(Store(Path(sys.argv[1]) / str(attempt))):
            print(attempt, flush=True)
            time.sleep(0.2)
    except UserError:
        pass
"""


def test_of_processes_that_start_at_once_exactly_one_gets_in(tmp_path):
    command = [sys.executable, "-c", STARTS_AT_ONCE, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{time.time() + 0.1}\n")
        process.stdin.flush()
    entered = [line for process in processes for line in process.communicate(timeout=60)[0].splitlines()]
    assert sorted(entered, key=int) == [str(attempt) for attempt in range(10)]
    assert not list(tmp_path.glob("*/driver/*"))


def test_of_threads_that_start_at_once_on_machines_that_know_nothing_of_each_other_one_gets_in(
    store, monkeypatch, quick
):
    # Every sign has to be watched, since no process can be asked.
    monkeypatch.setattr(lock, "_machine", lambda: "")
    barrier, inside, refused = threading.Barrier(6), [], []

    def start():
        barrier.wait()
        try:
            with RunLock(store):
                inside.append(threading.get_ident())
                barrier.wait(30)
        except UserError:
            refused.append(threading.get_ident())
            barrier.wait(30)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(inside), len(refused)) == (1, 5)


def test_a_dead_process_of_this_machine_gives_way_at_once(store):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom cxrdist.run.lock import RunLock\n"
        "from cxrdist.run.store import Store\nRunLock(Store(Path(sys.argv[1]))).__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(store.root)], check=False, timeout=60).returncode == 9
    (left,) = Watch(store).signs()
    assert left.holds
    started = time.monotonic()
    with RunLock(store):
        assert left.token not in [one.token for one in Watch(store).signs()]
    assert time.monotonic() - started < 1


def test_a_process_id_that_was_used_again_is_not_the_driver(store):
    put(store, sign(machine=lock._machine(), pid=os.getppid(), started="1", holds=True))
    with RunLock(store):
        pass


def test_a_living_process_of_this_machine_is_named_and_keeps_it(store):
    put(store, sign(machine=lock._machine(), pid=os.getppid(), started=lock._started(os.getppid()), holds=True))
    with pytest.raises(UserError, match=rf"in use by process {os.getppid()} on node; .*--run-dir"):
        RunLock(store).__enter__()
    assert [one.token for one in Watch(store).signs()] == ["other"]


def test_a_host_of_the_same_name_is_not_the_same_machine(store, quick):
    """As two containers have: here no process has this id, but there one may."""
    put(store, sign(machine="another boot", pid=2**22 + 1, holds=True))
    ended = threading.Event()
    thread = beating(store, sign(machine="another boot", pid=2**22 + 1, holds=True), ended)
    try:
        with pytest.raises(UserError, match="in use by process"):
            RunLock(store).__enter__()
    finally:
        ended.set()
        thread.join()


def test_a_sign_of_another_machine_that_does_not_change_is_waited_for_and_then_removed(store, quick):
    put(store, sign(holds=True))
    said: list[str] = []
    started = time.monotonic()
    with RunLock(store, said.append):
        assert time.monotonic() - started > lock.DEAD_AFTER_SECONDS
        assert len(Watch(store).signs()) == 1
    assert len(said) == 1
    assert "process 1 on node" in said[0]


def test_who_was_taken_for_dead_and_wakes_up_stops_and_leaves_the_others_sign_alone(store, quick):
    with pytest.raises(CxrdistError, match="Another driver has taken over"), RunLock(store) as asleep:
        # What a contender does who took this one for dead: its sign goes, and the contender's stands there.
        store.remove(asleep._sign.name)
        put(store, sign(ticket=2, holds=True))
        threading.Event().wait(20)
    assert [one.token for one in Watch(store).signs()] == ["other"]


def test_who_wakes_up_in_the_middle_of_writing_its_sign_stops_too(store, quick):
    with pytest.raises(CxrdistError, match="Another driver has taken over"), RunLock(store):
        put(store, sign(ticket=2, holds=True))
        threading.Event().wait(20)
    assert [one.token for one in Watch(store).signs()] == ["other"]


def test_whoever_asks_in_vain_disturbs_nobody(store, quick):
    with RunLock(store):
        for _ in range(10):
            with pytest.raises(UserError):
                RunLock(store).__enter__()
            put(store, sign(ticket=7))
            time.sleep(lock.BEAT_SECONDS)


def test_status_sees_who_works_and_no_contender(store, quick):
    assert Watch(store).driver() is None
    put(store, sign("contender", machine=lock._machine(), pid=os.getppid(), started=lock._started(os.getppid())))
    assert Watch(store).driver() is None
    store.remove(layout.driver_sign("contender"))
    ended = threading.Event()
    thread = beating(store, sign(holds=True), ended)
    try:
        watch = Watch(store)
        time.sleep(2 * lock.BEAT_SECONDS)
        found = watch.driver()
        assert found is not None
        assert found.token == "other"
    finally:
        ended.set()
        thread.join()
    deadline = time.monotonic() + 30
    while watch.driver() is not None:
        assert time.monotonic() < deadline
        time.sleep(lock.BEAT_SECONDS)


def test_a_damaged_sign_is_nobodys(store):
    for number, text in enumerate(["", "{", "[]", '{"token": "x"}', json.dumps({**asdict(sign()), "more": 1})]):
        store.write_bytes(layout.driver_sign(str(number)), text.encode())
    with RunLock(store):
        pass
