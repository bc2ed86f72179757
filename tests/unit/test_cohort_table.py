"""The cohort's table: what is accepted, what is refused with which sentence, and what never depends on order."""

import unicodedata
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrdist.cohort.check_doubts import about_names
from cxrdist.cohort.check_table import read_table
from cxrdist.cohort.likeness import nearly_equal
from cxrdist.cohort.table import COHORT_SCHEMA, Cohort, load_cohort
from cxrdist.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "cxr"
CLASSES = ["normal", "covid19"]
SHA = "0123456789abcdef" * 4
ROWS = [
    {"image_id": "b", "path": "x/b.png", "label": "covid19", "patient_id": "p2", "source": "s2", "sha256": SHA},
    {"image_id": "a", "path": "x/a.png", "label": "normal", "patient_id": "p1", "source": "s1", "group_id": "g"},
    {"image_id": "c", "path": "c.png", "label": "normal", "view_position": "AP", "mask_path": "m/c.png"},
]


def write_csv(path, rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names), *(",".join(row.get(name, "") for name in names) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def load(folder, rows, classes=CLASSES):
    return load_cohort(write_csv(folder / "table.csv", rows), folder, classes)


def changed(row, **values):
    return [*ROWS[:row], ROWS[row] | values, *ROWS[row + 1 :]]


def cohort_of(rows):
    table = pa.Table.from_pylist(rows, schema=COHORT_SCHEMA).sort_by("image_id")
    return Cohort(table, Path("/"), tuple(CLASSES))


def test_rows_are_sorted_typed_and_empty_is_null(tmp_path):
    cohort = load(tmp_path, ROWS)
    assert cohort.table.schema.equals(COHORT_SCHEMA)
    assert cohort.image_ids == ["a", "b", "c"]
    assert cohort.labels.tolist() == [0, 1, 0]
    assert cohort.labels.dtype == np.int64
    assert cohort.column("patient_id") == ["p1", "p2", None]
    assert cohort.sources.tolist() == ["s1", "s2", ""]
    assert cohort.root == tmp_path.resolve()


def test_csv_parquet_and_recipe_give_the_same_cohort(tmp_path):
    from_csv = load(tmp_path, ROWS)
    pa.parquet.write_table(from_csv.table, tmp_path / "table.parquet")
    from_parquet = load_cohort(tmp_path / "table.parquet", tmp_path, CLASSES)
    foreign = [{f"their_{name}": value for name, value in row.items()} | {"use": "1"} for row in ROWS]
    write_csv(tmp_path / "foreign.csv", [*foreign, foreign[0] | {"use": "0"}])
    columns = ", ".join(f"{name}: their_{name}" for name in COHORT_SCHEMA.names)
    (tmp_path / "recipe.yaml").write_text(f"table: foreign.csv\ncolumns: {{{columns}}}\nwhere: {{use: 1}}\n")
    from_recipe = load_cohort(tmp_path / "recipe.yaml", tmp_path, CLASSES)
    assert from_csv.content_hash == from_parquet.content_hash == from_recipe.content_hash


def test_a_recipe_keeps_the_rows_that_have_one_of_its_values_in_every_column(tmp_path):
    rows = [
        {"image_id": f"{source}{use}", "path": f"{source}{use}.png", "label": "normal", "source": source, "use": use}
        for source in ("a", "b", "c", "")
        for use in ("1", "2", "")
    ]
    write_csv(tmp_path / "foreign.csv", rows)
    names = ", ".join(f"{name}: {name}" for name in ("image_id", "path", "label", "source"))
    text = f"table: foreign.csv\ncolumns: {{{names}}}\nwhere: {{source: [c, a], use: [2, 1]}}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    assert load_cohort(tmp_path / "recipe.yaml", tmp_path, ["normal"]).image_ids == ["a1", "a2", "c1", "c2"]


@pytest.mark.parametrize("site", ["010", "8", "1.50", "yes", "true", "2020-07-20", "1e3", "0x10", "1_0"])
def test_a_recipe_selects_the_rows_whose_text_is_what_it_spells_quoted_or_not(tmp_path, site):
    sites = ["010", "10", "8", "1.50", "1.5", "yes", "true", "True", "2020-07-20", "1e3", "1000", "16", "0x10", "1_0"]
    rows = [{"image_id": each, "path": each, "label": "normal", "site": each} for each in sites]
    write_csv(tmp_path / "foreign.csv", rows)
    for value in (site, f"[{site}]", f'"{site}"'):
        (tmp_path / "recipe.yaml").write_text(
            f"table: foreign.csv\ncolumns: {{image_id: image_id, path: path, label: label}}\nwhere: {{site: {value}}}\n"
        )
        assert load_cohort(tmp_path / "recipe.yaml", tmp_path, None).image_ids == [site]


def test_numbers_in_a_table_stay_as_written(tmp_path):
    cohort = load(tmp_path, changed(0, image_id="007", patient_id="1e5"))
    assert cohort.image_ids[0] == "007"
    assert cohort.column("patient_id")[0] == "1e5"


def test_numbers_in_a_parquet_table_become_text(tmp_path):
    table = pa.table({"image_id": [7, 8], "path": ["a", "b"], "label": CLASSES})
    pa.parquet.write_table(table, tmp_path / "table.parquet")
    assert load_cohort(tmp_path / "table.parquet", tmp_path, CLASSES).image_ids == ["7", "8"]


@given(order=st.permutations(ROWS))
def test_content_hash_does_not_depend_on_the_order_of_rows(order):
    assert cohort_of(order).content_hash == cohort_of(ROWS).content_hash


def test_content_hash_does_not_depend_on_the_folder(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert load(tmp_path / "one", ROWS).content_hash == load(tmp_path / "two", ROWS).content_hash


@pytest.mark.parametrize("name", COHORT_SCHEMA.names)
def test_content_hash_changes_with_every_column(name):
    other = "normal" if name == "label" else "f" * 64
    assert cohort_of(changed(0, **{name: other})).content_hash != cohort_of(ROWS).content_hash


def test_content_hash_changes_with_the_order_of_classes(tmp_path):
    assert load(tmp_path, ROWS).content_hash != load(tmp_path, ROWS, CLASSES[::-1]).content_hash


some_id = st.none() | st.sampled_from(["a", "b", "c", "image:0", "patient:a"])


@given(ids=st.lists(st.tuples(some_id, some_id), min_size=1, max_size=12))
def test_a_group_never_divides_a_patient_and_unrelated_images_never_share_one(ids):
    rows = [
        {"image_id": f"{i:02d}", "path": str(i), "label": "normal", "patient_id": patient, "group_id": group}
        for i, (patient, group) in enumerate(ids)
    ]
    groups = cohort_of(rows).groups("group")
    of_patient, of_group = defaultdict(set), defaultdict(set)
    for name, (patient, group) in zip(groups.tolist(), ids, strict=True):
        of_patient[patient].add(name)
        of_group[group].add(name)
        if patient is None and group is None:
            assert groups.tolist().count(name) == 1
    for names in [*of_patient.items(), *of_group.items()]:
        assert names[0] is None or len(names[1]) == 1
    # Each group is connected: it cannot be divided without dividing a patient or a group_id.
    for name in set(groups.tolist()):
        members = [pair for own, pair in zip(groups.tolist(), ids, strict=True) if own == name]
        reached, waiting = set(), [members[0]]
        while waiting:
            pair = waiting.pop()
            reached.add(pair)
            waiting += [m for m in set(members) - reached if any(a and a == b for a, b in zip(m, pair, strict=True))]
        assert reached == set(members)


def test_group_names_tell_their_kind(tmp_path):
    cohort = load(tmp_path, ROWS)
    assert cohort.groups("group").tolist() == ["group:g", "patient:p2", "image:c"]
    assert cohort.groups("patient").tolist() == ["patient:p1", "patient:p2", "image:c"]
    assert cohort.groups("image").tolist() == ["image:a", "image:b", "image:c"]


def test_subset_keeps_rows_and_classes(tmp_path):
    cohort = load(tmp_path, ROWS)
    part = cohort.subset(np.array([True, False, True]))
    assert part.image_ids == ["a", "c"]
    assert part.classes == cohort.classes
    assert part.content_hash != cohort.content_hash


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (changed(1, label="normall"), r"label 'normall' in data row 2 .*one of normal, covid19 .*mean 'normal'"),
        (changed(1, image_id="b"), r"image_id 'b' is listed twice, in data rows 1 and 2"),
        (changed(1, path="x/./b.png"), r"path 'x/b.png' is listed twice, in data rows 1 and 2"),
        (changed(2, label=""), r"required label is empty in data row 3"),
        (changed(2, image_id=""), r"required image_id is empty in data row 3"),
        (changed(2, sha256="12"), r"sha256 '12' in data row 3 .* is not 64 hexadecimal digits"),
        (
            changed(0, path="/etc/passwd"),
            r"path '/etc/passwd' in data row 1 .* is absolute; paths start at the image fo",
        ),
        (changed(0, path="//x/../b"), r"path '//x/../b' in data row 1 .* is absolute; paths start at the image folder"),
        (changed(0, path="x/../../b.png"), r"path 'x/../../b.png' in data row 1 .* leads out of the image folder"),
        (changed(0, mask_path="../m.png"), r"mask_path '../m.png' in data row 1 .* leads out of the image folder"),
        (changed(0, path="."), r"path '.' in data row 1 .* leads out"),
        ([row | {"label": "normal"} for row in ROWS], r"Class 'covid19' of cohort.classes has no image"),
        ([row | {"patient_id": "p"} for row in ROWS], r"All 3 images .* are of one patient \('p'\)"),
        ([{"image_id": "a", "label": "normal"}], r"has no column 'path'; needed are image_id, path, label"),
        ([row | {"lable": "x"} for row in ROWS], r"unknown column 'lable'; .*\(did you mean 'label'\?\)"),
    ],
)
def test_a_wrong_row_is_refused_in_one_sentence(tmp_path, rows, message):
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, rows)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "has no line that names its columns"),
        ("t.csv", b"image_id,path,label\n", "lists no image"),
        ("t.csv", b"image_id,path,label\na,b\n", "required label is empty in data row 1 .*; words such as nan"),
        ("t.csv", b"path,path,label\na,b,normal\n", "two columns called 'path'"),
        ("t.parquet", b"PAR1 no", "is no Parquet file, or a damaged one"),
        ("t.xlsx", b"PK", r"must end in \.csv, \.tsv or \.parquet"),
        ("t.yaml", b"table: [", "t.yaml:1: this is not YAML"),
        ("t.yaml", b"- a", "a recipe is a mapping of keys to values; see data_manifests/README.md"),
        ("t.yaml", b"tables: a.csv", r"'tables' .* is not one of .*mean 'table'"),
        ("t.yaml", b"columns: {}", "needs 'table'"),
        ("t.yaml", b"table: gone.csv", "gone.csv' does not exist"),
        ("t.yaml", b"table: good.csv\ncolumns: [a]", "must map names to values"),
        ("t.yaml", b"table: good.csv\ncolumns: {lable: label}", r"'lable' in 'columns' .*mean 'label'"),
        ("t.yaml", b"table: good.csv\ncolumns: {label: lable}", "no column 'lable'.*did you mean 'label'"),
        ("t.yaml", b"table: good.csv\nwhere: {label: flu}", "No row .* has label = 'flu'.*values there are 'covid19'"),
        ("t.yaml", b"table: good.csv\nwhere: {label: yes}", "No row .* has label = 'yes'"),
        ("t.yaml", b"table: good.csv\nwhere: {label: ~}", "must be quoted text"),
        ("t.yaml", b"table: good.csv\nwhere: {label: x, label: y}", "key 'label' stands here and in line 2"),
        ("t.yaml", b"table: good.csv\nwhere: &a {label: *a}", "must be quoted text"),
        ("t.yaml", b"table: good.csv\nwhere: {1: x}", "t.yaml:2: a key must be a word"),
        ("t.yaml", b"table: good.csv\nwhere: {label: [normal, flu]}", "No row .* has label = 'flu'"),
        ("t.yaml", b"table: good.csv\nwhere: {label: [normal, [flu]]}", "'label': .'flu'. in 'where' .* quoted text"),
        ("t.yaml", b"table: good.csv\nwhere: {label: []}", "'label' in 'where' .* is an empty list"),
        ("t.yaml", b"table: good.csv\ncolumns: {label: [label]}", "must be quoted text"),
        ("t.yaml", b"table: good.csv\ncolumns: {label: label}", "has no column 'image_id'"),
    ],
)
def test_an_unreadable_table_is_refused_in_one_sentence(tmp_path, name, content, message):
    write_csv(tmp_path / "good.csv", ROWS)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_cohort(tmp_path / name, tmp_path, CLASSES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gone.csv", "gone.parquet", "gone.yaml"])
def test_a_missing_manifest_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"does not exist; look at cohort\.manifest"):
        load_cohort(tmp_path / name, tmp_path, CLASSES)


