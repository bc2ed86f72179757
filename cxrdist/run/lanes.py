"""How many lanes there are, and what each gets."""

from dataclasses import dataclass
from typing import Literal

from cxrdist.errors import UserError

Device = Literal["auto", "cpu", "gpu"]

_SMALL_MACHINE = 4


@dataclass(frozen=True)
class Lanes:
    """How many lanes, and what each of them gets; where several ranks are a lane, each rank."""

    fewest: int
    most: int
    cpus: int
    """Whole cores: as many as threads where there is room for them."""
    threads: int
    """Threads that torch uses."""
    gpus: float
    """Share of a GPU, 0 where the cluster has none."""


def divide_resources(
    resources: dict[str, float],
    *,
    workers: int | None,
    fewest: int,
    n_units: int,
    gpus_each: float,
    threads: int | None,
    device: Device = "auto",
    grows: bool = False,
    ranks: int = 1,
    keeps_threads: bool = False,
) -> Lanes:
    """Decide how many lanes there are and what each gets.

    Without a number of workers: one for each share of a GPU; on a machine without GPUs one for each core up to four
    cores and then for every four (folds side by side use cores better than threads inside one do). In a cluster that
    grows, as many more as there are units, or as were asked for, as soon as it has room for them. A lane of several
    ranks (`training.gpus_per_fold`) takes the room of as many.

    With `keeps_threads`, the number of threads is one that was planned, maybe elsewhere: where there are fewer cores
    now, threads share them.

    Raises:
        UserError: the cluster is too small for what was asked for.
    """
    cores = max(1, int(resources.get("CPU", 1)))
    n_gpus = 0.0 if device == "cpu" else resources.get("GPU", 0.0)
    if device == "gpu" and not n_gpus:
        if not grows:
            raise UserError("execution.device is 'gpu', but there is none; use 'auto', or a cluster that has some.")
        # They come when they are asked for.
        return Lanes(1, min(workers or n_units, n_units), threads or 1, threads or 1, gpus_each)
    if n_gpus:
        room = int(n_gpus / gpus_each + 1e-9)
    elif threads:
        room = max(cores // threads, ranks if keeps_threads else 0)
    else:
        room = cores if cores <= _SMALL_MACHINE else max(_SMALL_MACHINE, cores // _SMALL_MACHINE)
    if ranks > 1 and ranks > (n_gpus or cores):
        if device == "gpu" and grows:
            return Lanes(1, min(workers or n_units, n_units), threads or 1, threads or 1, gpus_each)
        has = f"{n_gpus:g} GPUs" if n_gpus else f"{cores} CPU cores"
        raise UserError(f"training.gpus_per_fold is {ranks}, but the cluster has {has}; choose at most as many.")
    of_ranks = "" if ranks == 1 else f" and training.gpus_per_fold {ranks}"
    slots = room // ranks
    now = min(workers or max(1, slots), n_units)
    if grows:
        now = min(now, max(1, slots))
    if n_gpus and now > slots:
        raise UserError(
            f"execution.workers is {now}, but {n_gpus:g} GPUs carry {slots} "
            f"with execution.gpus_per_worker {gpus_each:g}{of_ranks}."
        )
    n_ranks = now * ranks
    if n_ranks > cores:
        needs = "one" if ranks == 1 else f"{ranks} (training.gpus_per_fold)"
        raise UserError(
            f"execution.workers is {now}, but the cluster has {cores} CPU cores; each worker needs {needs}."
        )
    share = max(1, cores // n_ranks)
    cpus = min(share, threads or share) if keeps_threads else threads or share
    if cpus * n_ranks > cores:
        raise UserError(
            f"execution.threads is {cpus} for each of {now} workers{of_ranks}, but the cluster has {cores} CPU cores."
        )
    most = min(workers or n_units, n_units) if grows else now
    return Lanes(min(fewest, now), most, cpus, threads or cpus, gpus_each if n_gpus else 0.0)
