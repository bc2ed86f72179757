"""One driver a run directory, on any machines that share it; no clock of theirs has a part in who that is.

Each driver leaves a sign of life under a name of its own, so that nobody can overwrite or remove another's unknowingly.
Who may enter is decided by Lamport's bakery algorithm, which asks no more of a store than that what was written is
there for whoever reads later: so it holds in buckets, too. Whether another still lives, its process says where it is
of this machine; else that its sign changes while it is watched.
"""

import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from cxrdist.errors import CxrdistError, UserError
from cxrdist.run.store import Store
from cxrdist.study import layout

BEAT_SECONDS = 3.0
DEAD_AFTER_SECONDS = 30.0
"""A sign that does not change for so long while it is watched is a dead driver's."""
LOOK_SECONDS = 3 * BEAT_SECONDS
"""How long a sign is watched where nothing depends on it but what a person reads."""

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0
_SILENT_SECONDS = 1.0
"""Until it is said what is waited for."""

_held: set[str] = set()
"""Tokens of this process's own locks."""


@dataclass(frozen=True)
class Sign:
    """A driver's sign of life."""

    token: str
    """Its own alone, and part of the sign's name."""
    host: str
    pid: int
    machine: str
    """Equal where process ids mean the same; empty where that cannot be known."""
    started: str
    """When its process was started: a process id is used again."""
    ticket: int = 0
    """Its place in the queue: the lowest may enter, of equal ones that with the lower token. 0: not chosen yet."""
    holds: bool = False
    """Whether it has entered."""
    beat: int = 0
    """Changes while it lives."""

    @property
    def name(self) -> str:
        """Of the sign in the run directory."""
        return layout.driver_sign(self.token)

    @property
    def turn(self) -> tuple[int, str]:
        """Its place in the queue, different from all others'."""
        return self.ticket, self.token


@dataclass
class _Seen:
    """A sign as it was seen."""

    sign: Sign
    looked: float
    watched: float = 0.0
    """Seconds in which it was looked at again and again and did not change."""
    changed: bool = False
    """Whether it was another one before."""


