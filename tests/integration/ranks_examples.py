"""What several processes compute together in the tests of data parallel training, and one computes alone."""

from collections.abc import Callable
from dataclasses import astuple
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch import distributed as dist

from cxrdist.learn.checkpoint import load_progress, save_progress
from cxrdist.learn.data_parallel import shared
from cxrdist.learn.models import build_classifier, build_head
from cxrdist.learn.ranks import ALONE, Ranks
from cxrdist.learn.sources import FeatureSource, ImageSource, Source
from cxrdist.learn.train import DivergedError, Epoch, fit, predict, use_determinism
from cxrdist.run.board import Board, BoardClient
from cxrdist.run.crew import Orders, join_crew
from cxrdist.run.lane import UnitDivergedError, follow, work
from cxrdist.study.queue import State, Unit
from cxrdist.study.recipe import Network, Recipe
from tests.unit.learn_examples import CPU, Images, Table, grey_images, recipe, tiny_data, tiny_network

Case = Callable[[Ranks, Path], dict[str, Tensor]]

N = 100
LABELS = torch.arange(N) % 3
TRAINING, VALIDATION, TEST = torch.arange(18), torch.arange(22, 90), torch.arange(34, 100)


def trained(
    model: nn.Module, source: Source, plan: Recipe, ranks: Ranks, *, training: Tensor = TRAINING, **options: Any
) -> dict[str, Tensor]:
    """Train, and return the history, the weights and the probabilities of the test rows."""
    history = fit(
        model,
        source,
        LABELS,
        training,
        VALIDATION,
        plan,
        seed=5,
        stream=("whole", 0),
        device=CPU,
        ranks=ranks,
        **options,
    )
    weights = {f"weights.{key}": value.clone().contiguous() for key, value in model.state_dict().items()}
    return {
        **weights,
        "history": torch.tensor([astuple(epoch)[:-1] for epoch in history], dtype=torch.float64),
        "probabilities": predict(model, source, TEST, plan, CPU, ranks),
    }


class Doubled:
    """A source in fp64: rounding is then too small to grow into a difference that hides a mistake."""

    def __init__(self, inner: Source) -> None:
        self._inner = inner

    def batch(self, rows: Tensor) -> Tensor:
        """Return the input of some rows."""
        return self._inner.batch(rows).double()


def resnet(ranks: Ranks, training: Tensor, side: int, *, double: bool) -> dict[str, Tensor]:
    """A whole network with batch normalisation, at a rate for fine-tuning."""
    model: nn.Module = build_classifier(Network("resnet34", 3, side), seed=1, fold=0)
    model = model.to(memory_format=torch.channels_last)
    source: Source = ImageSource(Images(grey_images(N, side)), None, "whole", CPU)
    if double:
        model, source = model.double(), Doubled(source)
    return trained(model, source, Recipe(1, 8, 1e-5), ranks, training=training)


def resnet_fp64(ranks: Ranks, _: Path) -> dict[str, Tensor]:
    """In batches of 8, 8 and 2, of which a third rank gets nothing."""
    return resnet(ranks, TRAINING, 64, double=True)


def resnet_fp32(ranks: Ranks, _: Path) -> dict[str, Tensor]:
    """In batches of 8, 8 and 6."""
    return resnet(ranks, torch.arange(22), 32, double=False)


def vgg_head(ranks: Ranks, _: Path) -> dict[str, Tensor]:
    """A head with three layers of dropout."""
    features = torch.randn(N, 512, 1, 1, generator=torch.Generator().manual_seed(3))
    head = build_head(Network("vgg16", 3, 32, vgg_hidden=32), seed=1, fold=0)
    return trained(head, FeatureSource(features, CPU), recipe(batch_size=8), ranks)


def small(plan: Recipe, ranks: Ranks, *, double: bool = True, **options: Any) -> dict[str, Tensor]:
    """A convolution, batch normalisation and dropout; batches of 4, and one of 2."""
    inputs, _ = tiny_data(N)
    model = tiny_network(dropout=0.5)
    if double:
        model, inputs = model.double(), inputs.double()
    return trained(model, Table(inputs), plan, ranks, **options)


def small_best(ranks: Ranks, _: Path) -> dict[str, Tensor]:
    """The epoch of the lowest validation loss is kept."""
    return small(recipe(selection="best_validation_loss", learning_rate=0.1), ranks)


def small_bf16(ranks: Ranks, _: Path) -> dict[str, Tensor]:
    """In bf16, in which the ranks' empty parts have statistics too."""
    return small(recipe(precision="bf16"), ranks, double=False)


def interrupted(ranks: Ranks, folder: Path) -> dict[str, Tensor]:
    """Continue from what a process alone has written after the first epoch, and write what follows the second."""

    def keep(epoch: Epoch, snapshot: Callable[[], object]) -> None:
        progress = snapshot()
        if epoch.epoch == 2 and ranks.rank == 0:
            save_progress(folder / f"second.{ranks.size}", progress, "f")  # type: ignore[arg-type]

    return small(recipe(), ranks, progress=load_progress(folder / "first", "f", Epoch), on_epoch=keep)


