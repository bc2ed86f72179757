"""A study's curves in W&B while it runs: one run, kept by a process of its own that nothing waits for.

Fold jobs' own W&B runs arrive when these are over (`tracking_upload`). What is seen before that comes from the driver,
which hears of every epoch, and hands it to this process through a pipe: where that is full, since the server is slow or
hangs, epochs are left out.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from cxrdist.run.board import Event
from cxrdist.run.tracking_wandb import be_ourselves, private_settings

JOB_TYPE = "live"

_END_SECONDS = 3.0
"""How long a study's end waits for this run's last epochs."""


@contextmanager
def live_run(project: str, entity: str | None, run_id: str, group: str) -> Iterator[Callable[[Event], None]]:
    """Keep a W&B run from the first epoch on, while the context lasts; what it gives is told of events, never waits."""
    start = {"project": project, "entity": entity, "id": run_id, "group": group, "name": JOB_TYPE, "job_type": JOB_TYPE}
    with ExitStack() as stack:
        pipe: int | None = None

        def follow(event: Event) -> None:
            nonlocal pipe
            if event.kind == "epoch":
                # A machine that has no room for it, or a process that is gone, is no reason for a study to stop.
                with suppress(OSError):
                    if pipe is None:
                        pipe = stack.enter_context(_process())
                        _hand_over(pipe, start)
                    _hand_over(pipe, {"key": event.key, "epoch": event.epoch, "measures": dict(event.measures)})

        yield follow


@contextmanager
def _process() -> Iterator[int]:
    """Run the process while the context lasts; give the pipe that it reads from."""
    with (
        # W&B's own process may write to the last.
        tempfile.TemporaryDirectory(prefix="cxrdist-wandb-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as output,
    ):
        process = subprocess.Popen(
            [sys.executable, "-m", "cxrdist.run.tracking_live"],
            cwd=folder,
            # Else it would join the W&B process that writes this process's own runs.
            env={name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, 19)
        try:
            yield process.stdin.fileno()
        finally:
            with suppress(OSError):
                process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
            # W&B's own process ends with it.
            process.kill()
            process.wait()


def _hand_over(pipe: int, message: dict[str, Any]) -> None:
    line = json.dumps(message).encode() + b"\n"
    # Lines of this length are written as a whole or not at all.
    if len(line) <= select.PIPE_BUF:
        with suppress(BlockingIOError):
            os.write(pipe, line)


def main() -> None:
    """Be the process: take the run's settings, then epochs, a line each, until there are no more."""
    be_ourselves()
    import wandb

    start = json.loads(sys.stdin.readline())
    run = wandb.init(**start, dir=".", mode="online", resume="allow", settings=private_settings())
    known: set[str] = set()
    for line in sys.stdin:
        told = json.loads(line)
        key, axis = told["key"], f"{told['key']}/epoch"
        if key not in known:
            known.add(key)
            run.define_metric(axis, hidden=True)
            run.define_metric(f"{key}/*", step_metric=axis)
        run.log({axis: told["epoch"], **{f"{key}/{name}": value for name, value in told["measures"].items()}})
    run.finish()


if __name__ == "__main__":
    main()
