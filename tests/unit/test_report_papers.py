"""A run beside its paper, from the papers' own numbers."""

import itertools
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.report import inference
from cxrdist.report.counterpart import position
from cxrdist.report.inference import Estimate
from cxrdist.report.page import render_page
from cxrdist.report.papers import PAPER_1, PAPER_2, paper_of
from cxrdist.report.render import render_csv, render_latex, render_markdown, render_text
from cxrdist.report.scores import all_scores
from cxrdist.report.section import tables_of
from cxrdist.report.tables import confusion_table
from cxrdist.stats.resampling import Interval
from tests.unit.paper_examples import (
    FOUR,
    TABLE_1,
    THREE,
    TOTALS,
    as_of_the_paper,
    four_class,
    points,
    section_of,
    tables,
    three_class,
)
from tests.unit.report_examples import out_of_fold, results_of_confusion, small_results

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "papers"
RENDERERS = {"csv": render_csv, "md": render_markdown, "tex": render_latex, "txt": render_text}
WRONG_OF_581 = [5, 4, 3, 8, 6]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(inference, "RESAMPLES", 20)


def column(table, label):
    index = [one.label for one in table.columns].index(label)
    return [row[index] for row in table.rows]


def named(table):
    """{(keys of the row, label of the column): cell}."""
    labels = [one.label for one in table.columns]
    return {(row[: table.keys], label): cell for row in table.rows for label, cell in zip(labels, row, strict=True)}


def five_folds(wrong=tuple(WRONG_OF_581), n=581):
    predicted = np.concatenate([np.arange(n) < count for count in wrong]).astype(int)
    truth = np.tile(np.arange(n) % 3, len(wrong))
    own = out_of_fold("whole-resnet34", truth, (truth + predicted) % 3, np.repeat(np.arange(len(wrong)), n), 3)
    return replace(three_class(), n_folds=len(wrong), out_of_fold={own.variant: own})


@cache
def paper_1():
    return tables(four_class())


@cache
def paper_2():
    return tables(three_class())


def test_a_study_is_of_the_paper_with_its_classes_in_any_order_and_of_no_other():
    for order in itertools.permutations(FOUR):
        assert paper_of(four_class(order)) is PAPER_1
    for order in itertools.permutations(THREE):
        assert paper_of(results_of_confusion(np.eye(3, dtype=int), order)) is PAPER_2
    for other in (FOUR[:3][:2], ("normal", "covid19", "bacterial_pneumonia"), (*FOUR, "tuberculosis")):
        assert paper_of(results_of_confusion(np.eye(len(other), dtype=int), other)) is None


def test_a_study_of_other_classes_has_no_section():
    assert not section_of(small_results())
    assert section_of(four_class()).title == "Beside Paper 1 (VGG16, four classes)"
    assert section_of(three_class()).title == "Beside Paper 2 (ResNet-34, three classes)"


def test_table_1_as_a_run_gives_the_recomputed_values_and_the_printed_ones_at_two_decimals():
    table = paper_1()["paper_by_class"]
    expected = {
        "Precision": [0.8243243243243243, 0.9444444444444444, 0.6527777777777778, 0.7522123893805309],
        "Recall": [0.8472222222222222, 0.8717948717948718, 0.7121212121212122, 0.7083333333333334],
        "F1": [0.8356164383561644, 0.9066666666666666, 0.6811594202898551, 0.7296137339055794],
    }
    cells = named(table)
    for score, values in expected.items():
        for label, value in zip(FOUR, values, strict=True):
            row = (label, score)
            assert cells[row, "Paper, whole image recomputed"] == pytest.approx(value, abs=1e-12)
            assert cells[row, "This run, whole image value"] == pytest.approx(value, abs=1e-12)
            assert cells[row, "Paper, whole image printed"] == round(value, 2)
    printed = [row[2:4] for row in table.shown()][:3]
    assert printed == [["0.82", "0.8243"], ["0.85", "0.8472"], ["0.84", "0.8356"]]


