"""Masks from images: the trained network with all that belongs to it, batched on a device."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cxrdist.errors import UserError
from cxrdist.learn.weights import read_state_dict
from cxrdist.lungs.inputs import Frame, Standard, equalized, find_frame, framed, is_black
from cxrdist.lungs.network import LungNet
from cxrdist.lungs.postprocess import clean_mask
from cxrdist.lungs.train import Precision, lung_autocast, lung_precision

BUILT_IN = "builtin"
BUILT_IN_FILE = Path(__file__).parent / "weights" / "lungs.safetensors"
"""The project's own weights; `CARD.md` beside them says what they are."""

BATCH = 8
"""Fixed, so that the same images give the same bytes whoever makes their masks."""

_FORMAT = 5
"""Raised whenever the code changes what the same weights and images give."""


@dataclass(frozen=True)
class LungWeights:
    """A file of weights that can make masks."""

    path: Path
    sha256: str

    @staticmethod
    def find(weights: str, key: str = "lungs.weights") -> "LungWeights":
        """Return the file that `weights` names: `builtin`, or a file that `cxrdist lungs train` wrote.

        Args:
            weights: what was asked for.
            key: by which key or option, for the error.

        Raises:
            UserError: there is no such file.
        """
        path = BUILT_IN_FILE if weights == BUILT_IN else Path(weights)
        try:
            with path.open("rb") as file:
                return LungWeights(path.resolve(), hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise UserError(
                f"{key} is {weights!r}, but the file cannot be read ({error.strerror}); it should be "
                f"{BUILT_IN!r} or a model.safetensors that `cxrdist lungs train` wrote."
            ) from None

    def key(self, precision: Precision, device: torch.device) -> str:
        """Return what names this network's masks: the weights, the type it computes in, and this code."""
        kind = str(lung_precision(precision, device)).removeprefix("torch.")
        return f"{self.sha256[:32]}-{kind}-{_FORMAT}"


def save_lung_net(path: Path, network: LungNet, standard: Standard, fingerprint: str) -> None:
    """Write the network in half precision, with the standard of its input; equal ones give equal bytes."""
    weights = {key: value.detach().cpu().half().contiguous() for key, value in network.state_dict().items()}
    metadata = {"standard": json.dumps([standard.mean, standard.sd]), "fingerprint": fingerprint}
    path.write_bytes(_in_order(save(weights, metadata)))


def _in_order(data: bytes) -> bytes:
    """Return a safetensors file with its metadata in alphabetical order; as it is written, that order is random."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    # The tensors must begin at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def load_lung_net(path: Path) -> tuple[LungNet, Standard]:
    """Read what `save_lung_net` wrote; nothing in the file is executed.

    Raises:
        UserError: the file is not of this network.
    """
    state = read_state_dict(path)
    network = LungNet()
    try:
        network.load_state_dict({key: value.float() for key, value in state.items()})
        with safe_open(path, framework="pt") as file:
            mean, sd = map(float, json.loads((file.metadata() or {})["standard"]))
        if not (math.isfinite(mean) and math.isfinite(sd) and sd > 0):
            raise ValueError("the standard is not a mean and a standard deviation")
        return network, Standard(mean, sd)
    except (RuntimeError, SafetensorError, KeyError, ValueError, TypeError):
        raise UserError(
            f"The weight file {path} is not of the lung network; `cxrdist lungs train` writes such files."
        ) from None


class Segmenter:
    """Makes lung masks."""

    def __init__(self, network: nn.Module, standard: Standard, device: torch.device, precision: Precision) -> None:
        self._network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._standard = standard
        self._device = device
        self._precision: Precision = precision

    @staticmethod
    def load(path: Path, device: torch.device, precision: Precision = "auto") -> "Segmenter":
        """Return one with the weights in a file (see `load_lung_net`)."""
        network, standard = load_lung_net(path)
        return Segmenter(network, standard, device, precision)

    def masks(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the lung masks of grey images [n, h, w]: uint8 [n, h, w] of 0 and 1, in their geometry.

        Black borders are cut, the rest is brought to the network's side and equalised; what the network calls lung
        is cleaned of small objects and holes, and put back. An image without lungs mostly gives an empty mask, or an
        implausible one (see `quality`); a black one gives an empty mask.
        """
        masks = np.zeros(images.shape, dtype=np.uint8)
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            frames = [find_frame(image) for image in part]
            inside = self.inside(np.stack([framed(image, f) for image, f in zip(part, frames, strict=True)]))
            for row, (frame, found) in enumerate(zip(frames, inside, strict=True), start):
                # A network of convolutions knows where the edges are, and may call the middle of nothing lung.
                if not is_black(images[row]):
                    masks[row] = place(found, frame, images.shape[1:])
        return masks

    @torch.inference_mode()
    def inside(self, images: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return where the network sees lung in images [n, SIDE, SIDE] without borders: bool of the same shape."""
        inputs = self._standard.apply(np.stack([equalized(image) for image in images]))
        with lung_autocast(self._precision, self._device):
            logits = cast(Tensor, self._network(inputs.to(self._device, memory_format=torch.channels_last)))
        return np.asarray((logits[:, 0] > 0).cpu().numpy(), dtype=np.bool_)


def place(inside: NDArray[np.bool_], frame: Frame, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the network's answer [SIDE, SIDE] for one frame as a clean mask [h, w] of 0 and 1 of the whole image."""
    return frame.put_back(clean_mask(inside), shape).astype(np.uint8)
