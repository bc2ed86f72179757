"""The check of a cohort: every wrong row and file is found, nothing else; copies are joined; nothing is done twice."""

import csv
import io
import itertools
from collections import Counter, defaultdict
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from cxrdist.cli.cohort_check import check_display
from cxrdist.cohort import check_files, check_table, text_table
from cxrdist.cohort.check_cache import MarksCache, file_key
from cxrdist.cohort.check_cohort import check_cohort
from cxrdist.cohort.check_copies import Copies
from cxrdist.cohort.check_doubts import about_sources, is_lateral
from cxrdist.cohort.check_shortcuts import Shortcut, binned, rule_score
from cxrdist.cohort.check_table import read_table
from cxrdist.cohort.check_text import one_line
from cxrdist.cohort.check_write import write_lists
from cxrdist.cohort.duplicates import Pair, merge_groups
from cxrdist.cohort.files import LIMITS
from cxrdist.cohort.manifest import open_manifest, read_manifest
from cxrdist.cohort.marking import mark_file
from cxrdist.cohort.perceptual import mark_image
from cxrdist.cohort.table import COHORT_SCHEMA, Cohort, load_cohort
from cxrdist.errors import CxrdistError, UserError
from cxrdist.report.cohort_page import render_cohort_page
from tests.unit.cohort_check_examples import (
    HOSTILE,
    add_image,
    checked,
    draw_rows,
    file_of,
    in_this_process,
    radiograph,
    write_manifest,
)
from tests.unit.dicom_examples import codes_of, dicom_file

SHA = "0123456789abcdef" * 4
CLASSES = ["normal", "covid19"]
PLAIN = [
    {"image_id": f"i{n}", "path": f"x/{n}.png", "label": CLASSES[n % 2], "patient_id": f"p{n}", "sha256": SHA}
    for n in range(10)
]


def sentences(check, *, refused):
    return " ".join(finding.sentence for finding in check.findings if finding.refused is refused)


# Rows


@pytest.mark.parametrize(
    ("row", "changes", "words"),
    [
        (2, {"label": "flu"}, "The label 'flu' in data row 3"),
        (2, {"label": ""}, "The required label is empty in data row 3"),
        (4, {"image_id": ""}, "The required image_id is empty in data row 5"),
        (4, {"path": "../up.png"}, "leads out of the image folder"),
        (4, {"path": "/etc/passwd"}, "is absolute; paths start at the image folder"),
        (4, {"path": "x/\0.png"}, "leads out of the image folder"),
        (4, {"mask_path": "../up.png"}, "The mask_path '../up.png'"),
        (4, {"sha256": "abc"}, "is not 64 hexadecimal digits"),
        (4, {"image_id": "i0"}, "The image_id 'i0' is listed twice, in data rows 1 and 5"),
        (4, {"path": "x/./0.png"}, "The path 'x/0.png' is listed twice, in data rows 1 and 5"),
    ],
)
def test_a_wrong_row_is_a_fault_in_the_words_of_a_study_and_the_others_are_kept(
    tmp_path, monkeypatch, row, changes, words
):
    monkeypatch.setattr(text_table, "_BATCH_ROWS", 3)
    rows = [*PLAIN[:row], PLAIN[row] | changes, *PLAIN[row + 1 :]]
    file = write_manifest(tmp_path / "m.csv", rows)
    table = read_table(file, tmp_path, CLASSES)
    assert [fault.row for fault in table.faults] == [row + 1]
    assert words in table.faults[0].reason
    assert table.rows.tolist() == [n + 1 for n in range(10) if n != row]
    with pytest.raises(UserError) as refused:
        load_cohort(file, tmp_path, CLASSES)
    assert str(refused.value) == table.faults[0].reason


