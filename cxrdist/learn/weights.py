"""Weights from files, without pickle: safetensors, or state dicts read by torch with `weights_only`."""

import hashlib
import pickle
import socket
import struct
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cxrdist.errors import UserError, first_few, nearest
from cxrdist.study.recipe import ModelName

IMAGENET = "imagenet"
RANDOM = "none"
SUFFIXES = (".safetensors", ".pth", ".pt")

_RESNET_TRUNK = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")

_DOWNLOAD_TIMEOUT = 30.0

_UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    # torch's restricted unpickler raises these on damaged bytes.
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    struct.error,
)


def find_weights(weights: str, model: ModelName, *, fetches: bool = True) -> Path | None:
    """Return the file of the model's weights, or None for random ones.

    Args:
        weights: `imagenet` (torchvision's, fetched once into torch's cache), `none`, or a file or folder.
        model: whose weights; in a folder the file is called as the model.
        fetches: whether those of `imagenet` are fetched where they are not there.

    Raises:
        UserError: there is no such file, or no network to fetch it from.
    """
    if weights == RANDOM:
        return None
    if weights == IMAGENET:
        return _imagenet_file(model, fetches=fetches)
    path = Path(weights)
    candidates = [path / f"{model}{suffix}" for suffix in SUFFIXES] if path.is_dir() else [path]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        names = " or ".join(candidate.name for candidate in candidates)
        raise UserError(
            f"model.weights is {weights!r}, but there is no file {names}; 'imagenet' and 'none' are valid too."
        )
    return found


def hash_weights(path: Path | None) -> str:
    """Return the SHA-256 of a weight file, `none` for random weights."""
    if path is None:
        return "none"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_trunk(trunk: nn.Module, model: ModelName, path: Path) -> None:
    """Fill a trunk with the weights of a torchvision state dict; what belongs to the old head is left out.

    Raises:
        UserError: the file is not a state dict, or a key is missing or has another shape.
    """
    state = _trunk_keys(read_state_dict(path), model)
    expected = trunk.state_dict()
    for key, tensor in expected.items():
        if key not in state:
            if key.endswith("num_batches_tracked"):
                continue
            theirs = _torchvision_key(key, model)
            found = [_torchvision_key(other, model) for other in state if other not in expected]
            hint = nearest(theirs, found)
            raise UserError(
                f"{path}: the weights of {model} have no key {theirs!r}"
                f"{f' (the nearest is {hint!r})' if hint else ''}; torchvision's state dict of {model} is expected."
            )
        if state[key].shape != tensor.shape:
            raise UserError(
                f"{path}: key {_torchvision_key(key, model)!r} has shape {list(state[key].shape)}, "
                f"but {model} needs {list(tensor.shape)}."
            )
    unknown = sorted(set(state) - set(expected))
    if unknown:
        names = first_few(_torchvision_key(key, model) for key in unknown)
        raise UserError(f"{path}: {model} has no key {names}; torchvision's state dict of {model} is expected.")
    trunk.load_state_dict(state, strict=False)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a file of named tensors; nothing in it is executed.

    Raises:
        UserError: it holds anything but named tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"The weight file {path} cannot be read as named tensors: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"The weight file {path} is not a state dict (names with tensors).")
    return {str(key): value for key, value in state.items()}


def _trunk_keys(state: dict[str, Tensor], model: ModelName) -> dict[str, Tensor]:
    if model == "vgg16":
        prefix = "features."
        return {key.removeprefix(prefix): v for key, v in state.items() if not key.startswith("classifier.")}
    ours = {}
    for key, value in state.items():
        first, _, rest = key.partition(".")
        if first != "fc":
            ours[f"{_RESNET_TRUNK.index(first)}.{rest}" if first in _RESNET_TRUNK else key] = value
    return ours


def _torchvision_key(key: str, model: ModelName) -> str:
    first, _, rest = key.partition(".")
    if not first.isdecimal():
        return key
    if model == "vgg16":
        return f"features.{key}"
    return f"{_RESNET_TRUNK[int(first)]}.{rest}" if int(first) < len(_RESNET_TRUNK) else key


def _imagenet_file(model: ModelName, *, fetches: bool = True) -> Path:
    weights = torchvision.models.get_model_weights(model).IMAGENET1K_V1
    name = str(weights.url).rsplit("/", 1)[-1]
    path = Path(str(torch.hub.get_dir())) / "checkpoints" / name
    if path.parts[0] == "~":
        # Torch would make a folder of that name.
        raise UserError(
            "model.weights is 'imagenet', but this account has no home folder to keep the file in (HOME is not set); "
            "set TORCH_HOME to a folder that it can write to."
        )
    if path.is_file():
        return path
    if not fetches:
        raise UserError(f"model.weights is 'imagenet', but {name} is not there; put the file into {path.parent}.")
    sha_prefix = name.rsplit("-", 1)[-1].removesuffix(".pth")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _socket_timeout(_DOWNLOAD_TIMEOUT):
            torch.hub.download_url_to_file(weights.url, str(path), hash_prefix=sha_prefix, progress=False)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"model.weights is 'imagenet', but {name} could not be fetched ({reason}); put the file into "
            f"{path.parent}, or set model.weights to a file or to 'none'."
        ) from None
    return path


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
