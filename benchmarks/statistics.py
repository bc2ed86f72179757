"""Claim: the bootstrap of patients and DeLong's covariance take seconds where there are 100,000 predictions.

Run with `python -m benchmarks.statistics`, or with `--quick` for a tiny run; one thread, interleaved repetitions in one
process, in seconds of the processor, which other work on the machine does not lengthen. What is compared gives equal
numbers, which is checked.

The bootstrap of every score is compared with a plain loop that calls scikit-learn with weights, timed on a few of the
same resamples. DeLong's covariance is compared with DeLong's own formula, which compares all pairs, on as many cases
as fit in memory, and on all cases with scikit-learn's areas, which have no covariance.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    log_loss,
    matthews_corrcoef,
    precision_recall_fscore_support,
    roc_auc_score,
)
from threadpoolctl import threadpool_limits

from cxrdist.stats.averages import Floats
from cxrdist.stats.delong import delong
from cxrdist.stats.replicates import Replicates, replicate_scores
from cxrdist.stats.resampling import Integers, group_bootstrap

CLASSES = 4
SCORES = 2
"""Compared by DeLong's covariance, as between two classifiers."""
TARGET = 20.0
"""Seconds of the bootstrap at full scale."""


@dataclass(frozen=True)
class Scale:
    images: int
    patients: int
    resamples: int
    plain_resamples: int
    """Of those, the first ones, a repetition."""
    paired_cases: int
    """Cases that are compared in all pairs."""
    repetitions: int


FULL = Scale(100_000, 60_000, resamples=2000, plain_resamples=2, paired_cases=5_000, repetitions=3)
QUICK = Scale(400, 240, resamples=20, plain_resamples=2, paired_cases=100, repetitions=1)


@dataclass(frozen=True)
class Predictions:
    truth: Integers
    probabilities: Floats
    patient: Integers


def predictions(scale: Scale, seed: int = 0) -> Predictions:
    """Return predictions that are right more often than not, of patients with one to several images."""
    rng = np.random.default_rng(seed)
    patient = rng.integers(scale.patients, size=scale.images)
    truth = rng.integers(CLASSES, size=scale.patients)[patient]
    probabilities = (rng.dirichlet(np.ones(CLASSES), scale.images) + 0.3 * np.eye(CLASSES)[truth]) / 1.3
    return Predictions(truth, probabilities, patient)


def plain_scores(data: Predictions, weight: Integers) -> dict[str, float | Floats]:
    """Return every score of weighted images by scikit-learn, by its name in `Replicates`."""
    truth, predicted = data.truth, data.probabilities.argmax(axis=1)
    classes = range(CLASSES)
    counts = confusion_matrix(truth, predicted, labels=classes, sample_weight=weight)
    negative = counts.sum() - counts.sum(axis=1)
    false_positive = counts.sum(axis=0) - np.diag(counts)
    precision, sensitivity, f1, _ = precision_recall_fscore_support(
        truth, predicted, labels=classes, sample_weight=weight, zero_division=np.nan
    )
    squared_distance = ((data.probabilities - np.eye(CLASSES)[truth]) ** 2).sum(axis=1)
    return {
        "accuracy": accuracy_score(truth, predicted, sample_weight=weight),
        "precision": precision,
        "sensitivity": sensitivity,
        "specificity": 1 - false_positive / negative,
        "f1": f1,
        "auc": roc_auc_score(truth, data.probabilities, multi_class="ovr", average=None, sample_weight=weight),
        "log_loss": log_loss(truth, data.probabilities, labels=classes, sample_weight=weight),
        "brier": np.average(squared_distance, weights=weight),
        "kappa": cohen_kappa_score(truth, predicted, sample_weight=weight),
        "mcc": matthews_corrcoef(truth, predicted, sample_weight=weight),
    }


def plain_bootstrap(data: Predictions, resamples: int, rng: np.random.Generator) -> list[dict[str, float | Floats]]:
    """Return every score of each resample, one after the other."""
    bootstrap = group_bootstrap(data.truth, data.patient, CLASSES)
    drawn = chain.from_iterable(bootstrap.draws(resamples, rng))
    return [plain_scores(data, weights[bootstrap.group]) for weights in drawn]


def check_equal(ours: Replicates, plain: Sequence[dict[str, float | Floats]]) -> None:
    for row, scores in enumerate(plain):
        for name, value in scores.items():
            np.testing.assert_allclose(getattr(ours, name)[row], value, rtol=1e-9, err_msg=name)