@pytest.mark.parametrize("batch", [3, 1000])
def test_a_row_listed_twice_is_named_with_both_rows_and_the_check_goes_on(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(text_table, "_BATCH_ROWS", batch)
    folder = tmp_path / "images"
    rows = draw_rows(folder)
    check = checked(folder, [*rows, rows[0], rows[7], rows[0] | {"sha256": ""}])
    assert [fault.row for fault in check.table.faults] == [13, 14, 15]
    assert "The image_id 'x00' is listed twice, in data rows 1 and 15 of" in check.table.faults[2].reason
    assert len(check.table) == len(check.files.usable) == 12
    assert check.table.without_sha256 == 0
    assert "3 rows of the manifest cannot be used; the first: The image_id 'x00'" in sentences(check, refused=True)
    render_cohort_page(check, write_lists(check, tmp_path / "out", 100))
    assert len((tmp_path / "out" / "quarantine.csv").read_text().splitlines()) == 4


def test_a_symbolic_link_out_of_the_folder_is_a_fault(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "outside.png").touch()
    (tmp_path / "root" / "in.png").symlink_to(tmp_path / "outside.png")
    rows = [PLAIN[0] | {"path": "in.png"}, PLAIN[1]]
    table = read_table(write_manifest(tmp_path / "m.csv", rows), tmp_path / "root", CLASSES)
    assert [fault.row for fault in table.faults] == [1]


def test_a_manifest_that_is_wrong_all_over_is_refused_in_a_short_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(check_table, "MOST_FAULTS", 5)
    rows = [row | {"label": "x" * 10_000} for row in PLAIN]
    with pytest.raises(UserError, match=r"More than 5 rows of .* are wrong") as caught:
        read_table(write_manifest(tmp_path / "m.csv", rows), tmp_path, CLASSES)
    assert len(str(caught.value)) < 1000


def test_a_column_that_is_no_label_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(check_table, "MOST_CLASSES", 9)
    rows = [row | {"label": row["image_id"]} for row in PLAIN]
    with pytest.raises(UserError, match=r"has 10 different labels .* --classes"):
        read_table(write_manifest(tmp_path / "m.csv", rows), tmp_path, None)


some_text = st.none() | st.sampled_from(["a", "b", "c", "image:0", "patient:a", "group:b"])


@given(ids=st.lists(st.tuples(some_text, some_text), min_size=1, max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_groups_are_those_of_the_cohort_and_written_ones_are_read_back_as_the_same(tmp_path, ids):
    rows = [
        {"image_id": f"{n:02d}", "path": str(n), "label": CLASSES[n % 2], "patient_id": p or "", "group_id": g or ""}
        for n, (p, g) in enumerate(ids)
    ]
    table = read_table(write_manifest(tmp_path / "m.csv", rows), tmp_path, CLASSES)
    names = table.group_names()
    cohort = Cohort(read_manifest(open_manifest(tmp_path / "m.csv", tmp_path, None))[0], tmp_path, tuple(CLASSES))
    assert names == cohort.groups("group").tolist()
    merged = merge_groups(names, [Pair(0, len(ids) - 1, 0, 1.0, True)] if len(ids) > 1 else [])
    copies = Copies([], [], [], [], [], names, merged)
    written = [row | {"group_id": group} for row, group in zip(rows, copies.group_ids(), strict=True)]
    again = read_table(write_manifest(tmp_path / "n.csv", written), tmp_path, CLASSES).group_names()
    assert partition(again) == partition(merged)
    assert Copies([], [], [], [], [], again, again).group_ids() == copies.group_ids()


def partition(names):
    rows = defaultdict(set)
    for row, name in enumerate(names):
        rows[name].add(row)
    return {frozenset(some) for some in rows.values()}


def test_columns_that_no_study_uses_are_accepted_and_change_no_content(tmp_path):
    extra = {"original_sha256": SHA, "pixel_sha256": SHA, "age": "45", "sex": "F"}
    plain = load_cohort(write_manifest(tmp_path / "m.csv", PLAIN), tmp_path, CLASSES)
    more = load_cohort(write_manifest(tmp_path / "n.csv", [row | extra for row in PLAIN]), tmp_path, CLASSES)
    assert more.content_hash == plain.content_hash
    assert more.table.schema.equals(COHORT_SCHEMA)
    with pytest.raises(UserError, match=r"unknown column 'aeg'.*mean 'age'"):
        load_cohort(write_manifest(tmp_path / "o.csv", [row | {"aeg": "4"} for row in PLAIN]), tmp_path, CLASSES)


def test_a_recipe_may_name_columns_that_no_study_uses(tmp_path):
    write_manifest(tmp_path / "theirs.csv", [row | {"years": "30"} for row in PLAIN])
    recipe = tmp_path / "m.yaml"
    recipe.write_text("table: theirs.csv\ncolumns: {image_id: image_id, path: path, label: label, age: years}\n")
    assert read_table(recipe, tmp_path, CLASSES).age.texts() == ["30-39"] * 10
    assert len(load_cohort(recipe, tmp_path, CLASSES)) == 10


def test_ages_are_by_ten_years_and_what_is_no_age_is_unknown(tmp_path):
    ages = ["0.5", "9", "10", "89.9", "90", "120", "-1", "nan", "inf", "old"]
    rows = [row | {"age": age} for row, age in zip(PLAIN, ages, strict=True)]
    table = read_table(write_manifest(tmp_path / "m.csv", rows), tmp_path, CLASSES)
    assert table.age.texts() == ["0-9", "0-9", "10-19", "80-89", "90 and over", "90 and over", *[None] * 4]


def test_a_table_that_changes_meanwhile_is_noticed(tmp_path):
    table = read_table(write_manifest(tmp_path / "m.csv", PLAIN), tmp_path, CLASSES)
    write_manifest(tmp_path / "m.csv", PLAIN[:-1])
    with pytest.raises(CxrdistError, match="was changed while it was read"):
        list(table.batches())


def test_a_manifest_without_a_row_that_is_right_is_checked_to_the_end(tmp_path):
    folder = tmp_path / "images"
    rows = [row | {"label": ""} for row in draw_rows(folder)]
    check = checked(folder, rows)
    page = render_cohort_page(check, write_lists(check, tmp_path / "out", 100))
    assert "12 rows of the manifest cannot be used" in page
    assert len(check.findings) == 1
    assert len((tmp_path / "out" / "quarantine.csv").read_text().splitlines()) == 13


def test_a_cohort_without_a_file_is_checked_to_the_end(tmp_path):
    (tmp_path / "images").mkdir()
    check = checked(tmp_path / "images", [{"image_id": str(n), "path": str(n), "label": str(n % 2)} for n in range(9)])
    page = render_cohort_page(check, write_lists(check, tmp_path / "out", 5))
    assert "9 of 9 image files are missing" in page
    assert not any("Class" in finding.sentence or "label" in finding.sentence for finding in check.findings)
    assert "The first 5 of 9 images" in page


# Files


@pytest.mark.parametrize("change", [str.upper, lambda path: f"images\\{path}", lambda path: path[:-4], "sub/{}".format])
def test_missing_files_are_answered_with_the_nearest_that_are_there(tmp_path, change):
    rows = [row | {"path": change(row["path"])} for row in draw_rows(tmp_path / "images")]
    said = sentences(checked(tmp_path / "images", rows), refused=True)
    assert f"12 of 12 image files are missing, such as {change('x00.png')!r}; 12 of 12 may be others that are" in said
    assert f"such as 'x00.png' for {change('x00.png')!r}." in said


def test_an_absolute_path_is_answered_with_the_relative_one_where_it_is_there(tmp_path):
    folder = tmp_path / "images"
    rows = draw_rows(folder)
    for root, told in ((folder, "write 'x00.png'"), (Path("/elsewhere/a"), "write 'x00.png'"), (Path("/"), "folder")):
        table = read_table(
            write_manifest(tmp_path / "m.csv", [row | {"path": str(root / row["path"])} for row in rows]), folder, None
        )
        assert len(table.faults) == 12
        assert "is absolute; paths start at the image folder" in table.faults[0].reason
        assert told in table.faults[0].reason


def test_every_bad_file_is_found_with_its_reason_and_no_other(tmp_path):
    folder = tmp_path / "images"
    rows = draw_rows(folder)
    (folder / "x01.png").unlink()
    (folder / "x02.png").write_bytes(file_of(radiograph(77)))
    (folder / "x03.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    rows[3]["sha256"] = ""
    (folder / "x04.png").unlink()
    (folder / "x04.png").mkdir()
    found = checked(folder, rows).files
    assert [(fault.index, fault.problem) for fault in found.faults] == [
        (1, "missing"),
        (2, "changed"),
        (3, "unreadable"),
        (4, "unreadable"),
    ]
    assert found.faults[1].reason.startswith("has the SHA-256 ")
    assert found.usable.tolist() == [0, *range(5, 12)]


@pytest.mark.parametrize(
    ("data", "form", "bits", "size"),
    [
        (file_of(radiograph(0)), "PNG", 8, (48, 60)),
        (file_of(radiograph(0).astype(np.uint16) * 200), "PNG", 16, (48, 60)),
        (file_of(radiograph(0) > 100), "PNG", 1, (48, 60)),
        (file_of(radiograph(0), "JPEG"), "JPEG", 8, (48, 60)),
        (file_of(radiograph(0), "WEBP"), "WebP", 8, (48, 60)),
        (file_of(radiograph(0), "TIFF"), "TIFF", 8, (48, 60)),
        (file_of(radiograph(0).astype(np.uint16) * 200, "TIFF"), "TIFF", 16, (48, 60)),
        (dicom_file(codes_of((40, 30), 12), 12), "DICOM", 12, (30, 40)),
    ],
    ids=["grey", "16 bits", "1 bit", "jpeg", "webp", "tiff", "tiff of 16 bits", "dicom"],
)
def test_format_bits_and_size_are_those_of_the_file(data, form, bits, size):
    seen = mark_file(data, LIMITS, SHA)
    assert (seen.format, seen.bits, (seen.width, seen.height)) == (form, bits, size)


def test_marks_are_of_every_pixel_at_full_size():
    pixels = radiograph(3, 61, 40)
    marks = mark_file(file_of(pixels), LIMITS, SHA).marks
    expected = mark_image(pixels)
    assert (marks.pixel_hash, marks.phash, marks.dhash) == (expected.pixel_hash, expected.phash, expected.dhash)
    np.testing.assert_array_equal(marks.structure, expected.structure)


def test_an_interrupted_check_continues_and_a_finished_one_opens_no_file(tmp_path, monkeypatch):
    folder = tmp_path / "images"
    rows = draw_rows(folder, 12)
    monkeypatch.setattr(check_files, "CHUNK_IMAGES", 2)
    monkeypatch.setattr(check_files, "_PART_FILES", 3)
    monkeypatch.setattr(check_files, "_WINDOW_FILES", 8)
    opened: list[str] = []

    def interrupted_after(most):
        def run(function, chunks):
            for chunk in chunks:
                if len(opened) >= most:
                    raise KeyboardInterrupt
                opened.extend(file.path for file in chunk.files)
                yield function(chunk)

        return run

    with pytest.raises(KeyboardInterrupt):
        checked(folder, rows, run_chunks=interrupted_after(10))
    progress = []
    resumed = checked(
        folder, rows, run_chunks=interrupted_after(99), on_progress=lambda done, total: progress.append((done, total))
    )
    assert sorted(opened) == [row["path"] for row in rows]
    assert progress[-1] == (12, 12)
    assert all(first < then for first, then in pairwise(progress))
    again = checked(folder, rows, run_chunks=interrupted_after(0))
    elsewhere = checked(folder, rows, run_chunks=in_this_process)
    for one in (resumed, again, elsewhere):
        assert one.files.usable.tolist() == list(range(12))
        np.testing.assert_array_equal(one.files.marks.structures, again.files.marks.structures)
        np.testing.assert_array_equal(one.files.marks.pixel_hashes, again.files.marks.pixel_hashes)
    expected = [mark_image(radiograph(i)) for i in range(12)]
    assert again.files.marks.phashes.tolist() == [mark.phash for mark in expected]
    assert [one.decode() for one in again.files.marks.pixel_hashes] == [mark.pixel_hash for mark in expected]


def test_a_file_or_hash_that_changes_is_looked_at_again(tmp_path):
    folder = tmp_path / "images"
    rows = draw_rows(folder, 6)
    checked(folder, rows)
    add_image(folder, "x00.png", file_of(radiograph(99, 62)))
    rows[1]["sha256"] = SHA
    found = checked(folder, rows).files
    assert [(fault.index, fault.problem) for fault in found.faults] == [(0, "changed"), (1, "changed")]


def test_a_damaged_part_of_the_cache_is_made_again_and_said_so(tmp_path):
    folder = tmp_path / "images"
    rows = draw_rows(folder, 4)
    before = checked(folder, rows).files.marks
    (part,) = (tmp_path / "cache").rglob("*.arrow")
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 255
    part.write_bytes(data)
    notes: list[str] = []
    after = checked(folder, rows, on_note=notes.append).files.marks
    assert "are damaged: they are made again" in notes[0]
    np.testing.assert_array_equal(before.structures, after.structures)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.lists(st.integers(0, 40), max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
def test_the_cache_finds_what_was_added_and_nothing_else(tmp_path_factory, added, asked):
    folder = tmp_path_factory.mktemp("cache")
    cache = MarksCache(folder, folder)
    example = mark_file(file_of(radiograph(0)), LIMITS, SHA)
    for number in added:
        (entry,) = cache.add([(file_key("x.png", number, 0), example)])
        assert cache.facts(np.array([entry])).width.tolist() == [48]
    found = MarksCache(folder, folder).find([file_key("x.png", number, 0) for number in asked])
    assert (found >= 0).tolist() == [number in added for number in asked]
    assert (MarksCache(folder, folder / "other").find([file_key("x.png", added[0], 0)]) < 0).all()


def test_progress_in_a_log_says_how_long_the_rest_will_take(monkeypatch):
    text, now = io.StringIO(), iter([0.0, 1.0, 10.0, 12.0, 20.0])
    monkeypatch.setattr("time.monotonic", lambda: 100 + next(now))
    display = check_display(Console(file=text))
    for done in (500, 600, 1000, 1100, 2000):
        display.show(done, 2000)
    assert text.getvalue().splitlines() == [
        "looked at 500 of 2,000 images",
        "looked at 1,000 of 2,000 images, about 20 s left",
        "looked at 2,000 of 2,000 images",
    ]


def test_a_runner_that_loses_files_is_noticed(tmp_path):
    folder = tmp_path / "images"
    with pytest.raises(CxrdistError, match="files were looked at"):
        checked(folder, draw_rows(folder), run_chunks=lambda _function, _chunks: iter(()))


# Copies, classes and shortcuts


def test_copies_of_other_patients_or_labels_must_be_put_right_and_are_joined(tmp_path):
    folder = tmp_path / "images"
    rows = draw_rows(folder)
    rows.append(
        add_image(folder, "copy.jpg", file_of(radiograph(0), "JPEG", quality=60), label="normal", patient_id="q")
    )
    rows.append(add_image(folder, "same.png", file_of(radiograph(2)), label="covid19", patient_id="p2", source="s1"))
    check = checked(folder, rows)
    assert [(pair.a, pair.b, pair.exact) for pair in check.copies.pairs] == [(0, 12, False), (2, 13, True)]
    assert [(pair.a, pair.b) for pair in check.copies.conflicts] == [(0, 12)]
    assert [(pair.a, pair.b) for pair in check.copies.across_groups] == [(0, 12)]
    assert "1 pair of copies of one radiograph has different labels, such as covid19 and normal" in sentences(
        check, refused=True
    )
    write_lists(check, tmp_path / "out", 100)
    joined = read_table(tmp_path / "out" / "manifest.csv", folder, None).group_names()
    assert joined[0] == joined[12]
    assert joined[2] == joined[13]
    assert len(set(joined)) == 12
    # What was joined is no finding any more.
    rows[12]["label"] = "covid19"
    check = checked(folder, rows)
    assert "in different groups or patients (2 that should be 1)" in sentences(check, refused=True)
    write_lists(check, tmp_path / "out", 100)
    with (tmp_path / "out" / "manifest.csv").open(newline="") as file:
        assert not checked(folder, list(csv.DictReader(file))).refused


@pytest.mark.parametrize(
    ("change", "classes", "words"),
    [
        (lambda n: {"label": "normal"}, None, "All images have one label (normal)"),
        (lambda n: {"patient_id": "p"}, None, "All images are of one patient or group"),
        (
            lambda n: {"label": "normal" if n else "covid19"},
            None,
            "Class covid19 has usable images of 1 patient or group",
        ),
        (lambda n: {}, ["normal", "covid19", "flu"], "Class flu has usable images of 0 patients or groups"),
    ],
    ids=["one class", "one patient", "one patient of a class", "no image of a class"],
)
def test_classes_that_no_folds_can_be_made_of_must_be_put_right(tmp_path, change, classes, words):
    folder = tmp_path / "images"
    rows = [row | change(n) for n, row in enumerate(draw_rows(folder))]
    assert words in sentences(checked(folder, rows, classes=classes), refused=True)


def test_a_patient_of_several_sexes_or_of_ages_far_apart_is_named(tmp_path):
    rows = draw_rows(tmp_path / "images")
    facts = [("F", "38"), ("M", "41"), ("female", "45"), ("f", "045Y"), ("M", "39"), ("M", "50")]
    for patient, row, (sex, age) in zip("aabbcc", rows[::2], facts, strict=True):
        row |= {"patient_id": patient, "sex": sex, "age": age}
    said = sentences(checked(tmp_path / "images", rows), refused=False)
    assert "1 patient has several sexes (a)." in said
    assert "1 patient has ages far apart (c)." in said


def test_a_sound_cohort_is_not_complained_of(tmp_path):
    folder = tmp_path / "images"
    check = checked(folder, draw_rows(folder, 24))
    assert check.findings == []
    assert not check.refused


def test_what_makes_results_doubtful_is_said_with_numbers(tmp_path):
    folder = tmp_path / "images"
    rows = draw_rows(folder, 40)
    for row in rows:
        row["age"] = "7" if row["label"] == "covid19" else "50"
    rows[0]["patient_id"] = rows[2]["sha256"] = ""
    rows[3]["patient_id"] = rows[4]["patient_id"]
    rows[5]["view_position"], rows[6]["view_position"] = "LATERAL", "LLD"
    (folder / "x02.png").write_bytes(b"\xff\xd8\xff broken")
    only = "s0"
    for row in rows:
        row["source"] = only if row["label"] == "covid19" else row["source"]
    check = checked(folder, rows, classes=["covid19", "normal"])
    doubts = sentences(check, refused=False)
    assert "1 of 40 images has no patient id" in doubts
    assert "1 patient has images of more than one class (p4)" in doubts
    assert "1 image is lateral (LATERAL: 1)" in doubts
    assert "1 image has no SHA-256" in doubts
    assert "All 20 images of class covid19 come from one source (s0)" in doubts
    assert "From the age group alone, a rule made of other patients tells the class of 100.0%" in doubts
    # 1 of 40 is more than the 2 % that a study allows.
    assert "1 of 40 images (2.5%) cannot be used" in sentences(check, refused=True)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "s", "t", "u"])), min_size=1, max_size=10))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_classes_without_a_common_source_are_those_that_a_study_doubts(tmp_path, columns):
    rows = [
        {"image_id": str(n), "path": str(n), "label": label, "source": source, "patient_id": str(n)}
        for n, (label, source) in enumerate(columns)
    ]
    file = write_manifest(tmp_path / "m.csv", rows)
    doubts = load_cohort(file, tmp_path, None).doubts()
    found = [finding.sentence for finding in about_sources(read_table(file, tmp_path, None))]
    for name in "abc":
        assert any(f"class {name} comes from one" in doubt for doubt in doubts) == any(
            f"images of class {name} come from one source" in sentence for sentence in found
        )
        assert any(f"class {name} shares no source" in doubt for doubt in doubts) == any(
            f"Class {name} shares no source" in sentence for sentence in found
        )


