"""Claim: a sweep over a frozen trunk takes about as long as one pass through it: a trial costs next to nothing.

Run with `python -m benchmarks.sweep [--images DIR]`, or with `--quick` for a tiny run; DIR is the shared folder of real
chest X-rays, without it phantoms are drawn. One search of the three-class cohort's first fold (`nesting: shared`) in
which every trial does all inner folds (`scheduler: none`), so that all do the same work: inline, on Ray Tune, and as
it is written plainly.

Plain is a loop over trials, inner folds, epochs and batches, with no `DataLoader`: decoded images in memory, and the
trunk (built once, channels last, no gradients) in the loop. It takes its settings from the sweep's records and its
order of images from the same seeds, so that it must come to the same scores. All its trials cost the same: it does the
best one and a few others, and the time for all is in proportion. Decoding is in none of the times, nor are imports but
those of Ray; planning, features and the choice are in.
"""

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from benchmarks.lanes import ExecutorName, Recorder
from cxrdist.cohort.phantoms import draw_phantoms
from cxrdist.cohort.table import load_cohort
from cxrdist.config import (
    CohortConfig,
    DimensionConfig,
    ExecutionConfig,
    ModelConfig,
    PreprocessingConfig,
    SpaceConfig,
    Study,
    SweepConfig,
    TrainingConfig,
)
from cxrdist.learn.models import build_head, build_trunk
from cxrdist.learn.sources import IMAGENET_MEAN, IMAGENET_SD
from cxrdist.run.computing import Computing
from cxrdist.run.driver import run_sweep
from cxrdist.run.prepare import Prepared, prepare
from cxrdist.run.store import Store
from cxrdist.run.sweep import Sweep, TrialEvent
from cxrdist.run.sweep_results import records_of
from cxrdist.study.folds import Part
from cxrdist.study.layout import SearchFiles
from cxrdist.study.recipe import with_settings
from cxrdist.study.search import TrialRecord
from cxrdist.study.seeds import derive_seed

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT / ".." / "shared" / "cxr"
COHORT = ROOT / "data_manifests" / "three_class.yaml"
CLASSES = ("covid19", "viral_pneumonia", "normal")
THREADS = 1
"""Of each process, and of the plain loop."""
WORKERS = 2
EVALUATION_BATCH = 64
LARGEST_DIFFERENCE = 0.01
"""Between the scores of a trial: the sums of a batch's features depend on its size, in the last digits."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    images_per_class: int
    side: int
    epochs: int
    trials: int
    plain_trials: int
    """What the plain loop does of them."""
    batch_sizes: tuple[int, ...] = (8, 16, 32)


FULL = Scale(images_per_class=40, side=224, epochs=2, trials=32, plain_trials=4)
QUICK = Scale(images_per_class=10, side=32, epochs=2, trials=3, plain_trials=3, batch_sizes=(4, 8))


@dataclass
class SweepRecorder(Recorder):
    """A display that notes when it was told what of trials, too."""

    trials: list[tuple[float, TrialEvent]] = field(default_factory=list)

    def sweeping(self, _sweep: Sweep) -> AbstractContextManager[Callable[[TrialEvent], None]]:
        return nullcontext(lambda event: self.trials.append((time.time(), event)))


@dataclass(frozen=True)
class SweepTiming:
    """What one executor took, in seconds."""

    seconds: float
    """From the command to the choice."""
    features: float
    """For one pass through the trunk, with what starts its worker."""
    first_trial: float
    """From the command to the start of the first trial."""
    all_trials: float
    """From the start of the first trial to the record of the last."""
    ending: float
    """From then to the choice."""
    processes: int
    """That did trials."""
    records: tuple[TrialRecord, ...]

    @property
    def overhead(self) -> float:
        """The processes' time that no epoch took, divided between the trials."""
        epochs = sum(record.seconds for record in self.records)
        return (self.all_trials * self.processes - epochs) / len(self.records)


@dataclass(frozen=True)
class PlainTrial:
    number: int
    score: float
    seconds: float


def write_subset(manifest: Path, images: Path, target: Path, per_class: int) -> None:
    """Write a manifest of as many images of each class, drawn at random."""
    cohort = load_cohort(manifest, images, None)
    columns = ("image_id", "path", "label", "patient_id", "group_id", "source")
    rows = cohort.table.select(columns).to_pylist()
    rng = np.random.default_rng(0)
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for name in CLASSES:
            own = [row for row in rows if row["label"] == name]
            writer.writerows(own[index] for index in sorted(rng.choice(len(own), per_class, replace=False)))


