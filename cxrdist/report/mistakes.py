"""Errors of the variants: how many by source, and the most confident ones."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from cxrdist.report.choice import confident_errors
from cxrdist.report.results import Results
from cxrdist.report.scores import VariantScores
from cxrdist.report.section import Section
from cxrdist.report.table import Cell, Column, Table
from cxrdist.report.tables import SCORE_DIGITS, caption
from cxrdist.stats.confusion import wilson

MOST = 10
"""Errors listed of each variant."""
UNKNOWN = "unknown"
"""The source of an image that has none."""


def mistakes_section(results: Results, scores: Sequence[VariantScores]) -> Section:
    """Return the tables of errors; empty where nothing is predicted."""
    tables: list[Table] = []
    if scores:
        tables.append(errors_by_source_table(results, scores))
        if any(confident_errors(results, one.variant, 1) for one in scores):
            tables.append(confident_errors_table(results, scores))
    return Section("mistakes-section", "Errors", tables)


def errors_by_source_table(results: Results, scores: Sequence[VariantScores]) -> Table:
    """One row a variant and source: how many of its images are classified wrongly."""
    rows: list[tuple[Cell, ...]] = []
    for one in scores:
        predictions = one.predictions
        sources = np.array([results.sources.get(image_id, "") for image_id in predictions.image_ids])
        wrong = predictions.predicted != predictions.truth
        for source in sorted(set(sources.tolist()), key=lambda name: (name == "", name)):
            own = wrong[sources == source]
            images, errors = len(own), int(own.sum())
            rows.append((one.variant, source or UNKNOWN, images, errors, errors / images, *wilson(errors, images)))
    return Table(
        name="errors_by_source",
        title="Errors by source",
        caption=caption(results, "Test images of each source and how many of them a variant classifies wrongly."),
        columns=(
            Column("Variant"),
            Column("Source"),
            Column("Images"),
            Column("Errors"),
            *(Column(title, "Error rate", SCORE_DIGITS) for title in ("value", "low", "high")),
        ),
        rows=tuple(rows),
        keys=2,
        notes=(
            "Low and high are the Wilson interval (95 %) of the error rate, which takes images as independent.",
            "Sources may hold different shares of the classes, so rates do not compare sources alone.",
        ),
    )


def confident_errors_table(results: Results, scores: Sequence[VariantScores]) -> Table:
    """One row a variant and image: the errors with the highest probability of the wrong class."""
    wrong_on: Counter[str] = Counter()
    predicted_by: Counter[str] = Counter()
    for one in scores:
        wrong = np.flatnonzero(one.predictions.predicted != one.predictions.truth).tolist()
        wrong_on.update(one.predictions.image_ids[row] for row in wrong)
        predicted_by.update(one.predictions.image_ids)
    rows: list[tuple[Cell, ...]] = []
    flawless = []
    for one in scores:
        predictions = one.predictions
        row_of = {image_id: row for row, image_id in enumerate(predictions.image_ids)}
        errors = confident_errors(results, one.variant, MOST)
        if not errors:
            flawless.append(one.variant)
        for image_id in errors:
            row = row_of[image_id]
            guess = int(predictions.predicted[row])
            rows.append(
                (
                    one.variant,
                    image_id,
                    results.classes[predictions.truth[row]],
                    results.classes[guess],
                    float(predictions.probabilities[row, guess]),
                    results.sources.get(image_id) or UNKNOWN,
                    str(predictions.fold[row]),
                    f"{wrong_on[image_id]} of {predicted_by[image_id]}",
                )
            )
    return Table(
        name="confident_errors",
        title="Most confident errors",
        caption=caption(
            results, f"Of each variant at most {MOST} wrong test images, the most probable wrong classes first."
        ),
        columns=(
            Column("Variant"),
            Column("Image"),
            Column("True class"),
            Column("Predicted class"),
            Column("Probability", digits=SCORE_DIGITS),
            Column("Source"),
            Column("Fold"),
            Column("Variants wrong"),
        ),
        rows=tuple(rows),
        keys=2,
        notes=(
            "Probability: of the predicted class. Variants wrong: of those that predict the image.",
            *(f"{variant} is wrong on no image." for variant in flawless),
        ),
    )