def test_images_that_look_like_no_radiograph_and_brightness_are_named_and_shown(tmp_path):
    folder = tmp_path / "images"
    common, rows = radiograph(0).astype(np.float64), []
    for i in range(60):
        pixels = 0.4 * common + 0.4 * radiograph(i + 1)
        pixels = 255 - pixels if i % 4 == 1 and i > 30 else pixels
        pixels += (90 if i % 2 else 130) - pixels.mean()
        about = {"label": "ab"[i % 2], "patient_id": f"p{i}", "source": f"s{i // 2 % 2}"}
        rows.append(add_image(folder, f"x{i:02d}.png", file_of(pixels.clip(0, 255).astype(np.uint8)), **about))
    black = np.zeros((60, 48), dtype=np.uint8)
    rows.append(add_image(folder, "night.png", file_of(black), label="a", patient_id="n", source="s0"))
    check = checked(folder, rows)
    doubts = sentences(check, refused=False)
    negatives = [f"x{i:02d}" for i in range(33, 60, 4)]
    assert (
        f"{len(negatives)} images of 61 look like negatives of what most have in common (b: {len(negatives)})."
        in doubts
    )
    assert "1 image looks like no radiograph: data row 61 has one grey value everywhere (0 of 0 to 255)." in doubts
    assert "From the mean grey value alone, a rule made of other patients tells the class of 95.1% of the" in doubts
    page = render_cohort_page(check, write_lists(check, tmp_path / "out", 100))
    listed = list(csv.DictReader(io.StringIO((tmp_path / "out" / "odd_images.csv").read_text())))
    assert [(one["image_id"], one["problem"]) for one in listed] == [
        *((name, "negative") for name in negatives),
        ("night", "value"),
    ]
    shown = page[page.index('<h2 id="looks-section">') : page.index('<h2 id="patients-section">')]
    assert shown.count("data:image/jpeg;base64,") == len(listed)
    assert all(f"<dd>{one['image_id']}</dd>" in shown for one in listed)


