"""Checkpoints as safetensors: tensors by name, the history as text beside them, no pickle."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
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
    content = _content_hash(tensors, history)
    save_file(tensors, path, metadata={"fingerprint": fingerprint, "history": history, "sha256": content})


def history_lines(history: Sequence[Any]) -> bytes:
    """Return a history as JSON text, a line for each epoch's dataclass of numbers."""
    return "".join(json.dumps(_measures(epoch)) + "\n" for epoch in history).encode()


def load_progress(
    path: Path, fingerprint: str, epoch_type: type[E], on_damage: Callable[[], None] = lambda: None
) -> Progress[E] | None:
    """Read a checkpoint; None where there is none, it is of another job or is damaged, and the job starts anew.

    Args:
        path: what `save_progress` wrote.
        fingerprint: of the job that wants to continue.
        epoch_type: the dataclass of the history's entries.
        on_damage: called where it is damaged.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("fingerprint") != fingerprint:
                return None
            progress: Progress[E] = Progress([epoch_type(**epoch) for epoch in json.loads(metadata["history"])])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            content = _content_hash(tensors, metadata["history"])
            # Other versions wrote no hash.
            if metadata.get("sha256", content) != content:
                raise ValueError("another content")
            for key, tensor in tensors.items():
                part, _, name = key.partition(".")
                getattr(progress, part)[name] = tensor
            return progress
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError):
        on_damage()
        return None


def _content_hash(tensors: Mapping[str, Tensor], history: str) -> str:
    digest = hashlib.sha256(history.encode())
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _measures(epoch: Any) -> dict[str, Any]:
    # Not asdict, which copies deeply: every epoch is written again after each later one.
    measures: dict[str, Any] = vars(epoch)
    return measures
