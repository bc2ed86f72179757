"""Studies side by side: all variants alike in all tables, tests only of what is paired, and what differs is said."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrdist.config.models import Study
from cxrdist.report import inference, side_by_side
from cxrdist.report.compared_studies import ComparedStudy, settings_table, studies_table, study_labels
from cxrdist.report.masks import MaskSummary
from cxrdist.report.page import render_page
from cxrdist.report.results import FoldSummary
from cxrdist.report.section import tables_of
from cxrdist.report.side_by_side import SideBySide, side_by_side_sections
from cxrdist.report.style import Picture
from cxrdist.report.tables import file_name
from cxrdist.study.folds import Folds, Part
from tests.unit.report_examples import VARIANTS, out_of_fold, small_results

IMAGES = [f"image-{index:04d}" for index in range(12)]
TRUTH = np.repeat([0, 1, 2], 4)
CONFIG: dict[str, Any] = {"name": "small", "seed": 7, "cohort": {"manifest": "m.csv", "classes": ["a", "b"]}}
OTHERS_RIGHT = [0, 0, 1, 0, 1, 1, 2, 1, 2, 2, 0, 2]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Few resamples, and figures are not drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "RESAMPLES", 60)
        picture = Picture("comparison", "All", "", "", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"")
        patch.setattr(side_by_side, "comparison_picture", lambda *_: picture)
        yield


def compared(label="one", results=None, **changes):
    results = results or small_results()
    tested = next(iter(results.out_of_fold.values()))
    parts = np.full((results.n_folds, len(IMAGES)), Part.TRAINING, np.int8)
    for image_id, fold in zip(tested.image_ids, tested.fold, strict=True):
        parts[fold, IMAGES.index(image_id)] = Part.TEST
    study = ComparedStudy(label, f"../{label}", "0123456789abcdef", {}, Folds(IMAGES, parts), results)
    return replace(study, **changes)


def results_of(predicted, fold=(0, 0, 1, 1) * 3, *, keep=range(12), **changes):
    """One variant that predicts these classes of the images that are kept."""
    keep, n_folds = list(keep), max(fold) + 1
    own = out_of_fold(VARIANTS[0], TRUTH, predicted, fold, 3)
    own = replace(
        own,
        image_ids=[own.image_ids[index] for index in keep],
        truth=own.truth[keep],
        probabilities=own.probabilities[keep],
        fold=own.fold[keep],
    )
    folds = [FoldSummary(number, (2, 2, 2), (0, 0, 0), (2, 2, 2)) for number in range(n_folds)]
    return small_results(
        variants=VARIANTS[:1], n_folds=n_folds, out_of_fold={VARIANTS[0]: own}, histories={}, folds=folds, **changes
    )


def with_config(label, **changes):
    config = Study.model_validate({**CONFIG, **changes})
    return compared(label, small_results(config=config))


@pytest.fixture(scope="module")
def same_folds():
    return SideBySide.of([compared("one"), compared("two", results_of(OTHERS_RIGHT))])


@pytest.fixture(scope="module")
def other_folds():
    return SideBySide.of([compared("one"), compared("two", results_of(OTHERS_RIGHT, (0, 1, 2, 2) * 3))])


def columns(table):
    return [column.label for column in table.columns]


def test_every_table_has_the_variants_of_all_studies_under_their_labels(same_folds):
    names = [*(f"one: {variant}" for variant in VARIANTS), f"two: {VARIANTS[0]}"]
    tables = {table.name: table for table in tables_of(side_by_side_sections(same_folds))}
    assert list(same_folds.results.out_of_fold) == names
    assert [row[0] for row in tables["summary"].rows] == names
    for name in ("intervals", "folds"):
        assert list(dict.fromkeys(row[0] for row in tables[name].rows)) == names
    assert [row[:2] for row in tables["pairs"].rows] == [
        (names[0], names[1]),
        (names[0], names[2]),
        (names[1], names[2]),
    ]
    assert len(tables["pairs_by_class"].rows) == 3 * 3
    assert len({file_name(name) for name in names}) == 3


def test_rows_that_sum_up_a_variant_do_so_wherever_it_stands(same_folds):
    (folds,) = [table for table in tables_of(side_by_side_sections(same_folds)) if table.name == "folds"]
    assert [folds.rows[number][1] for number in sorted(folds.totals)] == ["mean", "SD"] * 3


def test_a_note_on_all_studies_stands_once(same_folds):
    notes = same_folds.summary().notes
    assert len(set(notes)) == len(notes)
    assert sum("Wilson" in note for note in notes) == 1


def test_of_studies_with_the_same_folds_accuracy_is_tested_over_folds_too(same_folds):
    assert "Corrected t over folds p" in columns(same_folds.pairs())
    assert not [warning for warning in same_folds.results.warnings if "folds" in warning]
    assert same_folds.extent == "3 variants of 2 studies × 2 folds"


def test_of_studies_with_other_folds_it_is_not_and_this_is_said_on_top(same_folds, other_folds):
    pairs = other_folds.pairs()
    assert [label for label in columns(same_folds.pairs()) if label not in columns(pairs)] == [
        "Corrected t over folds t",
        "Corrected t over folds p",
        "Corrected t over folds p Holm",
    ]
    assert not [note for note in pairs.notes if "Corrected t" in note]
    assert len(pairs.notes) == len(same_folds.pairs().notes) - 1
    first = other_folds.results.warnings[0]
    assert "different folds" in first
    assert "trained on different parts" in first
    assert other_folds.extent == "3 variants of 2 studies, folds differ"


def test_other_folds_do_not_change_what_is_tested_by_image(same_folds, other_folds):
    for one, other in zip(same_folds.comparisons.pairs, other_folds.comparisons.pairs, strict=True):
        assert (one.accuracy, one.macro_auc, one.mcnemar.p) == (other.accuracy, other.macro_auc, other.mcnemar.p)


def test_each_study_is_scored_in_its_own_folds(other_folds):
    assert [row[2] for row in other_folds.summary().rows] == ["2 of 2", "2 of 2", "3 of 3"]
    (folds,) = [table for table in tables_of(side_by_side_sections(other_folds)) if table.name == "folds"]
    assert [row[1] for row in folds.rows if str(row[0]).startswith("two")] == ["0", "1", "2", "mean", "SD"]
    alone = SideBySide.of([compared("two", results_of(OTHERS_RIGHT, (0, 1, 2, 2) * 3))])
    assert alone.summary().rows[0] == other_folds.summary().rows[2]


def test_folds_that_share_the_test_parts_alone_are_other_folds():
    one = compared("one")
    parts = one.folds.parts.copy()
    parts[0, np.flatnonzero(parts[0] == Part.TRAINING)[0]] = Part.VALIDATION
    assert not SideBySide.of([one, compared("two", folds=Folds(IMAGES, parts))]).same_folds


@pytest.mark.parametrize("seed", [7, 8])
def test_studies_with_equal_predictions_differ_in_nothing_whatever_their_seeds(seed):
    found = SideBySide.of([compared("one"), compared("two", small_results(seed=seed))])
    assert found.comparisons is not None
    for variant in VARIANTS:
        compared_pair = found.comparisons.of(f"one: {variant}", f"two: {variant}")
        assert compared_pair is not None
        pair, p = compared_pair
        for test in (pair.macro_auc, pair.accuracy):
            assert (test.difference.low, test.difference.value, test.difference.high, test.p) == (0, 0, 0, 1)
        assert (p, pair.mcnemar.p) == (1, 1)
    assert bool(studies_table(found.studies).notes) == (seed != 7)


def test_all_pairs_are_corrected_together_however_many_there_are():
    found = SideBySide.of([compared(label) for label in "abcd"])
    pairs = found.pairs()
    assert pairs is not None
    assert len(pairs.rows) == 28
    assert "28" in pairs.notes[0]


def test_variants_tested_on_other_images_are_not_compared_and_this_is_said():
    held_out = [results_of(OTHERS_RIGHT, (0,) * 12, keep=keep) for keep in ([0, 4, 5, 8], [1, 6, 7, 9])]
    found = SideBySide.of([compared(label, own) for label, own in zip("ab", held_out, strict=True)])
    assert found.pairs() is None
    assert "not tested on the same images" in found.results.warnings[1]
    assert "not ranked" in found.headline()[0]
    assert [table.name for table in tables_of(side_by_side_sections(found))] == [
        "summary",
        "intervals",
        "studies",
        "folds",
    ]


def test_patients_are_counted_by_the_study_that_keeps_them_together():
    cohort = small_results().cohort
    by_image = replace(cohort, groups=12, group_name="images")
    for order in ((by_image, cohort), (cohort, by_image)):
        found = SideBySide.of(
            [compared(label, small_results(cohort=own)) for label, own in zip("ab", order, strict=True)]
        )
        assert found.results.cohort == cohort


def test_warnings_and_facts_of_all_studies_are_kept_and_say_whose_they_are():
    changed = small_results(warnings=["shared", "own"], facts=[("Seed", "8"), ("Command", "same")])
    first = small_results(warnings=["shared"], facts=[("Seed", "7"), ("Command", "same"), ("Python", "3")])
    found = SideBySide.of([compared("a", first), compared("b", changed)])
    assert found.results.warnings == ["a, b: shared", "b: own"]
    assert found.results.facts == [
        ("a: Seed", "7"),
        ("b: Seed", "8"),
        ("Every study: Command", "same"),
        ("a: Python", "3"),
    ]


def test_settings_that_differ_are_listed_and_no_others():
    execution = {"workers": 3, "cache": "/cache"}
    changed = with_config(
        "two",
        name="other",
        seed=8,
        cohort={**CONFIG["cohort"], "manifest": "other.csv", "images": "/elsewhere"},
        training={"learning_rate": 0.01},
        variants={"views": ["whole", "segmented"]},
        execution=execution,
        tracking={"wandb": "offline"},
    )
    table = settings_table([with_config("one"), changed])
    assert columns(table) == ["Setting", "one", "two"]
    assert table.rows == (
        ("seed", "7", "8"),
        ("variants.views", "whole", "whole, segmented"),
        ("training.learning_rate", "0.001", "0.01"),
    )


def test_weights_are_told_apart_by_their_content_not_by_their_folder():
    def weighed(label, digest):
        study = with_config(
            label, model={"weights": f"/{label}/vgg16.pth"}, lungs={"weights": f"/{label}/m.safetensors"}
        )
        origin = f"the lung network, weights /{label}/m.safetensors (SHA-256 {digest})"
        masks = MaskSummary(origin, "whole", {}, [], [])
        return replace(study, weights={"vgg16": digest * 16}, results=replace(study.results, masks=masks))

    assert settings_table([weighed("one", "abcd"), weighed("two", "abcd")]).rows == ()
    assert settings_table([weighed("one", "abcd"), weighed("two", "1234")]).rows == (
        (
            "origin of lung masks",
            "the lung network, weights m.safetensors (SHA-256 abcd)",
            "the lung network, weights m.safetensors (SHA-256 1234)",
        ),
        ("weights of vgg16", "abcdabcdabcd", "123412341234"),
    )


@pytest.mark.parametrize(
    ("names", "folders", "labels"),
    [
        (["a", "b"], ["x", "x"], ["a", "b"]),
        (["a", "a", "b"], ["x", "y", "z"], ["x", "y", "b"]),
        (["a", "a"], ["x", "x"], ["1. x", "2. x"]),
        (["a", "a", "x"], ["x", "y", "z"], ["1. x", "2. y", "3. x"]),
        (["a b", "a_b"], ["x", "y"], ["x", "y"]),
    ],
)
def test_studies_are_called_by_their_names_else_by_their_folders_else_by_numbers(names, folders, labels):
    assert study_labels(names, folders) == labels


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), min_size=2, max_size=5))
def test_no_two_studies_have_the_same_label_nor_the_same_file_name(studies):
    labels = study_labels(*zip(*studies, strict=True))
    assert len({file_name(label) for label in labels}) == len(studies)


def test_the_page_says_what_is_compared(same_folds):
    page = render_page(same_folds.results, side_by_side_sections(same_folds), same_folds.extent)
    assert "<h1>Comparison of 2 studies</h1>" in page
    assert "12 images of 9 patients, 3 variants of 2 studies × 2 folds</p>" in page
    for text in (
        "../one",
        "../two",
        "0123456789ab",
        "differ in no setting",
        "# one\n",
        "---\n# two\n",
        "Every study: Seed",
    ):
        assert text in page