def naive_rule(values, labels, groups, n_classes):
    """The same in loops."""
    fold_of = np.random.default_rng(0).permutation(max(groups) + 1) % 5
    right = 0
    for row, value in enumerate(values):
        training = [r for r in range(len(values)) if fold_of[groups[r]] != fold_of[groups[row]]]
        among = [labels[r] for r in training if values[r] == value] or [labels[r] for r in training]
        counts = Counter(among)
        said = min(range(n_classes), key=lambda c: (-counts[c], c))
        right += said == labels[row]
    return right / len(values)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 12)), min_size=2, max_size=40))
def test_the_rule_is_that_of_the_other_patients(rows):
    values, labels, groups = (np.array(column) for column in zip(*rows, strict=True))
    score = rule_score(values, labels, groups, n_classes=3)
    constant = any(len(set(column.tolist())) == 1 for column in (values, labels, groups))
    assert (score is None) == constant
    if score is not None:
        assert score.accuracy == pytest.approx(naive_rule(values.tolist(), labels.tolist(), groups.tolist(), 3))
        assert score.majority == max(Counter(labels.tolist()).values()) / len(labels)


def test_a_property_without_meaning_is_not_warned_of_and_one_with_meaning_is():
    rng = np.random.default_rng(1)
    n = 300

    def warned(values, labels, groups):
        score = rule_score(values, labels, groups, n_classes=4)
        assert score is not None
        return Shortcut("x", 8, score).warned

    tried = [(rng.integers(0, 8, n), rng.integers(0, 4, n), rng.integers(0, 150, n)) for _ in range(200)]
    assert sum(warned(*columns) for columns in tried) <= 2
    assert all(warned((labels + (rng.random(n) < 0.3)) % 4, labels, groups) for _, labels, groups in tried[:20])


