"""One driver a run directory: a sign of life that others can read, on any machine that shares the folder."""

import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from cxrdist.errors import CxrdistError, UserError
from cxrdist.run.store import Store
from cxrdist.study import layout

BEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 30.0


def live_driver(store: Store) -> dict[str, Any] | None:
    """Return who works on the run directory now, or None."""
    driver = store.read_json(layout.DRIVER)
    if driver is None:
        return None
    try:
        age, host, pid = time.time() - float(driver["time"]), str(driver["host"]), int(driver["pid"])
    except (KeyError, TypeError, ValueError):
        return None
    if age > DEAD_AFTER_SECONDS or (host == socket.gethostname() and not _alive(pid)):
        return None
    return driver


class RunLock:
    """Holds a run directory while a study is worked on.

    Raises:
        UserError: on entering, where another driver that lives holds it, or it cannot be written.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._hurried = store.hurried()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "RunLock":
        other = live_driver(self._store)
        if other is not None and (other["host"], other["pid"]) != (socket.gethostname(), os.getpid()):
            raise UserError(
                f"The run directory {self._store.where('')} is in use by process {other['pid']} on {other['host']}; "
                "wait for it, or choose another with --run-dir."
            )
        self._sign(self._store)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        # What is said last may be lost: it grows old.
        with suppress(OSError, CxrdistError):
            self._hurried.remove(layout.DRIVER)

    def _sign(self, store: Store) -> None:
        life = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        store.write_json(layout.DRIVER, life)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            # A full disk shows where it matters; the sign of life grows old until there is room again.
            with suppress(OSError, CxrdistError):
                self._sign(self._hurried)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
