"""Trackers: Weights & Biases where asked; whatever it does, a study goes on."""

import configparser
import http.client
import netrc
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Literal, Protocol
from urllib.parse import urlsplit

from cxrdist.config.location import with_home
from cxrdist.config.models import TrackingConfig

_ANSWER_SECONDS = 3.0
_SERVER_ERROR = 500

Measures = Mapping[str, float | int | str]


class Tracker(Protocol):
    """Follows one fold job, or one trial."""

    def resume(self, steps: int) -> None:
        """Say that the first `steps` steps were reported before."""
        ...

    def log(self, step: int, measures: Measures) -> None:
        """Report a step, such as an epoch."""
        ...

    def finish(self, *, failed: bool, summary: Measures | None = None) -> None:
        """End the run."""
        ...


class NoTracker:
    """Follows nothing; the history is in the run directory all the same."""

    def resume(self, steps: int) -> None:
        """Do nothing."""

    def log(self, step: int, measures: Measures) -> None:
        """Do nothing."""

    def finish(self, *, failed: bool, summary: Measures | None = None) -> None:
        """Do nothing."""


_failed: set[str] = set()
"""Where tracking failed in this process: it is not tried again there, nor said again."""


class GuardedTracker:
    """Another tracker, started and used so that its failures are told once and never stop the work.

    Args:
        start: starts it; not called where one of the same `place` failed in this process before.
        on_failure: told a sentence, once in a process and place.
        place: where the study is, as `Store.location`.
    """

    def __init__(self, start: Callable[[], Tracker], on_failure: Callable[[str], None], place: str) -> None:
        self._tracker: Tracker | None = None
        self._on_failure = on_failure
        self._place = place
        if place in _failed:
            return
        with self._guarded():
            self._tracker = start()

    def resume(self, steps: int) -> None:
        """Pass on."""
        self._attempt(lambda tracker: tracker.resume(steps))

    def log(self, step: int, measures: Measures) -> None:
        """Pass on."""
        self._attempt(lambda tracker: tracker.log(step, measures))

    def finish(self, *, failed: bool, summary: Measures | None = None) -> None:
        """Pass on."""
        self._attempt(lambda tracker: tracker.finish(failed=failed, summary=summary))

    def _attempt(self, action: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        with self._guarded():
            action(self._tracker)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a tracker may fail in any way, and must not stop a study
            self._tracker = None
            if self._place not in _failed:
                _failed.add(self._place)
                self._on_failure(f"tracking stopped: {type(error).__name__}: {error}")


def wandb_mode(config: TrackingConfig) -> Literal["online", "offline", "disabled"]:
    """Return what `auto` means on this machine: online where there is an API key, else offline."""
    if config.wandb == "off":
        return "disabled"
    if config.wandb != "auto":
        return config.wandb
    return "online" if has_key() else "offline"


def server_url() -> str:
    """Return where W&B is: as the environment says, or `wandb login --host` wrote, or the public service."""
    written = configparser.ConfigParser()
    folder = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    # ValueError: there is no home folder.
    with suppress(OSError, ValueError, configparser.Error):
        written.read(with_home(folder) / "settings")
    found = os.environ.get("WANDB_BASE_URL") or written.get("default", "base_url", fallback="")
    return (found or "https://api.wandb.ai").rstrip("/")


def has_key() -> bool:
    """Return whether there is an API key, in the environment or where `wandb login` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(urlsplit(server_url()).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def why_silent(url: str) -> str:
    """Return why nothing can be had of a server, such as that it says nothing for 3 s; empty where it answers."""
    try:
        urllib.request.urlopen(f"{url}/healthz", timeout=_ANSWER_SECONDS).close()  # noqa: S310 - W&B's server
    except urllib.error.HTTPError as error:
        # Any other refusal comes from a server that is there, and W&B's client knows how to talk to it.
        return f"{url} answers with status {error.code}" if error.code >= _SERVER_ERROR else ""
    except (OSError, ValueError, http.client.HTTPException) as error:
        # W&B's client may know authorities that Python does not.
        unknown = isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError)
        return "" if unknown else f"{url} does not answer"
    return ""
