"""The check of the papers' own images: copies against the pairs that people judged, shortcuts against what is known."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from cxrdist.cohort.check_cohort import check_cohort
from cxrdist.cohort.check_doubts import mixed_patients
from cxrdist.cohort.check_write import write_lists
from tests.unit.cohort_check_examples import checked

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / ".." / "shared" / "cxr"
COLUMNS = {"image_id": "path", "path": "path", "label": "label", "patient_id": "patient_id", "source": "source"}

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not SHARED.is_dir(), reason="the shared folder of real chest X-rays is absent"),
]


def rows_of(name):
    with (SHARED / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def labelled(*, with_groups):
    """The rows of a class, with or without the groups that people made."""
    more = {"sha256": "sha256", "view_position": "view"} | ({"group_id": "split_group"} if with_groups else {})
    return [
        {name: row[column] for name, column in {**COLUMNS, **more}.items()}
        for row in rows_of("manifest.csv")
        if row["label"]
    ]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A link to the images, so that the cache lies beside it."""
    folder = tmp_path_factory.mktemp("real") / "images"
    folder.symlink_to(SHARED.resolve())
    return folder


def test_copies_that_people_judged_are_found_between_patients_and_sources(images):
    rows = labelled(with_groups=False)
    check = checked(images, rows)
    assert check.files.faults == []
    found = {tuple(sorted((rows[pair.a]["path"], rows[pair.b]["path"]))) for pair in check.copies.pairs}
    listed = {tuple(sorted((row["path_a"], row["path_b"]))): row["verdict"] for row in rows_of("near_duplicates.csv")}
    recall = Counter((verdict, pair in found) for pair, verdict in listed.items())
    assert recall == {
        ("same radiograph (automatic)", True): 57,
        ("same radiograph (seen)", True): 1,
        ("same radiograph (seen)", False): 6,
        ("not decided", True): 2,
        ("not decided", False): 2,
        ("different (seen)", False): 5,
    }
    assert len(found - set(listed)) == 1
    assert check.copies.conflicts == []
    assert len(check.copies.across_groups) == 55
    assert len(check.copies.across_patients) == 7
    assert len(mixed_patients(check.table)) == 11
    assert check.refused


def test_groups_that_people_joined_leave_one_pair_to_join_and_then_none(images, tmp_path):
    check = checked(images, labelled(with_groups=True))
    assert len(check.copies.across_groups) == 1
    write_lists(check, tmp_path, 100)
    with (tmp_path / "manifest.csv").open(newline="", encoding="utf-8") as file:
        again = checked(images, list(csv.DictReader(file)))
    assert again.copies.across_groups == []
    assert not again.refused


def test_the_shape_of_the_four_class_papers_files_tells_the_class_as_it_is_known_to(images):
    recipe = ROOT / "data_manifests" / "four_class.yaml"
    check = check_cohort(recipe, images, images.parent / "cache")
    assert len(check.files.usable) == 2031
    assert not check.refused
    scores = {one.name: one.score for one in check.shortcuts}
    # Logistic regression is right for 50 %, always the same class for 27 %.
    assert scores["aspect ratio"].accuracy == pytest.approx(0.50, abs=0.02)
    assert scores["aspect ratio"].majority == pytest.approx(0.27, abs=0.005)
    assert scores["spread of grey values"].accuracy == pytest.approx(0.455, abs=0.02)
    assert check.odd == []
    doubts = " ".join(finding.sentence for finding in check.findings)
    assert "All 532 images of class normal come from one source (kaggle)" in doubts
    assert "Class covid19 shares no source with another class" in doubts