class Watch:
    """Looks at the signs of a run directory, and remembers when each was seen to change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[str, _Seen] = {}
        """By token."""

    def signs(self) -> list[Sign]:
        """Return the signs that are there."""
        found = []
        for name in self._store.names(layout.DRIVERS):
            with suppress(TypeError):
                found.append(Sign(**(self._store.read_json(name) or {})))
        return found

    def lives(self, sign: Sign) -> bool | None:
        """Return whether a driver lives; None where that is not known yet."""
        if sign.machine and sign.machine == _machine():
            return sign.token in _held if sign.pid == os.getpid() else _is_process(sign.pid, sign.started)
        now = time.monotonic()
        seen = self._seen.setdefault(sign.token, _Seen(sign, now))
        # Not the time between looks as it is: a disk that answers nobody for long holds up signs and looks alike.
        seen.watched += min(now - seen.looked, 2 * _LONGEST_PAUSE)
        seen.looked = now
        if sign != seen.sign:
            seen.sign, seen.watched, seen.changed = sign, 0.0, True
        if seen.watched > DEAD_AFTER_SECONDS:
            return False
        return True if seen.changed else None

    def driver(self) -> Sign | None:
        """Return who works on the run directory, None where nobody was seen to."""
        end = time.monotonic() + LOOK_SECONDS
        while True:
            known = [(sign, self.lives(sign)) for sign in self.signs() if sign.holds]
            living = [sign for sign, lives in known if lives]
            if living:
                return max(living, key=lambda sign: sign.turn)
            if all(lives is False for _, lives in known) or time.monotonic() > end:
                return None
            time.sleep(_LONGEST_PAUSE / 2)


class RunLock:
    """Holds a run directory while a study is worked on.

    A driver that is taken for dead, such as on a machine that was asleep, and then lives on, finds that out within
    seconds: its main thread gets SIGTERM, and leaving the context raises a CxrdistError.

    Args:
        store: the run directory.
        say: told what is waited for, where that takes more than a moment.

    Raises:
        UserError: on entering, where another driver that lives holds it.
        OSError: it cannot be written.
    """

    def __init__(self, store: Store, say: Callable[[str], None] = lambda _: None) -> None:
        self._store = store
        self._hurried = store.hurried()
        self._say = say
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._writing = threading.Lock()
        self._lost = False
        self._sign = Sign(secrets.token_hex(8), socket.gethostname(), os.getpid(), _machine(), _started(os.getpid()))

    def __enter__(self) -> "RunLock":
        _held.add(self._sign.token)
        try:
            self._write(self._store)
            self._thread.start()
            watch = Watch(self._store)
            self._write(self._store, ticket=1 + max((sign.ticket for sign in watch.signs()), default=0))
            self._wait(watch)
            self._write(self._store, holds=True)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._leave()
        if self._lost and (kind is None or issubclass(kind, KeyboardInterrupt)):
            raise CxrdistError(
                f"Another driver has taken over the run directory {self._store.where('')}, since this one gave no sign "
                f"of life for {DEAD_AFTER_SECONDS:.0f} s; what was done is kept, and `cxrdist status` shows who works."
            ) from None

    def _wait(self, watch: Watch) -> None:
        """Wait until it is this driver's turn.

        Raises:
            UserError: it is another's, who lives.
        """
        started, pause, told = time.monotonic(), _FIRST_PAUSE, False
        while waiting := self._before(watch):
            waited = time.monotonic() - started
            if waited > 2 * DEAD_AFTER_SECONDS:
                raise self._in_use(waiting[0])
            if waited > _SILENT_SECONDS and not told:
                self._say(
                    f"waiting up to {DEAD_AFTER_SECONDS:.0f} s to see whether process {waiting[0].pid} on "
                    f"{waiting[0].host} still works on {self._store.where('')}"
                )
                told = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _before(self, watch: Watch) -> list[Sign]:
        """Return those before this driver in the queue of whom it is not known yet what they do."""
        undecided = []
        for sign in watch.signs():
            if sign.token == self._sign.token or (sign.ticket and sign.turn > self._sign.turn):
                # Who comes later sees this one's sign, and goes.
                continue
            lives = watch.lives(sign)
            if lives and sign.ticket:
                raise self._in_use(sign)
            if lives is False:
                self._store.remove(sign.name)
            else:
                undecided.append(sign)
        return undecided

    def _in_use(self, other: Sign) -> UserError:
        return UserError(
            f"The run directory {self._store.where('')} is in use by process {other.pid} on {other.host}; wait for it, "
            "or choose another with --run-dir."
        )

    def _write(self, store: Store, *, ticket: int | None = None, holds: bool = False) -> None:
        with self._writing:
            before = self._sign
            self._sign = replace(
                before,
                beat=before.beat + 1,
                ticket=before.ticket if ticket is None else ticket,
                holds=before.holds or holds,
            )
            store.write_json(self._sign.name, asdict(self._sign))

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            # A full disk shows where it matters; the sign of life grows old until there is room again.
            with suppress(OSError, CxrdistError):
                if self._sign.holds and self._is_overtaken():
                    self._lost = True
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                    return
                self._write(self._hurried)

    def _is_overtaken(self) -> bool:
        """Return whether another took this one for dead: who comes later enters only then."""
        try:
            self._hurried.read_bytes(self._sign.name)
        except FileNotFoundError:
            return True
        return any(sign.holds and sign.turn > self._sign.turn for sign in Watch(self._hurried).signs())

    def _leave(self) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        # What is said last may be lost: then it grows old.
        with suppress(OSError, CxrdistError):
            self._hurried.remove(self._sign.name)
        _held.discard(self._sign.token)


@cache
def _machine() -> str:
    """Return what is equal where a process id means the same process, empty where that cannot be known.

    Names of hosts are not: containers on two machines may have one.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except (OSError, ValueError):
        return ""


def _started(pid: int) -> str:
    """Return when a process was started, in the kernel's ticks; empty where that cannot be read, or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _is_process(pid: int, started: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # Of another user, whose processes may be hidden.
        return _started(pid) in ("", started)
    return _started(pid) == started
