"""A Ray cluster for as long as a command needs one."""

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
import ray.exceptions
import torch

from cxrdist.cohort.chunks import C, R
from cxrdist.errors import UserError
from cxrdist.machine import usable_cores
from cxrdist.run.background import leave_behind
from cxrdist.run.ray_watch import ClusterLostError, LocalHead, Watch, remote_head

_ANSWER_SECONDS = 10.0

_LOOK_SECONDS = 1.0
"""How long to wait for a chunk before looking whether the cluster is still there."""

_START_ATTEMPTS = 2
"""A busy machine may take longer to start Ray's processes than Ray waits for them."""

_MOST_BYTES = 107
"""Of a socket's path, on Linux."""
_LONGEST_SOCKET = "sockets/dash_MetricsHead"
"""In the folder of a session of Ray."""

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
        self._watch: Watch | None = None
        self._head: LocalHead | None = None
        self.is_local = address is None
        self.dashboard = ""

    def __enter__(self) -> "RaySession":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Leave the cluster; a local one is stopped, with all its processes."""
        is_lost = self._started and self.is_lost
        if self._watch is not None:
            self._watch.end()
            self._watch = None
        if is_lost:
            # It would wait for the head. A local cluster's processes end with this one.
            leave_behind()
        elif self._started or self._head is not None:
            # A local one that was interrupted while it started, too.
            ray.shutdown()
            self._end_head()
        self._started = False

    def _end_head(self) -> None:
        if self._head is not None:
            self._head.end()
            self._head = None

    @property
    def is_lost(self) -> bool:
        """Whether the head of the cluster is gone."""
        return self._watch is not None and self._watch.is_lost()

    def require_head(self) -> None:
        """Refuse to wait for a cluster that is lost.

        Raises:
            ClusterLostError: it is.
        """
        if self._watch is not None:
            self._watch.require()

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
        try:
            context = self._connect(options)
        except SystemExit:
            # Ray's own handler of SIGTERM, which it has set meanwhile: a status that says nothing.
            raise KeyboardInterrupt from None
        finally:
            signal.signal(signal.SIGTERM, on_sigterm)
        self._started = True
        self.dashboard = context.dashboard_url or ""

    def _connect(self, options: dict[str, Any]) -> Any:
        if self._address is not None:
            _require_answer(self._address)
        else:
            require_room_for_sockets(os.environ, os.getpid())
        failure = ""
        for _ in range(_START_ATTEMPTS if self.is_local else 1):
            if self.is_local:
                self._head = LocalHead()
                self._watch = Watch(self._head.gone)
            try:
                context = ray.init(**options)
                if self._address is not None and not self._address.startswith("ray://"):
                    self._watch = Watch(remote_head(ray.get_runtime_context().gcs_address))
                return context
            except Exception as error:  # noqa: BLE001 - Ray raises plain Exception where a node does not come up
                if self._watch is not None:
                    self._watch.end()
                ray.shutdown()
                self._end_head()
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

    def cores(self) -> int:
        """Return how many CPU cores the cluster has."""
        return max(1, int(self.resources().get("CPU", 1)))

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
            self.require_head()
            try:
                ready, running = ray.wait(running, num_returns=1, timeout=_LOOK_SECONDS)
                made = ray.get(ready)
            except ray.exceptions.RayTaskError:
                # What the function itself raises.
                raise
            except ray.exceptions.RayError as error:
                raise ClusterLostError(type(error).__name__) from error
            yield from made


def require_room_for_sockets(environment: Mapping[str, str], pid: int) -> None:
    """Refuse a temporary folder in which the names of Ray's sockets would be too long: Ray comes up in part, or not.

    Args:
        environment: variables, which name the folder.
        pid: of the process that starts Ray.

    Raises:
        UserError: they would be; it says how long the folder's name may be.
    """
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in environment), None)
    if variable is None:
        return
    folder = environment[variable]
    below = f"/ray/session_2000-01-01_00-00-00_000000_{pid}/{_LONGEST_SOCKET}"
    most, length = _MOST_BYTES - len(below), len(os.fsencode(folder))
    if length > most:
        raise UserError(
            f"{variable} is {folder!r}, of {length} bytes, but Ray's sockets need a temporary folder whose name has at "
            f"most {most}; set RAY_TMPDIR to a short one, such as RAY_TMPDIR=/tmp, or use --executor inline."
        )


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
