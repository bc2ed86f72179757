"""Folds: no group is divided, every image is tested once, and classes keep their proportion."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.cohort.table import COHORT_SCHEMA, Cohort
from cxrdist.errors import UserError
from cxrdist.run.prepare import training_doubts
from cxrdist.study.folds import Part, class_counts, make_folds, training_groups

CLASSES = ["a", "b", "c"]
FEW = settings(max_examples=25, deadline=None)


def divide(labels, groups, **options):
    n = len(labels)
    arguments: dict[str, Any] = {
        "classes": CLASSES[: int(max(labels)) + 1],
        "protocol": "kfold",
        "k": 3,
        "validation": 0.2,
        "stratify_by_source": False,
        "seed": 1,
    } | options
    return make_folds(
        [f"image-{row:04d}" for row in range(n)],
        np.asarray(labels, dtype=np.int64),
        np.asarray(groups, dtype=str),
        np.asarray(arguments.pop("sources", [""] * n), dtype=str),
        **arguments,
    )


@st.composite
def cohorts(draw, mixed_groups=True):
    """Images of 2 or 3 classes in groups of 1 to 4; a group may hold images of several classes."""
    n_classes = draw(st.integers(2, 3))
    labels, groups = [], []
    for label in range(n_classes):
        for number in range(draw(st.integers(4, 12))):
            size = draw(st.integers(1, 4))
            name = f"p{number}" if mixed_groups and draw(st.integers(0, 5)) == 0 else f"p{label}-{number}"
            labels += [label] * size
            groups += [name] * size
    return labels, groups


def assert_sound(folds, labels, groups):
    labels, groups = np.asarray(labels), np.asarray(groups)
    counts = class_counts(folds, labels, int(labels.max()) + 1)
    assert (counts.sum(axis=1) == np.bincount(labels)).all()
    assert (counts[:, Part.TRAINING] > 0).all()
    assert (counts[:, Part.TEST] > 0).all()
    assert (counts[:, Part.VALIDATION].sum(axis=1) > 0).all()
    for fold in range(folds.n_folds):
        owners = [set(groups[folds.rows(fold, part)]) for part in Part]
        assert sum(map(len, owners)) == len(set.union(*owners))


@given(cohorts(), st.integers(2, 4), st.integers(0, 9), st.sampled_from(["kfold", "holdout_75_25"]))
@FEW
def test_no_group_is_in_two_parts_and_no_class_is_absent_or_the_study_is_refused(cohort, k, seed, protocol):
    labels, groups = cohort
    try:
        folds = divide(labels, groups, k=k, seed=seed, protocol=protocol)
    except UserError:
        return
    assert_sound(folds, labels, groups)
    if protocol == "kfold":
        assert ((folds.parts == Part.TEST).sum(axis=0) == 1).all()
        assert sorted(i for ids in folds.test_ids().values() for i in ids) == list(folds.image_ids)
    else:
        assert folds.n_folds == 1


@given(st.integers(2, 5), st.integers(0, 9), st.integers(1, 3), st.lists(st.integers(2, 5), min_size=2, max_size=3))
@FEW
def test_equal_groups_of_one_class_each_can_always_be_divided(k, seed, images_each, groups_per_fold):
    labels, groups = [], []
    for label, times in enumerate(groups_per_fold):
        for number in range(times * k):
            labels += [label] * images_each
            groups += [f"{label}-{number}"] * images_each
    assert_sound(divide(labels, groups, k=k, seed=seed), labels, groups)


@given(cohorts(mixed_groups=False), st.integers(0, 3))
@FEW
def test_folds_depend_on_the_cohort_and_the_seed_alone(cohort, seed):
    labels, groups = cohort
    try:
        first = divide(labels, groups, seed=seed, k=2)
    except UserError:
        return
    np.random.seed(seed + 5)
    drawn = np.random.random()
    np.random.seed(seed + 5)
    wider = np.asarray(groups, dtype="<U99")
    assert (divide(labels, wider, seed=seed, k=2).parts == first.parts).all()
    assert np.random.random() == drawn


def sixty_groups_a_class():
    labels = np.repeat([0, 1, 2], 120)
    return labels, [f"p{row // 2:03d}" for row in range(360)]


@pytest.mark.parametrize("protocol", ["kfold", "holdout_75_25", "holdout_batches"])
def test_another_seed_gives_other_folds(protocol):
    labels, groups = sixty_groups_a_class()
    first, same, other = (divide(labels, groups, seed=seed, protocol=protocol).parts for seed in (1, 1, 2))
    assert (first == same).all()
    assert (first != other).any()


def test_training_groups_are_counted_by_fold_and_class():
    labels, groups = np.repeat([0, 1], [12, 6]), np.array([*"aabbccddeeff", *"xxyyzz"])
    folds = divide(labels, groups, k=3, validation=0.2)
    counted = training_groups(folds, labels, groups, 2)
    for fold in range(3):
        rows = folds.rows(fold, Part.TRAINING)
        assert counted[fold].tolist() == [len({groups[row] for row in rows if labels[row] == c}) for c in (0, 1)]
    assert (counted[:, 1] == 1).all()
    assert (counted[:, 0] > 1).all()


def test_a_class_with_a_single_training_patient_is_doubted():
    patients = [*"aabbccddeeffggxyz"]
    rows = [
        {"image_id": f"{n:02d}", "path": str(n), "label": "ab"[n > 13], "patient_id": patient}
        for n, patient in enumerate(patients)
    ]
    cohort = Cohort(pa.Table.from_pylist(rows, schema=COHORT_SCHEMA), Path("/"), ("a", "b"))
    folds = divide(cohort.labels, cohort.groups("group"), k=3, validation=0.2)
    assert training_doubts(folds, cohort) == [
        "class b has a single training patient in 3 of 3 folds (fold 0, 1, 2), so that a network learns that patient "
        "instead of the class"
    ]
    without = divide(cohort.labels, cohort.groups("group"), k=3, validation=0)
    assert training_doubts(without, cohort) == []


def test_every_fold_has_its_own_validation_groups_also_where_groups_are_images():
    labels, _ = sixty_groups_a_class()
    folds = divide(labels, [f"i{row}" for row in range(360)], k=5)
    assert_sound(folds, labels, [f"i{row}" for row in range(360)])
    rows = [set(folds.rows(fold, Part.VALIDATION)) for fold in range(5)]
    assert len({frozenset(part) for part in rows}) == 5


@pytest.mark.parametrize("share", [0.1, 0.15, 0.25, 0.5])
def test_validation_is_the_share_of_groups_that_was_asked_for_in_each_class(share):
    labels, groups = sixty_groups_a_class()
    folds = divide(labels, groups, k=5, validation=share)
    counts = class_counts(folds, labels, 3)
    training_groups = (counts[:, Part.TRAINING] + counts[:, Part.VALIDATION]) / 2
    assert (abs(counts[:, Part.VALIDATION] / 2 - share * training_groups) <= 0.5).all()


def test_classes_keep_their_proportion_where_there_are_many_groups():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 5, 300)
    labels = np.repeat(rng.choice(3, 300, p=[0.6, 0.3, 0.1]), sizes)
    groups = [f"p{number:03d}" for number, size in enumerate(sizes) for _ in range(size)]
    shares = class_counts(divide(labels, groups, k=5), labels, 3)[:, Part.TEST]
    expected = np.bincount(labels) / 5
    assert abs(shares - expected).max() <= 4


def test_sources_keep_their_proportion_where_each_is_large_enough_for_it():
    labels = np.repeat([0, 1], 100)
    sources = np.array((["x"] * 20 + ["y"] * 80) * 2)
    groups = [f"p{row}" for row in range(200)]
    folds = divide(labels, groups, k=5, sources=sources, stratify_by_source=True)
    for fold in range(5):
        test = folds.rows(fold, Part.TEST)
        assert [(sources[test] == "x").sum(), (labels[test] == 0).sum()] == [8, 20]


def test_a_source_too_small_for_every_fold_falls_back_to_the_class():
    labels = np.repeat([0, 1], 30)
    sources = ["x"] * 2 + ["y"] * 58
    groups = [f"p{row}" for row in range(60)]
    by_source = divide(labels, groups, sources=sources, stratify_by_source=True)
    assert (by_source.parts == divide(labels, groups, sources=sources).parts).all()


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0] * 9 + [1, 1], list("abcdefghixy"), r"Class 'b' has images of 2 patients .* folds\.k of at most 2"),
        ([0] * 9 + [1, 1], list("abcdefghixx"), r"Class 'b' has images of 1 patient .* at least 2 are needed"),
        ([0, 0, 1, 1], list("aabb"), r"Class 'a' has images of 1 patient "),
        ([0] * 9, list("abcdefghi"), r"Class 'b' has images of 0 patient "),
    ],
)
def test_a_class_with_too_few_patients_is_named(labels, groups, message):
    with pytest.raises(UserError, match=message):
        divide(labels, groups, classes=["a", "b"])


def test_a_class_whose_patients_all_go_to_test_and_validation_is_named():
    with pytest.raises(UserError, match=r"Class 'a' has no image in the training part of fold 0"):
        divide([0] * 2 + [1] * 6, list("abcdefgh"), k=2)


def test_one_patient_cannot_be_divided():
    with pytest.raises(UserError, match="Class 'a' has images of 1 patient "):
        divide([0, 0, 1, 1], ["p"] * 4, k=2)


def test_paper_2_divides_781_images_in_batches_of_16_to_464_160_and_157():
    labels = np.repeat([0, 1, 2], [240, 274, 267])
    folds = divide(labels, [f"p{row // 2}" for row in range(781)], protocol="holdout_batches", validation=0.01)
    assert [len(folds.rows(0, part)) for part in Part] == [464, 160, 157]
    assert folds.n_folds == 1


@given(st.integers(1, 200), st.integers(0, 5))
@FEW
def test_batches_of_16_are_60_20_20_or_refused(n, seed):
    try:
        folds = divide(np.zeros(n, dtype=int), ["p"] * n, protocol="holdout_batches", seed=seed, classes=["a"])
    except UserError:
        assert n <= 32
        return
    training, validation, test = (len(folds.rows(0, part)) for part in Part)
    assert training + validation + test == n
    assert validation % 16 == 0
    assert validation - 16 < test <= validation < training or n < 80


def test_a_class_that_batches_leave_out_of_the_test_part_is_named():
    with pytest.raises(UserError, match=r"Class 'b' has no image in the (training|test) part of fold 0"):
        divide([0] * 63 + [1], ["p"] * 64, protocol="holdout_batches")


def test_paper_1_tests_a_quarter_of_the_images():
    labels = np.repeat([0, 1, 2, 3], [532, 455, 552, 492])
    folds = divide(labels, [f"i{row}" for row in range(2031)], protocol="holdout_75_25", classes=list("abcd"))
    tested = class_counts(folds, labels, 4)[0, Part.TEST]
    assert abs(tested - np.array([133, 113.75, 138, 123])).max() < 1
    assert tested.sum() == 508
