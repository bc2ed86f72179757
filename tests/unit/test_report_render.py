"""Tables as CSV, Markdown, LaTeX and plain text: nothing lost, nothing breaks out."""

import csv
import io
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.report.render import render_csv, render_latex, render_markdown, render_text
from cxrdist.report.table import Column, Table

AWKWARD = 'a_b & 50% <script> $x$ #1 {y} \\z ~ ^ | [q] "w" `v` *u*'


def table(rows, columns=("Name", "Value"), **changes):
    made = tuple(one if isinstance(one, Column) else Column(one, digits=2) for one in columns)
    return Table("name", "Title", "Caption.", made, tuple(rows), **changes)


NAMES = st.text(st.sampled_from("ab,;\"'= |\\é"), max_size=6).map(lambda text: " ".join(text.split()))
NUMBERS = st.one_of(st.floats(-1e9, 1e9), st.just(math.nan), st.integers(), st.none())


@given(st.lists(st.tuples(NAMES, NUMBERS), max_size=4))
@settings(max_examples=40, deadline=None)
def test_csv_gives_every_cell_back(rows):
    text = render_csv(table(rows))
    read = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert read[0] == ["Name", "Value"]
    assert len(read) == len(rows) + 1
    for (name, value), (read_name, read_value) in zip(rows, read[1:], strict=True):
        assert read_name == (f"'{name}" if name.startswith("=") else name)
        if value is None:
            assert read_value == ""
        elif isinstance(value, float) and math.isnan(value):
            assert read_value == "n/a"
        else:
            assert float(read_value) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("name", ["=1+1", "+A1", "-2+3", "@SUM(A1)", "\t=1", "\uff1d1", "-", "=cmd|' /C calc'!A0"])
def test_no_cell_of_csv_is_a_formula_and_numbers_stay_numbers(name):
    numbers = (-0.25, -3, "-1.5e-3", "+7", ".5", -math.inf)
    columns = ("Name", *map(str, range(len(numbers))))
    ((head, *_), (cell, *others)) = csv.reader(io.StringIO(render_csv(table([(name, *numbers)], (name, *columns[1:])))))
    assert head == cell == f"'{name.strip()}"
    assert [float(each) for each in others] == [float(each) for each in numbers]


def test_a_name_with_line_breaks_stays_on_one_line_of_csv():
    assert render_csv(table([("two\r\nlines\r", 1)])).splitlines() == ["Name,Value", "two lines,1"]


def test_latex_escapes_everything_that_steers_tex():
    text = render_latex(table([(AWKWARD, 1.0)], notes=(AWKWARD,)))
    row = next(line for line in text.splitlines() if line.endswith(r"& 1.00 \\"))
    assert r"a\_b \& 50\% \textless{}script\textgreater{} \$x\$ \#1 \{y\} \textbackslash{}z" in row
    assert r"\textasciitilde{} \textasciicircum{} \textbar{} {[}q{]}" in row
    body = row.removesuffix(r"\\")
    assert not re.search(r"(?<!\\)[_%$#]", body)
    assert len(re.findall(r"(?<!\\)&", body)) == 1
    unescaped = re.sub(r"\\[{}]", "", text)
    assert unescaped.count("{") == unescaped.count("}")


def test_markdown_keeps_the_columns_whatever_the_names_hold():
    text = render_markdown(table([(AWKWARD, 1.0), ("two\nlines", math.nan)]))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [3, 3, 3, 3]
    assert r"\<script\>" in rows[2]
    assert rows[3] == "| two lines | n/a |"


def test_plain_text_cannot_steer_the_terminal():
    text = render_text(table([("\x1b[31mred\x07", 1.0)]))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\N{REPLACEMENT CHARACTER}[31mred" in text


def test_columns_of_plain_text_are_aligned():
    text = render_text(table([("short", 1.5), ("a longer name", 10.25), ("none", None), ("nan", math.nan)]))
    assert text == (
        "Title. Caption.\n"
        "\n"
        "Name             Value\n"
        "-------------    -----\n"
        "short             1.50\n"
        "a longer name    10.25\n"
        "none\n"
        "nan                n/a\n"
    )


def test_a_wide_table_goes_on_below_itself_with_its_row_names():
    columns = ["Name", *(Column(f"c{index}", group=f"g{index // 2}", digits=3) for index in range(8))]
    wide = table([("row", *(index / 8 for index in range(8)))], columns)
    text = render_text(wide, width=36)
    assert all(len(line) <= 36 for line in text.splitlines())
    assert text.count("Name") == text.count("row") > 1
    numbers = re.findall(r"\d\.\d{3}", text)
    assert numbers == [f"{index / 8:.3f}" for index in range(8)]
    for group in range(4):
        assert text.count(f" g{group} ") == 1


@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(5, 60))
@settings(max_examples=40, deadline=None)
def test_blocks_hold_every_column_once_and_the_keys_each_time(lengths, limit):
    columns = ["K", *(Column("x" * length, group="g" if index % 3 else "") for index, length in enumerate(lengths))]
    blocks = table([], columns).blocks(limit, gap=2)
    assert all(block[0] == 0 and len(block) > 1 for block in blocks)
    assert [index for block in blocks for index in block[1:]] == list(range(1, len(columns)))


def test_a_row_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="2 columns"):
        table([("a", 1, 2)])


def test_numbers_are_rounded_by_their_column_and_small_negatives_are_not_minus_zero():
    column = Column("x", digits=2)
    shown = [column.show(value) for value in (1, 1.0, -0.001, math.nan, None, "t")]
    assert shown == ["1", "1.00", "0.00", "n/a", "", "t"]


def test_a_latex_table_longer_than_a_page_runs_over_pages_with_its_head_on_each():
    rows = [(f"row {number}", 1.0) for number in range(41)]
    text = render_latex(table(rows, notes=("A note.",)))
    assert r"\begin{longtable}{lr}" in text
    assert text.index(r"\midrule") < text.index(r"\endhead") < text.index("row 0")
    assert text.count(r"\\") >= 42
    assert text.index(r"\end{longtable}") < text.index("A note.")
    assert "longtable" not in render_latex(table(rows[:40]))


def test_sentences_in_a_latex_table_are_set_as_paragraphs():
    assert r"\begin{tabular}{p{9.0cm}r}" in render_latex(table([("word " * 20, 1.0)]))