@given(st.lists(st.floats(-5, 5) | st.sampled_from([0.0, 1.0, 2.0]), max_size=60))
def test_bins_never_divide_equal_values_and_keep_the_order(values):
    bins = binned(np.array(values))
    assert len(set(bins.tolist())) <= 20
    for (a, in_a), (b, in_b) in pairwise(sorted(zip(values, bins.tolist(), strict=True))):
        assert in_a == in_b if a == b else in_a <= in_b


@pytest.mark.parametrize("view", ["L", "LL", "rl", "Lateral", "LEFT LATERAL", "LATERAL-L"])
def test_lateral_views_are_known(view):
    assert is_lateral(view)


@pytest.mark.parametrize("view", ["PA", "AP", "AP Supine", "LLD", "RLD", "left lateral decubitus", "unknown", ""])
def test_frontal_views_are_not_lateral(view):
    assert not is_lateral(view)


def test_dicom_files_of_other_parts_of_the_body_are_counted_and_used(tmp_path):
    folder = tmp_path / "images"
    rows = draw_rows(folder)
    for number, part in enumerate(["SKULL", None, "CHEST"]):
        codes = radiograph(number).astype(np.uint16) * 16
        data = dicom_file(codes, 12, Modality="CR" if part else None, BodyPartExamined=part)
        image = add_image(folder, f"{number}.dcm", data)
        rows[number] |= {"path": image["path"], "sha256": image["sha256"]}
    check = checked(folder, rows)
    assert len(check.files.usable) == len(rows)
    (said,) = [finding.sentence for finding in check.findings if "BodyPartExamined" in finding.sentence]
    assert said.startswith("2 DICOM files name another part of the body than the chest")
    assert "(data row 1, data row 2)" in said


