"""How numbers are computed: decided when a run directory is planned first, and kept by whoever resumes."""

import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from cxrdist.config.models import ExecutionConfig
from cxrdist.errors import UserError, first_few
from cxrdist.learn.train import use_determinism
from cxrdist.lungs.train import lung_precision
from cxrdist.machine import cpu_name, usable_cores
from cxrdist.run.store import Store
from cxrdist.study import layout

COMPUTING = "computing"
"""Key of the plan."""

_CPU = "CPU"
_GPU = "GPU"
"""The device of a job that is still to be done, on whatever GPU there will be."""


@dataclass(frozen=True)
class Computing:
    """What besides a job's fingerprint can change its numbers.

    It is decided from the settings, all jobs of the plan and what there is to compute on; what is left to do later, or
    what another machine happens to have, changes nothing of it.
    """

    device: Literal["cpu", "cuda"]
    """The kind on which networks are trained."""
    threads: int
    """CPU threads of each rank of a lane."""
    trial_threads: int
    """CPU threads of each trial of a sweep."""
    ranks: int
    """How many train a fold job together."""
    lung_precision: Literal["fp32", "bf16"]
    """In what the lung network is computed where nothing else is asked for: some CPUs are faster in bf16."""

    @staticmethod
    def decide(device: torch.device, *, threads: int, trial_threads: int, ranks: int = 1) -> "Computing":
        """Return it with the precision that is fastest for the lung network here."""
        is_bf16 = lung_precision("auto", device) is torch.bfloat16
        kind: Literal["cpu", "cuda"] = "cuda" if device.type == "cuda" else "cpu"
        return Computing(kind, threads, trial_threads, ranks, "bf16" if is_bf16 else "fp32")

    def to_json(self) -> dict[str, Any]:
        """Return plain data; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> "Computing | None":
        """Read what `to_json` wrote; None for anything else."""
        try:
            return cls(**data)
        except TypeError:
            return None


def read_computing(store: Store) -> Computing | None:
    """Return what the plan of a run directory says, None where there is none yet."""
    return Computing.from_json((store.read_json(layout.PLAN) or {}).get(COMPUTING))


def settle(
    earlier: Computing | None, execution: ExecutionConfig, ranks: int, decide: Callable[[], Computing]
) -> Computing:
    """Return how numbers are computed: as the plan says, but for what is asked for now.

    Args:
        earlier: what the plan says, None for a new one.
        execution: whose `auto` means what the plan says.
        ranks: asked for now.
        decide: returns what it would be for a new plan here.

    Raises:
        UserError: what is asked for is more than there is.
    """
    if earlier is None:
        return decide()
    asked: dict[str, Any] = {"ranks": ranks}
    if execution.threads != "auto":
        asked |= {"threads": execution.threads, "trial_threads": execution.threads}
    if execution.device != "auto":
        asked["device"] = "cpu" if execution.device == "cpu" else "cuda"
    now = replace(earlier, **asked)
    if now != earlier:
        decide()
    return now


def device_of(computing: Computing) -> torch.device:
    """Return this process's device of the planned kind.

    Raises:
        UserError: it has none.
    """
    if computing.device == "cuda" and not torch.cuda.is_available():
        raise no_gpu()
    return torch.device(computing.device)


def no_gpu() -> UserError:
    """Return what is said where a GPU is planned for, and there is none."""
    return UserError(
        "The plan of this run directory computes on a GPU, and there is none here; use a machine that has one, or "
        "--set execution.device=cpu to do on the CPU what is left, which the report will name."
    )


def use_planned(computing: Computing | None) -> torch.device:
    """Have this process compute as planned, as far as it can, and return its device: for pictures, not for results."""
    if computing is not None:
        use_determinism(computing.threads)
    on_gpu = torch.cuda.is_available() and (computing is None or computing.device == "cuda")
    return torch.device("cuda" if on_gpu else "cpu")


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Say where and with what something is computed in this process; none of it decides what is stale."""
    return {
        "host": socket.gethostname(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _CPU,
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cores": usable_cores(),
    }


def expected_facts(computing: Computing, *, is_here: bool) -> dict[str, Any]:
    """Return the facts of jobs that are still to be done, as `differences` takes them.

    Args:
        computing: of the plan.
        is_here: whether they are done on this machine: else what it has is not said.
    """
    here = {"cpu": cpu_name(), "torch": torch.__version__} if is_here else {}
    name = _CPU
    if computing.device == "cuda":
        name = torch.cuda.get_device_name() if is_here and torch.cuda.is_available() else _GPU
    return {"ranks": computing.ranks, "machine": {"device": name, "threads": computing.threads, **here}}


def differences(marks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say what of the computing differs between fold jobs, a sentence each: it changes their numbers a little.

    Args:
        marks: by name, the contents of `done.json`.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name, mark in marks.items():
        for fact, value in _facts(mark).items():
            found.setdefault(fact, {}).setdefault(value, []).append(name)
    sentences = []
    for fact, values in found.items():
        if len(values) > 1:
            each = "; ".join(f"{value}: {first_few(names)}" for value, names in sorted(values.items()))
            sentences.append(f"fold jobs were computed with different {fact}, which can change their numbers: {each}")
    return sentences


def _facts(mark: Mapping[str, Any]) -> dict[str, str]:
    """Return what can change numbers, by what it is called; what an earlier version did not keep is left out."""
    facts: dict[str, list[str]] = {}
    for machine in (*mark.get("features", []), *mark.get("before", []), mark.get("machine", {})):
        device = machine.get("device")
        if device is None:
            continue
        values = {"devices": _CPU if device == _CPU else _GPU, "versions of torch": machine.get("torch")}
        if device == _CPU:
            values |= {"numbers of threads": machine.get("threads"), "CPUs": machine.get("cpu")}
        elif device != _GPU:
            values["GPUs"] = device
        values["precisions"] = machine.get("precision")
        for name, value in values.items():
            if value is not None:
                facts.setdefault(name, []).append(str(value))
    ranks = {} if mark.get("ranks") is None else {"numbers of ranks": str(mark["ranks"])}
    return {name: ", then ".join(dict.fromkeys(values)) for name, values in facts.items()} | ranks
