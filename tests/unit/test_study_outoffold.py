"""Out-of-fold predictions: joined whole and sorted, or refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.errors import CxrdistError, IncompleteStudyError
from cxrdist.study.outoffold import FoldPredictions, aggregate

VARIANTS = ["whole-vgg16", "whole-resnet34"]
EXPECTED = {0: ["b", "d"], 1: ["a", "e"], 2: ["c"]}
HASH = "f" * 64


def predictions(variant, fold, ids=None):
    ids = EXPECTED[fold] if ids is None else ids
    numbers = np.array([ord(i) - ord("a") for i in ids])
    return FoldPredictions(
        variant, fold, HASH, ids, truth=numbers % 2, probabilities=np.column_stack([1 - numbers / 10, numbers / 10])
    )


def whole():
    return [predictions(variant, fold) for variant in VARIANTS for fold in EXPECTED]


def join(parts, **options):
    return aggregate(parts, variants=VARIANTS, expected=EXPECTED, cohort_hash=HASH, **options)


@given(st.permutations(range(6)))
@settings(max_examples=15, deadline=None)
def test_each_image_keeps_its_prediction_truth_and_fold_in_whatever_order_jobs_end(order):
    parts = whole()
    joined = join([parts[number] for number in order])
    assert list(joined) == VARIANTS
    for variant, table in joined.items():
        assert table.variant == variant
        assert table.image_ids == ["a", "b", "c", "d", "e"]
        assert table.fold.tolist() == [1, 0, 2, 0, 1]
        assert table.truth.tolist() == [0, 1, 0, 1, 0]
        assert table.probabilities[:, 1].tolist() == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_the_most_probable_class_is_predicted_and_the_first_of_equals():
    table = join(whole())[VARIANTS[0]]
    halves = replace(table, probabilities=np.array([[0.5, 0.5], [0.2, 0.8], [0.8, 0.2]]))
    assert halves.predicted.tolist() == [0, 1, 0]
    assert halves.predicted.dtype == np.int64


def test_a_missing_fold_is_refused_by_name():
    with pytest.raises(IncompleteStudyError, match=r"^1 of 6 fold jobs have no predictions: whole-resnet34 fold 2\.$"):
        join(whole()[:-1])
    with pytest.raises(IncompleteStudyError, match=r"^6 of 6 .* whole-vgg16 fold 2 and 3 more\.$"):
        join([])


def test_missing_folds_may_be_allowed_and_variants_without_any_are_left_out():
    joined = join([predictions(VARIANTS[1], 2), predictions(VARIANTS[1], 0)], allow_missing=True)
    assert list(joined) == [VARIANTS[1]]
    assert joined[VARIANTS[1]].image_ids == ["b", "c", "d"]
    assert join([], allow_missing=True) == {}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (predictions(VARIANTS[0], 0), r"fold 0 of whole-vgg16 is predicted twice"),
        (replace(predictions(VARIANTS[0], 0), cohort_hash="0" * 64), r"made on cohort 0{12}, this study's is f{12}\."),
        (replace(predictions(VARIANTS[0], 0), variant="segmented-vgg16"), r"fold 0 of segmented-vgg16 do not belong"),
        (replace(predictions(VARIANTS[0], 0), fold=3), r"fold 3 of whole-vgg16 do not belong"),
        (predictions(VARIANTS[0], 0, ["b"]), r"not of its test images: d differ"),
        (predictions(VARIANTS[0], 0, ["b", "d", "a"]), r"not of its test images: a differ"),
        (predictions(VARIANTS[0], 0, ["b", "d", "d"]), r"hold an image twice"),
    ],
    ids=["twice", "cohort", "variant", "fold", "too-few", "too-many", "repeated"],
)
@pytest.mark.parametrize("allow_missing", [False, True])
def test_predictions_that_contradict_the_study_are_refused_also_in_a_part_of_it(part, message, allow_missing):
    others = whole() if "twice" in message and "image" not in message else whole()[1:]
    with pytest.raises(CxrdistError, match=message):
        join([*others, part], allow_missing=allow_missing)


def test_an_image_in_the_test_parts_of_two_folds_is_refused():
    parts = [predictions(VARIANTS[0], 0), predictions(VARIANTS[0], 1, ["b", "e"])]
    with pytest.raises(CxrdistError, match=r"^1 images are predicted twice for whole-vgg16: b\.$"):
        aggregate(parts, variants=VARIANTS[:1], expected={0: ["b", "d"], 1: ["b", "e"]}, cohort_hash=HASH)