def test_a_missing_image_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"image folder .*gone' does not exist.*--images"):
        load_cohort(write_csv(tmp_path / "t.csv", ROWS), tmp_path / "gone", CLASSES)


@pytest.mark.parametrize("link", ["x", "x/b.png"])
def test_a_symbolic_link_out_of_the_folder_is_refused(tmp_path, link):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "b.png").touch()
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).symlink_to(outside if link == "x" else outside / "b.png")
    with pytest.raises(UserError, match=r"path 'x/b.png' in data row 1 .* no symbolic link may leave"):
        load(root, ROWS)


def test_a_symbolic_link_within_the_folder_is_accepted(tmp_path):
    (tmp_path / "y").mkdir()
    (tmp_path / "x").symlink_to("y")
    (tmp_path / "c.png").symlink_to("y/c.png")
    assert len(load(tmp_path, ROWS)) == 3


@pytest.mark.parametrize("name", ["source", "patient_id", "label", "path"])
def test_a_cell_that_is_no_name_is_refused_with_its_length_and_not_its_text(tmp_path, name):
    sentence = f"The {name} in data row 1 .* has 5,000 characters, but may have 4,096"
    with pytest.raises(UserError, match=sentence) as found:
        load(tmp_path, changed(0, **{name: "x" * 5000}))
    assert len(str(found.value)) < 400


