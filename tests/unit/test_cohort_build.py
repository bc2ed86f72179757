"""Recipes and what is built of them: the same bytes for the same files, and one sentence for what cannot be."""

import csv
import hashlib
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cxrdist.cohort.build import COLUMNS, build_cohort, common_folder, write_manifest
from cxrdist.cohort.manifest import open_manifest, read_manifest
from cxrdist.cohort.perceptual import mark_image
from cxrdist.cohort.recipes import Rule, read_recipe
from cxrdist.cohort.sources.listing import SourceImage
from cxrdist.cohort.sources.selection import Available, match_listed, select
from cxrdist.cohort.sources.sheet import sheet_of
from cxrdist.errors import UserError
from tests.unit.dicom_examples import codes_of, dicom_file

SALT = bytes(range(32))

# --- recipes


def recipe_of(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sources: {a: {kind: cohen}}", r"key 'name' is missing"),
        ("name: a/b\nsources: {a: {kind: cohen}}", r":1: name is 'a/b', but should be letters"),
        ("name: x\nsede: 1\nsources: {a: {kind: cohen}}", r":2: unknown key 'sede'; did you mean 'seed'\?"),
        (
            "name: x\nseed: -1\nsources: {a: {kind: cohen}}",
            r":2: seed is '-1', but should be greater than or equal to 0",
        ),
        ("name: x\nsources: {}", r":2: sources is"),
        ("name: x\nsources:\n  a: {kind: cohn}", r":3: 'kind' of the source 'a' is 'cohn'; .*did you mean 'cohen'\?"),
        ("name: x\nsources:\n  a: {knd: cohen}", r":3: 'kind' of the source 'a' is missing; it is one of cohen"),
        (
            "name: x\nsources:\n  a: {kind: cohen, metdata: m}",
            r":3: unknown key 'sources.a.metdata'; did you mean 'metad",
        ),
        ("name: x\nsources:\n  a: {kind: table, columns: {}}", r":3: key 'sources.a.table' is missing"),
        (
            "name: x\nsources:\n  a:\n    kind: dicom\n    labels: {by: fil}",
            r":5: sources.a.labels.by is 'fil', but should",
        ),
        (
            "name: x\nsources:\n  a:\n    kind: dicom\n    labels: {by: file}",
            r":5: sources.a.labels: .* all others need",
        ),
        (
            "name: x\nsources:\n  a:\n    kind: dicom\n    labels: {by: folder, tabel: t}",
            r":5: unknown key .*'table'\?",
        ),
        ("name: x\nsources: {a: {kind: cohen}}\nselect:\n- {source: b}", r":4: the source 'b' is not one of a of 'so"),
        (
            "name: x\nsources: {a: {kind: cohen}}\nselect:\n- {source: a, cuont: 1}",
            r":4: unknown key 'select.0.cuont'; did",
        ),
        ("name: x\nsources: {a: {kind: cohen}}\nselect:\n- {source: a, count: 0}", r":4: select.0.count is '0', but"),
        (
            "name: x\nsources: {a: {kind: cohen}}\nselect:\n- {source: a, where: {v: {w: x}}}",
            r":4: .*where.v: should be quoted",
        ),
        (
            "name: x\nsources: {a: {kind: cohen}}\nduplicates: {merg: true}",
            r":3: unknown key 'duplicates.merg'; did you",
        ),
        ("name: x\nsources: {a: {kind: cohen}}\nlike: a.csv\nlabels: {a: b}", r":3: 'like' takes images and labels"),
        ("name: x\nname: y\nsources: {a: {kind: cohen}}", r":2: key 'name' stands here and in line 1"),
        ("name: [x\n", "this is not YAML"),
        ("name: !!python/object:os.system x", "tag"),
    ],
)
def test_a_wrong_recipe_is_answered_with_its_line_and_what_would_be_right(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        recipe_of(tmp_path, text)


def test_values_that_are_compared_with_a_tables_text_are_taken_as_they_are_spelled(tmp_path):
    rule = "{source: a, label: 1e3, where: {site: 010, half: [1.50, true, off]}, view_position: 00}"
    recipe = recipe_of(tmp_path, f"name: x\nsources: {{a: {{kind: cohen}}}}\nlabels: {{x: 1e3}}\nselect: [{rule}]")
    assert recipe.labels == {"x": "1e3"}
    assert recipe.select[0].label == "1e3"
    assert recipe.select[0].where == {"site": ("010",), "half": ("1.50", "true", "off")}
    assert recipe.select[0].view_position == ("00",)


def test_a_recipe_that_is_not_there_is_answered_with_where_some_are(tmp_path):
    with pytest.raises(UserError, match=r"There is no recipe '.*x.yaml'; the papers' are in data_manifests/recipes/"):
        read_recipe(tmp_path / "x.yaml")


def test_all_recipes_of_the_repository_are_valid():
    folder = Path(__file__).resolve().parents[2] / "data_manifests" / "recipes"
    recipes = [read_recipe(path) for path in sorted(folder.glob("*.yaml"))]
    assert len(recipes) == 6
    assert all(recipe.like is None or recipe.like.is_file() for recipe in recipes)


def test_the_recipes_that_the_readme_shows_are_valid(tmp_path):
    readme = Path(__file__).resolve().parents[2] / "data_manifests" / "README.md"
    shown = re.findall(r"^```yaml\n(.*?)^```$", readme.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    recipes = [recipe_of(tmp_path, text) for text in shown if "\nsources:" in text]
    assert [recipe.name for recipe in recipes] == ["cohort", "my-cohort"]
    assert recipes[1].select[1].count == 500


# --- selection


def image(name, label="normal", **values):
    return SourceImage(image_id=f"s/{name}", path=f"{name}.png", label=label, source="s", **values)


def chosen(images, *rules, seed=0):
    return [each.image_id for each in select({"s": Available(images, ("split",))}, rules, seed)]


NAMES = st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=20, unique=True)


@given(NAMES, st.data())
def test_a_choice_by_count_depends_neither_on_order_nor_on_what_else_there_is(names, data):
    images = [image(name) for name in names]
    count = data.draw(st.integers(1, len(names)))
    seed = data.draw(st.integers(0, 5))
    first = chosen(images, Rule(source="s", count=count), seed=seed)
    shuffled = data.draw(st.permutations(images))
    others = [image(f"other-{n}", label="flu") for n in range(5)]
    assert first == chosen([*others, *shuffled], Rule(source="s", label="normal", count=count), seed=seed)
    assert len(first) == len(set(first)) == count
    # Of those that are left when one is gone, the choice stays.
    fewer = [each for each in images if each.image_id != first[0]]
    if count > 1:
        assert chosen(fewer, Rule(source="s", count=count - 1), seed=seed) == first[1:]


def test_another_seed_is_another_choice():
    images = [image(str(n)) for n in range(100)]
    assert len({tuple(chosen(images, Rule(source="s", count=10), seed=seed)) for seed in range(10)}) == 10


def test_rules_are_in_order_and_each_image_is_taken_once():
    images = [image(str(n), view_position="PA" if n % 2 else "L", facts={"split": "ab"[n < 5]}) for n in range(10)]
    first = Rule(source="s", view_position=("PA",), count=2)
    second = Rule(source="s", view_position=("PA", "AP"))
    third = Rule(source="s", where={"split": ("b",)}, has_mask=False)
    assert sorted(chosen(images, first, second, third)) == sorted(f"s/{n}" for n in (0, 1, 2, 3, 4, 5, 7, 9))
    assert chosen(images) == [each.image_id for each in images]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"count": 4}, r"Rule 2 of 'select' asks for 4 images of 's', but only 2 that can be used fit it and no rule"),
        ({"label": "nomal"}, r"Rule 2 of 'select': no image .* has label 'nomal'; there is 'normal' \(2\)"),
        ({"where": {"spilt": "a"}}, r"'s' has no column 'spilt'; did you mean 'split'\?"),
        ({"where": {"split": ["a", "3"]}}, r"has split 'a' or '3'; there is 'train' \(2\)"),
        ({"view_position": "PA", "label": "normal"}, r"has view_position 'PA'; there is '' \(2\)"),
        ({"has_mask": True}, r"has has_mask 'true'; there is 'false' \(2\)"),
    ],
)
def test_a_rule_that_finds_too_little_says_what_there_is(rule, words):
    images = [image(str(n), facts={"split": "train"}) for n in range(3)]
    with pytest.raises(UserError, match=words):
        chosen(images, Rule(source="s", count=1), Rule(source="s", **rule))