def test_other_orders_of_classes_are_matched_by_name():
    expected = {name: named(table) for name, table in paper_1().items()}
    # The intervals of F1 are drawn anew.
    exact = {
        (row, label): cell
        for (row, label), cell in expected["paper_by_class"].items()
        if row[1] != "F1" or not label.endswith(("low", "high"))
    }
    for order in (FOUR[::-1], (FOUR[2], FOUR[0], FOUR[3], FOUR[1])):
        results = four_class(order)
        built = tables(results)
        assert list(dict.fromkeys(column(built["paper_by_class"], "Class"))) == list(order)
        cells = named(built["paper_by_class"])
        assert {key: cells[key] for key in exact} == pytest.approx(exact)
        assert named(built["paper_confusion_printed"]) == expected["paper_confusion_printed"]
        # The run is the paper's table, so what is printed must look like the run's own.
        own = confusion_table(results, all_scores(results)[0])
        assert built["paper_confusion_printed"].rows == own.rows
        assert built["paper_confusion_printed"].shares == own.shares
        assert "not this run's" in built["paper_confusion_printed"].caption
    straight, turned = paper_2()["paper_summary"], tables(three_class(TOTALS[::-1, ::-1], THREE[::-1]))
    for (row, label), value in named(turned["paper_summary"]).items():
        assert value == (pytest.approx(named(straight)[row, label]) if isinstance(value, float) else value)


def test_the_summary_row_of_paper_1_says_which_average_it_prints():
    cells = named(paper_1()["paper_summary"])
    run = {
        "Sensitivity, macro": 0.78486790986791,
        "Sensitivity, weighted": 0.7855750487329435,
        "Specificity, macro": 0.9279768412756229,
        "Accuracy": 0.7855750487329435,
        "AUC pooled, macro": 0.8564223755717664,
    }
    printed = {"Sensitivity, weighted": 0.79, "Specificity, macro": 0.93, "Accuracy": 0.79, "AUC pooled, macro": 0.84}
    segmented = {"Sensitivity, macro": 0.91, "Specificity, macro": 0.93, "Accuracy": 0.88, "AUC pooled, macro": 0.89}
    for score, value in run.items():
        assert cells[(score,), "Whole image value"] == pytest.approx(value, abs=1e-12)
        assert cells[(score,), "Whole image printed"] == printed.get(score)
        assert cells[(score,), "Segmented lungs printed"] == segmented.get(score)
        recomputed = cells[(score,), "Whole image recomputed"]
        assert recomputed is None if score.startswith("AUC") else recomputed == pytest.approx(value, abs=1e-12)
    assert (cells[("Accuracy",), "Whole image low"], cells[("Accuracy",), "Whole image high"]) == pytest.approx(
        (0.7480053765494016, 0.8188996094951669), abs=1e-9
    )
    assert cells[("Accuracy",), "Whole image printed is"] == "inside"
    assert cells[("Sensitivity, macro",), "Whole image printed is"] is None
    assert round(run["Sensitivity, macro"], 2) == 0.78


def test_a_view_that_the_study_lacks_has_empty_cells_and_a_note():
    built = paper_1()
    for name in ("paper_by_class", "paper_summary"):
        assert "This run, segmented lungs: not in this study." in built[name].notes
    assert set(column(built["paper_by_class"], "This run, segmented lungs value")) == {None}
    assert set(column(built["paper_summary"], "Segmented lungs printed is")) == {None}


def test_each_view_is_of_the_papers_network_where_the_study_has_it():
    base = four_class()
    own = base.out_of_fold["whole-vgg16"]
    other = replace(own, variant="whole-resnet34", probabilities=own.probabilities[:, ::-1])
    segmented = replace(own, variant="segmented-resnet34", probabilities=np.roll(own.probabilities, 1, axis=1))
    results = replace(
        base,
        variants=("whole-resnet34", "whole-vgg16", "segmented-resnet34"),
        out_of_fold={one.variant: one for one in (other, own, segmented)},
    )
    table = tables(results)["paper_summary"]
    cells = named(table)
    assert "This run, whole image: whole-vgg16." in table.notes
    assert cells[("Accuracy",), "Whole image value"] == pytest.approx(403 / 513)
    note = "This run, segmented lungs: segmented-resnet34; the study has no VGG16 of it."
    assert note in table.notes
    moved = np.trace(np.roll(TABLE_1, 1, axis=1)) / 513
    assert cells[("Accuracy",), "Segmented lungs value"] == pytest.approx(moved)
    assert cells[("Accuracy",), "Segmented lungs printed is"] == "above"


