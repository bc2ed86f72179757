"""The CLAIM checklist: every item once, facts that follow the study, and nothing that the software cannot know."""

import csv
import io
from dataclasses import replace
from functools import cache
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment, PackageLoader, StrictUndefined

from cxrdist.config.models import Study
from cxrdist.report.audit import Audit, AuditRow
from cxrdist.report.claim import TOPICS, claim_section
from cxrdist.report.claim_answers import State
from cxrdist.report.images import HeatMap, HeatShares, ShownImage
from cxrdist.report.masks import MaskSummary
from cxrdist.report.render import render_csv, render_latex, render_markdown, render_text
from cxrdist.report.scores import all_scores
from cxrdist.report.section import tables_of
from cxrdist.report.table import Table
from tests.unit.report_examples import CLASSES, VARIANTS, incomplete_results, small_results

PEOPLE_ONLY = (1, 2, 3, 4, 5, 6, 12, 15, 16, 17, 18, 39, 40, 42)
"""Items about the manuscript, people and ethics."""
HOSTILE = ("<script>alert(1)</script>", "a|b & 100 %\n| x | $y_1$ \\input{z} #", '=1+1"; {{ 7 * 7 }} [u](v) `w`')
FACTS = [("Software", "cxrdist 1.2.3, torch 2.9"), ("Python", "3.11.4"), ("Weights", "resnet34: ab12")]


def study(**sections):
    made: dict[str, Any] = {"name": "small", "seed": 7, "cohort": {"manifest": "m.csv", "classes": list(CLASSES)}}
    return Study.model_validate(made | sections)


@cache
def scores_of_small():
    return all_scores(small_results())


def table_of(results, scores=None):
    (table,) = tables_of([claim_section(results, scores_of_small() if scores is None else scores)])
    return table


def answers(scores=None, **changes):
    return {row[0]: row[2] for row in table_of(small_results(**changes), scores).rows}


def states(scores=None, **changes):
    return states_of(small_results(**changes), scores)


def states_of(results, scores=None):
    return {row[0]: row[3] for row in table_of(results, scores).rows}


def configured(**sections):
    return answers(config=study(**sections))


def everything():
    """Results of which as much is known as can be."""
    return small_results(
        config=study(variants={"views": ["whole", "segmented"], "models": ["vgg16", "resnet34"]}),
        facts=FACTS,
        masks=MaskSummary("mask files of the manifest", "whole", {}, (), ()),
        audit=audit(),
        heat_shares=[heat_shares("whole-resnet34", "cam"), heat_shares("segmented-vgg16", "gradcam")],
    )


def audit():
    def row(kind, area):
        interval = (area, area - 0.02, area + 0.02)
        return AuditRow(f"{kind}-resnet34", "something", kind, CLASSES, 12, 0.8, 0.5, interval, (interval,) * 3)

    return Audit((row("whole", 0.9), row("lungs_blanked", 0.85)), (), "Low and high: 95 %")


def heat_shares(variant, method):
    return HeatShares(variant, method, ["image-0000"], np.array([0.5]), np.array([0.4]))


def shown_image(**heat):
    return ShownImage("image-0000", "montgomery", CLASSES[0], np.zeros((2, 2), np.uint8), heat=heat)


@pytest.mark.parametrize("results", [small_results(), everything(), incomplete_results()])
def test_the_42_items_come_once_each_and_in_order_with_allowed_states(results):
    table = table_of(results, all_scores(results))
    assert [row[0] for row in table.rows] == list(range(1, 43))
    assert len({row[1] for row in table.rows}) == 42
    assert {row[3] for row in table.rows} <= set(get_args(State))


@pytest.mark.parametrize("results", [small_results(), small_results(warnings=[]), everything(), incomplete_results()])
def test_an_item_has_an_answer_exactly_where_the_software_knows_something(results):
    for _, _, answer, state in table_of(results).rows:
        assert bool(answer) == (state != "to be filled in")


