"""Trackers: Weights & Biases where asked; whatever it does, a study goes on."""

import netrc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from cxrdist.config.models import TrackingConfig

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


class WandbTracker:
    """One W&B run, grouped by study; the names of what it logs begin with the type of the job."""

    def __init__(
        self,
        config: TrackingConfig,
        *,
        run_id: str,
        name: str,
        group: str,
        job_type: str,
        facts: Mapping[str, Any],
        folder: Path,
    ) -> None:
        self._run = start_wandb(
            config, run_id=run_id, name=name, group=group, job_type=job_type, facts=facts, folder=folder
        )
        self._prefix = job_type
        self._reported = 0

    def resume(self, steps: int) -> None:
        """Skip what an earlier attempt reported."""
        self._reported = steps

    def log(self, step: int, measures: Measures) -> None:
        """Report a step at its own number, so that neither resumption nor another attempt repeats one."""
        if step > self._reported:
            self._run.log({f"{self._prefix}/{key}": value for key, value in measures.items()}, step=step)
            self._reported = step

    def finish(self, *, failed: bool, summary: Measures | None = None) -> None:
        """End the run."""
        for key, value in (summary or {}).items():
            self._run.summary[f"{self._prefix}/{key}"] = value
        self._run.finish(exit_code=1 if failed else 0)


class GuardedTracker:
    """Another tracker, started and used so that its failures are told once and never stop the work."""

    def __init__(self, start: Callable[[], Tracker], on_failure: Callable[[str], None]) -> None:
        self._tracker: Tracker | None = None
        self._on_failure = on_failure
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
            self._on_failure(f"tracking stopped: {type(error).__name__}: {error}")


def wandb_mode(config: TrackingConfig) -> Literal["online", "offline", "disabled"]:
    """Return what `auto` means on this machine: online where there is an API key, else offline."""
    if config.wandb == "off":
        return "disabled"
    if config.wandb != "auto":
        return config.wandb
    return "online" if os.environ.get("WANDB_API_KEY") or _key_in_netrc() else "offline"


def _key_in_netrc() -> bool:
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc().authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def start_wandb(
    config: TrackingConfig,
    *,
    run_id: str,
    name: str,
    group: str,
    job_type: str,
    facts: Mapping[str, Any],
    folder: Path,
) -> Any:
    """Start or continue a W&B run with a stable id, its files in `folder`."""
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        project=config.project,
        entity=config.entity,
        id=run_id,
        name=name,
        group=group,
        job_type=job_type,
        config=dict(facts),
        dir=str(folder),
        mode=wandb_mode(config),
        resume="allow",
        reinit="create_new",
        settings=wandb.Settings(console="off", silent=True, init_timeout=30, x_disable_meta=False),
    )
