"""Intervals of a variant's scores, and tests between variants, computed once for all tables."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cxrdist.report.results import Results, patients_of
from cxrdist.report.scores import VariantScores
from cxrdist.stats.averages import Floats
from cxrdist.stats.confusion import wilson
from cxrdist.stats.delong import PairedAuc, auc_interval, delong, paired_delong
from cxrdist.stats.fold_auc import cross_validated_auc
from cxrdist.stats.paired import CorrectedT, McNemar, corrected_t, holm, mcnemar
from cxrdist.stats.replicates import (
    PairedDifference,
    Replicates,
    paired_difference,
    replicate_scores,
    scores_once,
)
from cxrdist.stats.resampling import Interval, percentile_interval
from cxrdist.study.outoffold import OutOfFold
from cxrdist.study.seeds import derive_seed

RESAMPLES = 2000
LEVEL = 0.95
ALPHA = 0.05

OVERALL = (
    "accuracy",
    "macro_auc",
    "macro_sensitivity",
    "macro_specificity",
    "macro_precision",
    "macro_f1",
    "kappa",
    "mcc",
    "log_loss",
    "brier",
)
"""Scores over all classes, by their names in `Replicates`."""

BY_CLASS = ("precision", "sensitivity", "f1", "specificity", "auc")
"""Scores of each class against the rest, by their names in `Replicates`."""

PROPORTIONS = frozenset({"precision", "sensitivity", "specificity"})


@dataclass(frozen=True)
class Estimate:
    """A score with its 95 % interval and how that was made."""

    interval: Interval
    method: str


@dataclass(frozen=True)
class VariantInference:
    """All intervals of one variant."""

    variant: str
    overall: Mapping[str, Estimate]
    """By the names in `OVERALL`."""
    by_class: Mapping[str, Sequence[Estimate]]
    """By the names in `BY_CLASS`: one a class, in class order."""
    fold_auc: Sequence[Interval]
    """Of each class: the mean over folds of the AUC (LeDell)."""
    values: Replicates
    replicates: Replicates


@dataclass(frozen=True)
class Comparison:
    """One pair of variants on the same images: first minus second."""

    first: str
    second: str
    macro_auc: PairedDifference
    accuracy: PairedDifference
    mcnemar: McNemar
    accuracy_by_fold: CorrectedT
    auc_by_class: Sequence[PairedAuc | PairedDifference]
    """In class order: DeLong where images are independent, else the bootstrap of patients."""


@dataclass(frozen=True)
class Comparisons:
    """All pairs of variants; p values of one test are corrected together (Holm)."""

    pairs: Sequence[Comparison]
    macro_auc_p: Floats
    """[pairs], adjusted, as the others below."""
    accuracy_p: Floats
    mcnemar_p: Floats
    accuracy_by_fold_p: Floats
    auc_by_class_p: Floats
    """[pairs, C], adjusted over all of them."""

    def of(self, first: str, second: str) -> tuple[Comparison, float] | None:
        """Return the comparison of two variants in either order with the adjusted p of the macro AUC."""
        for pair, p in zip(self.pairs, self.macro_auc_p, strict=True):
            if {pair.first, pair.second} == {first, second}:
                return pair, float(p)
        return None


def independent_images(results: Results, image_ids: Sequence[str]) -> bool:
    """Return whether no two of these images belong to one group."""
    groups = patients_of(results.groups, image_ids)
    return len(set(groups)) == len(groups)


def infer(results: Results, scores: VariantScores) -> VariantInference:
    """Return the intervals of one variant.

    Where images are independent: DeLong for each class's AUC, Wilson for proportions. Everything else, and everything
    where a group has several images: percentiles of a bootstrap of groups within classes, the same resamples for all
    variants of the same images.
    """
    predictions = scores.predictions
    groups = patients_of(results.groups, predictions.image_ids)
    independent = len(set(groups)) == len(groups)
    values = scores_once(predictions.truth, predictions.probabilities)
    drawn = replicate_scores(
        predictions.truth,
        predictions.probabilities,
        np.asarray(groups),
        rng=np.random.default_rng(derive_seed(results.seed, "bootstrap")),
        resamples=RESAMPLES,
    )
    overall = {name: _bootstrap(getattr(values, name)[0], getattr(drawn, name)) for name in OVERALL}
    by_class = {
        name: [
            _bootstrap(getattr(values, name)[0, index], getattr(drawn, name)[:, index])
            for index in range(len(results.classes))
        ]
        for name in BY_CLASS
    }
    if independent:
        overall["accuracy"] = _wilson(scores.summary.correct, scores.summary.n)
        by_class |= _independent_by_class(scores)
    return VariantInference(
        variant=scores.variant,
        overall=overall,
        by_class=by_class,
        fold_auc=[
            cross_validated_auc(
                predictions.truth == index, predictions.probabilities[:, index], predictions.fold
            ).interval
            for index in range(len(results.classes))
        ],
        values=values,
        replicates=drawn,
    )


def compare(
    results: Results, scores: Sequence[VariantScores], inferences: Sequence[VariantInference]
) -> Comparisons | None:
    """Return the tests of all pairs of variants; None where there are no two of the same images."""
    pairs = [
        _compared(results, first, second)
        for first, second in itertools.combinations(list(zip(scores, inferences, strict=True)), 2)
        if first[0].predictions.image_ids == second[0].predictions.image_ids
    ]
    if not pairs:
        return None
    by_class = np.array([[_p(one) for one in pair.auc_by_class] for pair in pairs])
    return Comparisons(
        pairs=pairs,
        macro_auc_p=holm(np.array([pair.macro_auc.p for pair in pairs])),
        accuracy_p=holm(np.array([pair.accuracy.p for pair in pairs])),
        mcnemar_p=holm(np.array([pair.mcnemar.p for pair in pairs])),
        accuracy_by_fold_p=holm(np.array([pair.accuracy_by_fold.p for pair in pairs])),
        auc_by_class_p=holm(by_class.ravel()).reshape(by_class.shape),
    )


def fold_sizes(results: Results, predictions: OutOfFold) -> tuple[Floats, Floats]:
    """Return the images trained on and tested on, float [J], of the folds that have predictions."""
    own = {one.fold: one for one in results.folds}
    folds = np.unique(predictions.fold).tolist()
    trained = np.array([sum(own[fold].training) for fold in folds], np.float64)
    return trained, np.array([sum(own[fold].test) for fold in folds], np.float64)


def _compared(
    results: Results, one: tuple[VariantScores, VariantInference], other: tuple[VariantScores, VariantInference]
) -> Comparison:
    (first, drawn), (second, redrawn) = one, other
    truth = first.predictions.truth
    trained, tested = fold_sizes(results, first.predictions)

    def difference(name: str) -> PairedDifference:
        return paired_difference(
            float(getattr(drawn.values, name)[0]),
            float(getattr(redrawn.values, name)[0]),
            getattr(drawn.replicates, name),
            getattr(redrawn.replicates, name),
            level=LEVEL,
        )

    independent = independent_images(results, first.predictions.image_ids)
    areas: list[PairedAuc | PairedDifference] = []
    for index in range(len(results.classes)):
        if independent:
            own, others = (each.predictions.probabilities[:, index] for each in (first, second))
            areas.append(paired_delong(truth == index, own, others, level=LEVEL))
        else:
            areas.append(
                paired_difference(
                    float(drawn.values.auc[0, index]),
                    float(redrawn.values.auc[0, index]),
                    drawn.replicates.auc[:, index],
                    redrawn.replicates.auc[:, index],
                    level=LEVEL,
                )
            )
    return Comparison(
        first=first.variant,
        second=second.variant,
        macro_auc=difference("macro_auc"),
        accuracy=difference("accuracy"),
        mcnemar=mcnemar(first.predictions.predicted == truth, second.predictions.predicted == truth),
        accuracy_by_fold=corrected_t(
            first.folds.accuracy - second.folds.accuracy, n_train=trained.mean(), n_test=tested.mean(), level=LEVEL
        ),
        auc_by_class=areas,
    )


def _independent_by_class(scores: VariantScores) -> dict[str, list[Estimate]]:
    by_class, predictions = scores.by_class, scores.predictions
    hits = by_class.true_positive
    proportions = {
        "precision": (hits, hits + by_class.false_positive),
        "sensitivity": (hits, by_class.support),
        "specificity": (by_class.true_negative, by_class.true_negative + by_class.false_positive),
    }
    estimates = {
        name: [_wilson(int(k), int(n)) for k, n in zip(successes, cases, strict=True)]
        for name, (successes, cases) in proportions.items()
    }
    areas = [
        delong(predictions.truth == index, predictions.probabilities[None, :, index])
        for index in range(predictions.probabilities.shape[1])
    ]
    estimates["auc"] = [
        Estimate(auc_interval(float(one.auc[0]), float(one.covariance[0, 0]), LEVEL), "DeLong") for one in areas
    ]
    return estimates


def _wilson(successes: int, n: int) -> Estimate:
    value = successes / n if n else float("nan")
    return Estimate(Interval(value, *wilson(successes, n, LEVEL)), "Wilson")


def _bootstrap(value: float, drawn: Floats) -> Estimate:
    return Estimate(percentile_interval(float(value), drawn, LEVEL), "bootstrap")


def _p(test: PairedAuc | PairedDifference) -> float:
    return test.p
