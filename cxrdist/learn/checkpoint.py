"""Checkpoints as safetensors: tensors by name, the history as text beside them, no pickle."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cxrdist.learn.train import E, Progress

_PARTS = ("model", "optimizer", "best")


def save_progress(path: Path, progress: Progress[Any], fingerprint: str) -> None:
    """Write everything from which a fold job continues.

    Args:
        path: where; the caller renames it, so that a killed process leaves no half a file under the final name.
        progress: what.
        fingerprint: of the fold job, so that no other job continues from it.
    """
    tensors = {
        f"{part}.{key}": tensor.contiguous() for part in _PARTS for key, tensor in getattr(progress, part).items()
    }
    history = json.dumps([_measures(epoch) for epoch in progress.history])
    save_file(tensors, path, metadata={"fingerprint": fingerprint, "history": history})


def history_lines(history: Sequence[Any]) -> bytes:
    """Return a history as JSON text, a line for each epoch's dataclass of numbers."""
    return "".join(json.dumps(_measures(epoch)) + "\n" for epoch in history).encode()


def load_progress(path: Path, fingerprint: str, epoch_type: type[E]) -> Progress[E] | None:
    """Read a checkpoint; None where it is of another job or cannot be read, and the job starts anew.

    Args:
        path: what `save_progress` wrote.
        fingerprint: of the job that wants to continue.
        epoch_type: the dataclass of the history's entries.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("fingerprint") != fingerprint:
                return None
            progress: Progress[E] = Progress([epoch_type(**epoch) for epoch in json.loads(metadata["history"])])
            for key in file.keys():  # noqa: SIM118 - not a mapping
                part, _, name = key.partition(".")
                if part not in _PARTS:
                    return None
                tensors: dict[str, Tensor] = getattr(progress, part)
                tensors[name] = file.get_tensor(key)
            return progress
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


def _measures(epoch: Any) -> dict[str, Any]:
    # Not asdict, which copies deeply: every epoch is written again after each later one.
    measures: dict[str, Any] = vars(epoch)
    return measures
