"""Intervals and tests of a report: the method fits the data, pairs are of the same images, p values are corrected."""

from dataclasses import replace

import numpy as np
import pytest

from cxrdist.report.inference import BY_CLASS, OVERALL, compare, infer
from cxrdist.report.inference_tables import (
    by_class_interval_table,
    class_comparison_table,
    comparison_table,
    interval_table,
    verdict,
)
from cxrdist.report.sections import Findings
from cxrdist.stats.confusion import wilson
from cxrdist.stats.delong import PairedAuc
from cxrdist.stats.paired import holm
from cxrdist.stats.replicates import PairedDifference
from tests.unit.report_examples import VARIANTS, incomplete_results, out_of_fold, small_results

THIRD = "lung_box-vgg16"


@pytest.fixture(scope="module")
def dependent():
    return Findings.of(small_results())


@pytest.fixture(scope="module")
def independent():
    return Findings.of(small_results(groups={}))


@pytest.fixture(scope="module")
def three():
    """Three variants of 60 images, each right by chance more or less often."""
    rng = np.random.default_rng(3)
    truth, fold = np.arange(60) % 3, np.arange(60) % 2
    right = {VARIANTS[0]: 0.95, VARIANTS[1]: 0.8, THIRD: 0.4}
    predicted = {name: np.where(rng.random(60) < share, truth, rng.integers(0, 3, 60)) for name, share in right.items()}
    return Findings.of(
        small_results(
            variants=tuple(right),
            out_of_fold={name: out_of_fold(name, truth, own, fold, 3) for name, own in predicted.items()},
            histories={},
            groups={},
        )
    )


def test_every_score_lies_in_its_interval(dependent, independent):
    for findings in (dependent, independent):
        for one in findings.inferences:
            estimates = [*one.overall.values(), *(each for own in one.by_class.values() for each in own)]
            assert len(estimates) == len(OVERALL) + 3 * len(BY_CLASS)
            for estimate in estimates:
                interval = estimate.interval
                assert np.isnan(interval.value) or interval.low <= interval.value <= interval.high


def test_values_are_those_of_the_tables_without_intervals(dependent):
    for scores, one in zip(dependent.scores, dependent.inferences, strict=True):
        values = {name: estimate.interval.value for name, estimate in one.overall.items()}
        assert values["accuracy"] == scores.summary.accuracy
        assert values["macro_auc"] == pytest.approx(scores.auc_averages.pooled_macro)
        assert values["macro_f1"] == pytest.approx(scores.summary.f1.macro, nan_ok=True)
        assert values["mcc"] == pytest.approx(scores.summary.mcc)
        for name, own in (("precision", scores.by_class.precision), ("auc", scores.auc.pooled)):
            assert [each.interval.value for each in one.by_class[name]] == pytest.approx(own.tolist(), nan_ok=True)


def test_patients_with_several_images_are_resampled_whole(dependent):
    methods = {each.method for one in dependent.inferences for own in one.by_class.values() for each in own}
    assert methods | {one.overall["accuracy"].method for one in dependent.inferences} == {"bootstrap"}
    assert isinstance(dependent.comparisons.pairs[0].auc_by_class[0], PairedDifference)


def test_independent_images_have_delong_and_wilson_intervals(independent):
    first, scores = independent.inferences[0], independent.scores[0]
    assert first.by_class["auc"][0].method == "DeLong"
    assert first.by_class["f1"][0].method == "bootstrap"
    assert first.overall["accuracy"].method == "Wilson"
    interval = first.overall["accuracy"].interval
    assert (interval.low, interval.high) == wilson(scores.summary.correct, scores.summary.n)
    assert isinstance(independent.comparisons.pairs[0].auc_by_class[0], PairedAuc)


def test_equal_results_give_equal_intervals_and_another_seed_others(dependent):
    again = infer(small_results(), dependent.scores[0])
    assert again.overall == dependent.inferences[0].overall
    other = infer(small_results(seed=8), dependent.scores[0])
    assert other.replicates.accuracy.tolist() != again.replicates.accuracy.tolist()