def test_the_section_is_found_by_its_anchor():
    section = claim_section(small_results(), [])
    assert (section.anchor, section.title) == ("claim-section", "CLAIM checklist")
    assert [table.name for table in tables_of([section])] == ["claim"]


def test_the_caption_names_the_version_and_counts_the_states():
    caption = table_of(everything()).caption
    found = list(states_of(everything()).values())
    assert "version of 2020" in caption
    assert "Radiology: Artificial Intelligence 2020;2(2):e200029" in caption
    assert f"{found.count('filled in')} items filled in, {found.count('to be completed')} to be completed" in caption
    assert f"{found.count('to be filled in')} to be filled in" in caption


def test_what_only_people_know_is_never_answered():
    found = states_of(everything())
    assert [number for number, state in found.items() if state == "to be filled in"] == list(PEOPLE_ONLY)
    assert found[34] == "to be completed"
    text = " ".join(str(row[2]) for row in table_of(everything()).rows).lower()
    for word in ("ethic", "consent", "anonymi", "de-identif", "radiologist", "retrospective", "prospective", "funded"):
        assert word not in text
    for word in (" age", " sex", "years"):
        assert word not in answers(config=study())[34].lower()


def test_known_items_have_the_numbers_of_the_checklist():
    topics = dict(enumerate(TOPICS, start=1))
    named = {9: "Preprocessing", 13: "Missing", 20: "Division", 21: "disjoint", 22: "Model", 25: "Training"}
    named |= {27: "Ensembling", 28: "Metrics", 31: "Explainability", 32: "External", 33: "Flow", 37: "Failure"}
    assert all(word in topics[number] for number, word in named.items())


def test_without_a_study_file_its_settings_are_left_to_people():
    found = states()
    assert {found[number] for number in (9, 10, 24, 25, 26)} == {"to be filled in"}
    assert {found[number] for number in (13, 20, 22)} == {"to be completed"}
    assert found[21] == "filled in"


def test_counts_are_those_of_the_cohort():
    found = answers()
    assert found[7] == "12 images of 9 patients; images by source: cohen 4, montgomery 1, shenzhen 7."
    assert found[33] == "14 images listed, 12 used, 2 left out (cannot be decoded: 2)."
    assert "normal 4, covid_19 & co 4, 100% <other> 4" in found[19]
    cohort = replace(small_results().cohort, excluded={}, group_name="images")
    found = answers(cohort=cohort)
    assert found[33] == "12 images listed, 12 used, none left out."
    assert found[7].startswith("12 images; ")


def test_the_division_follows_the_protocol():
    assert "7-fold cross-validation, every image tested once" in configured(folds={"k": 7})[20]
    assert "about 15 % are the validation part" in configured(folds={"k": 7})[20]
    assert "class alone where sources are too small" in configured()[20]
    assert "in proportion by class;" in configured(folds={"stratify_by": "class"})[20]
    assert "by the seed 7" in configured()[20]
    holdout = configured(folds={"protocol": "holdout_75_25", "k": 9, "validation": 0.25})[20]
    assert "about 25 % of the images in the test part" in holdout
    assert "9" not in holdout
    batches = configured(folds={"protocol": "holdout_batches", "group_by": "image", "validation": 0.11})[20]
    assert "batches of 16 images, about 60 % training, 20 % validation and 20 % test" in batches
    assert "11 %" not in batches
    assert "Drawn are images" in batches


def test_dividing_images_is_said_to_leak_patients():
    leaking = configured(folds={"group_by": "image"})[21]
    assert "leaks patients" in leaking
    by = {group_by: configured(folds={"group_by": group_by})[21] for group_by in ("group", "patient")}
    assert "leaks" not in " ".join(by.values())
    assert by["group"] != by["patient"]
    cohort = small_results().cohort
    assert answers(cohort=replace(cohort, group_name="images"))[21] == leaking
    assert answers(cohort=cohort)[21] == by["patient"]
    assert answers(cohort=replace(cohort, group_name="patient groups"))[21] == by["group"]


