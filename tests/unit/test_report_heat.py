"""The table of heat inside the lungs."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cxrdist.report.heat_tables import heat_shares_table, heat_table
from cxrdist.report.images import HeatShares
from cxrdist.report.render import render_csv, render_latex, render_markdown, render_text
from tests.unit.report_examples import VARIANTS, incomplete_results, small_results

IDS = [f"image-{index:04d}" for index in range(12)]


def shares(variant=VARIANTS[0], method="cam", inside=None, area=None):
    values = np.linspace(0.2, 0.8, 12) if inside is None else np.asarray(inside, float)
    return HeatShares(variant, method, IDS, values, np.full(12, 0.3) if area is None else np.asarray(area, float))


def cells(table) -> dict[str, Any]:
    return dict(zip([column.label for column in table.columns], table.rows[0], strict=True))


def interval(table) -> np.ndarray[Any, Any]:
    return np.array(table.rows[0][3:6], float)


def test_a_variant_has_its_mean_share_with_an_interval_and_the_lungs_area_beside_it():
    table = heat_table(small_results(heat_shares=[shares()]))
    assert table is not None
    own = cells(table)
    assert (own["Variant"], own["Method"], own["Images"]) == (VARIANTS[0], "CAM", 12)
    group = "Share of heat inside the lungs"
    assert own[f"{group} mean"] == pytest.approx(0.5)
    assert own[f"{group} low"] < 0.5 < own[f"{group} high"]
    assert own["Lung area"] == pytest.approx(0.3)


def test_variants_of_the_same_images_have_the_same_resamples():
    first, second = np.random.default_rng(0).random((2, 12))
    both = heat_table(small_results(heat_shares=[shares(inside=first), shares(VARIANTS[1], "gradcam", second)]))
    assert both is not None
    assert [row[:2] for row in both.rows] == [(VARIANTS[0], "CAM"), (VARIANTS[1], "Grad-CAM")]
    shifted = heat_table(small_results(heat_shares=[shares(VARIANTS[1], "gradcam", first + 0.1)]))
    assert shifted is not None
    assert interval(shifted) - interval(both) == pytest.approx([0.1, 0.1, 0.1])


def test_images_of_one_patient_count_as_dependent():
    inside = np.repeat([0.1, 0.5, 0.9], 4)
    apart = heat_shares_table([shares(inside=inside)], {}, 0, "")
    together = heat_shares_table([shares(inside=inside)], {one: f"p{i // 4}" for i, one in enumerate(IDS)}, 0, "")
    width = [interval(table)[2] - interval(table)[1] for table in (apart, together)]
    assert width[1] > 1.5 * width[0]


def test_maps_without_heat_are_left_out_and_named():
    inside, area = np.full(12, 0.5), np.full(12, 0.3)
    inside[:3], area[:3] = math.nan, 0.9
    table = heat_table(small_results(heat_shares=[shares(inside=inside, area=area)]))
    assert table is not None
    assert cells(table)["Images"] == 9
    assert cells(table)["Lung area"] == pytest.approx(0.3)
    assert table.notes[-1] == f"Maps without any heat for the class are left out: 3 of {VARIANTS[0]}."
    assert "left out" not in " ".join(heat_shares_table([shares()], {}, 0, "").notes)


def test_a_variant_of_no_heat_at_all_is_undefined():
    table = heat_table(small_results(heat_shares=[shares(inside=np.full(12, math.nan))]))
    assert table is not None
    assert table.shown()[0] == [VARIANTS[0], "CAM", "0", "n/a", "n/a", "n/a", "n/a"]


def test_without_heat_maps_there_is_no_table():
    assert heat_table(small_results()) is None


def test_the_caption_says_what_an_incomplete_study_lacks():
    incomplete = incomplete_results()
    table = heat_table(replace(incomplete, heat_shares=[shares()]))
    assert table is not None
    assert table.caption.endswith(incomplete.incompleteness)


@pytest.mark.parametrize("render", [render_csv, render_latex, render_markdown, render_text])
def test_it_is_rendered_the_same_each_time(render):
    results = small_results(heat_shares=[shares()])
    tables = [heat_table(results), heat_table(results)]
    assert tables[0] is not None
    assert tables[1] is not None
    assert render(tables[0]) == render(tables[1])
    assert "whole" in render(tables[0])
