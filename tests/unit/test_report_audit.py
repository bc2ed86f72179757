"""The shortcut audit: the rule word by word, sentences that claim no more, and tables that render."""

import csv
import io
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment, PackageLoader, StrictUndefined

from cxrdist.errors import CxrdistError
from cxrdist.report.audit import (
    CAUTION,
    RULE,
    Audit,
    AuditRow,
    audit_findings,
    audit_verdicts,
    audit_warnings,
)
from cxrdist.report.audit_tables import audit_by_class_table, audit_table
from cxrdist.report.inference_tables import AS_TRAINED
from cxrdist.report.render import render_csv, render_latex, render_markdown, render_text

CLASSES = ("normal", "covid19")
UNDEFINED = (math.nan, math.nan, math.nan)


def near(value, half=0.02):
    return (value, value - half, value + half)


SEES = {"whole": "the whole image", "segmented": "the lungs alone", "lungs_blanked": "everything but the lungs"}


def predictor(name, kind, sees, macro, **changes):
    made = AuditRow(name, sees, kind, CLASSES, 200, 0.8, 0.55, macro, (macro, macro))
    return replace(made, **changes)


def row(name, kind, macro, **changes):
    return predictor(name, kind, SEES[kind], macro, **changes)


def probe(kind, sees, macro, **changes):
    return predictor(kind, kind, sees, macro, **changes)


def audit(*rows, doubts=(), intervals="Low and high: 95 % of 1000 resamplings of patients"):
    return Audit(tuple(rows), tuple(doubts), intervals)


def pair(whole, blanked):
    return audit(row("whole-vgg16", "whole", whole), row("lungs_blanked-vgg16", "lungs_blanked", blanked))


WHOLE = row("whole-resnet34", "whole", near(0.9), by_class=(near(0.875), near(0.51)))
BLANKED = row("lungs_blanked-resnet34", "lungs_blanked", near(0.84), by_class=(near(0.7), near(0.9)))
FULL = audit(
    WHOLE,
    row("segmented-resnet34", "segmented", near(0.8)),
    BLANKED,
    probe(
        "source",
        "source of covid19 images from the whole image",
        near(0.98, 0.01),
        classes=("cohen", "covid_cxnet", "kaggle"),
        by_class=(near(0.97), near(0.99), UNDEFINED),
        accuracy=0.95,
        majority=0.6,
    ),
    probe("aspect", "aspect ratio of the file", near(0.74), accuracy=0.5, majority=0.27),
    probe("size", "aspect ratio and size of the file", near(0.76), accuracy=0.52, majority=0.27),
    probe("thumbnail", "a 16 x 16 thumbnail", near(0.93, 0.01), accuracy=0.78, majority=0.27),
    doubts=["class covid19 comes from one source only (cohen)"],
)


def verdict_of(whole, blanked):
    return audit_verdicts(pair(whole, blanked))[0]


# 0.5 + 0.25 for the whole image, so that shares are exact in binary.
@pytest.mark.parametrize(
    ("blanked", "shortcut"),
    [
        ((0.75, 0.7, 0.8), "most"),
        ((0.6875, 0.6, 0.8), "most"),
        ((0.6874, 0.6, 0.8), "found"),
        ((0.625, 0.5001, 0.8), "found"),
        ((0.6249, 0.6, 0.8), "some"),
        ((0.5625, 0.5001, 0.8), "some"),
        ((0.5624, 0.56, 0.57), "not found"),
        ((0.75, 0.5, 0.99), "not found"),
        ((0.7, 0.4, 0.9), "not found"),
        ((0.3, 0.2, 0.4), "not found"),
        (UNDEFINED, "nothing to compare"),
        ((0.7, math.nan, math.nan), "nothing to compare"),
    ],
)
def test_the_rule_is_kept_to_its_bounds(blanked, shortcut):
    assert verdict_of((0.75, 0.7, 0.8), blanked).shortcut == shortcut


@pytest.mark.parametrize("whole", [(0.52, 0.48, 0.56), (0.6, 0.5, 0.7), (0.4, 0.3, 0.45), UNDEFINED])
def test_where_the_whole_image_tells_nothing_there_is_nothing_to_compare(whole):
    verdict = verdict_of(whole, near(0.9))
    assert verdict.shortcut == "nothing to compare"
    assert math.isnan(verdict.share)


@given(st.floats(0.51, 1), st.floats(0, 1), st.floats(0, 0.3))
def test_a_shortcut_is_never_found_where_the_blanked_image_may_be_chance(whole, blanked, half):
    verdict = verdict_of((whole, 0.505, 1), (blanked, blanked - half, blanked + half))
    assert verdict.share == pytest.approx((blanked - 0.5) / (whole - 0.5))
    if verdict.shortcut in ("most", "found", "some"):
        assert blanked - half > 0.5
    if verdict.shortcut in ("most", "found"):
        assert verdict.share >= 0.5


