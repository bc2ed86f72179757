"""The Ray executor of a sweep: one Ray Tune experiment for all searches, each trial in a process of its own.

Tune starts and places the trials, gives them their share of a GPU, reuses their processes and starts them again when
one is lost. What a trial tries, when it stops early and what is chosen is decided by `study/search.py` from the
records in the run directory, so that neither timing nor interruption can change it; Tune's own state is not kept.
"""

import functools
import os
import socket
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import wait
from queue import SimpleQueue
from typing import Any, Literal

import ray
import torch
from ray import tune
from ray.tune.search import Searcher

from cxrdist.config.models import TrackingConfig
from cxrdist.errors import CxrdistError, UserError
from cxrdist.learn.memory import training_bytes
from cxrdist.learn.train import use_determinism
from cxrdist.run.computing import Computing, no_gpu
from cxrdist.run.inline import required_device
from cxrdist.run.object_store import open_store
from cxrdist.run.ray_executor import POLL_SECONDS, at_work
from cxrdist.run.ray_session import RaySession
from cxrdist.run.sweep import Sweep, TrialEvent
from cxrdist.run.sweep_plan import Search
from cxrdist.run.trial import OutOfTimeError, TrialData, TrialStep, read_record
from cxrdist.run.trial_work import TrialRules, attempt_trial
from cxrdist.study.recipe import with_settings
from cxrdist.study.search import Proposal

REPORT_SECONDS = 1.0
"""A trial tells of its progress at most once in this time: each time costs Tune some milliseconds."""

GPU_MARGIN = 1.25
GPU_CONTEXT = 10**9
"""Bytes that CUDA and its libraries take for each process."""
MOST_ON_A_GPU = 8

_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # With the newer output, verbose=0 still prints.
    "RAY_AIR_NEW_OUTPUT": "0",
}


