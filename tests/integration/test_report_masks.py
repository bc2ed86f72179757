"""Lung masks in the report: counted by source, listed with their faults, outlined on sheets, and on the page."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from cxrdist.report.audit import Audit, AuditRow, audit_findings
from cxrdist.report.masks import (
    ImplausibleMask,
    MaskExample,
    MaskSummary,
    SourceMasks,
    implausible_table,
    mask_counts_table,
    mask_pictures,
    mask_table,
)
from cxrdist.report.render import render_csv, render_latex, render_markdown, render_text
from tests.unit.report_examples import small_results
from tests.unit.test_report_page import nothing_is_drawn, outline, page  # noqa: F401 - the first is a fixture

PNG = b"\x89PNG\r\n\x1a\n"
SCRIPT = "<script>alert(1)</script>"
SOURCES = {
    "cohen": SourceMasks(images=10, implausible=3, area=0.4),
    "kaggle": SourceMasks(images=30, implausible=0, area=0.2),
}
IMPLAUSIBLE = (
    ImplausibleMask("a-1", "cohen", "covid19", ("is empty",)),
    ImplausibleMask("a-2", "cohen", "covid19", ("has 5 separate parts", "is one-sided")),
    ImplausibleMask("a-3", "cohen", "normal", ("is empty",)),
)


def example(number, source="kaggle", label="normal", faults="", mask=None):
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32), dtype=np.uint8)
    if mask is None:
        mask = np.zeros((32, 32), dtype=np.uint8)
        mask[6:28, 4:14] = mask[6:28, 18:28] = 1
    return MaskExample(f"image-{number}", source, label, faults, pixels, mask)


def summary(examples=(), **changes):
    made = MaskSummary("the lung network", "whole", SOURCES, IMPLAUSIBLE, list(examples))
    return replace(made, **changes)


EXAMPLES = [example(0), example(1, "cohen", "covid19"), example(2, "cohen", "covid19", "is empty")]


def test_masks_are_counted_by_source_and_in_all():
    table = mask_table(summary())
    assert [column.label for column in table.columns] == [
        *("Source", "Images", "Implausible", "% implausible", "Mean % of the image"),
    ]
    assert table.rows[:2] == (("cohen", 10, 3, 30.0, 40.0), ("kaggle", 30, 0, 0.0, 20.0))
    name, *counts = table.rows[2]
    assert name == "all"
    # Of images, not of sources: 10 of 40 % and 30 of 20 %.
    assert counts == pytest.approx([40, 3, 7.5, 25.0])
    assert table.totals == {2}


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("whole", "all of the image counts as lung"),
        ("drop", "the image is left out of every variant"),
        ("error", "the study is refused"),
    ],
)
def test_the_caption_says_where_masks_come_from_and_what_becomes_of_implausible_ones(policy, words):
    table = mask_table(summary(policy=policy, origin="the manifest's files"))
    assert table.caption == f"From the manifest's files. Where a mask is implausible, {words}."


def test_every_implausible_mask_is_named_with_all_its_faults():
    table = implausible_table(summary())
    assert table.rows == (
        ("a-1", "cohen", "covid19", "is empty"),
        ("a-2", "cohen", "covid19", "has 5 separate parts; is one-sided"),
        ("a-3", "cohen", "normal", "is empty"),
    )


@pytest.mark.parametrize("render", [render_csv, render_markdown, render_latex, render_text])
def test_the_tables_can_be_written_in_every_form(render):
    assert "30" in render(mask_table(summary()))
    assert "one-sided" in render(implausible_table(summary()))
    assert "phone" in render(mask_counts_table({"phone": SourceMasks(1, 1, 0.0)}, "As found."))


@pytest.fixture(scope="module")
def sheets():
    return mask_pictures(summary(EXAMPLES))


def test_plausible_and_implausible_masks_have_a_sheet_each(sheets):
    plausible, implausible = sheets
    assert (plausible.name, implausible.name) == ("lung_mask_outlines", "implausible_mask_outlines")
    assert plausible.caption == "2 images of kaggle, cohen with the outline of the lung mask."
    assert implausible.caption.startswith("1 of the 3 images whose lung mask is implausible")
    assert mask_pictures(summary()) == []


def test_a_sheet_of_all_implausible_masks_says_so_and_stands_alone():
    examples = [example(number, faults="is empty") for number in range(3)]
    (sheet,) = mask_pictures(summary(examples))
    assert sheet.name == "implausible_mask_outlines"
    assert sheet.caption.startswith("3 images whose lung mask is implausible")


def test_a_sheet_is_an_svg_and_a_png_with_words_for_those_who_cannot_see_it(sheets):
    for sheet in sheets:
        assert ElementTree.fromstring(sheet.svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert sheet.png.startswith(PNG)
        assert sheet.alternative == f"Contact sheet. {sheet.caption}"


def test_equal_masks_give_equal_bytes(sheets):
    assert mask_pictures(summary([example(0), example(1, "cohen", "covid19")])) == sheets[:1]


def test_the_outline_of_the_mask_is_drawn(sheets):
    other = np.zeros((32, 32), dtype=np.uint8)
    other[10:20, 10:20] = 1
    changed = mask_pictures(summary([example(0, mask=other), EXAMPLES[1]]))[0]
    assert changed.svg != sheets[0].svg
    assert changed.png != sheets[0].png
    assert b"#e69f00" in changed.svg.lower()


def test_masks_without_an_outline_can_be_shown():
    examples = [example(fill, mask=np.full((32, 32), fill, dtype=np.uint8)) for fill in (0, 1)]
    sheet = mask_pictures(summary(examples))[0]
    assert b"#e69f00" not in sheet.svg.lower()
    assert sheet.png.startswith(PNG)


def test_a_sheet_has_a_row_for_every_six_images(sheets):
    def size(sheet):
        root = ElementTree.fromstring(sheet.svg)
        return [float(root.attrib[side].removesuffix("pt")) for side in ("width", "height")]

    (width, one_row), (same, two_rows) = size(sheets[0]), size(mask_pictures(summary([EXAMPLES[0]] * 7))[0])
    assert same == width
    assert 1.7 * one_row < two_rows < 2 * one_row


def test_names_of_any_kind_can_be_written_over_an_image():
    names = ["$x_1^", SCRIPT, "a" * 300, "{{ 7 * 7 }}"]
    sheet = mask_pictures(summary([example(number, name, name) for number, name in enumerate(names)]))[0]
    ElementTree.fromstring(sheet.svg)
    assert SCRIPT.encode() not in sheet.svg


NEAR = (0.9, 0.88, 0.92)
AUDIT = Audit(
    tuple(
        AuditRow(f"{view}-resnet34", sees, view, ("normal", SCRIPT), 200, 0.8, 0.55, NEAR, (NEAR, NEAR))  # type: ignore[arg-type]
        for view, sees in (("whole", "the whole image"), ("lungs_blanked", "everything but the lungs"))
    ),
    (f"class {SCRIPT} comes from one source only",),
    "Low and high: 95 % of 1000 resamplings",
)


@pytest.fixture(scope="module")
def complete():
    results = small_results(masks=summary(EXAMPLES, origin=f"the network of {SCRIPT}"), audit=AUDIT)
    return page(results)


def sections_linked(text):
    """Of each entry of the contents that leads to a section of the page: the words and the section's heading."""
    contents = text[text.index("<nav") : text.index("</nav>")]
    headings = {one["id"] for one in outline(text).of("h2") if "id" in one}
    links = [one["href"].removeprefix("#") for one in outline(contents).of("a")]
    return dict(zip(outline(contents).texts("a"), links, strict=True)), headings