def test_a_missing_image_file_is_no_error(tmp_path):
    assert len(load(tmp_path, ROWS)) == 3


def test_doubts_name_what_makes_results_doubtful(tmp_path):
    rows = [
        *ROWS,
        {"image_id": "d", "path": "d", "label": "covid19", "patient_id": "p1", "source": "s2"},
        {"image_id": "e", "path": "e", "label": "normal", "patient_id": "p3", "source": "s2"},
    ]
    assert load(tmp_path, rows).doubts() == [
        "patient ids are missing for 1 of 5 images: each of these is taken as its own patient",
        "1 patient has images of more than one class (p1)",
        "class covid19 comes from one source only (s2)",
    ]


ALIKE = [
    ("7", "007", "in how they are written"),
    ("7", "7.0", "in how they are written"),
    ("p7", "P7", "in small and capital letters"),
    ("p7", "p 7", "in blanks"),
    ("cohen:7", "cohen:07", "in how they are written"),
    (unicodedata.normalize("NFC", "bénin"), unicodedata.normalize("NFD", "bénin"), "in how their accents are stored"),
]


@pytest.mark.parametrize(("a", "b", "how"), ALIKE)
@pytest.mark.parametrize(
    ("column", "words"),
    [("patient_id", "patient ids"), ("group_id", "group ids"), ("source", "sources"), ("label", "labels")],
)
def test_nearly_equal_names_are_doubted_with_two_of_them(tmp_path, a, b, how, column, words):
    names = {"image_id": "ijkl", "path": "ijkl", "label": "nmnm", "patient_id": "qrst", "source": "uuuu"}
    rows = [{name: values[at] for name, values in names.items()} for at in range(4)]
    assert load(tmp_path, rows, ["n", "m"]).doubts() == []
    rows[0][column], rows[1][column] = a, b
    first, second = sorted([a, b])
    sentence = f"2 {words} are nearly equal, but count as different: {first!r} and {second!r} differ {how}"
    file = write_csv(tmp_path / "table.csv", rows)
    classes = sorted({row["label"] for row in rows})
    assert [doubt for doubt in load_cohort(file, tmp_path, classes).doubts() if "nearly equal" in doubt] == [sentence]
    found = [finding.sentence for finding in about_names(read_table(file, tmp_path, None))]
    assert found == [f"{sentence}."]


