"""Bringing W&B runs to a server, apart from training: whatever the server does, training does not notice.

Jobs write W&B's offline files and talk to no server. One thread of the driver lets `wandb sync`, in a process of the
lowest priority, upload those that are over. So a server that hangs, fails, refuses the key or is not there holds up
nothing; what it did not take stays in the run directory; and the key stays on the driver's machine, which on a cluster
may be the only one with a way out.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cxrdist.config.models import Study
from cxrdist.run.board import Event
from cxrdist.run.store import Store
from cxrdist.run.tracking import server_url, wandb_mode, why_silent
from cxrdist.run.tracking_live import JOB_TYPE, live_run
from cxrdist.run.tracking_wandb import FOLDER, ORIGIN, OVER, WRITING_SECONDS, be_ourselves
from cxrdist.study.seeds import derive_seed

_POLL_SECONDS = 1.0
_PAUSE_SECONDS = 30.0
"""Until a server that does not answer is asked again, also at the end."""
_END_SECONDS = 30.0
"""How long a study's end waits for a server that answers."""
_ATTEMPTS = 3
_EMPTY = 7
"""Bytes of a run's file in which nothing is written yet."""


@contextmanager
def tracked(
    study: Study, store: Store, commit: str | None, say: Callable[[str], None]
) -> Iterator[Callable[[Event], None]]:
    """Upload the W&B runs of a run directory while a study is worked on, where that is asked for.

    What is given shows the epochs that it is told of, while fold jobs are still in work.

    Args:
        study: whether, and where to.
        store: the run directory.
        commit: of the study file, None where it is under no version control.
        say: told at the end what was uploaded and what was not.
    """
    config = study.tracking
    if config.wandb == "off":
        yield _ignore
        return
    # A folder that cannot be written is a failure of the study, or of its trackers, and they say so.
    with contextlib.suppress(OSError):
        store.write_json(ORIGIN, {"git_commit": commit})
    if wandb_mode(config) == "offline":
        yield _ignore
        return
    # Of the processes that are started here.
    be_ourselves()
    uploads = _Uploads(store, say)
    try:
        run_id = f"{derive_seed(0, study.name, store.location, JOB_TYPE):016x}"
        with live_run(config.project, config.entity, run_id, study.name) as follow:
            yield follow
    except KeyboardInterrupt:
        uploads.abandon()
        raise
    except BaseException:
        uploads.close()
        raise
    uploads.close()


def _ignore(_: Event) -> None:
    """Show nothing."""