def test_a_variant_compared_with_itself_differs_in_nothing():
    results = small_results()
    same = replace(results.out_of_fold[VARIANTS[0]], variant=VARIANTS[1])
    findings = Findings.of(replace(results, out_of_fold={**results.out_of_fold, VARIANTS[1]: same}))
    assert findings.comparisons is not None
    pair = findings.comparisons.pairs[0]
    for test in (pair.macro_auc, pair.accuracy):
        assert (test.difference.low, test.difference.value, test.difference.high, test.p) == (0, 0, 0, 1)
    assert pair.mcnemar.p == 1
    assert findings.comparisons.macro_auc_p.tolist() == [1]


def test_all_pairs_are_compared_and_their_p_values_corrected_together(three):
    comparisons = three.comparisons
    assert [(pair.first, pair.second) for pair in comparisons.pairs] == [
        (VARIANTS[0], VARIANTS[1]),
        (VARIANTS[0], THIRD),
        (VARIANTS[1], THIRD),
    ]
    raw = np.array([pair.mcnemar.p for pair in comparisons.pairs])
    assert comparisons.mcnemar_p.tolist() == holm(raw).tolist()
    assert (comparisons.mcnemar_p >= raw).all()
    assert comparisons.auc_by_class_p.shape == (3, 3)
    assert comparisons.of(THIRD, VARIANTS[0]) == (comparisons.pairs[1], comparisons.macro_auc_p[1])
    assert comparisons.of(THIRD, "other") is None


def test_variants_of_different_images_are_not_compared():
    partial = incomplete_results()
    findings = Findings.of(partial)
    assert findings.comparisons is None
    complete = small_results()
    mixed = small_results(
        out_of_fold={**complete.out_of_fold, **partial.out_of_fold}, missing=[f"{VARIANTS[0]} fold 1"]
    )
    assert Findings.of(mixed).comparisons is None


def test_the_corrected_t_knows_how_many_images_were_trained_on():
    t = []
    for size in (1, 100):
        folds = [replace(one, training=(size,) * 3) for one in small_results().folds]
        comparisons = Findings.of(replace(small_results(), folds=folds)).comparisons
        assert comparisons is not None
        t.append(comparisons.pairs[0].accuracy_by_fold.t)
    assert 0 < t[0] < t[1]


def test_tables_show_what_was_computed(three):
    results, comparisons = three.results, three.comparisons
    overall = interval_table(results, three.inferences)
    assert len(overall.rows) == 3 * len(OVERALL)
    assert overall.rows[0][:3] == (VARIANTS[0], "Accuracy", three.scores[0].summary.accuracy)
    by_class = by_class_interval_table(results, three.inferences[0])
    assert [row[0] for row in by_class.rows] == list(results.classes)
    pairs = comparison_table(results, comparisons)
    assert [row[:2] for row in pairs.rows] == [(pair.first, pair.second) for pair in comparisons.pairs]
    assert pairs.rows[1][7] == "different"
    assert len(class_comparison_table(results, comparisons).rows) == 9


def test_tests_that_take_images_as_independent_say_so_where_they_are_not(dependent, independent):
    tables = [comparison_table(one.results, one.comparisons) for one in (dependent, independent)]
    notes = [next(note for note in table.notes if note.startswith("McNemar")) for table in tables]
    assert notes[0].endswith("12 images are of 9 patients, so its p is too small.")
    assert notes[1].endswith("takes images as independent.")


@pytest.mark.parametrize(("p", "word"), [(0.0499, "different"), (0.05, "not significant"), (float("nan"), "undefined")])
def test_a_verdict_is_of_the_corrected_p(p, word):
    assert verdict(p) == word


def test_nothing_is_compared_where_there_is_one_variant(dependent):
    assert compare(dependent.results, dependent.scores[:1], dependent.inferences[:1]) is None
