"""Copies among the papers' own images, against pairs that were found by comparing all and looking at the doubtful."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrdist.cohort.duplicates import (
    MIN_CORRELATION,
    MarkedImages,
    across_patients,
    conflicts_of_label,
    find_duplicates,
    merge_groups,
)
from cxrdist.cohort.perceptual import mark_image

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "cxr"
NEW = ("cohen/1-s2.0-S1684118220300608-main.pdf-002.jpg", "radiography/COVID-168.jpg")
"""The same radiograph by eye, once with arrows and a date; comparing whole thumbnails had not found it."""

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not SHARED.is_dir(), reason="the shared folder of real chest X-rays is absent"),
]


def rows_of(name):
    with (SHARED / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def mark_file(path):
    with Image.open(path) as image:
        return mark_image(np.asarray(image.convert("L")))


@pytest.fixture(scope="module")
def manifest():
    return rows_of("manifest.csv")


@pytest.fixture(scope="module")
def marks(manifest):
    return [mark_file(SHARED / row["path"]) for row in manifest]


@pytest.fixture(scope="module")
def pairs(marks):
    return find_duplicates(MarkedImages.of(marks))


@pytest.fixture(scope="module")
def found(manifest, pairs):
    """Each pair by its sorted paths."""
    return {tuple(sorted((manifest[pair.a]["path"], manifest[pair.b]["path"]))): pair for pair in pairs}


def verdicts():
    return {tuple(sorted((row["path_a"], row["path_b"]))): row["verdict"] for row in rows_of("near_duplicates.csv")}


def test_all_uncropped_copies_are_found_and_nothing_that_differs(found):
    listed = verdicts()
    assert set(found) - set(listed) == {NEW}
    by_verdict = {
        verdict: [pair in found for pair, other in listed.items() if other == verdict]
        for verdict in set(listed.values())
    }
    counts = {verdict: (sum(hits), len(hits)) for verdict, hits in by_verdict.items()}
    assert counts == {
        "same radiograph (automatic)": (57, 57),
        # Five of the others are crops; one, of another contrast, correlates by 0.645.
        "same radiograph (seen)": (1, 7),
        "not decided": (2, 4),
        "different (seen)": (0, 5),
    }
    plain = [pair.correlation for paths, pair in found.items() if listed.get(paths, "").endswith("(automatic)")]
    assert min(plain) > MIN_CORRELATION + 0.2


def test_patients_with_two_names_are_found_and_no_label_contradicts_another(manifest, pairs):
    patients = [row["patient_id"] for row in manifest]
    across = {tuple(sorted((patients[pair.a], patients[pair.b]))) for pair in across_patients(pairs, patients)}
    assert across == {("cohen:178", "cohen:97"), ("cohen:201", "cohen:78"), ("cohen:192", "cohen:196")}
    assert conflicts_of_label(pairs, [row["label"] for row in manifest]) == []


def test_groups_that_were_joined_by_hand_are_joined_from_the_images(manifest, pairs):
    by_hand = [row["split_group"] for row in manifest]
    merged = merge_groups(by_hand, pairs)
    changed = [row["path"] for row, before, after in zip(manifest, by_hand, merged, strict=True) if before != after]
    assert changed == [NEW[1]]
    alone = merge_groups([row["path"] for row in manifest], pairs)
    place = {row["path"]: number for number, row in enumerate(manifest)}
    same = [paths for paths, verdict in verdicts().items() if verdict.endswith("(automatic)")]
    assert all(alone[place[a]] == alone[place[b]] for a, b in same)


def test_files_of_full_size_find_their_small_copies(manifest, marks):
    small = {row["original_sha256"]: mark for row, mark in zip(manifest, marks, strict=True)}
    files = [path for path in sorted((SHARED / "originals").iterdir()) if path.suffix != ".dcm"]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    known = [(mark_file(path), small[digest]) for path, digest in zip(files, digests, strict=True) if digest in small]
    assert len(known) >= 20
    for pair in known:
        assert find_duplicates(MarkedImages.of(pair), min_correlation=0.98)
