"""Seeing that a Ray cluster's head is gone: Ray itself tries for a minute, then ends the process by a C++ message."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cxrdist.errors import CxrdistError

LOOK_SECONDS = 0.5
GRACE_SECONDS = 10.0
"""How long the main thread, which may wait inside Ray, has to see for itself that the cluster is lost."""
SILENT_SECONDS = 40.0
"""How long the head of a cluster elsewhere may be out of reach: it may be started again, but Ray waits a minute."""

_HEAD = ("gcs_server", "raylet")

_GUARD = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
for line in sys.stdin.read().splitlines():
    pid, started = line.split()
    try:
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[19] == started:
                os.kill(int(pid), signal.SIGKILL)
    except OSError:
        pass
"""
"""Waits until nobody can write to it any more, then kills what it was told of, if that is still there."""
_GUARD_SECONDS = 10.0


class ClusterLostError(CxrdistError):
    """The head of the cluster is gone, or does not answer any more."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"The Ray cluster was lost ({why}); what was done is kept, and the same command continues on a cluster "
            "that answers."
        )


class Watch:
    """Looks after a cluster's head in a thread of its own, until it is ended.

    Args:
        gone: returns why the head is gone, or nothing while it is there.
        leave: called with what to say where the main thread has not ended the watch in time.
    """

    def __init__(self, gone: Callable[[], str], leave: Callable[[str], None] | None = None) -> None:
        self._gone = gone
        self._leave = leave or _leave
        self._ended = threading.Event()
        self._lost = ""
        threading.Thread(target=self._look, daemon=True).start()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def require(self) -> None:
        """Refuse to wait for a cluster that is lost.

        Raises:
            ClusterLostError: it is.
        """
        if self._lost:
            raise ClusterLostError(self._lost)

    def is_lost(self) -> bool:
        """Look now, and return whether the cluster is lost."""
        self._lost = self._lost or self._gone()
        return bool(self._lost)

    def _look(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            if self.is_lost():
                break
        if not self._ended.wait(GRACE_SECONDS):
            self._leave(str(ClusterLostError(self._lost)))


class LocalHead:
    """The head of a cluster that this process started: which of its processes, on Linux, has ended.

    Ray's head ends with the process that started it, however that ends, but its agents wait a minute for the head. So a
    guard, a small process of its own, is told of everything that the head has started, and kills it when this process
    is gone.
    """

    def __init__(self) -> None:
        self._head: dict[int, str] = {}
        self._told: set[tuple[int, str]] = set()
        self._guard = subprocess.Popen(  # noqa: S603 - this interpreter with a text of ours
            [sys.executable, "-I", "-S", "-c", _GUARD],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # It outlives a signal to the group of this process.
            start_new_session=True,
        )

    def gone(self) -> str:
        """Return what has ended, nothing while all is there."""
        table = _processes()
        for pid, name in self._head.items():
            if pid not in table or table[pid].parent != os.getpid():
                return f"its {name} ended"
        own = [pid for pid, one in table.items() if one.parent == os.getpid() and one.name in _HEAD]
        self._head |= {pid: table[pid].name for pid in own}
        self._tell(table)
        return ""

    def end(self) -> None:
        """Kill what the head has left, once it was stopped."""
        with suppress(OSError):
            self._guard.communicate(timeout=_GUARD_SECONDS)

    def _tell(self, table: dict[int, "_Process"]) -> None:
        started = set(self._head)
        grown = -1
        while grown < len(started):
            grown = len(started)
            started |= {pid for pid, one in table.items() if one.parent in started}
        found = {(pid, table[pid].started) for pid in started.difference(self._head)}
        lines = "".join(f"{pid} {moment}\n" for pid, moment in sorted(found - self._told))
        self._told |= found
        if lines and self._guard.stdin is not None:
            with suppress(OSError):
                self._guard.stdin.write(lines.encode())
                self._guard.stdin.flush()


def remote_head(address: str) -> Callable[[], str]:
    """Return a function that says since when nothing listens at HOST:PORT, once that is too long."""
    host, _, port = address.rpartition(":")
    answered = time.monotonic()

    def gone() -> str:
        nonlocal answered
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            answered = time.monotonic()
        except OSError:
            silent = time.monotonic() - answered
            return f"{address} has not answered for {silent:.0f} s" if silent > SILENT_SECONDS else ""
        return ""

    return gone


@dataclass(frozen=True)
class _Process:
    name: str
    parent: int
    started: str
    """By the kernel's clock: another process of the same number has another."""


def _processes() -> dict[int, _Process]:
    """Return the processes of this machine on Linux, by number, but those that are over and not yet waited for."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        # The name, in parentheses, may hold spaces and parentheses.
        state, parent, *rest = text[text.rindex(")") + 2 :].split()
        if state != "Z":
            name = text[text.index("(") + 1 : text.rindex(")")]
            found[int(stat.parent.name)] = _Process(name, int(parent), rest[17])
    return found


def _leave(text: str) -> None:
    sys.stderr.write(f"Error: {text}\n")
    sys.stderr.flush()
    os._exit(CxrdistError.exit_status)
