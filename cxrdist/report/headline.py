"""The sentence that sums up a study, claiming no more than the numbers do."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cxrdist.report.scores import VariantScores
from cxrdist.report.table import show_number

NO_TEST = "No test of a difference is in this report: differences may be chance."


def headline(scores: Sequence[VariantScores]) -> str:
    """Say which variant scores highest and by how much, or why variants cannot be ranked."""
    if not scores:
        return "No fold job has predictions yet."
    if len(scores) == 1:
        return f"{scores[0].variant} reaches {_both(scores[0])}, from {scores[0].summary.n} test predictions."
    images = [list(one.predictions.image_ids) for one in scores]
    if any(own != images[0] for own in images):
        values = "; ".join(f"{one.variant} reaches {_both(one)}" for one in scores)
        return f"The variants were not tested on the same images and are not ranked: {values}."
    area = _Lead.of("macro AUC (pooled)", scores, lambda one: one.auc_averages.pooled_macro)
    accuracy = _Lead.of("accuracy", scores, lambda one: one.summary.accuracy)
    if area.leader and area.leader == accuracy.leader:
        return f"{area.leader} has the highest {area.words}, and the highest {accuracy.words}. {NO_TEST}"
    return f"{area.sentence} {accuracy.sentence} {NO_TEST}"


@dataclass(frozen=True)
class _Lead:
    """Who is ahead on one score."""

    leader: str
    """Empty where several share the highest value, or none has one."""
    words: str
    sentence: str

    @classmethod
    def of(cls, score: str, scores: Sequence[VariantScores], value: Callable[[VariantScores], float]) -> "_Lead":
        ranked = sorted((one for one in scores if not math.isnan(value(one))), key=value, reverse=True)
        if not ranked:
            return cls("", "", f"The {score} is undefined for every variant.")
        top = value(ranked[0])
        first = [one.variant for one in ranked if value(one) == top]
        if len(first) > 1:
            return cls("", "", f"The highest {score}, {top:.3f}, is shared by {', '.join(first)}.")
        if len(ranked) == 1:
            return cls("", "", f"{first[0]} has the only defined {score}, {top:.3f}.")
        words = f"{score}, {top:.3f} ({top - value(ranked[1]):.3f} above {ranked[1].variant})"
        return cls(first[0], words, f"{first[0]} has the highest {words}.")


def _both(scores: VariantScores) -> str:
    area, accuracy = scores.auc_averages.pooled_macro, scores.summary.accuracy
    return f"a macro AUC (pooled) of {show_number(area)} and an accuracy of {show_number(accuracy)}"
