"""Errors in the report: by source, the most confident ones, and the images that are chosen to be looked at."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.report.choice import ERRORS, EXAMPLES, confident_errors, examples_by_class, images_to_show
from cxrdist.report.mistakes import confident_errors_table, errors_by_source_table, mistakes_section
from cxrdist.report.render import render_csv, render_latex, render_markdown, render_text
from cxrdist.report.scores import all_scores
from cxrdist.report.section import tables_of
from cxrdist.stats.confusion import wilson
from cxrdist.study.outoffold import OutOfFold
from tests.unit.report_examples import CLASSES, VARIANTS, incomplete_results, out_of_fold, small_results

FIRST, SECOND = VARIANTS


def chance_results(chance, images=40, **changes):
    """Both variants guess; each class has images, and fold and order mean nothing."""
    rng = np.random.default_rng(chance)
    truth = np.arange(images) % 3
    predictions = {
        variant: out_of_fold(variant, truth, rng.integers(0, 3, images), np.arange(images) // 3 % 2, 3)
        for variant in VARIANTS
    }
    return small_results(out_of_fold=predictions, **changes)


def test_without_predictions_there_are_no_errors():
    assert not mistakes_section(small_results(), [])


def test_errors_are_counted_by_variant_and_source_and_unknown_sources_come_last():
    sources = {f"image-{number:04d}": "zurich" if number < 4 else "arles" for number in range(10)}
    results = small_results(sources={**sources, "image-0009": ""})
    table = errors_by_source_table(results, all_scores(results))
    counts = [row[:4] for row in table.rows]
    # The first variant is wrong on images 3 and 7, the second on 2, 3, 7 and all of the third class.
    assert counts == [
        *((FIRST, "arles", 5, 1), (FIRST, "zurich", 4, 1), (FIRST, "unknown", 3, 0)),
        *((SECOND, "arles", 5, 2), (SECOND, "zurich", 4, 2), (SECOND, "unknown", 3, 3)),
    ]
    for _, _, images, errors, *rates in table.rows:
        assert isinstance(images, int)
        assert isinstance(errors, int)
        assert rates == pytest.approx([errors / images, *wilson(errors, images)])


def test_the_table_of_sources_says_that_its_intervals_take_images_as_independent():
    results = small_results()
    table = errors_by_source_table(results, all_scores(results))
    assert "takes images as independent" in table.notes[0]
    assert [column.label for column in table.columns] == [
        *("Variant", "Source", "Images", "Errors", "Error rate value", "Error rate low", "Error rate high"),
    ]


def test_the_most_confident_errors_are_named_with_what_was_said_and_by_how_many():
    results = small_results(sources={"image-0007": "cohen"})
    table = confident_errors_table(results, all_scores(results))
    # Confidence rises with the number of the image.
    first: list[object] = [row for row in table.rows if row[0] == FIRST]
    assert first == [
        (FIRST, "image-0007", CLASSES[1], CLASSES[2], pytest.approx(0.775), "cohen", "1", "2 of 2"),
        (FIRST, "image-0003", CLASSES[0], CLASSES[1], pytest.approx(0.675), "unknown", "1", "2 of 2"),
    ]
    second = [row[1:4] + row[7:] for row in table.rows if row[0] == SECOND]
    assert second[0] == ("image-0011", CLASSES[2], CLASSES[1], "1 of 2")
    assert [row[0] for row in second] == [f"image-{number:04d}" for number in (11, 10, 9, 8, 7, 3, 2)]


def test_at_most_ten_errors_of_a_variant_are_listed():
    results = chance_results(0, images=90)
    table = confident_errors_table(results, all_scores(results))
    assert [[row[0] for row in table.rows].count(variant) for variant in VARIANTS] == [10, 10]


def test_errors_of_the_same_probability_are_in_the_order_of_their_ids():
    results = small_results()
    equal = np.tile([0.2, 0.2, 0.6], (4, 1))
    predictions = OutOfFold(FIRST, ["d", "b", "c", "a"], np.array([0, 1, 2, 0]), equal, np.array([0, 0, 1, 1]))
    results = replace(results, out_of_fold={**results.out_of_fold, FIRST: predictions})
    assert confident_errors(results, FIRST, 10) == ["a", "b", "d"]
    assert confident_errors(results, FIRST, 2) == ["a", "b"]


def flawless():
    results = small_results()
    own = results.out_of_fold[SECOND]
    return replace(
        results,
        out_of_fold={**results.out_of_fold, FIRST: out_of_fold(FIRST, own.truth, own.truth, own.fold, 3)},
    )


def test_a_variant_without_errors_is_said_to_have_none():
    results = flawless()
    table = confident_errors_table(results, all_scores(results))
    assert {row[0] for row in table.rows} == {SECOND}
    assert table.notes[-1] == f"{FIRST} is wrong on no image."


def test_where_nothing_is_wrong_no_errors_are_listed():
    results = flawless()
    results = replace(
        results,
        variants=(FIRST,),
        out_of_fold={FIRST: results.out_of_fold[FIRST]},
    )
    (table,) = tables_of([mistakes_section(results, all_scores(results))])
    assert table.name == "errors_by_source"


def test_an_incomplete_study_counts_the_variants_that_predict_an_image():
    results = small_results()
    whole = results.out_of_fold[FIRST]
    half = OutOfFold(FIRST, whole.image_ids[:7], whole.truth[:7], whole.probabilities[:7], np.zeros(7, np.int64))
    results = replace(results, out_of_fold={**results.out_of_fold, FIRST: half}, missing=[f"{FIRST} fold 1"])
    sources, errors = tables_of([mistakes_section(results, all_scores(results))])
    assert results.incompleteness in sources.caption
    assert results.incompleteness in errors.caption
    shared = {row[1]: row[7] for row in errors.rows}
    assert shared["image-0003"] == "2 of 2"
    assert shared["image-0007"] == "1 of 1"
    assert shared["image-0002"] == "1 of 2"


@pytest.mark.parametrize("render", [render_csv, render_markdown, render_latex, render_text])
def test_the_tables_can_be_written_in_every_form(render):
    results = small_results(sources={"image-0007": "<b>$x_1$"})
    for table in tables_of([mistakes_section(results, all_scores(results))]):
        assert "unknown" in render(table)


def correct_by(results, image_id):
    """How many variants are right on an image."""
    count = 0
    for predictions in results.out_of_fold.values():
        row = predictions.image_ids.index(image_id)
        count += predictions.predicted[row] == predictions.truth[row]
    return count


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**62))
def test_examples_are_images_of_their_class_that_most_variants_classify_correctly(chance, seed):
    results = chance_results(chance, seed=seed)
    examples = examples_by_class(results)
    assert tuple(examples) == CLASSES
    own = results.out_of_fold[FIRST]
    for index, label in enumerate(CLASSES):
        of_class = [name for name, true in zip(own.image_ids, own.truth, strict=True) if true == index]
        assert set(examples[label]) <= set(of_class)
        best = sorted((correct_by(results, name) for name in of_class), reverse=True)[:EXAMPLES]
        assert [correct_by(results, name) for name in examples[label]] == best
        assert len(set(examples[label])) == EXAMPLES


def test_chance_decides_among_equal_examples_and_only_the_seed_decides_chance():
    drawn = {tuple(examples_by_class(chance_results(3, seed=seed))[CLASSES[0]]) for seed in range(20)}
    assert len(drawn) > 1
    results = chance_results(3, seed=5)
    backwards = replace(
        results,
        out_of_fold={
            variant: OutOfFold(variant, own.image_ids[::-1], own.truth[::-1], own.probabilities[::-1], own.fold[::-1])
            for variant, own in reversed(results.out_of_fold.items())
        },
    )
    assert examples_by_class(backwards) == examples_by_class(results)
    assert images_to_show(backwards) == images_to_show(results)


def test_a_class_without_predictions_has_no_examples():
    results = small_results()
    own = results.out_of_fold[FIRST]
    seen = own.truth < 2
    partial = OutOfFold(
        FIRST, list(np.array(own.image_ids)[seen]), own.truth[seen], own.probabilities[seen], own.fold[seen]
    )
    results = replace(results, out_of_fold={FIRST: partial}, variants=(FIRST,))
    assert [len(ids) for ids in examples_by_class(results).values()] == [2, 2, 0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_images_to_show_are_the_examples_and_then_each_variants_errors_without_repetition(chance):
    results = chance_results(chance)
    shown = images_to_show(results)
    examples = [name for ids in examples_by_class(results).values() for name in ids]
    errors = [name for variant in VARIANTS for name in confident_errors(results, variant, ERRORS)]
    assert len(set(shown)) == len(shown)
    assert shown[: len(examples)] == examples
    assert set(shown) == {*examples, *errors}
    assert shown[len(examples) :] == [name for name in dict.fromkeys(errors) if name not in examples]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 30))
def test_confident_errors_are_wrong_and_no_wrong_image_left_out_is_more_probable(chance, most):
    results = chance_results(chance)
    own = results.out_of_fold[FIRST]
    probability = dict(zip(own.image_ids, own.probabilities.max(axis=1), strict=True))
    wrong = {name for name, bad in zip(own.image_ids, own.predicted != own.truth, strict=True) if bad}
    chosen = confident_errors(results, FIRST, most)
    assert len(chosen) == min(most, len(wrong))
    assert set(chosen) <= wrong
    ranked = [probability[name] for name in chosen]
    assert ranked == sorted(ranked, reverse=True)
    assert not ranked or all(probability[name] <= ranked[-1] for name in wrong - set(chosen))


def test_a_variant_without_predictions_has_no_errors_to_show():
    assert confident_errors(incomplete_results(), SECOND, 5) == []
