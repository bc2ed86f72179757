"""Phantoms: a cohort like any other, the same bytes for the same seed, and never over somebody's files."""

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
    ],
)
def test_impossible_phantoms_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        draw_phantoms(tmp_path / "new", **PARAMETERS | change)
    assert list(tmp_path.iterdir()) == []
