"""The sentences that sum up a study, claiming no more than the numbers do."""

import math
from collections.abc import Sequence

from cxrdist.report.inference import ALPHA, Comparison, Comparisons, Estimate, VariantInference
from cxrdist.report.results import Results
from cxrdist.report.scores import VariantScores
from cxrdist.report.table import show_number, show_p
from cxrdist.stats.resampling import Interval

FEW_PATIENTS = 20
"""Patients of a class below which a percentile bootstrap is known to be too narrow (Davison and Hinkley 1997, 5.3)."""

UNLIKE = 0.001
"""p below which folds are called unlike: low, since images of a patient depend on each other."""


def headline(
    results: Results,
    scores: Sequence[VariantScores],
    inferences: Sequence[VariantInference],
    comparisons: Comparisons | None,
) -> list[str]:
    """Say which variant is best and by how much, whether that is real, or why variants cannot be ranked."""
    if not scores:
        return ["No fold job has predictions yet."]
    if len(scores) == 1:
        first = f"{scores[0].variant} reaches {_both(inferences[0])}, from {scores[0].summary.n} test predictions."
        return [first, *_unlike_folds(scores)]
    if any(one.predictions.image_ids != scores[0].predictions.image_ids for one in scores) or comparisons is None:
        values = "; ".join(f"{one.variant} reaches {_both(one)}" for one in inferences)
        return [
            f"The variants were not tested on the same images and are not ranked: {values}.",
            *_unlike_folds(scores),
        ]
    return [
        _by_area(inferences, comparisons),
        _by_accuracy(inferences),
        *_few_patients(results),
        *_unlike_folds(scores),
    ]


def _by_area(inferences: Sequence[VariantInference], comparisons: Comparisons) -> str:
    ranked = sorted(
        (one for one in inferences if not math.isnan(_value(one, "macro_auc"))),
        key=lambda one: _value(one, "macro_auc"),
        reverse=True,
    )
    if not ranked:
        return "The macro AUC (pooled) is undefined for every variant."
    best = ranked[0]
    first = f"{best.variant} has the highest macro AUC (pooled), {_with_interval(best.overall['macro_auc'])}"
    if len(ranked) == 1:
        return f"{first}; it is the only one that is defined."
    shared = [one.variant for one in ranked[1:] if _value(one, "macro_auc") == _value(best, "macro_auc")]
    if shared:
        return f"The highest macro AUC (pooled), {_value(best, 'macro_auc'):.3f}, is shared by {best.variant} and " + (
            f"{' and '.join(shared)}."
        )
    tests = [found for one in ranked[1:] if (found := comparisons.of(best.variant, one.variant)) is not None]
    pair, p = tests[0]
    above = (
        f"{first}, {_difference(pair, best.variant)} above {ranked[1].variant} (p {_equals(p)}"
        f"{', corrected for all pairs' if len(comparisons.pairs) > 1 else ''})"
    )
    real = [one.variant for one, (_, p) in zip(ranked[1:], tests, strict=True) if p < ALPHA]
    if len(real) == len(ranked) - 1:
        return (
            f"{above}: the difference is significant{'' if len(real) == 1 else ', as it is from every other variant'}."
        )
    if not real:
        return f"{above}: the difference is not significant and may be chance."
    doubtful = [one.variant for one in ranked[1:] if one.variant not in real]
    return (
        f"{above}. It differs significantly from {_listed(real)}, not from {_listed(doubtful)}: there the difference "
        "may be chance."
    )


def _few_patients(results: Results) -> list[str]:
    few = [one.label for one in results.cohort.classes if one.groups < FEW_PATIENTS]
    if not few:
        return []
    return [
        f"There are fewer than {FEW_PATIENTS} {results.cohort.group_name} of {_listed(few)}: intervals are too narrow "
        "and p values too small for that to be relied on."
    ]


def _unlike_folds(scores: Sequence[VariantScores]) -> list[str]:
    unlike = [one for one in scores if one.folds.p_alike < UNLIKE]
    if not unlike:
        return []
    ranges = [
        f"{one.variant} ({100 * min(one.folds.accuracy):.1f} to {100 * max(one.folds.accuracy):.1f} %)"
        for one in unlike
    ]
    return [
        f"The accuracy differs between folds by more than chance among their test images for {_listed(ranges)}: "
        "training is unsteady, or the folds' patients are unlike. Another seed may change scores by more than their "
        "intervals, which take the networks as trained."
    ]


def _by_accuracy(inferences: Sequence[VariantInference]) -> str:
    defined = [one for one in inferences if not math.isnan(_value(one, "accuracy"))]
    if not defined:
        return "The accuracy is undefined for every variant."
    top = max(_value(one, "accuracy") for one in defined)
    first = [one for one in defined if _value(one, "accuracy") == top]
    if len(first) > 1:
        return f"The highest accuracy, {top:.3f}, is shared by {_listed([one.variant for one in first])}."
    return f"The highest accuracy is that of {first[0].variant}, {_with_interval(first[0].overall['accuracy'])}."


def _difference(pair: Comparison, best: str) -> str:
    one = pair.macro_auc.difference
    if pair.first != best:
        one = Interval(-one.value, -one.high, -one.low)
    return f"{one.value:.3f} (95 % {show_number(one.low)} to {show_number(one.high)})"


def _both(inference: VariantInference) -> str:
    area, accuracy = (_with_interval(inference.overall[name]) for name in ("macro_auc", "accuracy"))
    return f"a macro AUC (pooled) of {area} and an accuracy of {accuracy}"


def _with_interval(estimate: Estimate) -> str:
    one = estimate.interval
    if math.isnan(one.low):
        return show_number(one.value)
    return f"{show_number(one.value)} (95 % {show_number(one.low)} to {show_number(one.high)})"


def _value(inference: VariantInference, name: str) -> float:
    return inference.overall[name].interval.value


def _equals(p: float) -> str:
    shown = show_p(p)
    return shown if shown.startswith("<") else f"= {shown}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