def test_names_that_mean_something_else_are_not_doubted():
    assert nearly_equal(["7", "70", "7a", "P7", "P007", "1.5", "1.50", "a-b", "ab", "0", "00.1", "x:7", "y:7"]) == []


def test_sources_that_are_equal_or_unknown_raise_no_doubt(tmp_path):
    one_source = [row | {"source": "s", "patient_id": row["image_id"]} for row in ROWS]
    unknown = [row | {"source": ""} for row in one_source]
    assert load(tmp_path, one_source).doubts() == []
    assert load(tmp_path, unknown).doubts() == []


def test_a_class_that_shares_no_source_is_doubtful(tmp_path):
    rows = [
        {"image_id": i, "path": i, "label": label, "patient_id": i, "source": source}
        for i, label, source in [("a", "normal", "s1"), ("b", "normal", "s2"), ("c", "covid19", "s3")]
    ]
    assert load(tmp_path, rows).doubts() == [
        "class normal shares no source with another class (s1, s2)",
        "class covid19 comes from one source only (s3)",
    ]


@pytest.mark.real_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared folder of real chest X-rays is absent")
@pytest.mark.parametrize(("flag", "images", "patients"), [("paper1", 2031, 1659), ("paper2", 781, 712)])
def test_the_papers_cohorts_are_mapped_by_a_recipe(tmp_path, flag, images, patients):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "table: manifest.csv\n"
        "columns: {image_id: path, path: path, label: label, patient_id: patient_id, source: source,"
        " view_position: view, sha256: sha256, group_id: split_group, mask_path: mask_path}\n"
        f'where: {{{flag}: "1"}}\n'
    )
    classes = ["normal", "covid19", "viral_pneumonia", "bacterial_pneumonia"]
    cohort = load_cohort(recipe, SHARED, classes if flag == "paper1" else classes[:3])
    assert len(cohort) == images
    assert len(set(cohort.groups("patient").tolist())) == patients
    assert set(cohort.groups("group").tolist()) == {f"group:{group}" for group in cohort.column("group_id")}
    assert any("one source only" in doubt for doubt in cohort.doubts())
