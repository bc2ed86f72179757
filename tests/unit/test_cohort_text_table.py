"""Tables of whatever program: one reader, to which they are the same however they were written, and its sentences."""

import csv
import io

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cxrdist.cohort.check_table import read_table
from cxrdist.cohort.manifest import open_manifest, read_manifest
from cxrdist.cohort.missing import known
from cxrdist.cohort.sources.sheet import read_sheet
from cxrdist.cohort.table import load_cohort
from cxrdist.cohort.text_table import open_table
from cxrdist.errors import UserError

COLUMNS = ("image_id", "path", "label", "patient_id", "source")
ROWS = [
    ("a 1", "x/é, 1.png", "normal", "007", "Hôpital"),
    ("b", 'x/"b".png', "covid", "7", ""),
    ("c\nd", "x/c;d.png", "normal", "", "s\tt"),
    ("=e", "x/e'.png", "covid", "-1", "Ångström"),
]
CLASSES = ["normal", "covid"]
MISSING = ["", " ", "nan", "NaN", "NAN", "None", "none", "NULL", "null", "N/A", "n/a", "NA", "<NA>", "NaT", "#N/A"]


def text_of(rows=ROWS, columns=COLUMNS, *, delimiter=",", end="\r\n", quoting=csv.QUOTE_MINIMAL, before="", after=""):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([columns, *rows])
    return before + text.getvalue() + after


def columns_of(rows=ROWS, names=COLUMNS):
    return dict(zip(names, zip(*rows, strict=True), strict=True))


def parquet_of(table):
    file = io.BytesIO()
    pa.parquet.write_table(table, file)
    return file.getvalue()


def typed(kind, rows=ROWS):
    return parquet_of(pa.table({name: pa.array(values).cast(kind) for name, values in columns_of(rows).items()}))


def padded(rows, blank):
    return [tuple(blank + cell + blank for cell in row) for row in rows]


