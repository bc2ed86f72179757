"""A cluster whose head is gone is seen at once, and what the head has started does not outlive its driver."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cxrdist.run import ray_watch
from cxrdist.run.ray_watch import ClusterLostError, LocalHead, Watch, remote_head

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc on this system")

DRIVER = """
import subprocess, sys, time
from cxrdist.run.ray_watch import LocalHead
head = LocalHead()
raylet = subprocess.Popen([sys.argv[1], "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
worker = raylet.stdout.readline()
assert not head.gone()
print(raylet.pid, worker, flush=True)
time.sleep(60)
"""


@pytest.fixture
def raylet(tmp_path):
    """A program that is called as Ray's."""
    return Path(shutil.copy("/bin/sh", tmp_path / "raylet"))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(ray_watch, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(ray_watch, "GRACE_SECONDS", 0.05)


def wait_until(condition, seconds=10.0):
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "still not so"
        time.sleep(0.01)


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_local_head_that_was_killed_is_named(raylet):
    head = LocalHead()
    assert head.gone() == ""
    with subprocess.Popen([raylet, "-c", "read _"], stdin=subprocess.PIPE) as process:
        assert head.gone() == ""
        process.kill()
        wait_until(lambda: not lives(process.pid))
        assert head.gone() == "its raylet ended"
    head.end()


def test_what_the_head_has_started_is_killed_when_its_driver_is(raylet):
    command = [sys.executable, "-c", DRIVER, str(raylet)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as driver:
        assert driver.stdout is not None
        head, worker = driver.stdout.readline().split()
        assert lives(worker)
        os.killpg(driver.pid, signal.SIGKILL)
    # On a busy machine a process that was killed may take a moment to end.
    wait_until(lambda: not lives(worker) and not lives(head))


def test_at_the_end_nothing_is_left_of_it(raylet):
    head = LocalHead()
    with subprocess.Popen([raylet, "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = process.stdout.readline().strip()
        assert head.gone() == ""
        process.kill()
    assert lives(worker)
    head.end()
    wait_until(lambda: not lives(worker))


def test_a_head_elsewhere_may_be_started_again(monkeypatch):
    server = socket.create_server(("127.0.0.1", 0))
    host, port = server.getsockname()
    gone = remote_head(f"{host}:{port}")
    assert gone() == ""
    server.close()
    assert gone() == ""
    monkeypatch.setattr(ray_watch, "SILENT_SECONDS", 0.0)
    assert gone().startswith(f"{host}:{port} has not answered for")
    with socket.create_server((host, port)):
        assert gone() == ""


@pytest.mark.usefixtures("quick")
def test_who_works_is_told_that_the_cluster_is_lost():
    state = [""]
    left: list[str] = []
    watch = Watch(lambda: state[0], left.append)
    watch.require()
    state[0] = "its raylet ended"
    assert watch.is_lost()
    with pytest.raises(ClusterLostError, match=r"lost \(its raylet ended\); what was done is kept"):
        watch.require()
    watch.end()
    time.sleep(0.1)
    assert left == []


@pytest.mark.usefixtures("quick")
def test_who_waits_inside_ray_is_left_with_the_same_sentence():
    told = threading.Event()
    left: list[str] = []

    def leave(text: str) -> None:
        left.append(text)
        told.set()

    Watch(lambda: "its gcs_server ended", leave)
    assert told.wait(5)
    assert left == [str(ClusterLostError("its gcs_server ended"))]
