"""The tables that set a run beside paper 2, ResNet-34 with three classes."""

import math

from cxrdist.report.counterpart import POSITION_NOTE, Counterpart, interval_cells, interval_columns, position
from cxrdist.report.inference_tables import LABELS, P_DIGITS
from cxrdist.report.papers import ThreeClassPaper
from cxrdist.report.results import Results
from cxrdist.report.scores import VariantScores
from cxrdist.report.table import Cell, Column, Table
from cxrdist.report.tables import caption
from cxrdist.stats.averages import mean_and_sd
from cxrdist.stats.contingency import margin_reached, pair_table, sample_size, two_by_two

_RECOMPUTED = 4


def paper_folds_table(results: Results, paper: ThreeClassPaper, own: Counterpart) -> Table:
    """Accuracy and error by fold, their mean and standard deviation: printed, and this run's."""
    theirs: list[tuple[Cell, ...]] = [
        (accuracy, None, error, None) for accuracy, error in zip(paper.fold_accuracy, paper.fold_error, strict=True)
    ]
    (mean, sd), (mean_error, sd_error) = mean_and_sd(paper.fold_accuracy), mean_and_sd(paper.fold_error)
    theirs_in_all: list[tuple[Cell, ...]] = [
        (paper.mean_accuracy, mean, paper.mean_error, mean_error),
        (None, sd, None, sd_error),
    ]
    ours: list[tuple[Cell, ...]] = []
    ours_in_all: list[tuple[Cell, ...]] = [(None,) * 4] * 2
    if own.scores is not None:
        folds = own.scores.folds
        percent = 100 * folds.accuracy
        ours = [
            (str(fold), int(n), float(accuracy), float(error))
            for fold, n, accuracy, error in zip(folds.folds, folds.n, percent, folds.error, strict=True)
        ]
        ours_in_all = [(None, None, *pair) for pair in zip(mean_and_sd(percent), mean_and_sd(folds.error), strict=True)]
    count = max(len(theirs), len(ours))
    for one in (theirs, ours):
        one += [(None,) * 4] * (count - len(one))
    keys = [*(str(number) for number in range(1, count + 1)), "mean", "SD"]
    return Table(
        name="paper_folds",
        title=f"Accuracy by fold beside {paper.name}",
        caption=caption(
            results,
            "The paper's table 2, the mean and the sample standard deviation of its five printed values, and this "
            "run's folds.",
        ),
        columns=(
            Column("Row"),
            Column("accuracy % printed", "Paper", 2),
            Column("accuracy % recomputed", "Paper", _RECOMPUTED),
            Column("error rate printed", "Paper", 5),
            Column("error rate recomputed", "Paper", 6),
            Column("fold", "This run"),
            Column("images", "This run"),
            Column("accuracy %", "This run", 2),
            Column("error rate", "This run", 5),
        ),
        rows=tuple(
            (key, *printed, *run)
            for key, printed, run in zip(keys, [*theirs, *theirs_in_all], [*ours, *ours_in_all], strict=True)
        ),
        totals=frozenset({count, count + 1}),
        notes=(
            own.note,
            "The folds of one row hold different images. The paper does not print their numbers of images.",
            *(
                ["The SD of this run is undefined (n/a): it has one fold."]
                if own.scores is not None and len(own.scores.folds.folds) == 1
                else []
            ),
        ),
    )


def three_class_summary_table(results: Results, paper: ThreeClassPaper, own: Counterpart) -> Table:
    """Sensitivity and AUC by class and the accuracy: printed, recomputed where that can be, and this run's."""
    correct, images = paper.correct, paper.protocol.images
    lines = [
        *(
            ("Sensitivity", label, paper.sensitivity[label], correct[label] / images[label], ("sensitivity", index))
            for index, label in enumerate(results.classes)
        ),
        ("Accuracy", "all", paper.accuracy, sum(correct.values()) / sum(images.values()), ("accuracy", None)),
        *(
            (LABELS["auc"], label, paper.auc[label], None, ("auc", index))
            for index, label in enumerate(results.classes)
        ),
    ]
    rows: list[tuple[Cell, ...]] = []
    for score, label, printed, recomputed, (name, index) in lines:
        estimate = own.estimate(name, index)
        digits = len(printed.partition(".")[2])
        rows.append(
            (
                score,
                label,
                printed,
                recomputed,
                *interval_cells(estimate),
                estimate.method if estimate else None,
                position(float(printed), estimate, digits),
            )
        )
    return Table(
        name="paper_summary",
        title=f"Scores beside {paper.name}",
        caption=caption(
            results,
            "As printed, as recomputed from the only numbers of images that give the printed sensitivities "
            f"({sum(correct.values())} of {sum(images.values())} correct), and this run's with 95 % intervals.",
        ),
        columns=(
            Column("Score"),
            Column("Class"),
            Column("printed", "Paper"),
            Column("recomputed", "Paper", _RECOMPUTED),
            *interval_columns("This run"),
            Column("interval by", "This run"),
            Column("printed is", "This run"),
        ),
        rows=tuple(rows),
        keys=2,
        totals=frozenset({len(results.classes)}),
        notes=(*own.notes(results), POSITION_NOTE, "The paper prints sensitivities and accuracy in percent."),
    )