# What is written


cell = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from([*HOSTILE, '"', "\r\n", " a "])


@given(st.lists(st.tuples(cell, cell, cell, cell), min_size=1, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_a_written_manifest_is_read_back_exactly(tmp_path_factory, cells):
    folder = tmp_path_factory.mktemp("m")
    names = ("image_id", "label", "patient_id", "source")
    rows = [
        dict(zip(names, some, strict=True)) | {"path": f"{n}.png", "age": "3", "image_id": f"{n}{some[0]}"}
        for n, some in enumerate(cells)
    ]
    columns = {name: pa.array([row[name] or None for row in rows]) for name in rows[0]}
    pa.parquet.write_table(pa.table(columns), folder / "m.parquet")
    check = check_cohort(folder / "m.parquet", folder, folder / "cache", run_chunks=in_this_process)
    write_lists(check, folder / "out", 10)
    before, _ = read_manifest(open_manifest(folder / "m.parquet", folder, ()))
    after, _ = read_manifest(open_manifest(folder / "out" / "manifest.csv", folder, ()))
    assert after.drop_columns("group_id").equals(before.drop_columns("group_id"))
    header = (folder / "out" / "manifest.csv").read_text().split("\n")[0]
    assert header.replace('"', "").split(",") == [*rows[0], "group_id"]
    with (folder / "out" / "quarantine.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    assert len(lines) == len(rows) + 1
    for line in lines:
        for text in line:
            assert text[:1] not in {"=", "+", "-", "@", "\t", "\r", "\n"}
            assert text.isprintable()


def test_no_cell_of_a_list_is_a_formula(tmp_path):
    folder = tmp_path / "images"
    leading = [f"{first}1+{n}" for n, first in enumerate("=+-@\t\r\n")] + ["  =1", "plain", "\u2003@x"]
    rows = [row | {"image_id": name, "label": name} for row, name in zip(draw_rows(folder, 10), leading, strict=True)]
    rows += [
        add_image(folder, f"{name}.png", file_of(radiograph(n)), label="=b", patient_id=name, source=name)
        | {"image_id": f"{name}2"}
        for n, name in enumerate(leading[:4])
    ]
    for number in range(5, 10):
        (folder / f"x{number:02d}.png").unlink()
    check = checked(folder, rows)
    write_lists(check, tmp_path / "out", 10)
    for name, n_rows in (("quarantine.csv", 5), ("duplicates.csv", 4)):
        with (tmp_path / "out" / name).open(newline="", encoding="utf-8") as file:
            _, *lines = csv.reader(file)
        assert len(lines) == n_rows
        assert not [text for line in lines for text in line if text.strip()[:1] in {"=", "+", "-", "@"}]
    assert "'=1+0,'=1+02," in (tmp_path / "out" / "duplicates.csv").read_text()


class Markup(HTMLParser):
    """What a browser would make elements of."""

    def __init__(self):
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes = set()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes |= {(name, value) for name, value in attrs if name in ("src", "href")}
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]


def page_of(folder, texts):
    """The page of a cohort with faults of every kind, whose names are `texts` in turn; copies and patients, too."""
    folder.mkdir()
    rows = draw_rows(folder, 16)
    rows.append(add_image(folder, "copy.jpg", file_of(radiograph(0), "JPEG"), label="normal", patient_id="q"))
    (folder / "x09.png").write_bytes(b"GIF89a")
    name = itertools.cycle(texts)
    bare = {"label": f"normal{texts[0]}", "patient_id": f"{texts[0]} black", "source": texts[0]}
    for number, row in enumerate(rows):
        row |= {"image_id": f"{next(name)}{number}", "patient_id": f"{next(name)}{number // 3}", "source": next(name)}
        row["label"] = f"{row['label']}{texts[0]}"
        row["view_position"], row["group_id"], row["age"] = next(name), f"{next(name)}{number // 2}", next(name)
    rows.append(add_image(folder, "black.png", file_of(np.zeros((60, 48), dtype=np.uint8)), **bare))
    rows.append(rows[0] | {"path": texts[0]})
    rows.append(rows[1] | {"image_id": "new", "path": f"gone/{texts[0]}/x.png"})
    rows.append(rows[1] | {"image_id": "newer", "path": f"../{texts[0]}"})
    check = checked(folder, [{key: text.replace("\0", "") for key, text in row.items()} for row in rows])
    return check, render_cohort_page(check, write_lists(check, folder.parent / "out", 100))


def test_hostile_text_is_never_markup_a_path_or_a_control(tmp_path):
    plain, hostile = Markup(), Markup()
    plain.feed(page_of(tmp_path / "plain", [f"name{n}" for n in range(len(HOSTILE))])[1])
    check, page = page_of(tmp_path / "hostile", HOSTILE)
    hostile.feed(page)
    assert len(check.table.faults) == 2
    assert hostile.tags == plain.tags
    assert {
        value for name, value in hostile.attributes if not value.startswith(("#", "data:image/jpeg;base64,"))
    } == set()
    assert "<script" not in page
    assert "{{ 7 * 7 }}" in page
    assert all(character.isprintable() or character == "\n" for character in page)
    assert all(finding.sentence.isprintable() for finding in check.findings)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n b\t", "a b"),
        ("\x1b[1m", "\ufffd[1m"),
        ("abcdefghij", "abcdefghij"),
        ("abcdefghijk", "abcdefghi…"),
        ("", ""),
    ],
)
def test_text_is_shown_on_one_short_line(text, line):
    assert one_line(text, 10) == line
