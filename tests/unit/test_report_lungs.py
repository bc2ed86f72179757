"""The lung network's scores as tables: by fold beside the paper's, and of the final network by set and source."""

import math

import numpy as np
import pytest

from cxrdist.report.lungs import PAPER_DICE, PAPER_IOU, SetScores, lung_folds_table, lung_sets_table
from cxrdist.report.render import render_csv, render_latex, render_markdown, render_text
from cxrdist.stats.overlap import Overlaps, measure_overlap


def overlaps(n, seed=0, shift=2):
    """Of random boxes and the same boxes some pixels further to the right."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((n, 40, 40), dtype=bool)
    for mask, (top, left, height, width) in zip(
        truth, rng.integers((2, 2, 10, 10), (8, 8, 25, 25), (n, 4)), strict=True
    ):
        mask[top : top + height, left : left + width] = True
    return measure_overlap(np.roll(truth, shift, axis=2), truth)


FOLDS = {2: overlaps(3, seed=2), 0: overlaps(5, seed=0), 1: overlaps(4, seed=1, shift=0)}


def by_name(table):
    return {row[0]: row[1:] for row in table.rows}


def scores(one):
    return one.iou.mean(), one.pooled_iou, one.dice.mean(), one.pooled_dice


def test_folds_come_in_order_with_their_images_and_scores():
    table = lung_folds_table(FOLDS)
    assert [row[0] for row in table.rows[:3]] == ["fold 0", "fold 1", "fold 2"]
    for fold, one in FOLDS.items():
        images, *found = by_name(table)[f"fold {fold}"]
        assert images == len(one.iou)
        assert found == pytest.approx(scores(one))
    assert by_name(table)["fold 1"] == (4, 1.0, 1.0, 1.0, 1.0)


def test_scores_of_one_image_are_those_of_the_definitions():
    table = lung_folds_table({0: Overlaps(np.array([60]), np.array([80]), np.array([90]))})
    expected = [61 / 111, 60 / 110, 121 / 171, 120 / 170]
    assert by_name(table)["fold 0"] == pytest.approx((1, *expected))


def test_folds_are_summed_up_by_folds_and_by_images():
    rows = by_name(lung_folds_table(FOLDS))
    each = np.array([scores(one) for one in FOLDS.values()])
    assert rows["mean of folds"] == pytest.approx((12, *each.mean(axis=0)))
    assert rows["SD of folds"] == pytest.approx((12, *each.std(axis=0, ddof=1)))
    assert rows["all images"] == pytest.approx((12, *scores(Overlaps.join(list(FOLDS.values())))))
    assert rows["mean of folds"] != pytest.approx(rows["all images"])


def test_the_papers_scores_stand_beside_them():
    assert (PAPER_IOU, PAPER_DICE) == (0.956, 0.972)
    table = lung_folds_table(FOLDS)
    assert table.rows[-1] == ("paper 1", None, 0.956, None, 0.972, None)
    assert render_csv(table).splitlines()[-1] == "paper 1,,0.956,,0.972,"
    assert "0.9560" in render_text(table).splitlines()[-3]


def test_the_rows_that_sum_up_are_marked():
    table = lung_folds_table(FOLDS)
    assert sorted(table.totals) == [3, 4, 5, 6]
    assert [table.rows[row][0] for row in sorted(table.totals)] == [
        *("mean of folds", "SD of folds", "all images", "paper 1"),
    ]


def test_one_fold_has_no_standard_deviation():
    table = lung_folds_table({0: FOLDS[0]})
    assert [row[0] for row in table.rows] == ["fold 0", "mean of folds", "all images", "paper 1"]
    assert not any(isinstance(cell, float) and math.isnan(cell) for row in table.rows for cell in row)


def test_columns_say_which_kind_of_mean_they_are():
    columns = [column.label for column in lung_folds_table(FOLDS).columns]
    assert columns == ["Fold", "Images", "IoU mean", "IoU pooled", "Dice mean", "Dice pooled"]
    assert [column.label for column in lung_sets_table([]).columns] == [
        *("Tested on", "Source", "Images", "IoU mean", "IoU pooled", "Dice mean", "Dice pooled"),
        *("where the mask decides IoU", "where the mask decides Dice"),
    ]


def test_the_final_network_has_a_row_for_each_set_and_source_in_the_order_given():
    sets = [
        SetScores("held out", "montgomery", overlaps(3, 1), overlaps(3, 1)),
        SetScores("others", "", overlaps(2, 2), overlaps(2, 3)),
    ]
    table = lung_sets_table(sets)
    assert [row[:3] for row in table.rows] == [("held out", "montgomery", 3), ("others", "unknown", 2)]
    for one, row in zip(sets, table.rows, strict=True):
        assert row[3:7] == pytest.approx(scores(one.everywhere))
        assert row[7:] == pytest.approx((one.decided.iou.mean(), one.decided.dice.mean()))
    # Of masks without the heart, the two say the same.
    assert table.rows[0][7:] == (table.rows[0][3], table.rows[0][5])


@pytest.mark.parametrize("render", [render_csv, render_markdown, render_latex, render_text])
def test_the_tables_can_be_written_in_every_form(render):
    assert "fold 2" in render(lung_folds_table(FOLDS))
    assert "montgomery" in render(lung_sets_table([SetScores("held out", "montgomery", overlaps(2), overlaps(2))]))


def test_masks_that_are_all_empty_have_scores_or_none_but_no_error():
    nothing = np.zeros(2, dtype=np.int64)
    row = by_name(lung_folds_table({0: Overlaps(nothing, nothing, nothing)}))["fold 0"]
    assert (row[1], row[3]) == (1.0, 1.0)
    assert math.isnan(row[2])
    assert "n/a" in render_text(lung_folds_table({0: Overlaps(nothing, nothing, nothing)}))