class _Uploads:
    """A thread that uploads runs as they end, one `wandb sync` at a time."""

    def __init__(self, store: Store, say: Callable[[str], None]) -> None:
        self._store = store
        self._say = say
        self._url = server_url()
        self._sync: _Sync | None = None
        self._attempts: dict[Path, int] = {}
        self._before = self._uploaded()
        self._reason = ""
        self._ask_again = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="wandb uploads", daemon=True)
        self._thread.start()

    def abandon(self) -> None:
        """Stop at once."""
        self._ended.set()
        self._thread.join()
        if self._sync is not None:
            self._sync.close()

    def close(self) -> None:
        """Upload what is left, as long as the server answers, and say how that went."""
        self._ended.set()
        self._thread.join()
        try:
            self._finish()
        except Exception as error:  # noqa: BLE001 - the study is done, whatever becomes of its tracking
            self._reason = f"{type(error).__name__}: {error}"
        finally:
            if self._sync is not None:
                self._sync.close()
        left = self._pending(all_over=True, again=True)
        uploaded = len(self._uploaded() - self._before)
        if left:
            reason = self._reason or f"{self._url} took too long"
            self._say(
                f"W&B: {len(left)} of {len(left) + uploaded} runs were not uploaded: {reason}; "
                f"`wandb sync {self._folder}/offline-run-*` brings them."
            )
        elif uploaded:
            self._say(f"W&B: {uploaded} runs were uploaded to {self._url}.")

    @property
    def _folder(self) -> Path:
        return self._store.root / FOLDER

    def _work(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            try:
                self._step(all_over=False)
            except Exception as error:  # noqa: BLE001 - nothing that happens here may reach the study
                self._reason = f"{type(error).__name__}: {error}"
                return

    def _finish(self) -> None:
        self._store.pull(FOLDER)
        if self._pending(all_over=True):
            time.sleep(WRITING_SECONDS)
        if not (self._sync or self._pending(all_over=True)) or not self._answers():
            return
        deadline = time.monotonic() + _END_SECONDS
        while (self._step(all_over=True) or self._sync) and time.monotonic() < deadline:
            time.sleep(0.1)

    def _step(self, *, all_over: bool) -> bool:
        """Go on; return whether there is anything left to do."""
        if self._sync is not None:
            if self._sync.running:
                return True
            self._settle(self._sync)
            self._sync = None
        waiting = self._pending(all_over=all_over)
        if not waiting or not self._answers():
            return False
        for path in waiting:
            self._attempts[path] = self._attempts.get(path, 0) + 1
        self._sync = _Sync(waiting, self._store.root)
        return True

    def _settle(self, sync: "_Sync") -> None:
        for folder in sync.folders:
            if not (folder / OVER).exists() and not _is_uploaded(folder):
                _call_uploaded_what_is_cut_off(folder)
        for folder in self._uploaded().intersection(sync.folders):
            self._store.push(folder.relative_to(self._store.root).as_posix())
        if not all(map(_is_uploaded, sync.folders)):
            self._reason = sync.reason()
        sync.close()

    def _uploaded(self) -> set[Path]:
        return {path for path in self._folder.glob("offline-run-*") if _is_uploaded(path)}

    def _pending(self, *, all_over: bool, again: bool = False) -> list[Path]:
        """Return the folders of runs to upload: those that are over, and not yet given up unless `again`."""
        folders = sorted(
            path.parent
            for path in self._folder.glob("offline-run-*/*.wandb")
            if path.stat().st_size > _EMPTY or (path.parent / OVER).exists()
        )
        last = {_run_id(path): path for path in folders}
        return [
            path
            for path in folders
            if (all_over or _is_written(path) or last[_run_id(path)] != path)
            and not _is_uploaded(path)
            and (again or self._attempts.get(path, 0) < _ATTEMPTS)
        ]

    def _answers(self) -> bool:
        """Ask, not too often, whether the server says anything."""
        if time.monotonic() < self._ask_again:
            return False
        silent = why_silent(self._url)
        if silent:
            self._reason = silent
            self._ask_again = time.monotonic() + _PAUSE_SECONDS
        return not silent


class _Sync:
    """`wandb sync` at work."""

    def __init__(self, folders: list[Path], place: Path) -> None:
        self.folders = folders
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(  # noqa: S603 - a list without a shell; the key is in the environment
            [sys.executable, "-m", "wandb", "sync", *map(str, folders)],
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, 19)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def reason(self) -> str:
        """Return the last thing that it said."""
        self._output.seek(0)
        lines = [line.strip().removeprefix("wandb: ").removeprefix("ERROR ") for line in self._output]
        return next((line for line in reversed(lines) if line), "`wandb sync` failed without a word")

    def close(self) -> None:
        """End it, if it has not ended; W&B's own process ends with it."""
        if self.running:
            self._process.kill()
            self._process.wait()
        self._output.close()


def _call_uploaded_what_is_cut_off(folder: Path) -> None:
    """Let nobody upload again, after those that continued it, what a killed process wrote without an end.

    W&B sends what is whole of it, and does not call it uploaded; that it began, the state that it keeps tells.
    """
    for state in folder.glob("*.wandb.syncstate"):
        state.with_suffix(".synced").touch()


def _run_id(folder: Path) -> str:
    return folder.name.rpartition("-")[2]


def _is_written(folder: Path) -> bool:
    over = folder / OVER
    return over.exists() and time.time() - over.stat().st_mtime > WRITING_SECONDS


def _is_uploaded(folder: Path) -> bool:
    return any(folder.glob("*.wandb.synced"))
