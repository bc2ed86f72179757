"""The tables of a report, from the papers' own numbers and from small results."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cxrdist.errors import CxrdistError
from cxrdist.report.headline import headline as headline_of
from cxrdist.report.inference_tables import interval_table
from cxrdist.report.render import render_csv, render_latex, render_markdown
from cxrdist.report.scores import all_scores
from cxrdist.report.sections import Findings
from cxrdist.report.tables import cohort_table, fold_counts_table, summary_table
from cxrdist.report.write import headline_tables
from tests.unit.report_examples import (
    CLASSES,
    VARIANTS,
    incomplete_results,
    out_of_fold,
    results_of_confusion,
    small_results,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
RENDERERS = {"csv": render_csv, "md": render_markdown, "tex": render_latex}
PAPER_1 = results_of_confusion(
    [[122, 3, 17, 2], [6, 102, 3, 6], [16, 2, 94, 20], [4, 1, 30, 85]],
    ["normal", "covid19", "viral_pneumonia", "bacterial_pneumonia"],
)


def tables(results):
    return {
        table.name: table
        for table in [*headline_tables(Findings.of(results)), cohort_table(results), fold_counts_table(results)]
    }


@cache
def small_tables():
    return tables(small_results())


def headline(results):
    findings = Findings.of(results)
    return " ".join(headline_of(results, findings.scores, findings.inferences, findings.comparisons))


def column(table, label):
    index = [one.label for one in table.columns].index(label)
    return [row[index] for row in table.rows]


def test_paper_1_table_1_comes_back_with_its_row_totals():
    confusion = tables(PAPER_1)["confusion_whole-vgg16"]
    assert confusion.rows == (
        ("normal", 122, 3, 17, 2, 144),
        ("covid19", 6, 102, 3, 6, 117),
        ("viral_pneumonia", 16, 2, 94, 20, 132),
        ("bacterial_pneumonia", 4, 1, 30, 85, 120),
        ("all", 148, 108, 144, 113, 513),
    )


def test_paper_1_table_2_comes_back_to_the_last_printed_digit():
    by_class = tables(PAPER_1)["by_class_whole-vgg16"]
    printed = {
        "Precision": [0.82, 0.94, 0.65, 0.75],
        "Recall": [0.85, 0.87, 0.71, 0.71],
        "F1": [0.84, 0.91, 0.68, 0.73],
    }
    for label, values in printed.items():
        assert [round(value, 2) for value in column(by_class, label)[:4]] == values
    assert [round(value, 4) for value in column(by_class, "Specificity")[:4]] == [0.9295, 0.9848, 0.8688, 0.9288]
    assert column(by_class, "Support") == [144, 117, 132, 120, 513, 513, 513]
    assert column(by_class, "Class")[4:] == ["macro", "weighted", "micro"]


def test_paper_1_summary_row_says_which_average_it_prints():
    summary = tables(PAPER_1)["summary"]
    values = dict(zip([one.label for one in summary.columns], summary.rows[0], strict=True))
    expected = {
        "Accuracy value": 0.785575,
        "Accuracy low": 0.748005,
        "Accuracy high": 0.818900,
        "Sensitivity macro": 0.784868,
        "Sensitivity weighted": 0.785575,
        "Specificity macro": 0.927977,
        "F1 macro": 0.788264,
        "AUC pooled macro": 0.856422,
        "Agreement kappa": 0.713048,
        "Agreement MCC": 0.713576,
    }
    assert {label: values[label] for label in expected} == pytest.approx(expected, abs=5e-7)


def test_every_average_of_the_summary_is_the_one_that_its_title_names():
    results = small_results(
        out_of_fold={
            variant: out_of_fold(variant, [0, 0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 2, 1, 0, 2], [0, 1] * 4, 3)
            for variant in VARIANTS
        }
    )
    (scores, _), built = all_scores(results), tables(results)
    values = dict(zip([one.label for one in built["summary"].columns], built["summary"].rows[0], strict=True))
    by_class, support = scores.by_class, [5, 2, 1]
    for title, own in (
        ("Sensitivity", by_class.sensitivity),
        ("Specificity", by_class.specificity),
        ("Precision", by_class.precision),
        ("F1", by_class.f1),
        ("AUC pooled", scores.auc.pooled),
    ):
        macro, weighted = np.mean(own), np.average(own, weights=support)
        assert abs(macro - weighted) > 1e-3
        assert (values[f"{title} macro"], values[f"{title} weighted"]) == pytest.approx((macro, weighted))
    assert values["Specificity micro"] == pytest.approx((16 - 3) / 16)
    rows = {row[0]: row for row in built["by_class_whole-resnet34"].rows}
    assert rows["weighted"][4] == values["Specificity weighted"]
    assert rows["macro"][4] == values["Specificity macro"]
    assert rows["micro"][4] == values["Specificity micro"]


def test_paper_2_table_2_comes_back_from_folds_of_581_images():
    wrong = [5, 4, 3, 8, 6]
    predicted = np.concatenate([np.arange(581) < count for count in wrong]).astype(int)
    truth = np.zeros_like(predicted)
    truth[::2] = 1
    predicted ^= truth
    variant = "whole-resnet34"
    predictions = out_of_fold(variant, truth, predicted, np.repeat(np.arange(5), 581), 2)
    base = results_of_confusion(np.diag([1452, 1453]), ["a", "b"])
    results = type(base)(
        **{**base.__dict__, "variants": (variant,), "n_folds": 5, "out_of_fold": {variant: predictions}}
    )
    folds = tables(results)["folds"]
    shown = [row[3] for row in folds.shown()]
    assert shown[:5] == ["99.14", "99.31", "99.48", "98.62", "98.97"]
    assert column(folds, "Accuracy %")[5:] == pytest.approx([99.104, 0.33065], abs=2e-3)
    assert column(folds, "Error rate")[5] == pytest.approx(8.952e-3, abs=5e-6)
    assert [row[4] for row in folds.shown()][:1] == ["0.00861"]


def test_there_is_a_table_of_each_kind_in_reading_order():
    assert list(tables(small_results())) == [
        "summary",
        "confusion_whole-resnet34",
        "by_class_whole-resnet34",
        "confusion_segmented-vgg16",
        "by_class_segmented-vgg16",
        "folds",
        "pairs",
        "cohort",
        "fold_counts",
    ]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("report/*")), ids=lambda path: path.name)
def test_rendered_tables_are_byte_for_byte_the_golden_ones(path):
    table = small_tables()[path.stem]
    assert RENDERERS[path.suffix[1:]](table).encode() == path.read_bytes()


def test_golden_files_hold_all_renderings_of_six_tables():
    assert len(list(GOLDEN.glob("report/*"))) == 18


def test_an_undefined_score_is_shown_as_such_with_its_reason():
    by_class = tables(small_results())["by_class_segmented-vgg16"]
    assert math.isnan(column(by_class, "Precision")[2])
    assert column(by_class, "Recall")[2] == 0
    assert by_class.shown()[2][1] == "n/a"
    assert "segmented-vgg16: Precision of 100% <other> is undefined (n/a): it is never predicted." in by_class.notes


def test_a_single_fold_has_no_sd_and_the_note_says_so():
    folds = tables(PAPER_1)["folds"]
    assert folds.shown()[-1][3:] == ["n/a", "n/a", "n/a"]
    assert "The SD of whole-vgg16 is undefined (n/a): it has one fold." in folds.notes


def test_the_wilson_interval_says_what_it_assumes_where_patients_have_several_images():
    dependent = tables(small_results())["summary"].notes[0]
    assert "12 images are of 9 patients, so it is too narrow" in dependent
    assert "too narrow" not in tables(PAPER_1)["summary"].notes[0]


def test_every_caption_of_scores_of_an_incomplete_study_says_so():
    results = incomplete_results()
    built = tables(results)
    assert "segmented-vgg16" not in " ".join(built)
    for name, table in built.items():
        incomplete = table.caption.endswith("Incomplete study: 3 of 4 fold jobs have no predictions.")
        assert incomplete == (name not in ("cohort", "fold_counts"))
    assert column(built["summary"], "Folds") == ["1 of 2"]
    assert not any("Incomplete" in table.caption for table in tables(small_results()).values())


def test_a_study_without_predictions_has_no_score_tables():
    missing = [f"{variant} fold {fold}" for variant in VARIANTS for fold in (0, 1)]
    assert headline_tables(Findings.of(small_results(out_of_fold={}, histories={}, missing=missing))) == []


def test_a_fold_that_lacks_a_class_makes_its_mean_of_folds_undefined_with_a_note():
    truth, fold = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], [0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0]
    predictions = {variant: out_of_fold(variant, truth, truth, fold, 3) for variant in VARIANTS}
    results = small_results(out_of_fold=predictions)
    by_class = tables(results)["by_class_whole-resnet34"]
    assert [row[6] for row in by_class.shown()] == ["1.000", "1.000", "n/a", "n/a", "n/a", ""]
    assert any("AUC of 100% <other> is undefined" in note and note.endswith("fold 1.") for note in by_class.notes)
    assert any("fold 1." in note for note in summary_table(results, all_scores(results)).notes)


def test_the_headline_names_the_best_variant_with_its_interval_and_doubts_tests_of_few_patients():
    text = headline(small_results())
    assert text.startswith("whole-resnet34 has the highest macro AUC (pooled), 0.")
    assert " above segmented-vgg16 (p <0.001): the difference is significant." in text
    assert "fewer than 20 patients of normal, covid_19 & co and 100% <other>: intervals are too narrow" in text
    assert "The highest accuracy is that of whole-resnet34, 0.833 (95 % " in text


def test_the_headline_calls_a_small_difference_chance():
    rng = np.random.default_rng(1)
    truth, fold = np.arange(90) % 3, np.arange(90) % 2
    predicted = {variant: np.where(rng.random(90) < 0.7, truth, rng.integers(0, 3, 90)) for variant in VARIANTS}
    results = small_results(
        out_of_fold={name: out_of_fold(name, truth, own, fold, 3) for name, own in predicted.items()}
    )
    assert "the difference is not significant and may be chance." in headline(results)


def test_the_headline_calls_a_clear_difference_significant():
    rng = np.random.default_rng(0)
    truth = np.arange(90) % 3
    guessed = rng.integers(0, 3, 90)
    fold = np.arange(90) % 2
    predictions = {
        VARIANTS[0]: out_of_fold(VARIANTS[0], truth, truth, fold, 3),
        VARIANTS[1]: out_of_fold(VARIANTS[1], truth, guessed, fold, 3),
    }
    text = headline(small_results(out_of_fold=predictions))
    assert text.startswith("whole-resnet34 has the highest macro AUC (pooled), 1.000")
    assert "above segmented-vgg16 (p < 0.001): the difference is significant." in text.replace("p <0.001", "p < 0.001")


def by_fold(variant, *right):
    """Out-of-fold predictions with so many right answers of 90 in each fold."""
    truth = np.tile(np.arange(90) % 3, len(right))
    wrong = np.concatenate([np.arange(90) >= count for count in right])
    return out_of_fold(variant, truth, (truth + wrong) % 3, np.repeat(np.arange(len(right)), 90), 3)


@pytest.mark.parametrize("variants", [VARIANTS, VARIANTS[1:]], ids=["several", "one"])
def test_the_headline_names_variants_whose_folds_differ_by_more_than_chance(variants):
    steady, unsteady = by_fold(VARIANTS[0], 60, 66), by_fold(VARIANTS[1], 45, 81)
    both = {VARIANTS[0]: steady, VARIANTS[1]: unsteady}
    text = headline(small_results(variants=variants, out_of_fold={name: both[name] for name in variants}))
    assert "more than chance among their test images for segmented-vgg16 (50.0 to 90.0 %): training" in text
    assert "Another seed may change scores by more than their intervals" in text


def test_the_headline_says_nothing_of_folds_that_are_alike():
    alike = {variant: by_fold(variant, 60, 66) for variant in VARIANTS}
    assert "between folds" not in headline(small_results(out_of_fold=alike))


def test_tables_of_intervals_and_tests_say_that_no_other_seed_is_in_them():
    results = small_results()
    for table in (interval_table(results, Findings.of(results).inferences), small_tables()["pairs"]):
        assert any(
            "take the networks as trained: what another seed of training would change is not in them." in note
            for note in table.notes
        )


def test_the_headline_does_not_break_a_tie():
    same = {variant: out_of_fold(variant, [0, 1, 2, 0], [0, 1, 2, 1], [0, 0, 1, 1], 3) for variant in VARIANTS}
    text = headline(small_results(out_of_fold=same))
    assert "is shared by whole-resnet34 and segmented-vgg16." in text
    assert "The highest accuracy, 0.750, is shared by whole-resnet34 and segmented-vgg16." in text


def test_the_headline_ranks_no_variants_that_saw_different_images():
    partial = incomplete_results().out_of_fold[VARIANTS[0]]
    complete = small_results()
    results = small_results(
        out_of_fold={**complete.out_of_fold, VARIANTS[0]: partial}, missing=[f"{VARIANTS[0]} fold 1"]
    )
    assert "not tested on the same images and are not ranked" in headline(results)


def test_the_headline_of_one_variant_or_none_compares_nothing():
    assert headline(PAPER_1).startswith("whole-vgg16 reaches a macro AUC (pooled) of 0.856 (95 % ")
    assert headline_of(small_results(), [], [], None) == ["No fold job has predictions yet."]


def test_results_that_contradict_themselves_are_refused():
    complete = small_results()
    first = complete.out_of_fold[VARIANTS[0]]
    with pytest.raises(CxrdistError, match="2 of 4 fold jobs have predictions, but 0"):
        small_results(out_of_fold={VARIANTS[0]: first})
    with pytest.raises(CxrdistError, match="of other do not belong"):
        small_results(out_of_fold={"other": first})
    with pytest.raises(CxrdistError, match="not of 3 classes"):
        small_results(out_of_fold={VARIANTS[0]: out_of_fold(VARIANTS[0], [0, 1], [0, 1], [0, 1], 2)})
    with pytest.raises(CxrdistError, match="not of the study's classes"):
        small_results(classes=CLASSES[::-1])
    bad = out_of_fold(VARIANTS[0], [0, 1], [0, 1], [0, 1], 3)
    bad.probabilities[0, 0] = np.nan
    with pytest.raises(CxrdistError, match="not finite"):
        small_results(out_of_fold={VARIANTS[0]: bad})


def test_patients_are_counted_by_class_and_source_and_joined_ones_are_said():
    cohort = small_results().cohort
    classes = [replace(one, source_groups=dict.fromkeys(one.sources, 3)) for one in cohort.classes]
    counted = replace(cohort, classes=classes, source_groups={"cohen": 3, "montgomery": 1, "shenzhen": 5}, merged=2)
    table = cohort_table(small_results(cohort=counted))
    assert [one.title for one in table.columns if one.group == "Patients by source"] == [
        "cohen",
        "montgomery",
        "shenzhen",
    ]
    assert [row[-3:] for row in table.rows] == [(0, 3, 3), (3, 0, 0), (0, 0, 3), (3, 1, 5)]
    assert table.notes[-1].startswith("2 patients (or images without one) were joined to others")
