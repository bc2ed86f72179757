"""The tables of intervals and of tests between variants."""

from collections.abc import Sequence

from cxrdist.report.inference import ALPHA, BY_CLASS, OVERALL, RESAMPLES, Comparisons, Estimate, VariantInference
from cxrdist.report.results import Results
from cxrdist.report.table import Cell, Column, Table
from cxrdist.report.tables import SCORE_DIGITS, caption, file_name
from cxrdist.stats.delong import PairedAuc
from cxrdist.stats.replicates import PairedDifference

LABELS = {
    "accuracy": "Accuracy",
    "macro_auc": "AUC pooled, macro",
    "macro_sensitivity": "Sensitivity, macro",
    "macro_specificity": "Specificity, macro",
    "macro_precision": "Precision, macro",
    "macro_f1": "F1, macro",
    "kappa": "Kappa",
    "mcc": "MCC",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "precision": "Precision",
    "sensitivity": "Recall",
    "f1": "F1",
    "specificity": "Specificity",
    "auc": "AUC pooled",
}

P_DIGITS = 4

AS_TRAINED = "Intervals take the networks as trained: what another seed of training would change is not in them."


def interval_table(results: Results, inferences: Sequence[VariantInference]) -> Table:
    """One row a variant and score over all classes, with its interval."""
    rows: list[tuple[Cell, ...]] = [
        (one.variant, LABELS[name], *_values(one.overall[name]), one.overall[name].method)
        for one in inferences
        for name in OVERALL
    ]
    return Table(
        name="intervals",
        title="Scores with 95 % intervals",
        caption=caption(results, "From the test predictions of all folds together."),
        columns=(Column("Variant"), Column("Score"), *_interval_columns(), Column("Interval by")),
        rows=tuple(rows),
        keys=2,
        notes=(_method_note(results), AS_TRAINED),
    )


def by_class_interval_table(results: Results, inference: VariantInference) -> Table:
    """Each class against the rest: every score with its interval."""
    rows: list[tuple[Cell, ...]] = []
    for index, label in enumerate(results.classes):
        folds = inference.fold_auc[index]
        own = [value for name in BY_CLASS for value in _values(inference.by_class[name][index])]
        rows.append((label, *own, folds.value, folds.low, folds.high))
    methods = ", ".join(f"{LABELS[name]} {inference.by_class[name][0].method}" for name in BY_CLASS)
    return Table(
        name=f"by_class_intervals_{file_name(inference.variant)}",
        title=f"Scores by class of {inference.variant} with 95 % intervals",
        caption=caption(results, "Each class against the rest; recall = sensitivity."),
        columns=(
            Column("Class"),
            *(column for name in BY_CLASS for column in _interval_columns(LABELS[name])),
            *_interval_columns("AUC mean of folds"),
        ),
        rows=tuple(rows),
        notes=(
            f"Intervals: {methods}.",
            "AUC mean of folds: LeDell's influence curve, which takes images as independent; n/a where a fold's test "
            "part lacks the class or holds nothing else.",
        ),
    )