def test_a_variant_without_predictions_has_empty_cells_and_the_caption_says_what_is_missing():
    results = four_class(variants=("whole-vgg16", "segmented-vgg16"), missing=["segmented-vgg16 fold 0"])
    table = tables(results)["paper_by_class"]
    assert "This run, segmented lungs: segmented-vgg16, which has no predictions yet." in table.notes
    assert set(column(table, "This run, segmented lungs value")) == {None}
    assert table.caption.endswith("Incomplete study: 1 of 2 fold jobs have no predictions.")
    nothing = replace(three_class(), out_of_fold={}, missing=["whole-resnet34 fold 0"])
    built = tables(nothing)
    assert list(built) == ["paper_folds", "paper_summary", "paper_sample_size"]
    assert column(built["paper_summary"], "Paper printed")[3] == "0.995"
    assert set(column(built["paper_folds"], "This run accuracy %")) == {None}


def test_an_undefined_score_is_shown_as_such_with_its_reason():
    confusion = TABLE_1.copy()
    confusion[:, 0] += confusion[:, 3]
    confusion[:, 3] = 0
    built = tables(results_of_confusion(confusion, FOUR))
    assert math.isnan(named(built["paper_by_class"])[(FOUR[3], "Precision"), "This run, whole image value"])
    reason = "whole-vgg16: Precision of bacterial_pneumonia is undefined (n/a): it is never predicted."
    assert reason in built["paper_by_class"].notes


@settings(max_examples=50)
@given(st.integers(2, 98), st.floats(-0.02, 0.02), st.floats(-0.02, 0.02))
def test_a_printed_value_is_outside_only_where_all_that_rounds_to_it_is(hundredths, one, other):
    low, high = sorted((hundredths / 100 + one, hundredths / 100 + other))
    far = min(abs(one), abs(other)) if one * other > 0 else 0.0
    if abs(far - 0.005) > 1e-9:
        found = position(hundredths / 100, Estimate(Interval(low, low, high), "Wilson"), 2)
        assert found == ("inside" if far < 0.005 else "above" if one < 0 else "below")


def test_a_printed_value_beside_an_undefined_interval_or_none_has_no_place():
    assert position(0.5, Estimate(Interval(0.5, math.nan, math.nan), "DeLong"), 2) == "n/a"
    assert position(None, Estimate(Interval(0.5, 0.4, 0.6), "Wilson"), 2) is None
    assert position(0.5, None, 2) is None


def test_paper_2_table_2_comes_back_from_folds_of_581_images():
    table = tables(five_folds())["paper_folds"]
    assert column(table, "Paper accuracy % printed") == [99.14, 99.31, 99.48, 98.62, 98.97, 99.11, None]
    shown = {one.label: [row[index] for row in table.shown()] for index, one in enumerate(table.columns)}
    assert shown["This run accuracy %"][:5] == shown["Paper accuracy % printed"][:5]
    printed = column(table, "Paper error rate printed")[:5]
    assert column(table, "This run error rate")[:5] == pytest.approx(printed, abs=6e-6)
    assert column(table, "This run images")[:5] == [581] * 5
    assert column(table, "Paper accuracy % recomputed")[5:] == pytest.approx([99.104, 0.33065087327588], abs=1e-9)
    assert shown["Paper accuracy % recomputed"][5:] == ["99.1040", "0.3307"]
    assert column(table, "Paper error rate recomputed")[5] == pytest.approx(8.952e-3, abs=1e-12)
    assert column(table, "This run accuracy %")[5] == pytest.approx(100 - 100 * sum(WRONG_OF_581) / (5 * 581))
    assert column(table, "This run fold")[:5] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("n_folds", [1, 3, 7])
def test_other_numbers_of_folds_leave_cells_empty(n_folds):
    table = tables(five_folds(tuple(range(n_folds)), n=30))["paper_folds"]
    assert [row[0] for row in table.rows] == [*map(str, range(1, max(5, n_folds) + 1)), "mean", "SD"]
    assert sum(cell is not None for cell in column(table, "This run images")) == n_folds
    assert sum(cell is not None for cell in column(table, "Paper accuracy % printed")) == 6
    assert table.shown()[-1][-1] == ("n/a" if n_folds == 1 else table.columns[-1].show(float(table.rows[-1][-1])))
    assert any("has one fold" in note for note in table.notes) == (n_folds == 1)


