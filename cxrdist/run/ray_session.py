"""A Ray cluster for as long as a command needs one."""

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import torch

from cxrdist.cohort.chunks import C, R
from cxrdist.errors import UserError
from cxrdist.machine import usable_cores

_ANSWER_SECONDS = 10.0

_START_ATTEMPTS = 2
"""A busy machine may take longer to start Ray's processes than Ray waits for them."""

_TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class RaySession:
    """A running cluster that was joined, or a local one that is started when first needed and ended at the end."""

    def __init__(self, address: str | None, *, uses_gpus: bool = True) -> None:
        self._uses_gpus = uses_gpus
        self._address = address
        self._started = False
        self.is_local = address is None
        self.dashboard = ""

    def __enter__(self) -> "RaySession":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Leave the cluster; a local one is stopped, with all its processes."""
        if self._started:
            ray.shutdown()
            self._started = False

    def start(self) -> None:
        """Connect, unless that was done.

        Raises:
            UserError: no cluster answers at the address, or none can be started.
        """
        if self._started:
            return
        # Train reads these when its workers start; they concern watching and waiting, never a result.
        for name, value in _TRAIN_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address is None:
            # Ray counts the cores of the machine, whatever this process may use of them.
            options |= {"address": "local", "num_cpus": usable_cores()}
            options |= {"include_dashboard": True, "dashboard_host": "127.0.0.1"}
        else:
            options["address"] = self._address
        on_sigterm = signal.getsignal(signal.SIGTERM)
        context = self._connect(options)
        # Ray's own handler ends the process with a status that says nothing.
        signal.signal(signal.SIGTERM, on_sigterm)
        self._started = True
        self.dashboard = context.dashboard_url or ""

    def _connect(self, options: dict[str, Any]) -> Any:
        if self._address is not None:
            _require_answer(self._address)
        failure = ""
        for _ in range(_START_ATTEMPTS if self.is_local else 1):
            try:
                return ray.init(**options)
            except Exception as error:  # noqa: BLE001 - Ray raises plain Exception where a node does not come up
                ray.shutdown()
                failure = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if self.is_local:
            raise UserError(
                f"Ray could not be started ({failure}); is the machine overloaded? Or use --executor inline."
            )
        raise UserError(
            f"The Ray cluster at {self._address!r} could not be joined ({failure}); one that asks for a token needs "
            "RAY_AUTH_MODE=token and its token in ~/.ray/auth_token."
        )

    def resources(self) -> dict[str, float]:
        """Return the cluster's resources."""
        return dict(ray.cluster_resources())

    def device(self) -> torch.device:
        """Return what kind of device the cluster's workers compute on."""
        if not self._uses_gpus:
            return torch.device("cpu")
        if self.is_local:
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.start()
        return torch.device("cuda" if self.resources().get("GPU", 0) >= 1 else "cpu")

    def run_chunks(self, function: Callable[[C], R], chunks: Sequence[C]) -> Iterator[R]:
        """Apply `function` to each chunk in Ray tasks; results in the order in which they are ready."""
        return self._run(function, chunks, gpus=0)

    def run_device_chunks(self, function: Callable[[C], R], chunks: Sequence[C]) -> Iterator[R]:
        """Do as `run_chunks`, each task with a GPU of its own where the cluster has any."""
        return self._run(function, chunks, gpus=1 if self.device().type == "cuda" else 0)

    def _run(self, function: Callable[[C], R], chunks: Sequence[C], *, gpus: int) -> Iterator[R]:
        self.start()
        remote = ray.remote(num_gpus=gpus)(function)
        limit = 2 * max(1, int(self.resources().get("GPU" if gpus else "CPU", 1)))
        waiting = list(reversed(chunks))
        running: list[Any] = []
        while waiting or running:
            while waiting and len(running) < limit:
                running.append(remote.remote(waiting.pop()))
            ready, running = ray.wait(running, num_returns=1)
            yield ray.get(ready[0])


def _require_answer(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        if address == "auto":
            return
        raise UserError(f"--address is {address!r}, but should be HOST:PORT, ray://HOST:PORT or auto.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"No Ray cluster answers at {address!r} ({error}); check --address, or leave it out to start one here."
        ) from None
