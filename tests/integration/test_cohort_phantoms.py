"""Phantoms: a cohort like any other, the same bytes for the same seed, and never over somebody's files."""

import hashlib
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrdist.cohort.phantoms import draw_phantoms
from cxrdist.cohort.table import COHORT_SCHEMA, load_cohort
from cxrdist.errors import UserError

CLASSES = ["normal", "covid19", "viral_pneumonia", "bacterial_pneumonia"]
PARAMETERS: dict[str, Any] = {"patients_per_class": 4, "images_per_patient": (1, 3), "size": 64, "seed": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "drawn"
    draw_phantoms(folder, **PARAMETERS)
    return folder


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "marked"
    draw_phantoms(folder, **PARAMETERS, marker="covid19")
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(folder, tmp_path):
    draw_phantoms(tmp_path / "again", **PARAMETERS)
    draw_phantoms(tmp_path / "other", **PARAMETERS | {"seed": 6})
    assert contents(tmp_path / "again") == contents(folder)
    images = [image for name, image in contents(folder).items() if name.startswith("images")]
    assert len(set(images)) == len(images)
    assert not set(images) & set(contents(tmp_path / "other").values())


def test_drawing_again_does_nothing(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert draw_phantoms(folder, **PARAMETERS) == folder / "manifest.csv"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_phantoms_are_a_cohort_without_doubts(folder):
    cohort = load_cohort(folder / "manifest.csv", folder, CLASSES)
    assert cohort.doubts() == []
    assert all(None not in cohort.column(name) for name in COHORT_SCHEMA.names)
    patients = dict(zip(cohort.column("patient_id"), cohort.column("label"), strict=True))
    assert Counter(patients.values()) == dict.fromkeys(CLASSES, 4)
    images = Counter(cohort.column("patient_id"))
    assert set(images.values()) <= {1, 2, 3}
    assert len(set(images.values())) > 1


def test_the_source_says_nothing_about_the_class(folder):
    cohort = load_cohort(folder / "manifest.csv", folder, CLASSES)
    columns = [cohort.column(name) for name in ("patient_id", "label", "source")]
    patients = {patient: (label, source) for patient, label, source in zip(*columns, strict=True)}
    assert Counter(patients.values()) == {(c, s): 2 for c in CLASSES for s in ("hospital_a", "hospital_b")}


def test_lungs_are_where_the_mask_says(folder):
    for path in sorted((folder / "images").glob("normal-*")):
        image, mask = (np.asarray(Image.open(folder / name / path.name)) for name in ("images", "masks"))
        assert image.shape == mask.shape == (64, 64)
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 255}
        assert 0.15 < (mask == 255).mean() < 0.5
        # Both lungs are seen, and they are darker than what lies between and around them inside the body.
        assert (mask[:, :28] == 255).any()
        assert (mask[:, 36:] == 255).any()
        assert image[mask == 255].mean() < image[20:, 8:56][mask[20:, 8:56] == 0].mean() - 30


def test_lesions_are_inside_the_lungs_of_the_ill_and_brighter_than_the_rest_of_them(folder):
    for path in sorted((folder / "images").iterdir()):
        image, mask, lesion = (
            np.asarray(Image.open(folder / name / path.name)) for name in ("images", "masks", "lesions")
        )
        assert lesion.shape == mask.shape
        assert set(np.unique(lesion)) <= {0, 255}
        assert not (lesion[mask == 0] > 0).any()
        if path.name.startswith("normal-"):
            assert not lesion.any()
        elif path.name.startswith(("covid19-", "bacterial_pneumonia-")):
            assert 0.01 < (lesion > 0).mean() < 0.15
            assert image[lesion > 0].mean() > image[(mask > 0) & (lesion == 0)].mean() + 10


def test_images_of_one_patient_are_alike_but_not_equal(folder):
    images = {
        path.stem: np.asarray(Image.open(path)).ravel().astype(float) for path in sorted((folder / "images").iterdir())
    }
    names = list(images)
    alike = np.corrcoef(np.stack(list(images.values())))
    own = [alike[i, j] for i, a in enumerate(names) for j, b in enumerate(names) if i < j and a[:-3] == b[:-3]]
    others = [alike[i, j] for i, a in enumerate(names) for j, b in enumerate(names) if i < j and a[:-3] != b[:-3]]
    assert max(own) < 0.999
    assert np.mean(own) > np.mean(others)


def test_a_marker_is_on_every_image_of_its_class_and_changes_nothing_else(folder, marked):
    plain, planted = contents(folder), contents(marked)
    assert plain.keys() == planted.keys()
    changed = {name for name, data in plain.items() if planted[name] != data}
    assert changed - {"manifest.csv", "phantoms.json"} == {name for name in plain if name.startswith("images/covid19-")}
    corner = np.zeros((64, 64), bool)
    corner[-5:, :5] = True
    for path in sorted((marked / "images").glob("covid19-*")):
        before, after, mask = (
            np.asarray(Image.open(root / kind / path.name))
            for root, kind in ((folder, "images"), (marked, "images"), (marked, "masks"))
        )
        assert (after[corner] == 255).all()
        assert before[corner].mean() < 200
        np.testing.assert_array_equal(after[~corner], before[~corner])
        assert not mask[corner].any()


def test_marked_phantoms_are_a_cohort_whose_files_are_those_of_the_manifest(folder, marked):
    plain, planted = (load_cohort(root / "manifest.csv", root, CLASSES) for root in (folder, marked))
    for name in COHORT_SCHEMA.names:
        same = [a == b for a, b in zip(plain.column(name), planted.column(name), strict=True)]
        assert same == (
            [label != "covid19" for label in plain.column("label")] if name == "sha256" else [True] * len(plain)
        )
    for path, sha256 in zip(planted.column("path"), planted.column("sha256"), strict=True):
        assert hashlib.sha256((marked / path).read_bytes()).hexdigest() == sha256


def test_what_is_recorded_without_a_marker_is_what_was_before_there_were_any(folder):
    recorded = '{"patients_per_class": 4, "images_per_patient": [1, 3], "size": 64, "seed": 5, "version": 1}'
    assert (folder / "phantoms.json").read_text() == json.dumps(json.loads(recorded), indent=1) + "\n"


def test_marked_phantoms_are_drawn_once_and_never_taken_for_others(folder, marked):
    before = contents(marked)
    draw_phantoms(marked, **PARAMETERS, marker="covid19")
    for root, marker in ((marked, None), (marked, "normal"), (folder, "covid19")):
        with pytest.raises(UserError, match="choose a new folder"):
            draw_phantoms(root, **PARAMETERS, marker=marker)
    assert contents(marked) == before


def test_the_command_plants_a_marker(command, tmp_path):
    arguments = ("phantoms", str(tmp_path / "new"), "--patients", "2", "--size", "64")
    assert command(*arguments, "--marker", "normal")[0] == 0
    corners = {
        path.name: (np.asarray(Image.open(path))[-5:, :5] == 255).all()
        for path in (tmp_path / "new" / "images").iterdir()
    }
    assert corners == {name: name.startswith("normal-") for name in corners}
    assert command(*arguments)[0] == 2


def test_the_command_lists_the_classes_where_an_unknown_one_is_to_be_marked(command, tmp_path):
    status, output = command("phantoms", str(tmp_path / "new"), "--marker", "pneumonia")
    assert status == 2
    assert all(name in output for name in CLASSES)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="holds something other than phantoms"):
        draw_phantoms(tmp_path, **PARAMETERS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_phantoms_of_other_parameters_are_refused(folder):
    with pytest.raises(UserError, match=r'"seed": 5.*not.*"seed": 6'):
        draw_phantoms(folder, **PARAMETERS | {"seed": 6})
    assert json.loads((folder / "phantoms.json").read_text())["seed"] == 5


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="something other than phantoms"):
        draw_phantoms(tmp_path / "file", **PARAMETERS)
    with pytest.raises(UserError, match="cannot be written"):
        draw_phantoms(tmp_path / "file" / "below", **PARAMETERS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patients_per_class": 0}, "at least 1"),
        ({"images_per_patient": (0, 2)}, "must start at 1"),
        ({"images_per_patient": (3, 2)}, "3 to 2 images"),
        ({"size": 63}, "64 to 512"),
        ({"size": 513}, "64 to 512"),
        ({"marker": "covid"}, r"'covid' cannot be marked.*one of normal, covid19, .*\(did you mean 'covid19'\?\)"),
        ({"marker": ""}, "one of normal, covid19, viral_pneumonia, bacterial_pneumonia"),
    ],
)
def test_impossible_phantoms_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        draw_phantoms(tmp_path / "new", **PARAMETERS | change)
    assert list(tmp_path.iterdir()) == []
