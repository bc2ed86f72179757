"""Calibration in the report: before and after temperature scaling, which never sees a test image."""

import math
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from cxrdist.report.calibration import (
    PREDICTED,
    SCALED,
    all_calibrations,
    calibration_section,
    calibration_table,
    temperature_scaled,
)
from cxrdist.report.reliability_figure import reliability_picture
from cxrdist.report.render import render_csv, render_latex, render_markdown, render_text
from cxrdist.report.scores import all_scores
from cxrdist.report.style import Picture
from cxrdist.report.table import Table
from cxrdist.stats.calibration import reliability
from cxrdist.study.outoffold import FoldPredictions, OutOfFold
from tests.unit.report_examples import VARIANTS, incomplete_results, small_results


def sharpened(truth, power, seed=0):
    """Probabilities of which the truth was drawn, then raised to a power: calibrated for a power of 1."""
    rng = np.random.default_rng(seed)
    honest = rng.dirichlet(np.ones(3), len(truth))
    drawn = (rng.random((len(truth), 1)) > honest.cumsum(axis=1)).sum(axis=1)
    # The class drawn becomes the true one.
    for row, pair in enumerate(zip(truth, drawn, strict=True)):
        honest[row, pair] = honest[row, pair[::-1]]
    raised = honest**power
    return raised / raised.sum(axis=1, keepdims=True)


def validated(variant, fold, power=2.0, images=900):
    truth = np.arange(images) % 3
    ids = [f"validation-{fold}-{row}" for row in range(images)]
    return FoldPredictions(variant, fold, "cohort", ids, truth, sharpened(truth, power, seed=10 + fold))


def overconfident(validation=None):
    """One variant whose networks are twice too sure on the logarithmic scale, in two folds of 150 images."""
    truth = np.arange(300) % 3
    ids = [f"image-{row:04d}" for row in range(300)]
    predictions = OutOfFold(VARIANTS[0], ids, truth, sharpened(truth, 2.0), np.arange(300) // 150)
    made = [validated(VARIANTS[0], fold) for fold in (0, 1)]
    return small_results(
        variants=VARIANTS[:1],
        out_of_fold={VARIANTS[0]: predictions},
        histories={},
        validation=made if validation is None else validation,
    )


def table_of(results):
    scores = all_scores(results)
    return calibration_table(results, scores, all_calibrations(results, scores))


def contents(results):
    table, picture = calibration_section(results, all_scores(results)).content
    assert isinstance(table, Table)
    assert isinstance(picture, Picture)
    return table, picture


@pytest.fixture(scope="module")
def table_and_picture():
    return contents(overconfident())


def test_without_predictions_there_is_nothing_to_calibrate():
    assert not calibration_section(small_results(), [])


def test_scaling_repairs_networks_that_are_too_sure_of_themselves(table_and_picture):
    before, after = table_and_picture[0].rows
    assert before[:2] == (VARIANTS[0], PREDICTED)
    assert after[:2] == (VARIANTS[0], SCALED)
    assert after[2] < before[2] / 2, "ECE"
    assert after[4] < before[4], "Brier"
    assert after[5] < before[5], "log loss"
    mean, low, high = after[6:]
    assert mean == pytest.approx(2, abs=0.4)
    assert low < mean < high
    assert mean == pytest.approx((low + high) / 2)
    assert before[6:] == (None, None, None)


def test_the_table_says_how_many_bins_there_are_and_what_the_temperature_is_fitted_on(table_and_picture):
    notes = " ".join(table_and_picture[0].notes)
    assert "10 bins" in notes
    assert "fitted on its validation images alone" in notes


def test_scores_of_the_table_are_those_of_certain_predictions():
    truth = np.array([0, 1, 2, 0])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.6, 0.2, 0.2]])
    predictions = OutOfFold(VARIANTS[0], list("abcd"), truth, probabilities, np.array([0, 0, 1, 1]))
    table = table_of(small_results(variants=VARIANTS[:1], out_of_fold={VARIANTS[0]: predictions}, histories={}))
    ((_, _, ece, mce, brier, loss, *_),) = table.rows
    # Three images at .8 of which two are right, one at .6 that is.
    assert ece == pytest.approx((3 * (0.8 - 2 / 3) + 0.4) / 4, abs=1e-9)
    assert mce == pytest.approx(0.4, abs=1e-9)
    assert brier == pytest.approx((0.06 + 1.46 + 0.06 + 0.24) / 4, abs=1e-9)
    assert loss == pytest.approx(-(2 * math.log(0.8) + math.log(0.1) + math.log(0.6)) / 4, abs=1e-9)