def test_paper_2_totals_as_a_run_give_the_recomputed_values_and_the_printed_ones():
    table = paper_2()["paper_summary"]
    cells = named(table)
    expected = {
        ("Sensitivity", "covid19"): (1.0, "1.000"),
        ("Sensitivity", "viral_pneumonia"): (0.9963503649635036, "0.996"),
        ("Sensitivity", "normal"): (0.9887640449438202, "0.989"),
        ("Accuracy", "all"): (0.9948783610755442, "0.995"),
    }
    for row, (value, printed) in expected.items():
        assert cells[row, "Paper recomputed"] == pytest.approx(value, abs=1e-12)
        assert cells[row, "This run value"] == pytest.approx(value, abs=1e-12)
        assert cells[row, "Paper printed"] == printed == f"{value:.3f}"
        assert cells[row, "This run printed is"] == "inside"
    accuracy = ("Accuracy", "all")
    assert (cells[accuracy, "This run low"], cells[accuracy, "This run high"]) == pytest.approx(
        (0.986905746082145, 0.998006545836675), abs=1e-9
    )
    assert cells[accuracy, "This run interval by"] == "Wilson"
    assert [cells[("AUC pooled", label), "Paper printed"] for label in THREE] == ["1.00", "0.99", "0.99"]
    assert "(777 of 781 correct)" in table.caption


def test_a_study_without_the_papers_view_or_network_says_what_stands_there_instead():
    own = replace(three_class().out_of_fold["whole-resnet34"], variant="segmented-vgg16")
    results = replace(three_class(), variants=(own.variant,), out_of_fold={own.variant: own})
    note = tables(results)["paper_folds"].notes[0]
    assert note == "This run: segmented-vgg16; the study has no ResNet-34 of the whole image."
    assert paper_2()["paper_folds"].notes[0] == "This run: whole-resnet34."


def test_actual_against_predicted_is_tested_for_both_pairs_of_figure_3():
    confusion = np.array([[30, 4, 10], [3, 25, 12], [6, 10, 24]])
    table = tables(three_class(confusion))["paper_chi_square"]
    first, second = table.rows
    assert first[:6] == ("covid19 against normal", 30, 10, 6, 24, 4 + 10)
    assert second[:6] == ("viral_pneumonia against normal", 25, 12, 10, 24, 3 + 6)
    n, a, b, c, d = 70, 30, 10, 6, 24
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    values = named(table)
    row = ("covid19 against normal",)
    assert values[row, "Chi-square value"] == pytest.approx(n * (a * d - b * c) ** 2 / margins)
    assert values[row, "Chi-square value, Yates"] == pytest.approx(n * (abs(a * d - b * c) - n / 2) ** 2 / margins)
    assert values[row, "Chi-square p"] == pytest.approx(math.erfc(math.sqrt(values[row, "Chi-square value"] / 2)))
    assert values[row, "Chi-square df"] == 1
    assert values[row, "Smallest expected"] == pytest.approx((c + d) * (b + d) / n)
    assert values[row, "Read"] == "chi-square"


def test_fisher_is_the_one_to_read_where_an_expected_count_is_small_or_chi_square_undefined():
    table = tables(three_class(np.array([[4, 0, 1], [0, 40, 2], [0, 1, 60]])))["paper_chi_square"]
    assert column(table, "Read") == ["Fisher", "chi-square"]
    assert [row[-2] for row in paper_2()["paper_chi_square"].shown()] == ["<0.0001", "<0.0001"]
    never = tables(three_class(np.array([[5, 0, 0], [0, 5, 0], [2, 3, 0]])))["paper_chi_square"]
    assert column(never, "Read") == ["Fisher", "Fisher"]
    assert [row[7] for row in never.shown()] == ["n/a", "n/a"]
    assert sum("chi-square is undefined (n/a)" in note for note in never.notes) == 2


