"""Whether probabilities mean what they say, before and after temperature scaling."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxrdist.report.reliability_figure import reliability_picture
from cxrdist.report.results import Results
from cxrdist.report.scores import VariantScores
from cxrdist.report.section import Section
from cxrdist.report.style import Picture
from cxrdist.report.table import Cell, Column, Table
from cxrdist.report.tables import SCORE_DIGITS, caption
from cxrdist.stats.averages import Floats
from cxrdist.stats.calibration import (
    ReliabilityBins,
    apply_temperature,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    maximum_calibration_error,
    reliability,
)
from cxrdist.study.outoffold import FoldPredictions, OutOfFold

BINS = 10
"""Bins of equal width that images are put into by the probability of the predicted class."""
TEMPERATURES = (0.05, 20.0)
"""The range in which a temperature is sought."""
PREDICTED, SCALED = "as predicted", "after temperature scaling"


@dataclass(frozen=True)
class ScaledPredictions:
    """Test predictions of a variant, each fold's scaled by a temperature of its own."""

    probabilities: Floats
    """[n, C], in the order of the predictions."""
    temperatures: Floats
    """[folds]."""


@dataclass(frozen=True)
class Calibration:
    """How well one variant's probabilities are calibrated."""

    variant: str
    state: str
    """`PREDICTED` or `SCALED`."""
    bins: ReliabilityBins
    brier: float
    log_loss: float
    temperatures: Floats
    """[folds]; empty where nothing is scaled."""


def calibration_section(results: Results, scores: Sequence[VariantScores]) -> Section:
    """Return the table of calibration and the reliability diagrams; empty where nothing is predicted."""
    if not scores:
        return Section("calibration-section", "Calibration")
    calibrations = all_calibrations(results, scores)
    diagrams: dict[str, list[ReliabilityBins]] = {}
    for one in calibrations:
        diagrams.setdefault(one.variant, []).append(one.bins)
    content: list[Table | Picture] = [
        calibration_table(results, scores, calibrations),
        reliability_picture(results, diagrams),
    ]
    return Section("calibration-section", "Calibration", content)


def temperature_scaled(results: Results, predictions: OutOfFold) -> ScaledPredictions | None:
    """Scale each fold's test predictions by the temperature fitted on its validation predictions (Guo et al. 2017).

    Returns:
        None where a fold with test predictions has no validation predictions.
    """
    validation = _validation(results, predictions.variant)
    if _folds_without(validation, predictions):
        return None
    lowest, highest = TEMPERATURES
    probabilities = np.empty_like(predictions.probabilities)
    temperatures = []
    for fold in np.unique(predictions.fold).tolist():
        part, tested = validation[fold], predictions.fold == fold
        temperatures.append(fit_temperature(part.truth, part.probabilities, lowest=lowest, highest=highest))
        probabilities[tested] = apply_temperature(predictions.probabilities[tested], temperatures[-1])
    return ScaledPredictions(probabilities, np.array(temperatures))


def _validation(results: Results, variant: str) -> dict[int, FoldPredictions]:
    """Return a variant's predictions on validation images by fold, where there are any."""
    return {part.fold: part for part in results.validation if part.variant == variant and len(part.truth)}


def _folds_without(validation: dict[int, FoldPredictions], predictions: OutOfFold) -> list[int]:
    return [fold for fold in np.unique(predictions.fold).tolist() if fold not in validation]


def all_calibrations(results: Results, scores: Sequence[VariantScores]) -> list[Calibration]:
    """Return for each variant its calibration as predicted and, where it can be, after temperature scaling."""
    calibrations = []
    for one in scores:
        predictions = one.predictions
        calibrations.append(_calibration(predictions, PREDICTED, predictions.probabilities, np.empty(0)))
        scaled = temperature_scaled(results, predictions)
        if scaled is not None:
            calibrations.append(_calibration(predictions, SCALED, scaled.probabilities, scaled.temperatures))
    return calibrations


def calibration_table(results: Results, scores: Sequence[VariantScores], calibrations: Sequence[Calibration]) -> Table:
    """One row a variant and state, of the scores' variants."""
    rows: list[tuple[Cell, ...]] = [
        (
            one.variant,
            one.state,
            expected_calibration_error(one.bins),
            maximum_calibration_error(one.bins),
            one.brier,
            one.log_loss,
            *_mean_and_range(one.temperatures),
        )
        for one in calibrations
    ]
    return Table(
        name="calibration",
        title="Calibration",
        caption=caption(
            results,
            "Errors of the probabilities on the test images of all folds together; 0 is best, and a temperature of 1 "
            "changes nothing.",
        ),
        columns=(
            Column("Variant"),
            Column("Probabilities"),
            Column("ECE", digits=SCORE_DIGITS),
            Column("MCE", digits=SCORE_DIGITS),
            Column("Brier score", digits=SCORE_DIGITS),
            Column("Log loss", digits=SCORE_DIGITS),
            *(Column(title, "Temperature", SCORE_DIGITS) for title in ("mean", "min", "max")),
        ),
        rows=tuple(rows),
        keys=2,
        notes=(
            "ECE and MCE, expected and maximum calibration error: the mean over images and the largest of the bins' "
            f"|accuracy − mean probability of the predicted class|, in {BINS} bins of equal width. Brier score: "
            "squared errors added up over all classes.",
            *_scaling_notes(results, scores, calibrations),
        ),
    )


def _calibration(predictions: OutOfFold, state: str, probabilities: Floats, temperatures: Floats) -> Calibration:
    return Calibration(
        variant=predictions.variant,
        state=state,
        bins=reliability(predictions.truth, probabilities, BINS),
        brier=brier_score(predictions.truth, probabilities),
        log_loss=log_loss(predictions.truth, probabilities),
        temperatures=temperatures,
    )


def _mean_and_range(temperatures: Floats) -> tuple[Cell, Cell, Cell]:
    if not temperatures.size:
        return None, None, None
    return float(temperatures.mean()), float(temperatures.min()), float(temperatures.max())


def _scaling_notes(results: Results, scores: Sequence[VariantScores], calibrations: Sequence[Calibration]) -> list[str]:
    temperatures = np.concatenate([one.temperatures for one in calibrations])
    notes = []
    if temperatures.size:
        notes.append(
            "Temperature: one a fold, fitted on its validation images alone and applied to its test images; "
            "above 1, the network was too sure of itself."
        )
    if np.isin(temperatures, TEMPERATURES).any():
        notes.append(
            "Temperatures are sought in [{:g}, {:g}]; one at an end of it, as where every validation image is "
            "classified correctly, was not found.".format(*TEMPERATURES)
        )
    for one in scores:
        lacking = _folds_without(_validation(results, one.variant), one.predictions)
        if lacking:
            folds = ", ".join(str(fold) for fold in lacking)
            notes.append(
                f"{one.variant} is not scaled: fold{'s' if len(lacking) > 1 else ''} {folds} kept no predictions on "
                "validation images."
            )
    return notes