def test_a_fold_is_scaled_by_the_temperature_of_its_own_validation_images():
    validation = [validated(VARIANTS[0], 0, power=1.0), validated(VARIANTS[0], 1, power=3.0)]
    results = overconfident(validation)
    predictions = results.out_of_fold[VARIANTS[0]]
    scaled = temperature_scaled(results, predictions)
    assert scaled is not None
    for fold, temperature in zip((0, 1), scaled.temperatures, strict=True):
        own = predictions.fold == fold
        logits = np.log(predictions.probabilities[own]) / temperature
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(scaled.probabilities[own], expected, rtol=1e-9)
    assert scaled.temperatures == pytest.approx([1, 3], rel=0.2)


def test_test_images_have_no_say_in_the_temperature():
    results = overconfident()
    predictions = results.out_of_fold[VARIANTS[0]]
    relabelled = replace(predictions, truth=(predictions.truth + 1) % 3)
    one, other = temperature_scaled(results, predictions), temperature_scaled(results, relabelled)
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one.temperatures, other.temperatures)


def test_validation_predictions_of_another_variant_are_not_used():
    results = overconfident([replace(validated(VARIANTS[0], fold), variant=VARIANTS[1]) for fold in (0, 1)])
    assert temperature_scaled(results, results.out_of_fold[VARIANTS[0]]) is None


@pytest.mark.parametrize("images", [None, 0])
def test_a_variant_of_which_a_fold_kept_no_validation_predictions_is_not_scaled(images):
    lacking = [] if images is None else [validated(VARIANTS[0], 1, images=images)]
    table = table_of(overconfident([validated(VARIANTS[0], 0), *lacking]))
    assert [row[1] for row in table.rows] == [PREDICTED]
    assert table.notes[-1] == f"{VARIANTS[0]} is not scaled: fold 1 kept no predictions on validation images."


def test_all_folds_without_validation_predictions_are_named():
    table = table_of(small_results())
    assert [row[:2] for row in table.rows] == [(variant, PREDICTED) for variant in VARIANTS]
    assert table.notes[-2:] == tuple(
        f"{variant} is not scaled: folds 0, 1 kept no predictions on validation images." for variant in VARIANTS
    )


def test_a_temperature_at_the_end_of_its_range_is_said_not_to_be_found():
    flawless = FoldPredictions(VARIANTS[0], 1, "cohort", ["v"], np.array([0]), np.array([[0.9, 0.05, 0.05]]))
    table = table_of(overconfident([validated(VARIANTS[0], 0), flawless]))
    assert table.rows[1][7] == 0.05
    assert any("[0.05, 20]" in note for note in table.notes)
    assert not any("[0.05, 20]" in note for note in table_of(overconfident()).notes)


@pytest.mark.parametrize("render", [render_csv, render_markdown, render_latex, render_text])
def test_the_table_can_be_written_in_every_form(render, table_and_picture):
    assert "after temperature scaling" in render(table_and_picture[0])


def test_the_diagram_explains_its_marks_in_words(table_and_picture):
    table, picture = table_and_picture
    ElementTree.fromstring(picture.svg)
    assert picture.png.startswith(b"\x89PNG\r\n\x1a\n")
    assert picture.name == "reliability"
    assert "10 bins" in picture.caption
    assert "Wilson intervals (95 %), which take images as independent" in picture.caption
    assert f"{VARIANTS[0]} {table.rows[0][2]:.3f} → {table.rows[1][2]:.3f} after temperature" in picture.alternative


def test_an_incomplete_study_says_so_and_shows_the_folds_it_has():
    results = incomplete_results()
    table, picture = contents(results)
    assert results.incompleteness in table.caption
    assert results.incompleteness in picture.caption
    assert len(table.rows) == 1


def test_equal_predictions_give_equal_diagrams(table_and_picture):
    assert contents(overconfident())[1] == table_and_picture[1]


def test_diagrams_without_scaling_do_not_speak_of_it_and_names_of_variants_are_never_markup(table_and_picture):
    results = small_results()
    predictions = results.out_of_fold[VARIANTS[0]]
    bins = reliability(predictions.truth, predictions.probabilities)
    picture = reliability_picture(results, {"<script>$x_1^": [bins], "b": [bins]})
    ElementTree.fromstring(picture.svg)
    assert b"<script" not in picture.svg
    assert "temperature" not in f"{picture.caption} {picture.alternative}"
    assert "temperature" in f"{table_and_picture[1].caption} {table_and_picture[1].alternative}"
