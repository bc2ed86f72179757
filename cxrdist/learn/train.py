"""The training loop: plain torch, told everything by its arguments, the same in a notebook and in a worker."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from cxrdist.learn.data_parallel import Network, shared
from cxrdist.learn.ranks import ALONE, Ranks
from cxrdist.learn.sources import Source
from cxrdist.study.recipe import Recipe
from cxrdist.study.seeds import derive_seed

EVALUATION_BATCH = 64
"""Fixed, so that the size of a training batch does not change what is predicted."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured. Training values are means over its steps, with dropout; losses are in nats."""

    epoch: int
    """From 1."""
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    seconds: float

    @property
    def diverged(self) -> bool:
        """Whether a loss stopped being a finite number."""
        return not (math.isfinite(self.train_loss) and math.isfinite(self.validation_loss))


E = TypeVar("E")


@dataclass
class Progress(Generic[E]):
    """Everything from which training continues to the same bytes; `E` is what an epoch measures."""

    history: list[E] = field(default_factory=list)
    model: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    """`exp_avg.0`, `exp_avg_sq.0`, `step.0` ...: Adam's state by number of the parameter."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """The model of the epoch with the lowest validation loss, where the recipe selects it."""


class DivergedError(Exception):
    """A loss stopped being a finite number; training again would end the same."""

    def __init__(self, epoch: Epoch) -> None:
        super().__init__(
            f"the loss was not a finite number in epoch {epoch.epoch} (training {epoch.train_loss}, "
            f"validation {epoch.validation_loss}); a lower learning rate may help"
        )
        self.epoch = epoch


@dataclass(frozen=True)
class Evaluation:
    """How a model does on some rows, without dropout."""

    loss: float
    """Mean cross-entropy in nats."""
    accuracy: float
    logits: Tensor
    """float32 [rows, classes], on the device."""

    @property
    def probabilities(self) -> Tensor:
        """float64 [rows, classes] on the CPU, rows summing to one."""
        return self.logits.double().softmax(1).cpu()


OnEpoch = Callable[[Epoch, Callable[[], Progress[Epoch]]], None]
"""Called after each epoch with its measurements and a function that returns all that is needed to continue."""


def fit(
    model: nn.Module,
    source: Source,
    labels: Tensor,
    training: Tensor,
    validation: Tensor,
    recipe: Recipe,
    *,
    seed: int,
    stream: tuple[str | int, ...],
    device: torch.device,
    ranks: Ranks = ALONE,
    progress: Progress[Epoch] | None = None,
    on_validation: Callable[[Evaluation], None] | None = None,
    on_epoch: OnEpoch | None = None,
) -> list[Epoch]:
    """Train `model` in place by Adam on the cross-entropy, and return the history.

    The order of images depends on the seed, the last name of `stream` (the fold) and the epoch only, so that
    variants see the same batches; dropout on the whole stream and the epoch. So training may stop after any epoch
    and continue from its `Progress` to the same bytes, on the same kind of device with the same number of threads.

    Several ranks that are given the same arguments train one network: each computes its part of every batch, and all
    have the same history, weights and logits, equal to those of one device but for the rounding of sums. What one of
    them has measured, another may continue from.

    Args:
        model: takes what `source` gives, returns logits [n, classes]; on `device` already.
        source: input by row.
        labels: int64 [N] class indices of all rows.
        training: int64 [n] rows to train on.
        validation: int64 [m] rows to measure on after each epoch.
        recipe: epochs, batch size, learning rate and the like.
        seed: the study's seed.
        stream: names this run, such as (variant, fold), to derive seeds from.
        device: where the model is.
        ranks: the processes that train this model together.
        progress: where to continue.
        on_validation: called after each epoch with what the network says of the validation rows, before `on_epoch`.
        on_epoch: called after each epoch; what it raises ends the training.

    Raises:
        DivergedError: a loss stopped being finite.
        ValueError: the ranks were told to continue from different epochs.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=device.type in ("cpu", "cuda")
    )
    state: Progress[Epoch] = progress or Progress()
    if state.history:
        model.load_state_dict(state.model)
        restore_adam(optimizer, parameters, state.optimizer)
    if not ranks.agree(len(state.history), device):
        raise ValueError(f"rank {ranks.rank} continues after epoch {len(state.history)}, another after another one")
    labels = labels.to(device)
    with shared(model, ranks) as network:
        for number in range(len(state.history) + 1, recipe.epochs + 1):
            started = time.monotonic()
            order = torch.randperm(
                len(training), generator=torch.Generator().manual_seed(derive_seed(seed, "order", stream[-1], number))
            )
            torch.manual_seed(derive_seed(seed, "dropout", *stream, number))
            model.train()
            batches = split_batches(training[order], recipe.batch_size)
            train_loss, train_accuracy = _train_epoch(
                network, source, labels, batches, recipe, optimizer, device, ranks
            )
            held = evaluate(model, source, labels, validation, recipe, device, ranks)
            epoch = Epoch(number, train_loss, train_accuracy, held.loss, held.accuracy, time.monotonic() - started)
            if epoch.diverged:
                raise DivergedError(epoch)
            if recipe.selection == "best_validation_loss" and all(
                held.loss < earlier.validation_loss for earlier in state.history
            ):
                state.best = _copy(model.state_dict())
            state.history.append(epoch)
            if on_validation is not None:
                on_validation(held)
            if on_epoch is not None:
                on_epoch(epoch, lambda: snapshot(state, model, optimizer, parameters))
    if recipe.selection == "best_validation_loss":
        model.load_state_dict(state.best)
    return state.history


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    source: Source,
    labels: Tensor,
    rows: Tensor,
    recipe: Recipe,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Return how `model` does on `rows`."""
    every = _logits(model, source, rows, recipe, device, ranks)
    truth = labels[rows.to(device)]
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for logits, wanted in zip(torch.split(every, EVALUATION_BATCH), torch.split(truth, EVALUATION_BATCH), strict=True):
        loss += nn.functional.cross_entropy(logits, wanted, reduction="sum")
    correct = (every.argmax(1) == truth).sum()
    return Evaluation(loss.item() / len(rows), correct.item() / len(rows), every)


@torch.inference_mode()
def predict(
    model: nn.Module, source: Source, rows: Tensor, recipe: Recipe, device: torch.device, ranks: Ranks = ALONE
) -> Tensor:
    """Return class probabilities, float64 [n, classes] on the CPU, rows summing to one."""
    return _logits(model, source, rows, recipe, device, ranks).double().softmax(1).cpu()


def _logits(
    model: nn.Module, source: Source, rows: Tensor, recipe: Recipe, device: torch.device, ranks: Ranks
) -> Tensor:
    """Return float32 [rows, classes]: ranks take whole batches in turn, so that each has the bytes of one device."""
    model.eval()
    every: Tensor | None = None
    # A rank that is left without a batch learns the number of classes from an empty one.
    for start in range(ranks.rank * EVALUATION_BATCH, len(rows), ranks.size * EVALUATION_BATCH) or [len(rows)]:
        own = slice(start, start + EVALUATION_BATCH)
        with precision_context(recipe, device):
            logits = model(source.batch(rows[own]))
        if every is None:
            every = torch.zeros(len(rows), logits.shape[1], device=device)
        every[own] = logits
    assert every is not None
    return ranks.sum(every)


def computed_precision(recipe: Recipe, device: torch.device) -> Literal["fp32", "bf16"]:
    """Return what the recipe's precision means on this device."""
    bf16 = recipe.precision == "bf16" or (
        recipe.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return "bf16" if bf16 else "fp32"


def precision_context(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    """Return the autocast that the recipe's precision means on this device."""
    if computed_precision(recipe, device) == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def split_batches(rows: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Yield batches; a last one of a single image joins the one before, since batch normalisation needs two."""
    batches = list(torch.split(rows, batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    yield from batches


def use_determinism(threads: int) -> None:
    """Make this process give the same bytes each time, for the same number of CPU threads."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _train_epoch(
    network: Network,
    source: Source,
    labels: Tensor,
    batches: Iterable[Tensor],
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    ranks: Ranks,
) -> tuple[float, float]:
    # Summed on the device: reading a number there at each step would make the host wait for it.
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    n_rows = 0
    for batch in batches:
        part = ranks.part(batch)
        truth = labels[part.to(device)]
        with precision_context(recipe, device):
            logits = network(source.batch(part), len(batch))
        loss = nn.functional.cross_entropy(logits.float(), truth, reduction="sum") / len(batch)
        optimizer.zero_grad(set_to_none=True)
        # Gradients are averaged over the ranks, whose losses are parts of the batch's mean.
        (loss * ranks.size).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss_sum += loss.detach().double() * len(batch)
        correct += (logits.detach().argmax(1) == truth).sum()
        n_rows += len(batch)
    return ranks.sum(loss_sum).item() / n_rows, ranks.sum(correct).item() / n_rows


def _copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone() for key, value in tensors.items()}


def snapshot(
    state: Progress[E], model: nn.Module, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]
) -> Progress[E]:
    """Return all that is needed to continue, on the CPU."""
    adam = {
        f"{name}.{index}": value.detach().cpu()
        for index, parameter in enumerate(parameters)
        for name, value in optimizer.state[parameter].items()
    }
    weights = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    return Progress(list(state.history), weights, adam, state.best)


def restore_adam(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], tensors: dict[str, Tensor]) -> None:
    """Give a new optimiser the state that `snapshot` took, `Progress.optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, index = key.partition(".")
        if value.dim():
            # The fused kernel walks through memory: moments must be laid out as their parameter is (channels last).
            value = torch.empty_like(parameters[int(index)]).copy_(value)
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
