"""Claim: a fold job trains faster than by a plain eager loop with a `DataLoader`, most of all with a frozen trunk.

Run with `python -m benchmarks.gpu` on a machine with a CUDA GPU, or with `--quick` for a tiny run anywhere. Needs
torch, torchvision and numpy alone.

Plain is the loop of PyTorch's tutorials with what they advise: worker processes that stay alive and are started before
the clock, pinned memory, copies that do not block; each worker makes a float tensor of three channels from a decoded
image and normalises it; Adam as it comes, `loss.item()` at each step. A frozen trunk is in the loop, without gradients.
Ours is what a fold job does, with its deterministic kernels; copying the images to the device, and of a frozen trunk
the features, are within the clock. Files and decoding are in neither. Both measure the loss of the same validation
images after each epoch, and images/s counts training images only.
"""

import argparse
import copy
import datetime
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Literal

try:
    import numpy as np
    import torch
    import torchvision
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.utils.data import DataLoader, Dataset

    from cxrdist.learn.features import extract_features, head_pools
    from cxrdist.learn.models import Classifier, build_classifier
    from cxrdist.learn.sources import IMAGENET_MEAN, IMAGENET_SD, FeatureSource, ImageSource
    from cxrdist.learn.train import EVALUATION_BATCH, fit, precision_context, use_determinism
    from cxrdist.study.recipe import ModelName, Network, Recipe
except ModuleNotFoundError as error:
    print(f"benchmarks.gpu needs torch, torchvision and numpy, and {error.name} is not installed.", file=sys.stderr)
    raise SystemExit(2) from None

N_CLASSES = 4
LEARNING_RATE = 1e-4
MIB = 2**20


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    n_training: int
    n_validation: int
    side: int
    vgg_hidden: int
    epochs: dict[str, int]
    """By transfer."""
    repetitions: int
    workers: int


FULL = Scale(1024, 128, 224, 4096, {"finetune": 3, "frozen": 10}, repetitions=5, workers=min(8, os.cpu_count() or 1))
QUICK = Scale(8, 4, 32, 16, {"finetune": 1, "frozen": 2}, repetitions=1, workers=0)


@dataclass(frozen=True)
class Case:
    """A network, how it is trained, and the papers' batch size."""

    model: ModelName
    transfer: Literal["frozen", "finetune"]
    batch_size: int


CASES = (
    Case("resnet34", "finetune", 16),
    Case("resnet34", "frozen", 16),
    Case("vgg16", "finetune", 32),
    Case("vgg16", "frozen", 32),
)


@dataclass(frozen=True)
class Measure:
    """One timed training."""

    images_per_second: float
    peak_mib: float
    """Most memory that tensors held on the GPU; 0 on a CPU."""


class DecodedImages(Dataset[tuple[Tensor, int]]):
    """Random decoded images; a fold job gathers rows of them, a `DataLoader` takes one by one."""

    def __init__(self, n: int, side: int) -> None:
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (n, side, side), dtype=np.uint8)
        self.labels = torch.from_numpy(rng.integers(0, N_CLASSES, n))
        self._mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
        self._sd = torch.tensor(IMAGENET_SD).view(3, 1, 1)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.pixels[rows]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(self.pixels[row]).expand(3, -1, -1).float().div_(255)
        return image.sub_(self._mean).div_(self._sd), int(self.labels[row])


class Contest:
    """One case, trained by either loop from the same weights on the same images."""

    def __init__(self, case: Case, scale: Scale, device: torch.device) -> None:
        self._case = case
        self._device = device
        self._epochs = scale.epochs[case.transfer]
        self._network = Network(case.model, N_CLASSES, scale.side, case.transfer, vgg_hidden=scale.vgg_hidden)
        self._pristine = build_classifier(self._network, seed=0, fold=0)
        self._images = DecodedImages(scale.n_training + scale.n_validation, scale.side)
        self._training = torch.arange(scale.n_training)
        self._validation = torch.arange(scale.n_training, len(self._images))
        self._loaders = [
            DataLoader(
                torch.utils.data.Subset(self._images, rows.tolist()),
                batch_size=batch_size,
                shuffle=shuffle,
                num_workers=scale.workers,
                pin_memory=device.type == "cuda",
                persistent_workers=scale.workers > 0,
            )
            for rows, batch_size, shuffle in (
                (self._training, case.batch_size, True),
                (self._validation, EVALUATION_BATCH, False),
            )
        ]

    def recipe(self, precision: Literal["auto", "fp32", "bf16"]) -> Recipe:
        return Recipe(self._epochs, self._case.batch_size, LEARNING_RATE, precision=precision)

    def plain(self, precision: Literal["fp32", "bf16"]) -> Measure:
        torch.backends.cudnn.deterministic = False
        model = copy.deepcopy(self._pristine).to(self._device)
        return self._timed(lambda: self._train_plainly(model, bf16=precision == "bf16"))

    def ours(self, precision: Literal["auto", "fp32", "bf16"]) -> Measure:
        use_determinism(torch.get_num_threads())
        model = copy.deepcopy(self._pristine)
        model = model.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self._timed(lambda: self._train_as_a_fold_job(model, self.recipe(precision)))

    def _timed(self, train: Callable[[], object]) -> Measure:
        gc.collect()
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        train()
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() / MIB if on_gpu else 0.0
        return Measure(self._epochs * len(self._training) / seconds, peak)

    def _train_plainly(self, model: Classifier, *, bf16: bool) -> None:
        frozen = self._case.transfer == "frozen"
        optimizer = torch.optim.Adam((model.head if frozen else model).parameters(), lr=LEARNING_RATE)
        criterion = nn.CrossEntropyLoss()

        def loss_of(images: Tensor, labels: Tensor) -> Tensor:
            images = images.to(self._device, non_blocking=True)
            labels = labels.to(self._device, non_blocking=True)
            with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=bf16):
                with torch.no_grad() if frozen else nullcontext():
                    features = model.trunk(images)
                loss: Tensor = criterion(model.head(features), labels)
            return loss

        training, validation = self._loaders
        for _ in range(self._epochs):
            model.train()
            # Its batch normalisation keeps the statistics of its weights, as in ours.
            model.trunk.train(not frozen)
            running_loss = 0.0
            for images, labels in training:
                optimizer.zero_grad()
                loss = loss_of(images, labels)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                running_loss += loss.item()
            model.eval()
            with torch.no_grad():
                for images, labels in validation:
                    running_loss += loss_of(images, labels).item()

    def _train_as_a_fold_job(self, model: Classifier, recipe: Recipe) -> None:
        rows = torch.cat([self._training, self._validation])
        images = ImageSource(self._images, None, "whole", self._device)
        source: ImageSource | FeatureSource = images
        trained: nn.Module = model
        if self._case.transfer == "frozen":
            features = extract_features(model.trunk, images, rows, pooled=head_pools(self._network))
            source, trained = FeatureSource(features, self._device), model.head
        else:
            images.make_resident(rows.numpy())
        fit(
            trained,
            source,
            self._images.labels,
            self._training,
            self._validation,
            recipe,
            seed=0,
            stream=("benchmark", 0),
            device=self._device,
        )


