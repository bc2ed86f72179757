"""Claim: ranks that train one fold job together lose little to talking.

Run with `python -m benchmarks.data_parallel`, or with `--quick` for a tiny run. Needs torch, torchvision and numpy
alone.

One process trains by itself, then it and others train the same network in the same batches, each a part of them, in
turns. With as many CUDA GPUs as ranks each rank has one, and the ratio of images/s is the speed-up. Without them the
one process has all CPU cores and the ranks divide the same cores between them: nothing can become faster, and the
ratio says only what of the speed is left after gradients and batch statistics were exchanged through Gloo on one
machine. It says nothing of GPUs or of networks.
"""

import argparse
import datetime
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed as dist
from torch import nn
from torch.multiprocessing.spawn import start_processes

from cxrdist.learn.models import build_classifier
from cxrdist.learn.ranks import ALONE, Ranks
from cxrdist.learn.sources import ImageSource
from cxrdist.learn.train import fit, use_determinism
from cxrdist.study.recipe import ModelName, Network, Recipe

N_CLASSES = 4
N_VALIDATION = 2
MODELS: tuple[ModelName, ...] = ("resnet34", "vgg16")


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    n_training: int
    side: int
    batch_size: int
    vgg_hidden: int
    repetitions: int


FULL_GPU = Scale(2048, 224, 64, 4096, 5)
FULL_CPU = Scale(32, 64, 16, 256, 3)
QUICK = Scale(8, 32, 4, 16, 1)


class RandomImages:
    """Rows of uint8 images, as shards are."""

    def __init__(self, n: int, side: int) -> None:
        self._values = np.random.default_rng(0).integers(0, 256, (n, side, side), dtype=np.uint8)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self._values[rows]


def has_gpus(ranks: int) -> bool:
    """Return whether each rank can have a GPU of its own."""
    return torch.cuda.device_count() >= ranks


def make_network(model: ModelName, scale: Scale) -> nn.Module:
    network = Network(model, N_CLASSES, scale.side, vgg_hidden=scale.vgg_hidden)
    return build_classifier(network, seed=0, fold=0)


def images_per_second(model: ModelName, scale: Scale, ranks: Ranks, device: torch.device) -> float:
    """Return the training speed of the second of two epochs."""
    n = scale.n_training + N_VALIDATION
    network = make_network(model, scale).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    source = ImageSource(RandomImages(n, scale.side), None, "whole", device)
    if device.type == "cuda":
        source.make_resident(np.arange(n))
    epochs = fit(
        network,
        source,
        torch.arange(n) % N_CLASSES,
        torch.arange(scale.n_training),
        torch.arange(scale.n_training, n),
        Recipe(2, scale.batch_size, 1e-4),
        seed=0,
        stream=("benchmark", 0),
        device=device,
        ranks=ranks,
    )
    return scale.n_training / epochs[-1].seconds


def exchanged_bytes(network: nn.Module, device: torch.device) -> tuple[int, int]:
    """Return what each rank puts into the exchanges of one step: gradients, and statistics of batch normalisation."""
    gradients = sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)
    channels = [layer.num_features for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    # Forward and backward: of torch's own on GPUs fp32, of ours three moments in fp64.
    each = [4 * (2 * n + 1) + 4 * 2 * n if device.type == "cuda" else 8 * 3 * n + 4 * 2 * n for n in channels]
    return gradients, sum(each)


def be_a_rank(rank: int, size: int, scale: Scale, folder: Path) -> None:
    """Take part in all measurements; the first rank prints them."""
    on_gpus = has_gpus(size)
    device = torch.device("cuda", rank) if on_gpus else torch.device("cpu")
    if on_gpus:
        torch.cuda.set_device(device)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    group = dist.new_group(list(range(size)), backend="nccl" if on_gpus else "gloo")
    assert isinstance(group, dist.ProcessGroup)
    cores = os.cpu_count() or 1
    for model in MODELS:
        alone, together = [], []
        for repetition in range(scale.repetitions + 1):
            use_determinism(cores)
            one = images_per_second(model, scale, ALONE, device) if rank == 0 else 0.0
            # The others must not use the cores before the first one is done.
            dist.barrier()
            use_determinism(max(1, cores // size))
            many = images_per_second(model, scale, Ranks(group), device)
            dist.barrier()
            # The first one warms up.
            if repetition:
                alone.append(one)
                together.append(many)
        if rank == 0:
            ratio = median(b / a for a, b in zip(alone, together, strict=True))
            gradients, statistics = exchanged_bytes(make_network(model, scale), device)
            print(
                f"{model:8}  {median(alone):17,.1f}  {f'{size} ranks':>7}  {median(together):15,.1f}  {ratio:5.2f}  "
                f"{gradients / 1e6:12,.1f}  {statistics / 1e3:13,.1f}",
                flush=True,
            )
    dist.destroy_process_group()


HEADER = (
    "model     images/s of 1 rank    ranks  images/s of all  ratio  gradients MB  statistics kB\n"
    "--------  ------------------  -------  ---------------  -----  ------------  -------------"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare both networks; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_parallel", description="One rank and several.")
    parser.add_argument("--ranks", type=int, default=2, help="how many train together (default: 2)")
    parser.add_argument("--quick", action="store_true", help="a tiny run to see that everything works")
    options = parser.parse_args(arguments)
    on_gpus = has_gpus(options.ranks)
    scale = QUICK if options.quick else FULL_GPU if on_gpus else FULL_CPU
    where = torch.cuda.get_device_name() if on_gpus else f"{os.cpu_count()} CPU cores, divided between the ranks"
    print(
        f"{where}, torch {torch.__version__}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}\n"
        f"{scale.n_training} images of {scale.side} x {scale.side} in batches of {scale.batch_size}, fine-tuned; "
        f"medians of {scale.repetitions} interleaved repetitions after one to warm up\n"
        "MB and kB: what each rank puts into the exchanges of one step\n"
    )
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        start_processes(be_a_rank, (options.ranks, scale, Path(folder)), nprocs=options.ranks)  # type: ignore[no-untyped-call]
    return 0


if __name__ == "__main__":
    sys.exit(main())