def gpu_share(needed: int, memory: int) -> float:
    """Return the share of a GPU for one trial: 1, 1/2, 1/3 ... of its memory, as small as the need allows.

    Args:
        needed: estimated bytes of a trial, without what each process takes.
        memory: bytes of the GPU.
    """
    fit = int(memory // (GPU_MARGIN * needed + GPU_CONTEXT))
    return 1 / max(1, min(MOST_ON_A_GPU, fit))


def trial_bytes(search: Search, n_images: int) -> int:
    """Estimate the bytes that the largest trial of a search keeps on its device."""
    largest = {d.key: max(d.choices) if d.choices else d.high for d in search.rules.space}
    network, recipe = with_settings(search.network, search.recipe, tuple(largest.items()))
    if network.transfer == "frozen":
        side = 1 if network.model == "resnet34" or network.vgg_head == "average_pool" else network.image_size // 32
        held = 4 * 512 * side**2
    else:
        held = network.image_size**2
    return training_bytes(network, recipe.batch_size) + held * n_images


class TuneSweeper:
    """Does the trials in the processes of one Tune experiment."""

    def __init__(self, session: RaySession, *, workers: int | None, threads: int | None) -> None:
        self._session = session
        self._workers = workers
        self._threads = threads

    def threads(self) -> int:
        """Return how many a trial has on this cluster: as many as were asked for, or the cores of a worker.

        Raises:
            UserError: the cluster has fewer cores than threads were asked for.
        """
        self._session.start()
        cores = self._session.cores()
        threads = self._threads or max(1, cores // self._workers if self._workers else 1)
        if threads > cores:
            raise UserError(f"execution.threads is {threads}, but the cluster has {cores} CPU cores.")
        return threads

    def run(self, sweep: Sweep, rules: TrialRules, computing: Computing) -> None:
        """Do all trials that are left.

        Raises:
            UserError: a GPU is planned for, and the cluster has none.
            CxrdistError: Tune itself failed.
        """
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._session.start()
        resources = self._resources(sweep, computing)
        listener, events = sweep.listener, SimpleQueue[TrialEvent]()
        # Tune works in a thread of its own (in the main one it would take Ctrl-C for itself); a display has one thread.
        sweep.listener = events.put
        facts = {
            "run_dir": sweep.store.location,
            "threads": computing.trial_threads,
            "device": "auto" if "gpu" in resources else "cpu",
            "rules": {**vars(rules), "tracking": rules.tracking.model_dump()},
        }
        stopper = StopWhenAsked()
        try:
            with tempfile.TemporaryDirectory(prefix="cxrdist-") as scratch:
                tuner = tune.Tuner(
                    tune.with_resources(run_trial, resources),
                    param_space=facts,
                    tune_config=tune.TuneConfig(
                        search_alg=SweepSearcher(sweep, rules.deadline, self._workers),
                        # As many as the sweep hands out; a trial whose worker was lost is handed out again.
                        num_samples=-1,
                        reuse_actors=True,
                    ),
                    run_config=tune.RunConfig(
                        name="sweep",
                        storage_path=scratch,
                        verbose=0,
                        callbacks=[SweepCallback(sweep)],
                        stop=stopper,
                    ),
                )
                with at_work(self._session, tuner.fit, stopper.ask) as fitting:
                    while not fitting.done():
                        wait([fitting], timeout=POLL_SECONDS)
                        self._session.require_head()
                        _pass_on(events, listener)
                    try:
                        fitting.result()
                    except tune.TuneError as error:
                        raise CxrdistError(f"Ray Tune failed: {str(error).strip().splitlines()[-1]}") from error
        finally:
            sweep.listener = listener
            _pass_on(events, listener)

    def _resources(self, sweep: Sweep, computing: Computing) -> dict[str, float]:
        # The number of threads was planned, maybe on a larger cluster: on this one they may share cores.
        cores = self._session.cores()
        own = max(1, cores // self._workers if self._workers else cores)
        cpus = min(computing.trial_threads, own)
        if computing.device == "cpu":
            return {"cpu": cpus}
        if not self._session.resources().get("GPU"):
            raise no_gpu()
        memory = ray.get(ray.remote(num_gpus=0.01)(_gpu_memory).remote())
        needed = max(
            trial_bytes(search, TrialData(sweep.store, search.key, torch.device("cpu")).n_images)
            for search in sweep.searches.values()
        )
        return {"cpu": cpus, "gpu": gpu_share(needed, memory)}


def run_trial(config: dict[str, Any]) -> None:
    """Do one trial: what each process of the experiment does."""
    use_determinism(config["threads"])
    rules = TrialRules(**{**config["rules"], "tracking": TrackingConfig(**config["rules"]["tracking"])})
    data = _open(config["run_dir"], config["search"], config["device"])
    proposal = Proposal(config["number"], tuple(map(tuple, config["settings"])), tuple(config["thresholds"]))
    lane = f"{socket.gethostname()}:{os.getpid()}"
    notes: list[str] = []
    last = 0.0

    def on_step(step: TrialStep) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS:
            tune.report({"mean": step.mean, "work": step.work, "lane": lane, "notes": list(notes)})
            notes.clear()
            last = time.monotonic()

    try:
        attempt_trial(data, proposal, rules, on_step, notes.append)
    except OutOfTimeError:
        tune.report({"lane": lane, "notes": [], "out_of_time": True})
    else:
        tune.report({"lane": lane, "notes": list(notes)})


@functools.lru_cache(maxsize=64)
def _open(run_dir: str, key: str, device: Literal["auto", "cpu"]) -> TrialData:
    return TrialData(open_store(run_dir), key, required_device(device))


def _gpu_memory() -> int:
    return int(torch.cuda.get_device_properties(0).total_memory)


class SweepSearcher(Searcher):  # type: ignore[misc]
    """Tells Tune which trials there are, as the sweep hands them out."""

    def __init__(self, sweep: Sweep, deadline: float | None, most: int | None) -> None:
        super().__init__(metric=None, mode=None)
        self._sweep = sweep
        self._deadline = deadline
        self._most = most
        self._trials: dict[str, tuple[Search, Proposal]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial, None where it has to wait for another, or that there are no more."""
        if self._deadline is not None and time.time() > self._deadline:
            self._sweep.out_of_time = True
        busy = self._most is not None and len(self._trials) >= self._most
        claimed = None if busy else self._sweep.claim()
        if claimed is None:
            return str(Searcher.FINISHED) if self._sweep.over else None
        search, proposal = claimed
        self._trials[trial_id] = claimed
        return {
            "search": search.key,
            "number": proposal.number,
            "settings": [list(pair) for pair in proposal.settings],
            "thresholds": list(proposal.thresholds),
        }

    # Its name of the third argument is Tune's.
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:  # noqa: FBT001
        """Take the trial's record from the run directory."""
        search, proposal = self._trials.pop(trial_id)
        record = read_record(self._sweep.store, search.key, search.fingerprint, proposal.number)
        if record is not None:
            self._sweep.settle(search.key, record)
        elif error:
            self._sweep.lose(search.key, proposal)
        else:
            self._sweep.out_of_time = True
            self._sweep.give_back(search.key, proposal.number)

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the records are in the run directory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was kept."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles it with its own state, which is thrown away.
        return {}


class SweepCallback(tune.Callback):  # type: ignore[misc]
    """Passes on how the trials go."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell that a trial is in work."""
        self._sweep.tell(TrialEvent("started", trial.config["search"], trial.config["number"]))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Tell how far a trial is."""
        key, number, lane = trial.config["search"], trial.config["number"], result["lane"]
        for text in result["notes"]:
            self._sweep.tell(TrialEvent("note", key, number, lane, text=text))
        if "mean" in result:
            self._sweep.progressed(key, number, result["work"])
            self._sweep.tell(TrialEvent("step", key, number, lane, result["work"], result["mean"]))

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StopWhenAsked(tune.Stopper):  # type: ignore[misc]
    """Ends the experiment from another thread."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        """Have all trials stop: Tune looks several times a second."""
        self._asked = True

    def stop_all(self) -> bool:
        """Return whether it was asked for."""
        return self._asked

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: a trial alone is never stopped here."""
        return False


def _pass_on(events: "SimpleQueue[TrialEvent]", listener: Callable[[TrialEvent], None] | None) -> None:
    while not events.empty():
        event = events.get()
        if listener is not None:
            listener(event)