def test_the_model_and_its_training_are_those_of_the_study_file():
    assert "the new layers alone are trained" in configured(model={"transfer": "frozen"})[25]
    assert "all layers are trained" in configured(model={"transfer": "finetune"})[25]
    recipe = {"epochs": 33, "batch_size": 24, "learning_rate": 3e-4, "weight_decay": 0.01}
    for value in ("33 epochs", "batches of 24", "learning rate 0.0003", "weight decay 0.01", "trained: 4, one"):
        assert value in configured(training=recipe)[25]
    vgg = configured(
        variants={"models": ["vgg16"]}, model={"vgg_hidden": 512, "dropout": 0.25, "vgg_head": "average_pool"}
    )[22]
    assert "VGG16" in vgg
    assert "global average pooling, three hidden layers of 512 units with ReLU and dropout 0.25" in vgg
    assert "ResNet" not in vgg
    assert "flattened features" in configured(variants={"models": ["vgg16"]})[22]
    assert "ResNet-34" in configured()[22]
    assert "128 x 128 pixels" in configured(preprocessing={"size": 128})[22]


def test_the_choice_among_epochs_is_told():
    assert "last epoch" in configured(training={"selection": "last"})[26]
    best = configured(training={"selection": "best_validation_loss"})[26]
    assert "lowest loss on the validation part" in best
    assert "last epoch" not in best


def test_where_weights_of_ones_own_come_from_is_left_to_people():
    own = study(model={"weights": "/home/somebody/resnet34.pth"})
    assert states(config=own)[24] == "to be completed"
    assert "/home" not in answers(config=own)[24]
    assert "resnet34.pth (SHA-256 of the file: resnet34: ab12)" in answers(config=own, facts=FACTS)[24]
    assert "ImageNet" in configured()[24]
    assert states(config=study(model={"weights": "none"}))[24] == "filled in"
    assert "Convolutional layers: random" in configured(model={"weights": "none"})[24]


def test_pixels_and_views_are_those_of_the_study_file():
    found = configured(preprocessing={"size": 96, "resize": "pad", "equalize": "clahe"})[9]
    assert "padded with black to a square and resized to 96 x 96 pixels" in found
    assert "CLAHE" in found
    found = answers(
        config=study(variants={"views": ["whole", "lung_box"]}),
        masks=MaskSummary("mask files of the manifest", "drop", {}, (), ()),
    )[10]
    assert "whole, the image as it is; lung_box, cut to the lungs' box" in found
    assert found.endswith("Lung masks: mask files of the manifest.")


def test_rules_for_missing_masks_are_told_where_masks_are_needed():
    lungs = {"masks": "files", "missing": "drop", "implausible": "drop"}
    needing = configured(variants={"views": ["segmented"]}, lungs=lungs)[13]
    assert "an image without a mask file is left out" in needing
    assert "an image with an implausible lung mask is left out" in needing
    assert "mask" not in configured(lungs=lungs)[13]
    assert "up to 7 %" in configured(cohort={"manifest": "m.csv", "classes": ["a", "b"], "max_quarantined": 0.07})[13]


def test_software_is_told_where_the_facts_hold_it():
    assert answers(facts=FACTS)[23] == "Where this report was made: cxrdist 1.2.3, torch 2.9, Python 3.11.4."
    assert states()[23] == "to be filled in"
    machines = [*FACTS, ("Machines", "CPU, 2 threads (4 fold jobs)")]
    assert answers(facts=machines)[23].endswith("Fold jobs were done on: CPU, 2 threads (4 fold jobs).")


def test_an_audit_and_heat_maps_count_only_where_they_were_made():
    assert states()[30] == states()[31] == "to be completed"
    assert answers()[30] == "No audit for shortcuts was made."
    assert answers()[31] == "This report has no heat maps."
    told = "An audit for shortcuts, of 2 predictors. Shortcuts, in its words: resnet34: most."
    assert answers(audit=audit())[30] == told
    assert states(audit=audit())[30] == "filled in"
    assert "whole-resnet34 by CAM" in answers(heat_shares=[heat_shares("whole-resnet34", "cam")])[31]
    assert "Grad-CAM" in answers(heat_shares=[heat_shares("segmented-vgg16", "gradcam")])[31]
    heat = HeatMap(np.zeros((1, 1), np.float32), CLASSES[0], 0.9)
    images = {"image-0000": shown_image(**{"whole-resnet34": heat}), "image-0001": shown_image()}
    assert answers(images=images)[31].startswith("Heat maps of 1 image,")
    assert states(images=images)[31] == "to be completed"


