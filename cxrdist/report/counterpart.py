"""What of a run stands beside a paper's numbers, and how both are shown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cxrdist.report.inference import Estimate, VariantInference
from cxrdist.report.inference_tables import LABELS
from cxrdist.report.papers import MODEL_NAMES
from cxrdist.report.results import Results
from cxrdist.report.scores import VariantScores
from cxrdist.report.table import UNDEFINED, Cell, Column
from cxrdist.report.tables import SCORE_DIGITS
from cxrdist.study.recipe import ModelName

VIEW_TITLES = {"whole": "Whole image", "segmented": "Segmented lungs"}
"""The views of the papers, by name."""

POSITION_NOTE = (
    "“Printed is” says whether the paper's value, anywhere within its rounding, lies inside this run's interval, above "
    "or below it."
)


@dataclass(frozen=True)
class Counterpart:
    """A variant of this run beside a paper's numbers, or the reason why there is none."""

    note: str
    """Which variant it is, and why; or why there is none."""
    scores: VariantScores | None = None
    """None where the study has no such variant, or the variant no predictions."""
    inference: VariantInference | None = None
    """None where `scores` is."""

    def estimate(self, score: str, class_index: int | None = None) -> Estimate | None:
        """Return a score over all classes, or of a class against the rest, with its interval."""
        if self.inference is None:
            return None
        if class_index is None:
            return self.inference.overall[score]
        return self.inference.by_class[score][class_index]

    def notes(self, results: Results, by_class: Sequence[str] = ()) -> list[str]:
        """Return the notes of a table that shows these scores by class: methods of the intervals, what is undefined."""
        if self.scores is None or self.inference is None:
            return [self.note]
        methods = ", ".join(f"{LABELS[name]} {self.inference.by_class[name][0].method}" for name in by_class)
        undefined = [*self.scores.by_class.undefined(results.classes), *self.scores.auc.undefined(results.classes)]
        return [
            self.note,
            *([f"Intervals of {self.scores.variant}: {methods}."] if methods else []),
            *(f"{self.scores.variant}: {one}" for one in undefined),
        ]


def of_view(
    results: Results,
    scores: Sequence[VariantScores],
    inferences: Sequence[VariantInference],
    *,
    view: str,
    model: ModelName,
) -> Counterpart:
    """Return the study's variant of a view: the one with this model, else the first."""
    where = f"This run, {VIEW_TITLES[view].lower()}"
    own = [variant for variant in results.variants if variant.startswith(f"{view}-")]
    if not own:
        return Counterpart(f"{where}: not in this study.")
    return _choose(scores, inferences, own, f"{view}-{model}", where, f"{MODEL_NAMES[model]} of it")


def of_study(
    results: Results, scores: Sequence[VariantScores], inferences: Sequence[VariantInference], *, model: ModelName
) -> Counterpart:
    """Return the study's variant of the whole image: the one with this model, else the first; else the first of all."""
    own = [variant for variant in results.variants if variant.startswith("whole-")] or list(results.variants)
    return _choose(scores, inferences, own, f"whole-{model}", "This run", f"{MODEL_NAMES[model]} of the whole image")


def interval_cells(estimate: Estimate | None) -> tuple[Cell, Cell, Cell]:
    """Return value, low and high; nothing where there is no estimate."""
    if estimate is None:
        return None, None, None
    return estimate.interval.value, estimate.interval.low, estimate.interval.high


def interval_columns(group: str) -> list[Column]:
    """Return the columns of `interval_cells`."""
    return [Column(title, group, SCORE_DIGITS) for title in ("value", "low", "high")]


def position(printed: float | None, estimate: Estimate | None, digits: int) -> str | None:
    """Say where a value printed with this many decimals lies: "inside" an interval, "above" or "below" it."""
    if printed is None or estimate is None:
        return None
    low, high = estimate.interval.low, estimate.interval.high
    if math.isnan(low) or math.isnan(high):
        return UNDEFINED
    half = 0.5 * 10.0**-digits
    if printed - half > high:
        return "above"
    return "below" if printed + half < low else "inside"


def _choose(
    scores: Sequence[VariantScores],
    inferences: Sequence[VariantInference],
    candidates: Sequence[str],
    wanted: str,
    where: str,
    what: str,
) -> Counterpart:
    variant = wanted if wanted in candidates else candidates[0]
    why = "" if variant == wanted else f"; the study has no {what}"
    for one, inference in zip(scores, inferences, strict=True):
        if one.variant == variant:
            return Counterpart(f"{where}: {variant}{why}.", one, inference)
    return Counterpart(f"{where}: {variant}, which has no predictions yet{why}.")