def test_every_model_is_judged_on_its_mean_and_on_each_class():
    verdicts = audit_verdicts(FULL)
    assert [(one.model, one.label, one.shortcut) for one in verdicts] == [
        ("resnet34", None, "most"),
        ("resnet34", "normal", "found"),
        ("resnet34", "covid19", "nothing to compare"),
    ]
    assert [one.share for one in verdicts[:2]] == pytest.approx([0.85, 0.2 / 0.375])


def test_each_model_is_compared_with_itself():
    verdicts = audit_verdicts(
        audit(
            row("lungs_blanked-vgg16", "lungs_blanked", near(0.6)),
            row("whole-resnet34", "whole", near(0.9)),
            row("whole-vgg16", "whole", near(0.95)),
            row("lungs_blanked-resnet34", "lungs_blanked", near(0.9)),
        )
    )
    assert {one.model: one.shortcut for one in verdicts} == {"vgg16": "not found", "resnet34": "most"}


def test_a_model_without_a_counterpart_has_no_verdict():
    alone = audit(row("whole-vgg16", "whole", near(0.9)), row("lungs_blanked-resnet34", "lungs_blanked", near(0.9)))
    assert audit_verdicts(alone) == []
    assert audit_findings(alone) == []
    assert RULE not in audit_table(alone).notes
    assert [line[-1] for line in audit_table(alone).rows] == [None, None]


def test_the_findings_say_what_was_found_in_order():
    assert audit_findings(FULL) == [
        "resnet34 has a macro AUC of 0.90 (0.88 to 0.92) from the whole image and of 0.84 (0.82 to 0.86) without the "
        "lungs, 85 % of the distance from 0.5: a shortcut is found, and most of what the network tells, it can tell "
        "without the lungs.",
        "resnet34 by class, as shares of the distance from 0.5: normal 53 % (found), covid19 (nothing to compare).",
        "Predicting the source of covid19 images from the whole image reaches an AUC of 0.98 (0.97 to 0.99) and 95 % "
        "accuracy, where always answering the most frequent source gives 60 %.",
        "The aspect ratio of the file alone gives an AUC of 0.74 (0.72 to 0.76) and 50 % accuracy, where always "
        "answering the largest class gives 27 %.",
        "The aspect ratio and size of the file alone give an AUC of 0.76 (0.74 to 0.78) and 52 % accuracy, where "
        "always answering the largest class gives 27 %.",
        "A 16 x 16 thumbnail alone gives an AUC of 0.93 (0.92 to 0.94) and 78 % accuracy, where always answering the "
        "largest class gives 27 %.",
        "Class covid19 comes from one source only (cohen).",
    ]


@pytest.mark.parametrize(
    ("blanked", "ending"),
    [
        (near(0.9), "a shortcut is found, and most of what the network tells, it can tell without the lungs."),
        (near(0.76), "65 % of the distance from 0.5: a shortcut is found."),
        (near(0.66), "40 % of the distance from 0.5: some of what the network tells, it can tell without the lungs."),
        (near(0.56), "15 % of the distance from 0.5: no shortcut found."),
        (UNDEFINED, "of n/a (n/a to n/a) without the lungs: nothing to compare."),
    ],
)
def test_each_verdict_has_its_own_words(blanked, ending):
    assert audit_findings(pair(near(0.9), blanked))[0].endswith(ending)


@pytest.mark.parametrize("kind", ["source", "aspect", "size", "thumbnail"])
@pytest.mark.parametrize("macro", [(0.6, 0.5, 0.7), (0.45, 0.4, 0.49), UNDEFINED])
def test_a_predictor_that_may_be_guessing_has_no_sentence(kind, macro):
    assert audit_findings(audit(probe(kind, "something", macro))) == []
    assert len(audit_findings(audit(probe(kind, "something", near(0.6))))) == 1


def test_the_table_has_a_row_for_each_predictor_and_a_verdict_for_blanked_ones():
    table = audit_table(FULL)
    assert [column.label for column in table.columns] == [
        *("Predictor", "Sees", "Images", "Accuracy", "Majority", "AUC macro value", "AUC macro low", "AUC macro high"),
        "Shortcut",
    ]
    assert [line[0] for line in table.rows] == [*["resnet34"] * 3, "source", "aspect", "size", "thumbnail"]
    assert [line[1] for line in table.rows] == [one.sees for one in FULL.rows]
    assert table.rows[2] == ("resnet34", "everything but the lungs", 200, 0.8, 0.55, *near(0.84), "most")
    assert [line[-1] for line in table.rows] == [None, None, "most", None, None, None, None]


def test_the_rule_the_intervals_and_a_caution_stand_under_both_tables():
    for table in (audit_table(FULL), audit_by_class_table(FULL)):
        assert table.notes[-4:] == ("Low and high: 95 % of 1000 resamplings of patients.", AS_TRAINED, RULE, CAUTION)
    for bound in ("least 0.5", "least 0.75", "below 0.25"):
        assert bound in RULE