def plain_delong(positive: NDArray[np.bool_], scores: Floats) -> Floats:
    """Return the covariance [k, k] of k areas from all pairs of a positive and a negative case (DeLong et al. 1988)."""
    of_positive, of_negative = [], []
    for score in scores:
        above, below = score[positive][:, np.newaxis], score[~positive]
        wins = (above > below) + 0.5 * (above == below)
        of_positive.append(wins.mean(axis=1))
        of_negative.append(wins.mean(axis=0))
    n_positive, n_negative = len(of_positive[0]), len(of_negative[0])
    return np.asarray(np.cov(of_positive) / n_positive + np.cov(of_negative) / n_negative)


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


@dataclass(frozen=True)
class Comparison:
    """Seconds of interleaved repetitions."""

    ours: list[float]
    plain: list[float]

    def ratio(self, plain_per_ours: float = 1.0) -> float:
        """Return how many times as long plain takes, for `plain_per_ours` times the work that was timed."""
        return plain_per_ours * median(p / o for o, p in zip(self.ours, self.plain, strict=True))


def compare(ours: Callable[[], object], plain: Callable[[], object], repetitions: int) -> Comparison:
    comparison = Comparison([], [])
    for _ in range(repetitions):
        comparison.ours.append(seconds(ours))
        comparison.plain.append(seconds(plain))
    return comparison


def compare_bootstraps(scale: Scale) -> None:
    data = predictions(scale)

    def ours(resamples: int = scale.resamples) -> Replicates:
        rng = np.random.default_rng(1)
        return replicate_scores(data.truth, data.probabilities, data.patient, rng=rng, resamples=resamples)

    def plain() -> list[dict[str, float | Floats]]:
        return plain_bootstrap(data, scale.plain_resamples, np.random.default_rng(1))

    check_equal(ours(scale.plain_resamples), plain())
    times = compare(ours, plain, scale.repetitions)
    plain_each = median(times.plain) / scale.plain_resamples
    print(
        f"every score of {scale.images:,} images, {CLASSES} classes, {scale.patients:,} patients, "
        f"{scale.resamples:,} resamples: {median(times.ours):.2f} s (target at full scale under {TARGET:.0f} s), "
        f"{1e3 * median(times.ours) / scale.resamples:.2f} ms a resample; scikit-learn {1e3 * plain_each:.0f} ms a "
        f"resample, {plain_each * scale.resamples / 60:.1f} min for all, "
        f"ratio {times.ratio(scale.resamples / scale.plain_resamples):.0f}"
    )


def compare_delong(scale: Scale) -> None:
    data = predictions(scale)
    positive, scores = data.truth == 0, np.ascontiguousarray(data.probabilities[:, :SCORES].T)
    few, few_scores = positive[: scale.paired_cases], scores[:, : scale.paired_cases]
    np.testing.assert_allclose(delong(few, few_scores).covariance, plain_delong(few, few_scores), rtol=1e-9)
    times = compare(
        lambda: delong(few, few_scores), lambda: plain_delong(few, few_scores), repetitions=5 * scale.repetitions
    )
    print(
        f"DeLong's covariance of {SCORES} scores, {scale.paired_cases:,} cases: {1e3 * median(times.ours):.2f} ms, "
        f"by all pairs {1e3 * median(times.plain):.1f} ms, ratio {times.ratio():.1f}"
    )

    def areas() -> list[float]:
        return [roc_auc_score(positive, score) for score in scores]

    np.testing.assert_allclose(delong(positive, scores).auc, areas(), rtol=1e-9)
    times = compare(lambda: delong(positive, scores), areas, repetitions=5 * scale.repetitions)
    print(
        f"the same, {scale.images:,} cases: {1e3 * median(times.ours):.1f} ms, "
        f"scikit-learn's areas alone {1e3 * median(times.plain):.1f} ms, ratio {times.ratio():.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.statistics", description="Statistics against plain ways."
    )
    parser.add_argument("--quick", action="store_true", help="a tiny run to see that everything works")
    scale = QUICK if parser.parse_args(arguments).quick else FULL
    print(
        f"numpy {np.__version__}, scikit-learn {sklearn.__version__}, one thread, processor time, "
        f"load {os.getloadavg()[0]:.1f}; "
        f"medians of {scale.repetitions} interleaved repetitions, of DeLong's {5 * scale.repetitions}"
    )
    with threadpool_limits(1):
        compare_bootstraps(scale)
        compare_delong(scale)


if __name__ == "__main__":
    main()
