"""W&B runs, written as W&B's offline files; what brings them to a server is `tracking_upload`."""

import os
import platform
import re
import time
from collections.abc import Mapping
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from cxrdist import __version__
from cxrdist.config.location import is_remote
from cxrdist.config.models import TrackingConfig
from cxrdist.run.store import Store
from cxrdist.run.tracking import Measures

FOLDER = "wandb"
"""Of all W&B files in a run directory."""
ORIGIN = f"{FOLDER}/origin.json"
"""What only the command knows and every run says: the commit of the study file."""
OVER = "over"
"""File in a W&B run's folder: nothing will be added to it."""
WRITING_SECONDS = 1.0
"""For which W&B's own process may go on writing a run's file after the run is finished."""

_OF_OTHERS = re.compile(
    r"WANDB_(SWEEP_ID|SWEEP_PARAM_PATH|RUN_ID|RUN_GROUP|NAME|JOB_TYPE|PROJECT|MODE|DISABLED|RESUME|RESUME_FROM|FORK_FROM"
    r"|LAUNCH|LAUNCH_CONFIG_PATH|CONFIG|CONFIG_[0-9]+)"
)
"""Variables that say which run of which project a process is, or that it is none."""

_STUCK_SECONDS = 10.0
"""After which W&B's own process on this machine is given up at the end of a run."""


class WandbTracker:
    """Follows one job in a W&B run; the names of what it logs begin with the type of the job.

    Args:
        run: of `start_wandb`.
        store: the run directory.
    """

    def __init__(self, run: Any, store: Store) -> None:
        self._run = run
        self._store = store
        self._prefix = run.job_type
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
        finish_wandb(self._run, self._store, failed=failed)


def start_wandb(
    config: TrackingConfig,
    *,
    run_id: str,
    name: str,
    group: str,
    job_type: str,
    facts: Mapping[str, Any],
    store: Store,
) -> Any:
    """Start or continue a W&B run with a stable id, its files in the run directory; nothing is sent anywhere."""
    be_ourselves()
    import wandb

    store.root.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        project=config.project,
        entity=config.entity,
        id=run_id,
        name=name,
        group=group,
        job_type=job_type,
        config={**facts, **run_facts(store)},
        dir=str(store.root),
        mode="offline",
        resume="allow",
        reinit="create_new",
        settings=private_settings(init_timeout=30, finish_timeout=_STUCK_SECONDS, finish_timeout_raises=True),
    )


def private_settings(**more: Any) -> Any:
    """Return W&B settings by which a run tells what it is told to, and nothing else."""
    import wandb

    return wandb.Settings(
        console="off",
        silent=True,
        # Command lines, names of files, and code are nobody else's business.
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
        x_save_requirements=False,
        # Where SageMaker started this process, every run would have the id and the group of its job.
        sagemaker_disable=True,
        **more,
    )


def be_ourselves() -> None:
    """Let W&B hear from this process, before it is imported, and from those that it starts, what we say and no more.

    In an agent of a sweep, in a job that W&B started, or in the shell of somebody who follows a run of their own,
    variables say which run this is, and all fold jobs would be that one. W&B's own process would report on itself,
    offline too, and wait for the server at its end.
    """
    for name in [*filter(_OF_OTHERS.fullmatch, os.environ)]:
        del os.environ[name]
    os.environ["WANDB_ERROR_REPORTING"] = "false"


def finish_wandb(run: Any, store: Store, *, failed: bool = False) -> None:
    """End a W&B run, and let it be uploaded."""
    run.finish(exit_code=1 if failed else 0)
    folder = Path(run.settings.sync_dir)
    (folder / OVER).touch()
    if is_remote(store.location):
        time.sleep(WRITING_SECONDS)
    store.push(folder.relative_to(store.root).as_posix())


def run_facts(store: Store) -> dict[str, Any]:
    """Return what every run of a study says of the software."""
    commit = (store.read_json(ORIGIN) or {}).get("git_commit")
    # A study runs inline where Ray is not installed.
    versions = {name: version(name) for name in ("torch", "ray") if any(distributions(name=name))}
    return {
        "versions": {"cxrdist": __version__, "python": platform.python_version(), **versions},
        **({"git_commit": commit} if commit else {}),
    }