def chi_square_table(results: Results, paper: ThreeClassPaper, scores: VariantScores) -> Table:
    """Actual against predicted of the pairs of classes in the paper's figure 3, from this run's confusion matrix."""
    rows: list[tuple[Cell, ...]] = []
    notes = [
        "First and second are the classes of the pair in the order of its name. Left out: images of the pair that are "
        "predicted as the third class.",
        "Read: Fisher's exact p where an expected count is below 5, else the chi-square's.",
    ]
    for first, second in paper.pairs:
        indices = [results.classes.index(label) for label in (first, second)]
        counts = pair_table(scores.confusion, *indices)
        test = two_by_two(counts)
        name = f"{first} against {second}"
        rows.append(
            (
                name,
                *(int(count) for count in counts.ravel()),
                int(scores.confusion[indices].sum() - counts.sum()),
                test.smallest_expected,
                test.chi_square,
                test.p,
                test.yates_chi_square,
                test.yates_p,
                test.df,
                test.fisher_p,
                "Fisher" if test.use_fisher else "chi-square",
            )
        )
        if math.isnan(test.chi_square):
            notes.append(
                f"{name}: chi-square is undefined (n/a), since a class has no images in the table or is never "
                "predicted in it."
            )
    if results.patients < results.cohort.images:
        notes.append(
            f"All p take images as independent: {results.cohort.images} images are of {results.patients} patients, so "
            "they are too small."
        )
    return Table(
        name="paper_chi_square",
        title=f"Actual against predicted classes of {scores.variant}",
        caption=caption(results, "Pairs of classes as in the paper's figure 3, from this run's confusion matrix."),
        columns=(
            Column("Pair"),
            Column("as first", "First, predicted"),
            Column("as second", "First, predicted"),
            Column("as first", "Second, predicted"),
            Column("as second", "Second, predicted"),
            Column("Left out"),
            Column("Smallest expected", digits=1),
            Column("value", "Chi-square", 2),
            Column("p", "Chi-square", P_DIGITS, is_p=True),
            Column("value, Yates", "Chi-square", 2),
            Column("p, Yates", "Chi-square", P_DIGITS, is_p=True),
            Column("df", "Chi-square"),
            Column("Fisher p", digits=P_DIGITS, is_p=True),
            Column("Read"),
        ),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def sample_size_table(results: Results, paper: ThreeClassPaper, own: Counterpart) -> Table:
    """Images that the paper asks for, and the margin that its and this study's number of images reach."""
    proportion, margin, level = paper.sample_proportion, paper.sample_margin, paper.sample_level
    reached = {"the paper's images": sum(paper.protocol.images.values()), "this study's images": results.cohort.images}
    if own.scores is not None and own.scores.summary.n != results.cohort.images:
        reached[f"test predictions of {own.scores.variant}"] = own.scores.summary.n
    rows: list[tuple[Cell, ...]] = [
        ("asked for, as printed", paper.sample_size, None, level, margin),
        ("asked for, recomputed", sample_size(proportion, margin, level), proportion, level, margin),
        *((title, n, proportion, level, margin_reached(proportion, n, level)) for title, n in reached.items()),
    ]
    return Table(
        name="paper_sample_size",
        title=f"Sample size asked for in {paper.name}",
        caption="Images that estimate a proportion within a margin at a confidence level: n = z² p (1 − p) / d².",
        columns=(
            Column("Images"),
            Column("n"),
            Column("Proportion", digits=3),
            Column("Level", digits=2),
            Column("Margin", digits=4),
        ),
        rows=tuple(rows),
        notes=(
            f"The paper does not print the proportion: {proportion:g} gives its {paper.sample_size}.",
            "The formula takes images as independent.",
        ),
    )
