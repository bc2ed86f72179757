"""The inline executor: every unit one after another in this process."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch

from cxrdist.errors import UserError
from cxrdist.learn.train import use_determinism
from cxrdist.run.board import Board, Event, Outcome
from cxrdist.run.computing import Computing, device_of
from cxrdist.run.lane import work
from cxrdist.run.store import Store
from cxrdist.run.workload import open_workload
from cxrdist.study.queue import Unit


def available_device() -> torch.device:
    """Return this process's GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def required_device(name: Literal["auto", "cpu", "gpu"]) -> torch.device:
    """Return what `execution.device` means in this process.

    Raises:
        UserError: there is no GPU, and one was asked for.
    """
    if name == "cpu":
        return torch.device("cpu")
    device = available_device()
    if name == "gpu" and device.type != "cuda":
        raise UserError("execution.device is 'gpu', but torch finds none here; use 'auto' or 'cpu'.")
    return device


class InlineExecutor:
    """Does the work here; no cluster, no other process."""

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
            UserError: a GPU is planned for, and there is none.
        """
        device = device_of(computing)
        use_determinism(computing.threads)
        board = Board(units, retries, listener)
        board.join("inline", "inline")
        work(board, open_workload(store, device), "inline")
        return board.outcome()
