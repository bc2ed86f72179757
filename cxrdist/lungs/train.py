"""Training the lung network: plain torch, told everything by its arguments."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxrdist.learn.train import Progress, restore_adam, snapshot, split_batches
from cxrdist.lungs.augment import Augmentation, augment
from cxrdist.lungs.inputs import SIDE, Standard, equalized
from cxrdist.lungs.targets import IGNORED, LUNG, OUTSIDE
from cxrdist.study.seeds import derive_seed

Precision = Literal["auto", "fp32", "bf16"]

_WARM_UP_STEPS = 20
_CONTINUED_RATE = 1 / 3


@dataclass(frozen=True)
class LungRecipe:
    """How the lung network is trained: Adam on the binary cross-entropy of pixels.

    The published recipe is 100 epochs of batches of 8 whole images at a constant rate. `small_epochs` of them on
    half the side cost a quarter each.
    """

    epochs: int = 100
    small_epochs: int = 0
    """The first so many epochs see images of half the side."""
    batch_size: int = 8
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    """`cosine`: from a short warm-up down to zero, once for the small epochs and once, from a third, for the others."""
    augmentation: Augmentation = "paper"
    normalization: Literal["none", "batch"] = "none"
    """`batch`: with batch normalisation in training (see `normalization`); the published network has none."""
    precision: Precision = "auto"
    """`auto`: bf16 where the device is faster in it, else fp32."""

    def stage(self, epoch: int) -> tuple[int, int, int]:
        """Return the side of the images, and the epochs before and within the stage of `epoch` (from 1)."""
        if epoch <= self.small_epochs:
            return SIDE // 2, 0, self.small_epochs
        return SIDE, self.small_epochs, self.epochs - self.small_epochs

    def share_done(self, epoch: int) -> float:
        """Return the share of all work that is done after `epoch`; an epoch of half the side costs a quarter."""
        small = min(epoch, self.small_epochs)
        return (small / 4 + epoch - small) / (self.small_epochs / 4 + self.epochs - self.small_epochs)

    def rate(self, step: int, steps: int, *, continued: bool) -> float:
        """Return the learning rate at `step` (from 0) of a stage of `steps`; `continued` is one that others precede."""
        if self.schedule == "constant":
            return self.learning_rate
        warm_up = min(1.0, (step + 1) / _WARM_UP_STEPS) * (_CONTINUED_RATE if continued else 1.0)
        return self.learning_rate * warm_up * (0.5 + 0.5 * math.cos(math.pi * step / steps))


@dataclass(frozen=True)
class LungEpoch:
    """What one epoch of segmentation measured, over its steps, augmentation included."""

    epoch: int
    """From 1."""
    train_loss: float
    """Mean over images of their batch's binary cross-entropy of a pixel, in nats."""
    train_dice: float
    """Pooled over all pixels that have an answer."""
    seconds: float


@dataclass(frozen=True)
class LungExamples:
    """Images with what they should give."""

    image_ids: Sequence[str]
    images: NDArray[np.uint8]
    """[n, SIDE, SIDE], within their frames (see `inputs.framed`), not equalised."""
    targets: NDArray[np.uint8]
    """[n, SIDE, SIDE] of OUTSIDE, LUNG and IGNORED."""

    def standard(self) -> Standard:
        """Mean and standard deviation of the equalised images."""
        return Standard.of(np.stack([equalized(image) for image in self.images]))


class LungsDivergedError(Exception):
    """A loss stopped being a finite number; training again would end the same."""

    def __init__(self, epoch: int, loss: float) -> None:
        super().__init__(f"the loss was {loss} in epoch {epoch}; a lower learning rate may help")


OnLungEpoch = Callable[[LungEpoch, Callable[[], Progress[LungEpoch]]], None]
"""Called after each epoch with its measurements and a function that returns all that is needed to continue."""


def fit_lungs(
    network: nn.Module,
    examples: LungExamples,
    standard: Standard,
    recipe: LungRecipe,
    *,
    seed: int,
    stream: str,
    device: torch.device,
    progress: Progress[LungEpoch] | None = None,
    on_epoch: OnLungEpoch | None = None,
) -> list[LungEpoch]:
    """Train `network` in place, in the layout that trains fastest, and return the history.

    Order and augmentation depend on the seed, the epoch and `stream` or the image's id alone, so that training may
    stop after any epoch and continue from its `Progress` to the same bytes, on the same kind of device with the same
    number of threads.

    Args:
        network: float [n, 1, h, w] to logits [n, 1, h, w]; on `device` already.
        examples: what to train on.
        standard: mean and standard deviation for its input.
        recipe: epochs, batch size, learning rate and the like.
        seed: every draw derives from it.
        stream: names this run, such as the fold.
        device: where the network is.
        progress: where to continue.
        on_epoch: called after each epoch; what it raises ends the training.

    Raises:
        LungsDivergedError: a loss stopped being finite.
    """
    network.to(memory_format=lung_training_layout(device))
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=recipe.learning_rate, fused=device.type in ("cpu", "cuda"))
    state: Progress[LungEpoch] = progress or Progress()
    if state.history:
        network.load_state_dict(state.model)
        restore_adam(optimizer, parameters, state.optimizer)
    network.train()
    for number in range(len(state.history) + 1, recipe.epochs + 1):
        started = time.monotonic()
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", stream, number))
        order = torch.randperm(len(examples.image_ids), generator=generator)
        loss, dice = _train_epoch(network, optimizer, examples, order, standard, recipe, number, seed, device)
        if not math.isfinite(loss):
            raise LungsDivergedError(number, loss)
        epoch = LungEpoch(number, loss, dice, time.monotonic() - started)
        state.history.append(epoch)
        if on_epoch is not None:
            on_epoch(epoch, lambda: snapshot(state, network, optimizer, parameters))
    return state.history


