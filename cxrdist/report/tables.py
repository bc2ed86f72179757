"""The tables of a report."""

import re
from collections.abc import Sequence

from cxrdist.report.results import ClassCount, CohortSummary, Results
from cxrdist.report.scores import VariantScores
from cxrdist.report.table import Cell, Column, Table
from cxrdist.stats.averages import mean_and_sd
from cxrdist.stats.confusion import Averages

SCORE_DIGITS = 3


def file_name(text: str) -> str:
    """Return text with everything that does not belong in a file name replaced."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)


def caption(results: Results, text: str) -> str:
    """Return a caption that also says what an incomplete study lacks."""
    return f"{text} {results.incompleteness}".strip()


def _folds_of(results: Results, scores: VariantScores) -> str:
    return f"{len(scores.folds.folds)} of {results.n_folds}"


def _score(title: str, group: str = "") -> Column:
    return Column(title, group, SCORE_DIGITS)


def summary_table(results: Results, scores: Sequence[VariantScores]) -> Table:
    """One row a variant: every score, with the way it is averaged."""
    columns = (
        Column("Variant"),
        Column("Images"),
        Column("Folds"),
        _score("value", "Accuracy"),
        _score("low", "Accuracy"),
        _score("high", "Accuracy"),
        _score("macro", "AUC pooled"),
        _score("weighted", "AUC pooled"),
        _score("macro", "AUC mean of folds"),
        _score("weighted", "AUC mean of folds"),
        _score("macro", "Sensitivity"),
        _score("weighted", "Sensitivity"),
        _score("macro", "Specificity"),
        _score("weighted", "Specificity"),
        _score("micro", "Specificity"),
        _score("macro", "Precision"),
        _score("weighted", "Precision"),
        _score("macro", "F1"),
        _score("weighted", "F1"),
        _score("kappa", "Agreement"),
        _score("MCC", "Agreement"),
    )
    rows: list[tuple[Cell, ...]] = []
    for one in scores:
        total, area = one.summary, one.auc_averages
        rows.append(
            (
                one.variant,
                total.n,
                _folds_of(results, one),
                total.accuracy,
                *one.accuracy_interval,
                area.pooled_macro,
                area.pooled_weighted,
                area.folds_macro,
                area.folds_weighted,
                total.sensitivity.macro,
                total.sensitivity.weighted,
                total.specificity.macro,
                total.specificity.weighted,
                total.specificity.micro,
                total.precision.macro,
                total.precision.weighted,
                total.f1.macro,
                total.f1.weighted,
                total.kappa,
                total.mcc,
            )
        )
    return Table(
        name="summary",
        title="Summary of all variants",
        caption=caption(results, "From the test predictions of all folds together, except the AUC's mean of folds."),
        columns=columns,
        rows=tuple(rows),
        notes=(
            _wilson_note(results),
            "Weighted sensitivity, and micro-averaged sensitivity, precision and F1, equal the accuracy.",
            *_undefined_notes(results, scores),
        ),
    )


def confusion_table(results: Results, scores: VariantScores) -> Table:
    """Images by true class (rows) and predicted class (columns)."""
    confusion, classes = scores.confusion, results.classes
    counts = [[int(count) for count in row] for row in confusion]
    rows: list[tuple[Cell, ...]] = [(label, *row, sum(row)) for label, row in zip(classes, counts, strict=True)]
    rows.append(("all", *(int(count) for count in confusion.sum(axis=0)), int(confusion.sum())))
    shares: list[tuple[float | None, ...]] = [
        (None, *(count / max(sum(row), 1) for count in row), None) for row in counts
    ]
    return Table(
        name=f"confusion_{file_name(scores.variant)}",
        title=f"Confusion matrix of {scores.variant}",
        caption=caption(
            results, f"Images by true class (rows) and predicted class (columns); {_folds_of(results, scores)} folds."
        ),
        columns=(Column("True class"), *(Column(label, "Predicted class") for label in classes), Column("n")),
        rows=tuple(rows),
        totals=frozenset({len(classes)}),
        shares=(*shares, (None,) * (len(classes) + 2)),
    )


def by_class_table(results: Results, scores: VariantScores) -> Table:
    """Each class against the rest, then the averages over classes."""
    by_class, area, total, means = scores.by_class, scores.auc, scores.summary, scores.auc_averages
    support = [int(count) for count in by_class.support]
    rows: list[tuple[Cell, ...]] = [
        (label, *(float(value) for value in values), images)
        for label, *values, images in zip(
            results.classes,
            by_class.precision,
            by_class.sensitivity,
            by_class.f1,
            by_class.specificity,
            area.pooled,
            area.mean_of_folds,
            support,
            strict=True,
        )
    ]
    averaged: tuple[Averages, ...] = (total.precision, total.sensitivity, total.f1, total.specificity)
    n = sum(support)
    rows += [
        ("macro", *(score.macro for score in averaged), means.pooled_macro, means.folds_macro, n),
        ("weighted", *(score.weighted for score in averaged), means.pooled_weighted, means.folds_weighted, n),
        ("micro", *(score.micro for score in averaged), None, None, n),
    ]
    return Table(
        name=f"by_class_{file_name(scores.variant)}",
        title=f"Scores by class of {scores.variant}",
        caption=caption(
            results,
            "Each class against the rest, and averages over classes; recall = sensitivity; "
            f"{_folds_of(results, scores)} folds.",
        ),
        columns=(
            Column("Class"),
            _score("Precision"),
            _score("Recall"),
            _score("F1"),
            _score("Specificity"),
            _score("pooled", "AUC"),
            _score("mean of folds", "AUC"),
            Column("Support"),
        ),
        rows=tuple(rows),
        totals=frozenset(range(len(results.classes), len(rows))),
        notes=tuple(_undefined_notes(results, [scores])),
    )


def folds_table(results: Results, scores: Sequence[VariantScores]) -> Table:
    """Accuracy and error of each fold, then their mean and standard deviation."""
    rows: list[tuple[Cell, ...]] = []
    totals: set[int] = set()
    for one in scores:
        accuracy, error = one.folds.accuracy * 100, one.folds.error
        area = one.auc.by_fold.mean(axis=1)
        rows += [
            (one.variant, str(fold), int(n), float(percent), float(rate), float(macro))
            for fold, n, percent, rate, macro in zip(one.folds.folds, one.folds.n, accuracy, error, area, strict=True)
        ]
        totals |= {len(rows), len(rows) + 1}
        (mean_accuracy, sd_accuracy), (mean_error, sd_error) = mean_and_sd(accuracy), mean_and_sd(error)
        mean_area, sd_area = mean_and_sd(area)
        rows += [
            (one.variant, "mean", None, mean_accuracy, mean_error, mean_area),
            (one.variant, "SD", None, sd_accuracy, sd_error, sd_area),
        ]
    single = [one.variant for one in scores if len(one.folds.folds) < 2]
    return Table(
        name="folds",
        title="Accuracy by fold",
        caption=caption(
            results,
            "Each fold's test images, then the mean over folds, each counting once, and the sample standard deviation.",
        ),
        columns=(
            Column("Variant"),
            Column("Fold"),
            Column("Images"),
            Column("Accuracy %", digits=2),
            Column("Error rate", digits=5),
            _score("AUC macro"),
        ),
        rows=tuple(rows),
        keys=2,
        totals=frozenset(totals),
        notes=(
            *(f"The SD of {variant} is undefined (n/a): it has one fold." for variant in single),
            *_undefined_auc_notes(results, scores),
        ),
    )


def cohort_table(results: Results) -> Table:
    """Images, groups and sources of each class; no groups where each image is its own."""
    cohort = results.cohort
    grouped = cohort.group_name != "images"
    sources = sorted({source for one in cohort.classes for source in one.sources})
    all_sources = {source: sum(one.sources.get(source, 0) for one in cohort.classes) for source in sources}
    everything = ClassCount("all", cohort.images, cohort.groups, all_sources, cohort.source_groups)
    of_groups = sources if grouped and cohort.source_groups else []
    rows: list[tuple[Cell, ...]] = [
        (
            one.label,
            one.images,
            *([one.groups] if grouped else []),
            *(one.sources.get(source, 0) for source in sources),
            *(one.source_groups.get(source, 0) for source in of_groups),
        )
        for one in [*cohort.classes, everything]
    ]
    return Table(
        name="cohort",
        title="Cohort",
        caption=f"Images{f' and {cohort.group_name}' if grouped else ''} of each class, and images by source.",
        columns=(
            Column("Class"),
            Column("Images"),
            *([Column(cohort.group_name.capitalize())] if grouped else []),
            *(Column(source, "Images by source") for source in sources),
            *(Column(source, f"{cohort.group_name.capitalize()} by source") for source in of_groups),
        ),
        rows=tuple(rows),
        totals=frozenset({len(cohort.classes)}),
        notes=(
            *(f"Left out: {count} images: {reason}." for reason, count in cohort.excluded.items()),
            *([_merged_note(cohort)] if cohort.merged else []),
        ),
    )


def _merged_note(cohort: CohortSummary) -> str:
    return (
        f"{cohort.merged} patients (or images without one) were joined to others: the manifest's groups say that they "
        "share an image or are the same."
    )


def fold_counts_table(results: Results) -> Table:
    """Images of each class in the parts of each fold."""
    rows: list[tuple[Cell, ...]] = [
        (str(one.fold), part, *counts, sum(counts))
        for one in results.folds
        for part, counts in (("training", one.training), ("validation", one.validation), ("test", one.test))
    ]
    return Table(
        name="fold_counts",
        title="Folds",
        caption="Images of each class in the parts of each fold; every variant has the same folds.",
        columns=(
            Column("Fold"),
            Column("Part"),
            *(Column(label, "Images by class") for label in results.classes),
            Column("n"),
        ),
        rows=tuple(rows),
        keys=2,
    )


def _wilson_note(results: Results) -> str:
    images, patients = results.cohort.images, results.patients
    note = "Low and high are the Wilson interval (95 %) of the accuracy, which takes images as independent"
    if patients < images:
        return f"{note}: {images} images are of {patients} patients, so it is too narrow (see the next table)."
    return f"{note}."


def _undefined_notes(results: Results, scores: Sequence[VariantScores]) -> list[str]:
    ratios = [f"{one.variant}: {note}" for one in scores for note in one.by_class.undefined(results.classes)]
    return ratios + _undefined_auc_notes(results, scores)


def _undefined_auc_notes(results: Results, scores: Sequence[VariantScores]) -> list[str]:
    return [f"{one.variant}: {note}" for one in scores for note in one.auc.undefined(results.classes)]