BLANK_ROWS = [*ROWS[:2], ("",) * 5, ("  ",) * 5, *ROWS[2:], ("",) * 5]
WRITTEN = {
    "plain.csv": text_of().encode(),
    "semicolons.csv": text_of(delimiter=";").encode(),
    "tabs.tsv": text_of(delimiter="\t").encode(),
    "tabs.csv": text_of(delimiter="\t").encode(),
    "all-quoted.csv": text_of(quoting=csv.QUOTE_ALL).encode(),
    "lf.csv": text_of(end="\n").encode(),
    "cr.csv": text_of(end="\r", quoting=csv.QUOTE_ALL).encode(),
    "no-last-end.csv": text_of().encode()[:-2],
    "bom.csv": text_of().encode("utf-8-sig"),
    "utf-16.csv": text_of(delimiter="\t").encode("utf-16"),
    "utf-16-le.csv": text_of().encode("utf-16-le"),
    "utf-16-be.csv": text_of().encode("utf-16-be"),
    "cp1252.csv": text_of(delimiter=";").encode("cp1252"),
    "sep.csv": text_of(before="sep=,\r\n").encode(),
    "sep-bom.csv": text_of(before="sep=;\n", delimiter=";", end="\n").encode("utf-8-sig"),
    "sep-odd.csv": text_of(before='"sep=|"\r\n', delimiter="|").encode(),
    "blank-lines-first.csv": text_of(before="\r\n \r\n").encode(),
    "index.csv": text_of([(str(n), *row) for n, row in enumerate(ROWS)], ("", *COLUMNS)).encode(),
    "unnamed.csv": text_of([(str(n), *row) for n, row in enumerate(ROWS)], ("Unnamed: 0", *COLUMNS)).encode(),
    "trailing.csv": text_of([(*row, "", "") for row in ROWS], (*COLUMNS, "", "")).encode(),
    "cells-lacking.csv": text_of([row[:4] if row[4] == "" else row for row in ROWS]).encode(),
    "blank-rows.csv": text_of(BLANK_ROWS, after="\r\n\r\n").encode(),
    "padded.csv": text_of(padded(ROWS, " \u00a0"), padded([COLUMNS], " ")[0]).encode(),
    "blank-before-quotes.csv": text_of(quoting=csv.QUOTE_ALL).replace('","', '", "').encode(),
    "text.parquet": typed(pa.string()),
    "large.parquet": typed(pa.large_string()),
    "view.parquet": typed(pa.string_view()),
    "binary.parquet": typed(pa.binary()),
    "words.parquet": parquet_of(
        pa.table({name: pa.array(values).dictionary_encode() for name, values in columns_of().items()})
    ),
    "index.parquet": parquet_of(
        pa.table(
            {name: pa.array(values) for name, values in columns_of().items()}
            | {"__index_level_0__": pa.array(range(len(ROWS)))}
        )
    ),
    "padded.parquet": typed(pa.string(), padded(ROWS, "\t")),
    "null.parquet": parquet_of(
        pa.table({name: pa.array([value or None for value in values]) for name, values in columns_of().items()})
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_table_is_the_same_to_every_reader_however_it_was_written(tmp_path, name):
    (tmp_path / name).write_bytes(WRITTEN[name])
    wanted = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    assert list(read_sheet(tmp_path, name).rows) == wanted
    cohort = load_cohort(tmp_path / name, tmp_path, CLASSES)
    rows = sorted(wanted, key=lambda row: row["image_id"])
    for column in COLUMNS:
        assert cohort.column(column) == [row[column] or None for row in rows]
    assert len(read_table(tmp_path / name, tmp_path, CLASSES)) == len(ROWS)
    assert all("was read as Windows-1252, so that it says 'x/é'" in note for note in cohort.notes)
    assert bool(cohort.notes) == (name == "cp1252.csv") == any("Windows" in doubt for doubt in cohort.doubts())


def test_rows_are_counted_as_a_spreadsheet_shows_them(tmp_path):
    (tmp_path / "m.csv").write_bytes(WRITTEN["blank-rows.csv"])
    assert read_manifest(open_manifest(tmp_path / "m.csv", tmp_path, CLASSES))[1] == [1, 2, 5, 6]


NUMBERS = [
    (pa.array([7, 123456789012, None]), ["7", "123456789012", ""]),
    (pa.array([7.0, 123456789012.0, None]), ["7", "123456789012", ""]),
    (pa.array([7.0, float("nan"), -(2.0**53)]), ["7", "", "-9007199254740992"]),
    (pa.array([0.5, float("inf"), 1e300]), ["0.5", "inf", "1e+300"]),
    (pa.array([7, None, 7]).dictionary_encode(), ["7", "", "7"]),
    (pa.array([True, None, False]), ["true", "", "false"]),
]


@pytest.mark.parametrize(("values", "text"), NUMBERS, ids=[str(values.type) for values, _ in NUMBERS])
def test_numbers_of_a_parquet_file_are_text_without_an_exponent(values, text):
    table = open_table(parquet_of(pa.table({"a": values, "b": ["x", "y", "z"]})), "t.parquet")
    assert [row for part, _ in table.batches(["a"]) for row in part.column("a").to_pylist()] == text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b"PK\x03\x04\0", "is not text, but a workbook or an archive; save the table as CSV"),
        ("t.csv", b"\x1f\x8b\x08\0", "is not text, but compressed"),
        ("t.csv", parquet_of(pa.table({"a": [1]})), r"Parquet, whose name should end in \.parquet"),
        ("t.csv", "a,b\r\nx,y\r\n".encode("utf-16")[:-1], "begins as UTF-16, but is cut or damaged"),
        ("t.csv", b"a,b\nx\xe9,\x81\n", "is text of an unknown encoding; save it as UTF-8"),
        ("t.csv", b"a,b\nx,y\nz", "ends in the middle of a line, with 1 of 2 cells"),
        ("t.csv", b'a,b\nx,"y\nz,w\n', "ends within a quoted cell; a quotation mark lacks its second one"),
        ("t.csv", b'a,b\nx,"y" z\n', "Line 2 of .* has text behind a quoted cell"),
        ("t.csv", b"sep=;\n\na;b\nx;y;z\n", "Line 4 of .* has more cells than the first, 2"),
        ("t.csv", b"\n\n", "has no line that names its columns"),
        ("t.csv", b",\n1,2\n", "has no line that names its columns"),
        ("t.parquet", b"a,b\n", "is no Parquet file, or a damaged one"),
        ("t.parquet", typed(pa.string())[:-9], "is no Parquet file, or a damaged one"),
        ("t.parquet", parquet_of(pa.table({"a": [[1.0]]})), "column 'a' of .* holds something else than text and numb"),
        ("t.parquet", parquet_of(pa.table({"a": [b"\xff"]})), "column 'a' of .* holds something else than text and nu"),
        ("t.xlsx", b"PK", "name must end in .csv, .tsv or .parquet"),
    ],
)
def test_what_is_no_table_is_told_in_our_words(name, content, words):
    with pytest.raises(UserError, match=words) as told:
        table = open_table(content, name)
        list(table.batches(table.columns))
    assert "\n" not in str(told.value)
    assert "arrow" not in str(told.value).lower()