def compare(case: Case, scale: Scale, device: torch.device) -> None:
    """Print a row for each pair of precisions."""
    contest = Contest(case, scale, device)
    runs: dict[str, Callable[[], Measure]] = {
        "plain, fp32": lambda: contest.plain("fp32"),
        "ours, fp32": lambda: contest.ours("fp32"),
    }
    pairs = [("fp32", "fp32")]
    if not isinstance(precision_context(contest.recipe("auto"), device), nullcontext):
        runs |= {"plain, bf16": lambda: contest.plain("bf16"), "ours, auto": lambda: contest.ours("auto")}
        pairs += [("bf16", "auto"), ("fp32", "auto")]
    for run in runs.values():
        run()
    measures: dict[str, list[Measure]] = {name: [] for name in runs}
    for _ in range(scale.repetitions):
        for name, run in runs.items():
            measures[name].append(run())
    for plain, ours in pairs:
        print(row(case, plain, ours, measures[f"plain, {plain}"], measures[f"ours, {ours}"]), flush=True)


def row(case: Case, plain: str, ours: str, plain_runs: Sequence[Measure], our_runs: Sequence[Measure]) -> str:
    """Medians of both, and the median of the ratios of runs that followed each other."""
    ratio = median(o.images_per_second / p.images_per_second for p, o in zip(plain_runs, our_runs, strict=True))
    speeds = [median(m.images_per_second for m in runs) for runs in (plain_runs, our_runs)]
    peaks = [max(m.peak_mib for m in runs) for runs in (plain_runs, our_runs)]
    return (
        f"{case.model:8}  {case.transfer:8}  {case.batch_size:5}  {plain:5}  {ours:4}  "
        f"{speeds[0]:14,.0f}  {speeds[1]:13,.0f}  {ratio:5.2f}  {peaks[0]:9,.0f}  {peaks[1]:8,.0f}"
    )


HEADER = (
    "model     training  batch  plain  ours  plain images/s  ours images/s  ratio  plain MiB  ours MiB\n"
    "--------  --------  -----  -----  ----  --------------  -------------  -----  ---------  --------"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare all cases; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Our training loop and a plain one.")
    parser.add_argument("--quick", action="store_true", help="a tiny run to see that everything works")
    quick = parser.parse_args(arguments).quick
    if not quick and not torch.cuda.is_available():
        print("benchmarks.gpu needs a CUDA GPU; --quick does a tiny run without one.", file=sys.stderr)
        return 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scale = QUICK if quick else FULL
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(
        f"{name}, torch {torch.__version__}, torchvision {torchvision.__version__}, {os.cpu_count()} cores, "
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}\n"
        f"{scale.n_training} images of {scale.side} x {scale.side}, {scale.epochs['finetune']} epochs fine-tuned, "
        f"{scale.epochs['frozen']} with a frozen trunk; {scale.workers} workers in the plain loop; medians of "
        f"{scale.repetitions} interleaved repetitions after one to warm up\n"
        f"fp32 is torch's default (convolutions may use TF32: {torch.backends.cudnn.allow_tf32}, multiplications of "
        f"matrices: {torch.backends.cuda.matmul.allow_tf32}); auto is bf16 where the GPU has it, but ours computes a "
        "frozen trunk's features in fp32 always\n"
        "MiB: most memory held by tensors on the GPU\n"
    )
    print(HEADER)
    for case in CASES:
        compare(case, scale, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