def study_of(manifest: Path, images: Path, cache: Path, executor: ExecutorName, scale: Scale) -> Study:
    return Study(
        name="sweep",
        cohort=CohortConfig(manifest=str(manifest), images=str(images), classes=list(CLASSES)),
        preprocessing=PreprocessingConfig(size=scale.side),
        model=ModelConfig(weights="none", transfer="frozen"),
        training=TrainingConfig(epochs=scale.epochs),
        sweep=SweepConfig(
            space=SpaceConfig(
                learning_rate=DimensionConfig(low=1e-4, high=1e-2, scale="log"),
                batch_size=DimensionConfig(values=list(scale.batch_sizes)),
            ),
            trials=scale.trials,
            nesting="shared",
            scheduler="none",
        ),
        execution=ExecutionConfig(executor=executor, device="cpu", workers=WORKERS, threads=THREADS, cache=str(cache)),
    )


def prepare_here(study: Study, run_dir: Path) -> Prepared:
    """Decode the images, and lay out the search as a sweep does."""
    cpu = torch.device("cpu")
    computing = Computing.decide(cpu, threads=THREADS, trial_threads=THREADS)
    return prepare(study, Store(run_dir), device=lambda: cpu, computing=lambda: computing)


def measure(study: Study, run_dir: Path) -> SweepTiming:
    """Do the sweep of a study whose images are decoded."""
    recorder = SweepRecorder()
    started = time.time()
    store = Store(run_dir)
    (choice,) = run_sweep(study, store, recorder)
    ended = time.time()
    files = SearchFiles(choice.search.key)
    records = tuple(records_of(store, choice.search))
    written = [store.local(files.trial(record.number)).stat().st_mtime for record in records]
    # Events on Ray are read late, but no trial is recorded before its epochs were done.
    began = min(
        *(moment for moment, event in recorder.trials if event.kind == "started"),
        *(moment - record.seconds for moment, record in zip(written, records, strict=True)),
    )
    return SweepTiming(
        seconds=ended - started,
        features=max(moment for moment, _ in recorder.events) - recorder.planned,
        first_trial=began - started,
        all_trials=max(written) - began,
        ending=ended - max(written),
        processes=len({event.lane for _, event in recorder.trials if event.kind == "step"}),
        records=records,
    )