def test_a_column_without_text_that_nobody_needs_is_left_alone():
    table = open_table(parquet_of(pa.table({"a": ["x", None], "b": [[1.0], [2.0]]})), "t.parquet")
    assert [part.to_pylist() for part, _ in table.batches(["a"])] == [[{"a": "x"}, {"a": ""}]]


@given(st.sampled_from(["t.csv", "t.parquet"]), st.binary(max_size=120))
@example("t.csv", b"\xff\xfe\0")
@example("t.csv", b"a\0b")
@settings(max_examples=60)
def test_any_bytes_are_a_table_or_a_sentence(name, content):
    try:
        table = open_table(content, name)
        list(table.batches(table.columns))
    except UserError as error:
        assert len(str(error)) < 500


cell = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


@given(st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=5), st.sampled_from(list(",;\t")), st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_text_and_parquet_are_read_as_the_same(rows, delimiter, quoted):
    columns = ("a", "b", "c")
    text = text_of(rows, columns, delimiter=delimiter, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    written = parquet_of(pa.table(columns_of(rows, columns)))
    read = []
    for content, name in ((text.encode(), "t.csv"), (written, "t.parquet")):
        parts = list(open_table(content, name).batches(columns))
        read.append([(part.to_pylist(), numbers.tolist()) for part, numbers in parts])
    assert read[0] == read[1]


# --- what is missing


@pytest.mark.parametrize("word", MISSING)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_word_for_nothing_is_nothing_in_every_column_of_a_manifest(tmp_path, word, ending):
    names = ("image_id", "path", "label", "patient_id", "source", "view_position", "group_id", "mask_path", "sha256")
    rows = [(f"i{n}", f"{n}.png", "normal", *[word] * 6) for n in range(3)]
    file = tmp_path / f"m.{ending}"
    if ending == "csv":
        file.write_text(text_of(rows, names))
    else:
        pa.parquet.write_table(pa.table(columns_of(rows, names)), file)
    cohort = load_cohort(file, tmp_path, ["normal"])
    assert all(cohort.column(name) == [None] * 3 for name in names[3:])
    assert len(set(cohort.groups("group").tolist())) == 3
    assert any("patient ids are missing for 3 of 3 images" in doubt for doubt in cohort.doubts())
    table = read_table(file, tmp_path, ["normal"])
    assert (table.patient.names, table.source.names, table.group_id.names) == ([], [], [])
    assert len(set(table.group_names())) == 3


@pytest.mark.parametrize("word", ["unknown", "0", "-", "nano", "Nana", "NAN1", "no", "?", "N", "A"])
def test_other_words_are_not_nothing(word):
    assert known(word) == word


@pytest.mark.parametrize("word", ["None", "NA", "nan"])
def test_a_label_is_a_label_where_the_study_names_it_and_missing_where_it_does_not(tmp_path, word):
    rows = [(f"i{n}", f"{n}.png", word if n % 2 else "normal", f"p{n}", "") for n in range(4)]
    (tmp_path / "m.csv").write_text(text_of(rows))
    named = load_cohort(tmp_path / "m.csv", tmp_path, ["normal", word])
    assert named.column("label") == ["normal", word, "normal", word]
    assert read_table(tmp_path / "m.csv", tmp_path, ["normal", word]).label.names == sorted(["normal", word])
    with pytest.raises(UserError, match=r"label is empty in data row 2 .* unless cohort\.classes names them"):
        load_cohort(tmp_path / "m.csv", tmp_path, ["normal", "covid"])
    assert [fault.row for fault in read_table(tmp_path / "m.csv", tmp_path, None).faults] == [2, 4]
    assert load_cohort(tmp_path / "m.csv", tmp_path, None).classes == tuple(sorted(["normal", word]))


def test_a_recipe_selects_rows_by_the_text_that_the_table_has(tmp_path):
    rows = [(f"i{n}", f"{n}.png", "normal", f"p{n}", source) for n, source in enumerate(["NA", "EU", "NA", ""])]
    (tmp_path / "t.csv").write_text(text_of(rows))
    columns = "{image_id: image_id, path: path, label: label, source: source}"
    for value, found in (("NA", ["i0", "i2"]), ('""', ["i3"])):
        (tmp_path / "m.yaml").write_text(f"table: t.csv\ncolumns: {columns}\nwhere: {{source: {value}}}\n")
        assert load_cohort(tmp_path / "m.yaml", tmp_path, None).image_ids == found
