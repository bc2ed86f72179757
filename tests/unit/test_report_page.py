"""The page: self-contained, escaped, accessible, and honest about what is missing."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from cxrdist.report import calibration, sections
from cxrdist.report.page import render_page
from cxrdist.report.style import Picture
from tests.unit.report_examples import VARIANTS, incomplete_results, small_results

VOID = {"meta", "img", "br", "hr", "link", "input"}
PICTURE = Picture("roc_x", "ROC <b>", "A & B.", 'Curves of "x" <y>.', b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"")


class Outline(HTMLParser):
    """Collects start tags with their attributes, the text of headings, and tags that do not match."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.unmatched, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unmatched.append(tag)

    def handle_data(self, data):
        self.text.append((self.open[-1] if self.open else "", data))

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def texts(self, tag):
        return [text.strip() for name, text in self.text if name == tag and text.strip()]


@pytest.fixture(scope="module", autouse=True)
def nothing_is_drawn():
    """Figures take long to draw, and the page is tested with one that is not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sections, "learning_picture", lambda *_: None)
        patch.setattr(sections, "roc_picture", lambda _, scores, __: replace(PICTURE, name=f"roc_{scores.variant}"))
        patch.setattr(calibration, "reliability_picture", lambda *_: replace(PICTURE, name="reliability"))
        patch.setattr(sections, "comparison_picture", lambda *_: replace(PICTURE, name="comparison"))
        yield


def page(results):
    return render_page(results, sections.report_sections(sections.Findings.of(results)))


def outline(text):
    parsed = Outline()
    parsed.feed(text)
    parsed.close()
    return parsed


@pytest.fixture(scope="module")
def complete():
    return outline(page(small_results()))


def test_the_page_is_well_formed(complete):
    assert complete.unmatched == []
    assert complete.open == []


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(complete):
    assert not complete.of("script")
    assert not complete.of("link")
    for tag, attributes in complete.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/svg+xml;base64,")), (tag, value)
    style = "".join(text for tag, text in complete.text if tag == "style")
    assert "url(" not in style
    assert "@import" not in style
    policy = next(one["content"] for one in complete.of("meta") if "http-equiv" in one)
    assert policy.startswith("default-src 'none'")


def test_every_figure_has_words_for_those_who_cannot_see_it(complete):
    assert [one["alt"] for one in complete.of("img")] == ['Curves of "x" <y>.'] * 4
    assert len(complete.of("figcaption")) == len(complete.of("figure")) == 17 + 4


def test_every_header_cell_has_a_scope(complete):
    scopes = {one.get("scope") for one in complete.of("th")}
    assert scopes == {"col", "colgroup", "row", "rowgroup"}


def test_every_link_and_label_leads_somewhere_on_the_page(complete):
    ids = [attributes["id"] for _, attributes in complete.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [one["href"].removeprefix("#") for one in complete.of("a")]
    labels = [attributes["aria-labelledby"] for _, attributes in complete.tags if "aria-labelledby" in attributes]
    assert targets
    assert set(targets + labels) <= set(ids)


def test_every_row_of_a_table_has_as_many_cells_as_its_head():
    rows, spanned, inside = [], 0, False
    for tag, attributes in outline(page(small_results())).tags:
        if tag == "figure":
            inside = attributes["id"] == "folds"
        elif inside and tag == "tr":
            rows.append(1 if spanned > 0 else 0)
            spanned -= 1
        elif inside and tag in ("td", "th"):
            rows[-1] += int(attributes.get("colspan", "1"))
            spanned = int(attributes["rowspan"]) - 1 if attributes.get("scope") == "rowgroup" else spanned
    # A head, then two folds, mean and SD of each of two variants.
    assert rows == [6] * 9


def test_headings_are_in_the_order_of_reading(complete):
    assert complete.texts("h1") == ["small"]
    headings = [
        "Read these numbers with care",
        "Contents",
        "Summary",
        "Cohort and folds",
        "Variants",
        "Comparison of variants",
        "Calibration",
        "Errors",
        "CLAIM checklist",
        "How it is computed",
        "Reproducing it",
        "Study file",
    ]
    assert complete.texts("h2") == headings
    assert complete.texts("h3") == [*VARIANTS, "All variants by fold"]


def test_tables_are_numbered_as_they_come(complete):
    captions = [text for text in complete.texts("b") if text.startswith("Table")]
    assert [text.split(".")[0] for text in captions] == [f"Table {number}" for number in range(1, 18)]


def test_names_are_text_and_never_markup():
    script = "<script>alert(1)</script>"
    base = small_results()
    labels = (script, '"><img src=x onerror=y>', "{{ 7 * 7 }}")
    results = replace(
        base,
        study=script,
        classes=labels,
        cohort=replace(
            base.cohort,
            classes=[
                replace(one, label=label, sources={script: one.images})
                for one, label in zip(base.cohort.classes, labels, strict=True)
            ],
            excluded={script: 1},
        ),
        warnings=[script],
        facts=[(script, script)],
        study_yaml=f"name: {script}\n</code></pre>",
    )
    text = page(results)
    parsed = outline(text)
    assert "<script" not in text
    assert not parsed.of("script")
    assert {one["alt"] for one in parsed.of("img")} == {PICTURE.alternative}
    assert parsed.texts("h1") == [script]
    assert "{{ 7 * 7 }}" in parsed.texts("th")
    assert f"name: {script}\n</code></pre>" in parsed.texts("code")


def test_warnings_come_before_any_number():
    text = page(small_results())
    assert text.index("Every image of covid_19 &amp; co is from one source.") < text.index("<table")


def test_an_incomplete_study_says_so_at_the_top_and_names_what_is_missing():
    text = page(incomplete_results())
    top = text[: text.index("<nav")]
    assert "Cross-validation report of an incomplete study" in top
    assert "Incomplete study: 3 of 4 fold jobs have no predictions." in top
    for job in incomplete_results().missing:
        assert f"<li>{job}</li>" in top
    assert "ncomplete" not in page(small_results())


def test_a_study_without_predictions_still_has_a_page():
    missing = [f"{variant} fold {fold}" for variant in VARIANTS for fold in (0, 1)]
    parsed = outline(page(small_results(out_of_fold={}, histories={}, missing=missing)))
    assert "No fold job has predictions yet." in parsed.texts("p")
    assert "Variants" not in parsed.texts("h2")
    assert "Comparison of variants" not in parsed.texts("h2")
    assert parsed.unmatched == []