def to_do_plainly(records: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    """Return so many trials: the best one and the first ones."""
    best = max(records, key=lambda record: record.score or 0.0)
    return [best, *(record for record in records if record is not best)][:count]


def plain_search(prepared: Prepared, records: Sequence[TrialRecord]) -> list[PlainTrial]:
    """Do the trials of these records again, as it is written without this package's sweeps."""
    (search,) = prepared.searches
    images = prepared.search_images[search.fold]
    position = {image_id: row for row, image_id in enumerate(prepared.shards.image_ids)}
    rows = np.array([position[image_id] for image_id in images.folds.image_ids])
    pixels = torch.from_numpy(prepared.shards.pixels.take(rows))
    labels = torch.from_numpy(images.labels)
    torch.set_num_threads(THREADS)
    trunk = build_trunk("resnet34", prepared.study.seed)
    trunk = trunk.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    mean, sd = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_SD))

    def features(batch: Tensor) -> Tensor:
        """Return what a frozen trunk makes of a batch of images, [n, 512, h, w]."""
        colour = pixels[batch].unsqueeze(1).expand(-1, 3, -1, -1).float().div_(255).sub_(mean).div_(sd)
        with torch.no_grad():
            output: Tensor = trunk(colour.contiguous(memory_format=torch.channels_last))
        return output

    done = []
    for record in records:
        network, recipe = with_settings(search.network, search.recipe, record.settings)
        started = time.perf_counter()
        scores = []
        for fold in range(images.folds.n_folds):
            training, held_out = (
                torch.from_numpy(images.folds.rows(fold, part)) for part in (Part.TRAINING, Part.TEST)
            )
            head = build_head(network, search.seed, fold)
            optimizer = torch.optim.Adam(head.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
            for epoch in range(1, recipe.epochs + 1):
                generator = torch.Generator().manual_seed(derive_seed(search.seed, "order", fold, epoch))
                order = training[torch.randperm(len(training), generator=generator)]
                for batch in torch.split(order, recipe.batch_size):
                    loss = nn.functional.cross_entropy(head(features(batch)), labels[batch])
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                with torch.no_grad():
                    logits = torch.cat([head(features(batch)) for batch in torch.split(held_out, EVALUATION_BATCH)])
                score = macro_auc(labels[held_out].numpy(), logits.double().softmax(1).numpy())
            scores.append(score)
        done.append(PlainTrial(record.number, sum(scores) / len(scores), time.perf_counter() - started))
    return done


def macro_auc(truth: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    return float(roc_auc_score(truth, probabilities, multi_class="ovr", average="macro"))


def largest_difference(records: Sequence[TrialRecord], plain: Sequence[PlainTrial]) -> float:
    """Return how far the scores of a trial are apart; refuse those of another search."""
    scores = {record.number: record.score or 0.0 for record in records}
    apart = max(abs(scores[other.number] - other.score) for other in plain)
    if apart > LARGEST_DIFFERENCE:
        raise AssertionError(f"the plain loop's scores differ by up to {apart:.3f}")
    return apart


def passes_per_trial(prepared: Prepared) -> int:
    """Return how many images a trial trains or measures on, counted each time."""
    (search,) = prepared.searches
    return search.recipe.epochs * search.rules.folds * len(prepared.search_images[search.fold].rows)


def report(executor: str, timing: SweepTiming, plain: Sequence[PlainTrial], passes: int) -> str:
    """Say what a sweep took, beside the plain loop."""
    trials = len(timing.records)
    plain_seconds = trials * sum(one.seconds for one in plain) / len(plain)
    training = median(record.seconds for record in timing.records)
    return (
        f"{executor}, {timing.processes} process{'' if timing.processes == 1 else 'es'}: {trials} trials in "
        f"{timing.seconds:.1f} s, {trials * passes / timing.seconds:,.0f} images/s, ratio "
        f"{plain_seconds / timing.seconds:.1f}; features {timing.features:.1f} s, first trial after "
        f"{timing.first_trial:.1f} s, trials {timing.all_trials:.1f} s, ending {timing.ending:.1f} s\n"
        f"  epochs {training:.3f} s a trial (median), beyond them {timing.overhead:.3f} s a trial"
    )


def report_plain(plain: Sequence[PlainTrial], trials: int, passes: int, apart: float) -> str:
    seconds = sum(one.seconds for one in plain)
    in_proportion = "" if len(plain) == trials else f", so {trials} in {trials * seconds / len(plain):.0f} s"
    return (
        f"plain: {len(plain)} of {trials} trials in {seconds:.1f} s{in_proportion}; "
        f"{len(plain) * passes / seconds:.1f} images/s, {seconds / len(plain):.2f} s a trial; mean AUC "
        f"{', '.join(f'{one.score:.3f}' for one in plain)}, at most {apart:.4f} from the sweep's"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description="A sweep and a plain search.")
    parser.add_argument("--images", type=Path, default=SHARED, help="the shared folder of real chest X-rays")
    parser.add_argument("--quick", action="store_true", help="a tiny run to see that everything works")
    options = parser.parse_args(arguments)
    scale = QUICK if options.quick else FULL
    print(
        f"ResNet-34, frozen, {scale.side} px, {len(CLASSES) * scale.images_per_class} images; {scale.trials} trials x "
        f"3 inner folds x {scale.epochs} epochs; {THREADS} thread each, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        manifest, images = COHORT, options.images
        if not images.is_dir():
            print(f"{images} is absent: phantoms instead of chest X-rays")
            images = folder / "phantoms"
            manifest = draw_phantoms(
                images, patients_per_class=scale.images_per_class, images_per_patient=(1, 1), size=256, seed=0
            )
        subset = folder / "subset.csv"
        write_subset(manifest, images, subset, scale.images_per_class)
        timings, plain, passes = {}, [], 0
        executors: tuple[ExecutorName, ...] = ("inline", "ray")
        for executor in executors:
            study = study_of(subset, images, folder / f"{executor} cache", executor, scale)
            prepared = prepare_here(study, folder / executor)
            timings[executor] = measure(study, folder / executor)
            if executor == "inline":
                plain = plain_search(prepared, to_do_plainly(timings[executor].records, scale.plain_trials))
                passes = passes_per_trial(prepared)
    apart = max(largest_difference(timing.records, plain) for timing in timings.values())
    print(report_plain(plain, scale.trials, passes, apart))
    print(report("inline", timings["inline"], plain, passes))
    print(report("Ray Tune", timings["ray"], plain, passes))
    print(
        f"load at the end {os.getloadavg()[0]:.1f}; on Ray, features include starting it and its workers, and events "
        "are read every half second"
    )


if __name__ == "__main__":
    main()