def test_p_values_say_that_they_take_images_as_independent_where_patients_have_several():
    results = three_class()
    ids = results.out_of_fold["whole-resnet34"].image_ids
    dependent = replace(results, groups={ids[0]: "patient", ids[1]: "patient"})
    note = "All p take images as independent: 781 images are of 780 patients, so they are too small."
    assert note in tables(dependent)["paper_chi_square"].notes
    assert note not in tables(results)["paper_chi_square"].notes


def test_the_sample_size_of_paper_2_comes_back_with_the_margin_that_this_study_reaches():
    rows = {row[0]: row[1:] for row in paper_2()["paper_sample_size"].rows}
    assert rows["asked for, as printed"] == (722, None, 0.99, 0.01)
    assert rows["asked for, recomputed"] == (722, 0.989, 0.99, 0.01)
    z = 2.5758293035489004
    assert rows["this study's images"] == pytest.approx((781, 0.989, 0.99, z * math.sqrt(0.989 * 0.011 / 781)))
    assert len(rows) == 4
    holdout = as_of_the_paper(
        three_class(np.diag([50, 50, 57])), {"covid19": 240, "viral_pneumonia": 274, "normal": 267}
    )
    tested = {row[0]: row[1:] for row in tables(holdout)["paper_sample_size"].rows}
    assert tested["test predictions of whole-resnet34"][0] == 157
    assert tested["this study's images"][0] == 781


def test_the_contradictions_are_of_the_own_paper_alone():
    first, second = points(four_class()), points(three_class())
    assert len(first["Contradictions within the paper"]) == 6
    assert len(first["What the paper's design cannot tell"]) == 2
    assert len(second["Contradictions within the paper"]) == 4
    assert "What the paper's design cannot tell" not in second
    assert not set(sum(first.values(), ())) & set(sum(second.values(), ())) - {
        "The settings of this run are not known here and are not compared."
    }


def test_the_contradictions_follow_from_the_papers_numbers():
    table_1 = np.array(PAPER_1.confusion)
    assert (table_1.sum(), sum(PAPER_1.protocol.images.values())) == (513, 2031)
    assert round(2031 / 4) == 508
    # 0.88 is at least 0.875; the macro specificity is lowest where all errors are predictions of the largest class.
    largest = table_1.sum(axis=1).max() / table_1.sum()
    assert 1 - 0.125 / (4 * (1 - largest)) >= 0.956
    assert [round(100 * (1 - k / 581), 2) for k in WRONG_OF_581] == list(PAPER_2.fold_accuracy)
    assert not {round(100 * (1 - k / n), 2) for n in (156, 157) for k in range(9)} & set(PAPER_2.fold_accuracy)
    assert [round(100 * (157 - k) / 157, 2) for k in (0, 1)] == [100, 99.36]
    assert round(777 / 781, 3) == float(PAPER_2.accuracy)


@pytest.mark.parametrize("results", [four_class(), five_folds(), three_class()], ids=["paper 1", "folds", "totals"])
def test_every_table_renders_in_every_format_and_on_the_page(results):
    section = section_of(results)
    built = list(tables_of([section]))
    assert len({table.name for table in built}) == len(built)
    for table in built:
        for render in RENDERERS.values():
            assert table.title.split(" ")[0] in render(table) or render is render_csv
        assert render_csv(table).count("\n") == len(table.rows) + 1
        assert len({column.label for column in table.columns}) == len(table.columns)
    page = render_page(results, [section])
    for table in built:
        assert table.title in page
    for part in section.parts:
        assert f'id="{part.anchor}"' in page


GOLDEN_RUN = {
    "paper_folds": lambda: five_folds((2, 0, 1), n=30),
    "paper_chi_square": lambda: three_class(np.array([[30, 4, 10], [3, 25, 12], [6, 10, 24]])),
}


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*")), ids=lambda path: path.name)
def test_rendered_tables_are_byte_for_byte_the_golden_ones(path):
    table = tables(GOLDEN_RUN[path.stem]())[path.stem]
    assert RENDERERS[path.suffix[1:]](table).encode() == path.read_bytes()


def test_golden_files_hold_all_renderings_of_two_tables():
    assert len(list(GOLDEN.glob("*"))) == 6