@pytest.mark.parametrize("section", ["Lung masks", "Shortcuts"])
def test_the_page_has_the_section_and_its_contents_lead_there(complete, section):
    links, headings = sections_linked(complete)
    assert links[section] in headings
    assert section in outline(complete).texts("h2")


def test_the_page_is_well_formed_with_all_its_parts(complete):
    parsed = outline(complete)
    assert (parsed.unmatched, parsed.open) == ([], [])


def test_tables_are_numbered_as_they_come_with_those_of_masks_and_audit_too(complete):
    captions = [text for text in outline(complete).texts("b") if text.startswith("Table")]
    assert [text.split(".")[0] for text in captions] == [f"Table {number}" for number in range(1, 22)]


def test_every_id_of_the_page_is_of_one_thing_so_that_links_lead_there(complete):
    ids = [attributes["id"] for _, attributes in outline(complete).tags if "id" in attributes]
    assert sorted(one for one in set(ids) if ids.count(one) > 1) == []


def test_the_page_shows_each_mask_that_is_implausible_and_each_finding(complete, sheets):
    parsed = outline(complete)
    assert {one.image_id for one in IMPLAUSIBLE} <= set(parsed.texts("th"))
    assert "has 5 separate parts; is one-sided" in parsed.texts("td")
    assert set(audit_findings(AUDIT)) <= set(parsed.texts("li"))
    assert [one["alt"] for one in parsed.of("img")][-len(sheets) :] == [one.alternative for one in sheets]


def test_names_of_masks_and_of_the_audit_are_text_and_never_markup(complete):
    assert "<script" not in complete
    assert not outline(complete).of("script")
    assert "&lt;script&gt;" in complete


def test_a_page_without_masks_or_audit_has_no_such_sections():
    text = page(small_results())
    links, _ = sections_linked(text)
    assert not {"Lung masks", "Shortcuts"} & set(links)
    assert "Lung masks" not in outline(text).texts("h2")
    assert "Shortcuts" not in outline(text).texts("h2")


def test_a_page_of_plausible_masks_lists_no_faults():
    text = page(small_results(masks=summary(implausible=[])))
    assert "Lung masks" in outline(text).texts("h2")
    assert "Implausible lung masks" not in text