def test_files_of_the_same_bytes_go_to_their_own_rows():
    listed = sheet_of(
        b"image_id,label,patient_id,source,original_sha256\n"
        b"k/one.jpg,flu,p1,s,AA\nk/two.jpg,flu,p2,s,aa\nk/three.jpg,flu,p3,t,aa\nk/gone.jpg,flu,p4,s,bb\n"
        b"k/zero.jpg,flu,p5,s,aa\n",
        "like.csv",
    )
    files = [image("x/two"), image("x/one"), replace(image("y/zzz"), source="t"), image("unused")]
    found, missing, differing = match_listed(listed, files, ["aa", "aa", "aa", None])
    assert [(each.image_id, each.path, each.patient_id, each.label) for each in found] == [
        ("k/one.jpg", "x/one.png", "p1", "flu"),
        ("k/three.jpg", "y/zzz.png", "p3", "flu"),
        ("k/two.jpg", "x/two.png", "p2", "flu"),
    ]
    assert (missing, differing) == (["k/gone.jpg", "k/zero.jpg"], 3)


# --- building


def png(seed, size=(24, 20)):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, size).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def mask(size):
    buffer = io.BytesIO()
    pixels = np.zeros(size, dtype=np.uint8)
    pixels[4:-4, 4:-4] = 255
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write_source(folder, rows, files):
    """A table and its files."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    (folder / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


ROWS = [{"file": f"{n}.png", "dx": "flu" if n % 2 else "normal", "id": f"p{n}", "old": 30 + n} for n in range(6)]
FILES = {f"{n}.png": png(n) for n in range(6)}
SOURCE = "{kind: table, table: t.csv, columns: {image_id: file, path: file, label: dx, patient_id: id, age: old}}"
RECIPE = f"name: c\nsources:\n  s: {SOURCE}\n"


class Workshop:
    """Builds with a cache of its own, and remembers what was said."""

    def __init__(self, folder):
        self.folder = folder
        self.notes: list[str] = []

    def build(self, text, **folders):
        options = {"partial": folders.pop("partial", False), "keep_ids": folders.pop("keep_ids", False)}
        recipe = recipe_of(self.folder, text)
        self.notes.clear()
        cache = self.folder / "cache"
        built = build_cohort(recipe, folders, cache, salt=lambda: SALT, on_note=self.notes.append, **options)
        self.rows = list(csv.DictReader(io.StringIO(built.manifest.decode(), newline="")))
        return built


@pytest.fixture
def workshop(tmp_path):
    return Workshop(tmp_path)


def test_a_manifest_tells_of_every_image_what_can_be_known(workshop, tmp_path):
    source = write_source(tmp_path / "s", ROWS, FILES)
    built = workshop.build(RECIPE, s=source)
    assert built.root == source.resolve()
    assert tuple(workshop.rows[0]) == COLUMNS
    for n, row in enumerate(workshop.rows):
        digest = hashlib.sha256(FILES[f"{n}.png"]).hexdigest()
        pixels = mark_image(np.asarray(Image.open(io.BytesIO(FILES[f"{n}.png"])))).pixel_hash
        assert row == {
            "image_id": f"{n}.png",
            "path": f"{n}.png",
            "label": ROWS[n]["dx"],
            "patient_id": f"p{n}",
            "source": "s",
            "view_position": "",
            "sha256": digest,
            "group_id": "",
            "mask_path": "",
            "original_sha256": digest,
            "pixel_sha256": pixels,
            "age": str(30 + n),
            "sex": "",
        }
    assert built.labels == {"flu": 3, "normal": 3}
    assert (built.patients, built.without_patient, built.groups) == (6, 0, None)
    assert b"\r" not in built.manifest and built.manifest.endswith(b"\n")
    (tmp_path / "m.csv").write_bytes(built.manifest)
    table, _ = read_manifest(open_manifest(tmp_path / "m.csv", source, None))
    assert table.column("image_id").to_pylist() == [f"{n}.png" for n in range(6)]


def test_the_same_files_and_recipe_give_the_same_bytes_whatever_their_order(workshop, tmp_path):
    text = (
        RECIPE + "select: [{source: s, label: flu, count: 2}, {source: s, label: normal}]\nduplicates: {merge: true}\n"
    )
    first = workshop.build(text, s=write_source(tmp_path / "a", ROWS, FILES)).manifest
    assert first == workshop.build(text, s=tmp_path / "a").manifest
    assert first == workshop.build(text, s=write_source(tmp_path / "b", ROWS[::-1], FILES)).manifest
    assert len(workshop.rows) == 5


def test_what_cannot_be_used_is_counted_and_another_is_drawn(workshop, tmp_path):
    bad = {"1.png": b"no image", "2.png": FILES["2.png"][:200], "x.png": b""}
    rows = [*ROWS, {"file": "gone.png", "dx": "flu", "id": "p"}, {"file": "6.png", "id": "p"}]
    source = write_source(tmp_path / "s", rows, FILES | bad | {"6.png": png(6)})
    workshop.build(RECIPE + "select: [{source: s, label: flu, count: 2}]\n", s=source)
    assert [row["image_id"] for row in workshop.rows] == ["3.png", "5.png"]
    built = workshop.build(RECIPE, s=source)
    assert built.labels == {"flu": 2, "normal": 2}
    said = "\n".join(workshop.notes)
    assert "files: 1 not used (gone.png), which is missing" in said
    assert "files: 1 not used (1.png), which is not an image" in said
    assert "s: 1 not used (6.png), which has no label" in said
    with pytest.raises(UserError, match=r"asks for 3 images of 's', but only 2 that can be used"):
        workshop.build(RECIPE + "select: [{source: s, label: flu, count: 3}]\n", s=source)
    assert any("gone.png" in note for note in workshop.notes)


def test_a_file_of_another_hash_is_never_taken(workshop, tmp_path):
    text = RECIPE.replace("age: old", "sha256: digest")
    for turn in range(2):
        # Also where its marks are known from before.
        digests = [hashlib.sha256(FILES[f"{n}.png"]).hexdigest() for n in range(6)]
        digests[4] = "0" * 64 if turn else digests[4]
        rows = [{**row, "digest": digest.upper()} for row, digest in zip(ROWS, digests, strict=True)]
        workshop.build(text, s=write_source(tmp_path / "s", rows, {} if turn else FILES))
        assert len(workshop.rows) == 6 - turn
    assert any("the manifest says 000000000000..." in note for note in workshop.notes)


def test_an_image_made_from_another_file_knows_that_file_and_is_found_by_it(workshop, tmp_path):
    rows = [{**row, "from": f"{n:064x}"} for n, row in enumerate(ROWS)]
    text = RECIPE.replace("age: old", "original_sha256: from")
    source = write_source(tmp_path / "s", rows, FILES)
    workshop.build(text, s=source)
    assert [row["original_sha256"] for row in workshop.rows] == [row["from"] for row in rows]
    assert workshop.rows[0]["sha256"] == hashlib.sha256(FILES["0.png"]).hexdigest()
    like = "".join(f"{n}.png,normal,{n:064X}\n" for n in (1, 2, 3))
    (tmp_path / "like.csv").write_text(f"image_id,label,original_sha256\n{like}")
    workshop.build(text + "like: like.csv\n", s=source)
    assert [row["image_id"] for row in workshop.rows] == ["1.png", "2.png", "3.png"]
    # One that is there but cannot be opened is missing, too.
    (source / "2.png").write_bytes(FILES["2.png"][:100])
    with pytest.raises(UserError, match=r"1 of the 3 images of .*like.csv' are in none of the sources \(2.png\)"):
        workshop.build(text + "like: like.csv\n", s=source)
    assert any("files: 1 not used (2.png), which is" in note for note in workshop.notes)


def test_labels_are_renamed_and_one_that_is_none_is_refused(workshop, tmp_path):
    source = write_source(tmp_path / "s", ROWS, FILES)
    assert workshop.build(RECIPE + "labels: {flu: viral}\n", s=source).labels == {"normal": 3, "viral": 3}
    with pytest.raises(
        UserError, match=r"renames 'fluu', which .*; a label there is one of flu, normal \(did you mean 'flu"
    ):
        workshop.build(RECIPE + "labels: {fluu: viral}\n", s=source)


@pytest.mark.parametrize("word", ["None", "NA", "nan"])
def test_a_word_for_nothing_is_a_label_where_the_recipe_names_it_and_is_counted_where_not(workshop, tmp_path, word):
    source = write_source(tmp_path / "s", [row | {"dx": str(row["dx"]).replace("normal", word)} for row in ROWS], FILES)
    assert workshop.build(RECIPE, s=source).labels == {"flu": 3}
    assert f"s: 3 not used (0.png, 2.png, 4.png): each has no label but '{word}', which is none unless" in "\n".join(
        workshop.notes
    )
    rules = f"select: [{{source: s, label: flu}}, {{source: s, label: {word}}}]\n"
    assert workshop.build(RECIPE + rules, s=source).labels == {"flu": 3, word: 3}
    assert workshop.build(RECIPE + f"labels: {{{word}: normal}}\n", s=source).labels == {"flu": 3, "normal": 3}


def test_groups_of_copies_become_one_and_contradictions_are_said(workshop, tmp_path):
    copy = np.asarray(Image.open(io.BytesIO(png(1, (96, 80)))))
    buffer = io.BytesIO()
    Image.fromarray((copy * 0.9).astype(np.uint8)).save(buffer, format="PNG")
    files = {f"{n}.png": png(n, (96, 80)) for n in range(6)} | {"4.png": buffer.getvalue()}
    built = workshop.build(RECIPE + "duplicates: {merge: true}\n", s=write_source(tmp_path / "s", ROWS, files))
    assert [row["group_id"] for row in workshop.rows] == ["p0", "p1", "p2", "p3", "p1", "p5"]
    assert built.groups == 5
    said = "\n".join(workshop.notes)
    assert "Pairs of patients who share a radiograph: 1 (p1 = p4)." in said
    assert "Radiographs with two labels: 1 (1.png and 4.png); look at them before you train." in said


def test_like_takes_exactly_the_images_of_a_manifest_with_other_files_of_the_same_bytes(workshop, tmp_path):
    rows = [{**row, "id": f"{row['id']}", "group": "g"} for row in ROWS]
    workshop.build(RECIPE.replace("age: old", "group_id: group"), s=write_source(tmp_path / "s", rows, FILES))
    like = tmp_path / "like.csv"
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(workshop.rows[:4])
    like.write_text(text.getvalue())
    elsewhere = [{"file": f"new-{n}.png", "dx": "unlike", "id": "q", "old": 1} for n in range(6)]
    files = {f"new-{n}.png": FILES[f"{n}.png"] for n in range(6)}
    source = write_source(tmp_path / "t", elsewhere, files)
    built = workshop.build(RECIPE + "like: like.csv\n", s=source)
    wanted = [row | {"path": f"new-{n}.png"} for n, row in enumerate(csv.DictReader(io.StringIO(text.getvalue())))]
    assert workshop.rows == wanted
    assert built.labels == {"flu": 2, "normal": 2}
    assert any("another label in their source than in like.csv, which holds: 4." in note for note in workshop.notes)
    (source / "new-0.png").unlink()
    (source / "new-1.png").write_bytes(png(99))
    with pytest.raises(
        UserError, match=r"2 of the 4 images of .*like.csv' are in none of the sources \(0.png, 1.png\)"
    ):
        workshop.build(RECIPE + "like: like.csv\n", s=source)
    workshop.build(RECIPE + "like: like.csv\n", s=source, partial=True)
    assert [row["image_id"] for row in workshop.rows] == ["2.png", "3.png"]
    assert any("2 of 4 images of like.csv are missing: 0.png, 1.png" in note for note in workshop.notes)


def test_paths_of_several_sources_start_where_all_of_them_are(workshop, tmp_path):
    text = f"name: c\nsources:\n  a: {SOURCE}\n  b: {SOURCE.replace('image_id: file', 'image_id: other')}\n"
    first = write_source(tmp_path / "data" / "a", ROWS, FILES)
    second = write_source(tmp_path / "data" / "deep" / "b", [row | {"other": row["id"]} for row in ROWS], FILES)
    built = workshop.build(text, a=first, b=second)
    assert built.root == (tmp_path / "data").resolve()
    assert [row["path"] for row in workshop.rows][::6] == ["a/0.png", "deep/b/0.png"]
    with pytest.raises(UserError, match=r"needs the source 'b' \(table\); give its folder as --source b=DIR"):
        workshop.build(text, a=first)
    with pytest.raises(UserError, match=r"--source c=... is none of the recipe's; .* one of a, b"):
        workshop.build(text, a=first, b=second, c=second)
    assert workshop.build(text, a=first, partial=True).root == first.resolve()
    assert "Without the sources b." in workshop.notes
    with pytest.raises(UserError, match=r"The image_id '0.png' is in two sources"):
        workshop.build(f"name: c\nsources:\n  a: {SOURCE}\n  b: {SOURCE}\n", a=first, b=first)
    with pytest.raises(UserError, match=r"The file '0.png' is in two sources"):
        workshop.build(text, a=first, b=write_source(first, [row | {"other": row["id"]} for row in ROWS], {}))


def test_folders_that_only_the_whole_disk_holds_are_refused():
    with pytest.raises(UserError, match=r"are in no folder together but '/'"):
        common_folder([Path("/usr"), Path("/etc")])


def test_a_manifest_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "m.csv"
    assert write_manifest(target, b"one") and target.read_bytes() == b"one"
    assert not write_manifest(target, b"one")
    assert write_manifest(target, b"two") and target.read_bytes() == b"two"
    with pytest.raises(FileNotFoundError):
        write_manifest(tmp_path / "absent" / "m.csv", b"one")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_manifest(tmp_path / "folder", b"one")
    assert {path.name for path in tmp_path.iterdir()} == {"m.csv", "folder"}


def test_masks_of_both_lungs_are_joined_once_and_named_in_the_manifest(workshop, tmp_path):
    for number in range(3):
        for folder in ("CXR_png", "ManualMask/leftMask", "ManualMask/rightMask"):
            path = tmp_path / "m" / folder / f"MCUCXR_000{number}_0.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(number, (24, 20)) if folder == "CXR_png" else mask((24, 20)))
    (path.parent / "MCUCXR_0000_0.png").write_bytes(mask((20, 20)))
    text = "name: c\nsources:\n  m: {kind: montgomery}\nselect: [{source: m, has_mask: true}]\n"
    first = workshop.build(text, m=tmp_path / "m").manifest
    joined = ["", *(f"ManualMask/joinedMask/MCUCXR_000{n}_0.png" for n in (1, 2))]
    assert [row["mask_path"] for row in workshop.rows] == joined
    assert all((tmp_path / "m" / path).is_file() for path in joined[1:])
    assert "masks: 1 not used (CXR_png/MCUCXR_0000_0.png), which has lung masks of several sizes." in workshop.notes
    assert workshop.build(text, m=tmp_path / "m").manifest == first


def test_no_patient_id_of_a_hospital_gets_into_a_manifest_unless_it_is_kept(workshop, tmp_path):
    folder = tmp_path / "dicom"
    for n in range(4):
        (folder / ("flu" if n % 2 else "normal")).mkdir(parents=True, exist_ok=True)
        data = dicom_file(
            codes_of((32, 24), seed=n),
            PatientID=f"SECRET-{n // 2}",
            PatientName="Doe^Jane",
            SOPInstanceUID=f"1.2.{n}",
            ViewPosition="PA",
            PatientAge="097Y",
            PatientSex="F",
        )
        (folder / ("flu" if n % 2 else "normal") / f"{n}.dcm").write_bytes(data)
    text = "name: c\nsources:\n  h: {kind: dicom, labels: {by: folder}}\n"
    built = workshop.build(text, h=folder)
    assert (
        b"SECRET" not in built.manifest and b"Doe" not in built.manifest and SALT.hex().encode() not in built.manifest
    )
    assert {(row["view_position"], row["age"], row["sex"]) for row in workshop.rows} == {("PA", "90", "F")}
    assert (built.patients, built.labels) == (2, {"flu": 2, "normal": 2})
    ids = [row["image_id"] for row in workshop.rows]
    workshop.build(text, h=folder, keep_ids=True)
    assert {row["patient_id"] for row in workshop.rows} == {"SECRET-0", "SECRET-1"}
    assert [row["image_id"] for row in workshop.rows] == ids