def test_scores_and_errors_are_those_of_the_variants():
    found = answers()
    assert "whole-resnet34: accuracy 0.833" in found[35]
    assert "segmented-vgg16: accuracy 0.417" in found[35]
    assert "whole-resnet34: 2 of 12; segmented-vgg16: 7 of 12" in found[37]
    assert "compared in pairs" in found[29]
    assert "compared in pairs" not in answers(scores_of_small()[:1])[29]


def test_without_predictions_no_performance_is_told():
    missing = [f"{variant} fold {fold}" for variant in VARIANTS for fold in (0, 1)]
    found = states([], out_of_fold={}, histories={}, missing=missing)
    assert {found[number] for number in (27, 28, 29, 35, 36, 37)} == {"to be filled in"}


def test_an_incomplete_study_leaves_its_results_to_be_completed():
    results = incomplete_results()
    table = table_of(results, all_scores(results))
    found = states_of(results, all_scores(results))
    assert found[35] == found[36] == "to be completed"
    assert results.incompleteness in table.caption
    assert states()[35] == states()[36] == "filled in"
    assert states(histories={})[35] == "to be completed"


def test_doubts_become_limitations_that_people_complete():
    assert states(warnings=[])[38] == "to be filled in"
    assert answers(warnings=["One.", "two"])[38] == "Doubts that the software raises: One; two."
    assert states(warnings=["One."])[38] == "to be completed"


def named(names):
    base = small_results().cohort
    cohort = replace(
        base,
        classes=[
            replace(one, label=label, sources={label: one.images})
            for one, label in zip(base.classes, names, strict=True)
        ],
    )
    return small_results(classes=tuple(names), cohort=cohort, warnings=list(names), config=study())


def html(table: Table) -> str:
    environment = Environment(loader=PackageLoader("cxrdist.report"), autoescape=True, undefined=StrictUndefined)
    template = environment.from_string('{% from "table.html.j2" import table_html %}{{ table_html(table, 1) }}')
    return template.render(table=table)


def test_names_with_markup_are_harmless_in_every_format():
    table = table_of(named(HOSTILE))
    assert HOSTILE[0] in str(table.rows)
    assert "<script" not in html(table)
    latex = render_latex(table)
    assert "\\input" not in latex
    assert "$" not in latex.replace(r"\$", "")
    lines = [line for line in render_markdown(table).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 42
    assert {line.replace("\\|", "").count("|") for line in lines} == {5}
    assert "<script" not in "".join(lines).replace("\\<", "")
    cells = list(csv.reader(io.StringIO(render_csv(table))))
    assert {len(row) for row in cells} == {4}
    assert len(cells) == 1 + 42
    assert len([line for line in render_text(table).splitlines() if line[:2].strip().isdecimal()]) == 42


@given(st.lists(st.text(min_size=1, max_size=12), min_size=3, max_size=3, unique=True))
@settings(max_examples=25, deadline=None)
def test_no_name_starts_a_cell_where_a_spreadsheet_would_take_it_for_a_formula(names):
    for row in table_of(named(names)).rows:
        assert str(row[2])[:1] not in ("=", "+", "-", "@", "\t")


@pytest.mark.parametrize("render", [render_csv, render_latex, render_markdown, render_text, html])
def test_an_answer_stands_beside_its_item_in_every_format(render):
    text = render(table_of(everything()))
    assert text.count("Adam on the cross") == text.count("State") == 1


def test_equal_results_give_equal_bytes():
    assert render_csv(table_of(everything())) == render_csv(table_of(everything()))