def comparison_table(results: Results, comparisons: Comparisons) -> Table:
    """One row a pair of variants: differences and tests."""
    rows: list[tuple[Cell, ...]] = []
    for number, pair in enumerate(comparisons.pairs):
        p = float(comparisons.macro_auc_p[number])
        rows.append(
            (
                pair.first,
                pair.second,
                *_difference(pair.macro_auc),
                p,
                verdict(p),
                *_difference(pair.accuracy),
                float(comparisons.accuracy_p[number]),
                pair.mcnemar.first_only,
                pair.mcnemar.second_only,
                pair.mcnemar.p,
                float(comparisons.mcnemar_p[number]),
                pair.accuracy_by_fold.t,
                pair.accuracy_by_fold.p,
                float(comparisons.accuracy_by_fold_p[number]),
            )
        )
    return Table(
        name="pairs",
        title="Variants compared in pairs",
        caption=caption(results, "First minus second, on the same test images."),
        columns=(
            Column("First"),
            Column("Second"),
            *_difference_columns("AUC pooled, macro"),
            Column("verdict", "AUC pooled, macro"),
            *_difference_columns("Accuracy"),
            Column("first right", "McNemar"),
            Column("second right", "McNemar"),
            _p("p", "McNemar"),
            _p("p Holm", "McNemar"),
            Column("t", "Corrected t over folds", 2),
            _p("p", "Corrected t over folds"),
            _p("p Holm", "Corrected t over folds"),
        ),
        rows=tuple(rows),
        keys=2,
        notes=(
            f"The verdict is of the macro AUC's difference, two-sided, at {ALPHA}; p Holm is corrected for the number "
            f"of pairs, {len(comparisons.pairs)}.",
            f"Differences: bootstrap of patients, {RESAMPLES:,} resamples, the same for both.",
            "Differences and McNemar's test take the networks as trained: what another seed of training would change "
            "is not in them.",
            "McNemar, of the images that one of the two alone classifies correctly (exact below 25 of them), takes "
            f"images as independent{_dependence(results)}.",
            "Corrected t of the accuracy (Nadeau and Bengio): folds share training images, which the correction allows "
            "for. What differs from fold to fold, training included, is in it; with few folds it has little power.",
        ),
    )


def class_comparison_table(results: Results, comparisons: Comparisons) -> Table:
    """One row a pair and class: the difference of the AUC of the class against the rest."""
    rows: list[tuple[Cell, ...]] = []
    for number, pair in enumerate(comparisons.pairs):
        for index, label in enumerate(results.classes):
            test = pair.auc_by_class[index]
            p = float(comparisons.auc_by_class_p[number, index])
            rows.append((f"{pair.first} − {pair.second}", label, *_difference(test), p, verdict(p)))
    test = comparisons.pairs[0].auc_by_class[0]
    how = "paired DeLong" if isinstance(test, PairedAuc) else "bootstrap of patients"
    return Table(
        name="pairs_by_class",
        title="Variants compared by class",
        caption=caption(results, "Difference of the pooled AUC of each class against the rest."),
        columns=(Column("Pair"), Column("Class"), *_difference_columns("AUC pooled"), Column("verdict", "AUC pooled")),
        rows=tuple(rows),
        keys=2,
        notes=(f"By {how}; p Holm is corrected for all {len(rows)} tests of this table, at {ALPHA}.",),
    )


def verdict(p: float) -> str:
    """Say in a word whether a test finds a difference."""
    if p != p:
        return "undefined"
    return "different" if p < ALPHA else "not significant"


def _values(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.interval.value, estimate.interval.low, estimate.interval.high


def _difference(test: PairedAuc | PairedDifference) -> tuple[float, float, float, float]:
    return test.difference.value, test.difference.low, test.difference.high, test.p


def _interval_columns(group: str = "") -> tuple[Column, Column, Column]:
    return tuple(Column(title, group, SCORE_DIGITS) for title in ("value", "low", "high"))  # type: ignore[return-value]


def _difference_columns(group: str) -> tuple[Column, ...]:
    values = (Column(title, group, SCORE_DIGITS) for title in ("difference", "low", "high"))
    return (*values, _p("p", group), _p("p Holm", group))


def _p(title: str, group: str) -> Column:
    return Column(title, group, P_DIGITS, is_p=True)


def _dependence(results: Results) -> str:
    if results.patients == results.cohort.images:
        return ""
    return f": {results.cohort.images} images are of {results.patients} patients, so its p is too small"


def _method_note(results: Results) -> str:
    bootstrap = (
        f"Bootstrap: percentiles of {RESAMPLES:,} resamples of patients, drawn within classes, the same for all "
        "variants of the same images"
    )
    if results.patients == results.cohort.images:
        return f"{bootstrap}. Wilson: of a proportion of independent images."
    return f"{bootstrap}, so that several images of one patient count as dependent."