def test_the_table_by_class_ends_each_predictor_with_its_mean():
    table = audit_by_class_table(FULL)
    assert table.rows[:3] == (
        ("whole-resnet34", "normal", *near(0.875), None, None),
        ("whole-resnet34", "covid19", *near(0.51), None, None),
        ("whole-resnet34", "macro", *near(0.9), None, None),
    )
    blanked = [line for line in table.shown() if line[0] == "lungs_blanked-resnet34"]
    assert [line[1:3] + line[5:] for line in blanked] == [
        ["normal", "0.700", "0.533", "found"],
        ["covid19", "0.900", "n/a", "nothing to compare"],
        ["macro", "0.840", "0.850", "most"],
    ]
    assert [line[1] for line in table.rows if line[0] == "source"] == ["cohen", "covid_cxnet", "kaggle", "macro"]
    assert {table.rows[index][1] for index in table.totals} == {"macro"}
    assert len(table.totals) == len(FULL.rows)


@pytest.mark.parametrize("make", [audit_table, audit_by_class_table])
def test_tables_render_in_every_format(make):
    table = make(FULL)
    read = list(csv.reader(io.StringIO(render_csv(table))))
    assert [line[:2] for line in read[1:]] == [list(line[:2]) for line in table.rows]
    latex, text, markdown = render_latex(table), render_text(table), render_markdown(table)
    assert latex.count(r"\begin{tabular}") <= 2
    assert all(len(line) <= 110 for line in text.splitlines() if not line.startswith(("  ", table.title)))
    assert len([line for line in markdown.splitlines() if line.startswith("|")]) == len(table.rows) + 2
    environment = Environment(loader=PackageLoader("cxrdist.report"), autoescape=True, undefined=StrictUndefined)
    page = environment.from_string('{% from "table.html.j2" import table_html %}{{ table_html(table, 1) }}')
    html = page.render(table=table)
    for rendered in (latex, text, markdown, html):
        assert "most" in rendered
        assert "n/a" in rendered or make is audit_table
    assert html.count("<th") >= 2 * len(FULL.rows)


def test_an_empty_audit_has_empty_tables_and_no_findings():
    assert audit_findings(audit()) == []
    assert audit_table(audit()).rows == audit_by_class_table(audit()).rows == ()


def test_json_gives_the_audit_back_with_null_for_the_undefined():
    text = json.dumps(FULL.to_json(), allow_nan=False)
    back = Audit.from_json(json.loads(text))
    assert repr(back) == repr(FULL)
    assert back.rows[:3] == FULL.rows[:3]
    assert json.loads(text)["rows"][3]["by_class"][2] == [None, None, None]
    assert audit_findings(back) == audit_findings(FULL)


def changed(value, path, new):
    """A copy of JSON with one value replaced, or removed where `new` is None."""
    copy: Any = json.loads(json.dumps(value))
    *folders, last = path
    inner = copy
    for folder in folders:
        inner = inner[folder]
    if new is None:
        del inner[last]
    else:
        inner[last] = new
    return copy


@pytest.mark.parametrize(
    ("path", "new"),
    [
        (["rows"], None),
        (["rows"], 5),
        (["rows", 0, "kind"], None),
        (["rows", 0, "kind"], "halved"),
        (["rows", 0, "macro"], [0.5, 0.4]),
        (["rows", 0, "accuracy"], "high"),
        (["rows", 0, "by_class"], [[0.9, 0.8, 1.0]]),
        (["doubts"], 3),
    ],
)
def test_json_that_is_no_audits_is_refused(path, new):
    with pytest.raises(CxrdistError, match="audit"):
        Audit.from_json(changed(FULL.to_json(), path, new))
    assert repr(Audit.from_json(FULL.to_json())) == repr(FULL)


def test_an_audit_that_contradicts_itself_is_refused():
    with pytest.raises(CxrdistError, match="two predictors of one name"):
        audit(WHOLE, WHOLE)
    with pytest.raises(CxrdistError, match="cannot be compared"):
        audit(WHOLE, replace(BLANKED, classes=("normal", "pneumonia")))
    with pytest.raises(CxrdistError, match="3 values for the 2 classes"):
        replace(WHOLE, by_class=(near(0.9),) * 3)
    with pytest.raises(CxrdistError, match="'resnet34' is not named by its view 'whole'"):
        replace(WHOLE, name="resnet34")


def test_a_warning_names_the_classes_that_are_told_without_the_lungs():
    (warning,) = audit_warnings(FULL)
    assert "resnet34" in warning
    assert "normal (53 %)" in warning
    assert "covid19" not in warning


def test_without_a_shortcut_there_is_no_warning():
    assert audit_warnings(pair(near(0.9), near(0.55))) == []