def lung_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type in which convolutions are computed: bfloat16 where asked for, or where it is faster."""
    if precision == "auto":
        fast = (
            torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _is_cpu_fast_in_bf16()
        )
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _is_cpu_fast_in_bf16() -> bool:
    """Return whether this CPU convolves faster in bfloat16 than in single precision.

    Emulated it is slower, and so it is by AVX-512 on an Intel CPU that has no AMX, or hides it from a virtual machine:
    there masks and training take 1.5 times as long. On an AMD CPU they take half the time (`benchmarks.lung_network`).
    """
    cpu = torch.cpu.get_capabilities()
    amd = str(cpu.get("cpu_name", "")).startswith("AMD")
    return bool(cpu.get("amx_bf16") or (cpu.get("avx512_bf16") and amd))


def lung_autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the autocast that `precision` means on this device."""
    dtype = lung_precision(precision, device)
    return nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype=dtype)


def lung_training_layout(device: torch.device) -> torch.memory_format:
    """Return the order of dimensions in memory in which the network trains fastest.

    On a CPU without AVX-512, training with channels last takes 1.4 times as long as with channels first: it is the
    gradients that are slow; masks are made faster with channels last there, too (`benchmarks.lung_network`).
    """
    if device.type == "cpu" and not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return torch.contiguous_format
    return torch.channels_last


def _train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    examples: LungExamples,
    order: Tensor,
    standard: Standard,
    recipe: LungRecipe,
    epoch: int,
    seed: int,
    device: torch.device,
) -> tuple[float, float]:
    layout = lung_training_layout(device)
    side, before, epochs = recipe.stage(epoch)
    batches = list(split_batches(order, recipe.batch_size))
    first_step = (epoch - before - 1) * len(batches)
    # Summed on the device: reading a number there at each step would make the host wait for it.
    sums = torch.zeros(5, dtype=torch.float64, device=device)
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(first_step + step, epochs * len(batches), continued=before > 0)
        images, targets = _batch(examples, batch.tolist(), side, recipe, epoch, seed)
        inputs = standard.apply(images).to(device, memory_format=layout)
        truth = torch.from_numpy(targets).to(device)
        known = truth != IGNORED
        lung = truth == LUNG
        with lung_autocast(recipe.precision, device):
            logits = network(inputs)[:, 0]
        logits = logits.float()
        losses = nn.functional.binary_cross_entropy_with_logits(logits, lung.float(), reduction="none")
        loss = (losses * known).sum() / known.sum().clamp(min=1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        called = (logits.detach() > 0) & known
        parts = (loss.detach() * len(batch), torch.tensor(len(batch)), (called & lung).sum(), called.sum(), lung.sum())
        sums += torch.stack([part.to(device, torch.float64) for part in parts])
    loss_sum, count, both, predicted, true = sums.tolist()
    return loss_sum / count, 2 * both / max(predicted + true, 1.0)


def _batch(
    examples: LungExamples, rows: Sequence[int], side: int, recipe: LungRecipe, epoch: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return equalised images and targets [n, side, side]."""
    images = np.empty((len(rows), side, side), dtype=np.uint8)
    targets = np.empty_like(images)
    for position, row in enumerate(rows):
        image, target = augment(
            examples.images[row],
            examples.targets[row],
            recipe.augmentation,
            seed=seed,
            epoch=epoch,
            image_id=examples.image_ids[row],
        )
        if side != SIDE:
            image, target = _halved(image), _halved_target(target)
        images[position], targets[position] = equalized(image), target
    return images, targets


def _halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the means of blocks of 2 x 2 pixels."""
    return ((_block_sums(image) + 2) // 4).astype(np.uint8)


def _halved_target(target: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return for blocks of 2 x 2 pixels what at least half of them are: ignored, else lung, else outside."""
    lung = np.where(_block_sums(target == LUNG) >= 2, np.uint8(LUNG), np.uint8(OUTSIDE))
    return np.where(_block_sums(target == IGNORED) >= 2, np.uint8(IGNORED), lung)


def _block_sums(values: NDArray[Any]) -> NDArray[np.uint16]:
    height, width = values.shape
    blocks = values.reshape(height // 2, 2, width // 2, 2)
    return np.asarray(blocks.sum(axis=(1, 3), dtype=np.uint16), dtype=np.uint16)
