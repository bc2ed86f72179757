"""The Ray executor: one Ray Train run whose workers are lanes that pull units from a board in an actor."""

import os
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
import ray.exceptions
import ray.train
import ray.train.collective
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cxrdist.errors import CxrdistError
from cxrdist.run.background import in_background
from cxrdist.run.board import Event, Outcome
from cxrdist.run.computing import Computing, no_gpu
from cxrdist.run.lanes import Device, Lanes, divide_resources
from cxrdist.run.ray_metrics import MeasuredBoard
from cxrdist.run.ray_session import RaySession
from cxrdist.run.ray_watch import ClusterLostError
from cxrdist.run.store import Store
from cxrdist.study.queue import State, Unit

POLL_SECONDS = 0.5
_STOP_SECONDS = 15.0
"""How long Tune may take to stop its trials; mostly three."""
_END_SECONDS = 5.0
"""How long a thread that works for Ray may take to see that its session has ended."""

T = TypeVar("T")


class RayBoard:
    """A lane's proxy of the board in its actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def join(self, lane: str, group: str) -> None:
        """Register a lane of a group of lanes."""
        ray.get(self._actor.join.remote(lane, group))

    def claim(self, lane: str) -> Unit | None:
        """Take the next unit, None where none is ready now."""
        unit: Unit | None = ray.get(self._actor.claim.remote(lane))
        return unit

    def epoch(self, lane: str, key: str, epoch: int, measures: tuple[tuple[str, float], ...]) -> None:
        """Report an epoch, without waiting."""
        self._actor.epoch.remote(lane, key, epoch, measures)

    def settle(self, lane: str, key: str, state: State, reason: str) -> None:
        """Report how a unit ended."""
        ray.get(self._actor.settle.remote(lane, key, state, reason))

    def finished(self, lane: str) -> bool:
        """Return whether this lane has nothing left to do."""
        return bool(ray.get(self._actor.finished.remote(lane)))

    def note(self, lane: str, text: str) -> None:
        """Say something to the user, without waiting."""
        self._actor.note.remote(lane, text)


def run_lane(config: dict[str, Any]) -> None:
    """Be a lane, or a rank of one: what each Ray Train worker does."""
    from cxrdist.learn.train import use_determinism
    from cxrdist.run.crew import join_crew
    from cxrdist.run.inline import available_device
    from cxrdist.run.lane import describe, follow, work
    from cxrdist.run.workload import open_workload

    # All workers of a restarted run know that they belong together; a dead lane's claims are those of another group.
    group = ray.train.collective.broadcast_from_rank_zero(uuid.uuid4().hex)
    lane = f"{socket.gethostname()}:{os.getpid()}"
    board = RayBoard(config["board"])
    use_determinism(config["threads"])
    device = available_device() if config["gpus"] else torch.device("cpu")
    crew = join_crew(config["ranks"], device)
    if crew is None:
        return
    if crew.ranks.rank == 0:
        board.join(lane, group)
    workload = open_workload(config["store"], device, crew.ranks)
    try:
        if crew.ranks.rank == 0:
            work(board, workload, lane, crew.orders)
        else:
            follow(board, workload, lane, crew.orders)
    except Exception as error:
        if crew.ranks.size > 1:
            # Train starts all lanes again, without a word of why.
            board.note(lane, f"rank {crew.ranks.rank} of a fold job stopped: {describe(error)}")
        raise


class RayExecutor:
    """Runs units in the lanes of one Ray Train run."""

    def __init__(
        self,
        session: RaySession,
        *,
        workers: int | None,
        fewest: int,
        threads: int | None,
        gpus_each: float,
        worker_failures: int,
        device: Device,
        resize_seconds: float,
        ranks: int = 1,
    ) -> None:
        self._session = session
        self._workers = workers
        self._fewest = fewest
        self._threads = threads
        self._gpus_each = gpus_each
        self._worker_failures = worker_failures
        self._device = device
        self._resize_seconds = resize_seconds
        self._ranks = ranks

    def threads(self, n_jobs: int) -> int:
        """Return how many each rank has where this cluster is divided between so many fold jobs.

        Raises:
            UserError: the cluster is too small for what was asked for.
        """
        self._session.start()
        return self._divide(n_jobs, self._threads, self._device, keeps_threads=False).threads

    def run(
        self,
        store: Store,
        units: Sequence[Unit],
        retries: int,
        listener: Callable[[Event], None],
        computing: Computing,
    ) -> dict[str, Outcome]:
        """Do all units and return how each ended.

        Raises:
            UserError: the cluster is too small for the workers asked for, or has not the GPU that is planned for.
            CxrdistError: the Ray Train run itself failed.
        """
        self._session.start()
        device: Device = "cpu" if computing.device == "cpu" else "gpu"
        if device == "gpu" and self._session.is_local and not self._session.resources().get("GPU"):
            raise no_gpu()
        if self._session.dashboard:
            listener(Event("note", lane="Ray", text=f"dashboard at http://{self._session.dashboard}"))
        lanes = self._divide(len(units), computing.threads, device, keeps_threads=True)
        # On the driver's node: the board and the driver live and die together.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board = ray.remote(MeasuredBoard).options(num_cpus=0, scheduling_strategy=here).remote(list(units), retries)
        with tempfile.TemporaryDirectory(prefix="cxrdist-") as scratch:
            trainer = self._trainer(board, lanes, store, scratch)
            # Not in the main thread: there, Train would take Ctrl-C for itself and end with status 0.
            with at_work(self._session, trainer.fit) as fitting:
                seen = 0
                while not fitting.done():
                    wait([fitting], timeout=POLL_SECONDS)
                    self._session.require_head()
                    for event in ray.get(board.events.remote(seen)):
                        seen += 1
                        listener(event)
                self._raise_failure(fitting)
            outcome: dict[str, Outcome] = ray.get(board.outcome.remote())
        ray.kill(board)
        return outcome

    def _divide(self, n_units: int, threads: int | None, device: Device, *, keeps_threads: bool) -> Lanes:
        return divide_resources(
            self._session.resources(),
            workers=self._workers,
            # A machine does not grow; a cluster may give what it has now, and more later.
            fewest=self._workers or n_units if self._session.is_local else self._fewest,
            n_units=n_units,
            gpus_each=self._gpus_each,
            threads=threads,
            device=device,
            grows=not self._session.is_local,
            ranks=self._ranks,
            keeps_threads=keeps_threads,
        )

    def _trainer(self, board: Any, lanes: Lanes, store: Store, scratch: str) -> TorchTrainer:
        resources: dict[str, float] = {"CPU": lanes.cpus}
        if lanes.gpus:
            resources["GPU"] = lanes.gpus
        fewest, most = lanes.fewest * self._ranks, lanes.most * self._ranks
        return TorchTrainer(
            run_lane,
            train_loop_config={
                "board": board,
                "store": store,
                "threads": lanes.threads,
                "gpus": lanes.gpus,
                "ranks": self._ranks,
            },
            # Lanes exchange nothing, and NCCL refuses two of them on one GPU; a lane's ranks have a group of their own.
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(
                num_workers=most if fewest == most else (fewest, most),
                use_gpu=bool(lanes.gpus),
                resources_per_worker=resources,
                elastic_resize_monitor_interval_s=self._resize_seconds,
            ),
            run_config=RunConfig(
                # Nothing is kept by Train: our own files say what is done.
                name=f"cxrdist-{uuid.uuid4().hex[:12]}",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=self._worker_failures, controller_failure_limit=2),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )

    def _raise_failure(self, fitting: Future[Any]) -> None:
        try:
            fitting.result()
        except ray.train.TrainingFailedError as error:
            reason = str(error).strip().splitlines()[-1]
            raise CxrdistError(
                f"The workers were lost more than {self._worker_failures} times (execution.worker_failures): {reason}"
            ) from error


@contextmanager
def at_work(session: RaySession, fit: Callable[[], T], stop: Callable[[], None] | None = None) -> Iterator[Future[T]]:
    """Have Ray Train or Tune work in a thread, and end the session where anything goes wrong meanwhile.

    Mostly that ends the thread, too. But a `ray.get` without a time limit, as Train's, waits for ever if the session
    ends before it has learnt that the process it waits for was killed; and one that begins after the session's end
    ends the process without a word.

    Args:
        session: of the cluster.
        fit: the work.
        stop: asks it to end by itself, where it can be asked.

    Raises:
        CxrdistError: the cluster was lost.
    """
    fitting = in_background(fit)
    try:
        yield fitting
    except BaseException as error:
        if not session.is_lost:
            if stop is not None:
                stop()
                wait([fitting], timeout=_STOP_SECONDS)
            session.end()
            wait([fitting], timeout=_END_SECONDS)
        if not isinstance(error, ray.exceptions.RayError):
            raise
        raise ClusterLostError(type(error).__name__) from error