def continued(ranks: Ranks, folder: Path) -> dict[str, Tensor]:
    """Continue from what two ranks have written after the second epoch."""
    return small(recipe(), ranks, progress=load_progress(folder / "second.2", "f", Epoch))


def layers(ranks: Ranks, _: Path) -> dict[str, Tensor]:
    """Values, gradients and running statistics of a batch normalisation, and what dropout leaves."""
    found: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(4)
    for n in (7, 2):
        # Far from zero, where the difference of two large sums would lose the variance.
        whole = 300 + torch.randn(n, 5, 3, 3, generator=generator).to(memory_format=torch.channels_last)
        wanted = torch.randn(n, 5, 3, 3, generator=generator)
        model = nn.Sequential(nn.BatchNorm2d(5), nn.Flatten(), nn.Dropout(0.4))
        nn.init.uniform_(model[0].weight, generator=generator)  # type: ignore[arg-type]
        part = ranks.part(whole).clone().requires_grad_()
        torch.manual_seed(n)
        with shared(model, ranks) as network:
            output = network(part, n)
            (output * ranks.part(wanted).flatten(1) * ranks.size).sum().backward()
        gathered = torch.zeros(2, n, 45)
        ranks.part(gathered[0]).copy_(output.detach())
        assert part.grad is not None
        ranks.part(gathered[1]).copy_(part.grad.flatten(1) / ranks.size)
        found[f"{n}.output"], found[f"{n}.of_input"] = ranks.sum(gathered)
        found[f"{n}.dropped"] = found[f"{n}.output"] == 0
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            found[f"{n}.of_{name}"] = parameter.grad.clone()
        found |= {f"{n}.{name}": buffer.clone() for name, buffer in model.named_buffers()}
        assert [type(layer) for layer in model] == [nn.BatchNorm2d, nn.Flatten, nn.Dropout]
    return found


def diverging(ranks: Ranks, _: Path) -> dict[str, Tensor]:
    """All ranks see a divergence."""
    inputs, _labels = tiny_data(N)
    inputs[TRAINING[-1]] = torch.nan
    try:
        trained(tiny_network(), Table(inputs), recipe(), ranks)
    except DivergedError as error:
        return {"epoch": torch.tensor(error.epoch.epoch)}
    return {}


def disagreeing(ranks: Ranks, folder: Path) -> dict[str, Tensor]:
    """One rank finds a checkpoint, the others do not."""
    progress = load_progress(folder / "first", "f", Epoch) if ranks.rank == 0 else None
    try:
        small(recipe(), ranks, progress=progress)
    except ValueError as error:
        return {"refused": torch.tensor("continues after epoch" in str(error))}
    return {}


class Notebook:
    """A workload that writes down what it was asked for; one unit diverges, another fails where `fails`."""

    def __init__(self, *, fails: bool) -> None:
        self.keys: list[str] = []
        self._fails = fails

    def do(self, board: BoardClient, lane: str, key: str) -> None:
        """Write the unit down."""
        self.keys.append(key)
        if key == "diverges":
            raise UnitDivergedError
        if key == "fails" and self._fails:
            raise FloatingPointError


def orders(ranks: Ranks, _: Path) -> dict[str, Tensor]:
    """Whose units each rank did: those of the lead, until one fails by its own error."""
    given, notebook = Orders(ranks), Notebook(fails=ranks.rank == 0)
    cost = {"diverges": 3.0, "does": 2.0, "fails": 1.0, "is too late": 0.0}
    board = Board([Unit(key, value) for key, value in cost.items()], retries=0)
    board.join("lead", "group")
    given.wait()
    if ranks.rank:
        follow(board, notebook, "follower", given)
    else:
        try:
            work(board, notebook, "lead", given)
        except FloatingPointError:
            given.end()
    states = [outcome.state for outcome in board.outcome().values()]
    keys, every = list(cost), list(State)
    return {
        "done": torch.tensor([keys.index(key) for key in notebook.keys]),
        "states": torch.tensor([every.index(state) for state in states]),
    }


CASES: dict[Case, tuple[int, ...]] = {
    resnet_fp64: (3,),
    resnet_fp32: (2,),
    vgg_head: (2, 3),
    small_best: (2, 3),
    small_bf16: (2, 3),
    interrupted: (2, 3),
    continued: (2, 3),
    layers: (2, 3),
    diverging: (2,),
    disagreeing: (3,),
    orders: (2, 3),
}
"""Each with the numbers of ranks that do it."""


def write_first(folder: Path) -> None:
    """Write what a process alone has after its first epoch."""

    def keep(epoch: Epoch, snapshot: Callable[[], object]) -> None:
        if epoch.epoch == 1:
            save_progress(folder / "first", snapshot(), "f")  # type: ignore[arg-type]

    small(recipe(), ALONE, on_epoch=keep)


def be_a_process(rank: int, folder: Path) -> None:
    """Be one of three processes."""
    use_determinism(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=3, timeout=timedelta(seconds=60)
    )
    for number in (2, 3):
        crew = join_crew(number, CPU)
        if crew is None:
            (folder / f"idle.{number}.{rank}").touch()
            continue
        for case, numbers in CASES.items():
            if number in numbers:
                save_file(case(crew.ranks, folder), folder / f"{case.__name__}.{number}.{rank}")
    dist.destroy_process_group()
