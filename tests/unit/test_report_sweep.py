"""The section about a sweep: what was chosen, how surely, at what cost, and whether test images had a part in it."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrdist.config.models import Study
from cxrdist.report import sections, sweep_section
from cxrdist.report.claim_answers import claim_answers
from cxrdist.report.page import render_page
from cxrdist.report.render import render_csv, render_latex, render_markdown, render_text
from cxrdist.report.section import Section, Words, pictures_of, tables_of
from cxrdist.report.style import Picture
from cxrdist.report.sweep import (
    SELECTION_ON_REPORTED_FOLDS,
    SweepSearch,
    SweepSummary,
    SweepTrial,
    show_setting,
)
from cxrdist.report.sweep_figures import Bins
from cxrdist.report.sweep_importance import importance_of_keys, important_pair
from cxrdist.report.sweep_parallel import axis_ticks
from cxrdist.report.sweep_scale import ScoreScale
from cxrdist.report.sweep_tables import TOO_FEW, agreement_table, best_table, cost_table, importance_table
from cxrdist.report.sweep_words import NESTED, at_ends, how_it_was_searched, show_duration
from tests.unit.report_examples import CLASSES, VARIANTS, small_results

KEYS = ("learning_rate", "batch_size", "weight_decay")


def trial(number, score=0.9, state="complete", rate=1e-3, batch=16, decay=0.01, **changes):
    settings = {"learning_rate": rate, "batch_size": batch, "weight_decay": decay}
    folds = {"complete": 3.0, "stopped": 0.5, "diverged": 0.1, "failed": 0.0}[state]
    made = SweepTrial(number, settings, state, score if state == "complete" else None, score, folds, 60.0)
    return replace(made, **changes)


def search(trials, fold=0, variant=VARIANTS[0], chosen=0, **changes):
    score = next(one.score for one in trials if one.number == chosen)
    made = SweepSearch(variant, fold, False, len(trials), trials, chosen, math.nan if score is None else score)
    return replace(made, **changes)


def summary(*searches, **changes):
    made = SweepSummary(
        keys=KEYS,
        choices={"batch_size": (32, 8, 16)},
        ranges={"learning_rate": (1e-5, 1e-2), "weight_decay": (0.0, 0.1)},
        log_keys=frozenset({"learning_rate"}),
        metric="val_auc",
        larger_is_better=True,
        inner_folds=3,
        searcher="tpe",
        scheduler="asha",
        searches=searches,
        seed=7,
    )
    return replace(made, **changes)


def one_search(*trials, **changes):
    return summary(search(trials), **changes)


def mixed():
    """A complete trial, one that was stopped and one that diverged, in each of two folds."""
    return summary(
        *(
            search(
                [trial(0, 0.8), trial(1, 0.7, "stopped"), trial(2, math.nan, "diverged"), trial(3, 0.9)], f, chosen=3
            )
            for f in (0, 1)
        )
    )


def rows_of(table) -> list[dict[str, Any]]:
    return [dict(zip([column.label for column in table.columns], row, strict=True)) for row in table.rows]


# Tables


def test_each_search_has_a_row_with_what_it_chose_its_score_and_its_trials():
    (first, second) = rows_of(best_table(mixed()))
    assert (first["Variant"], first["Fold"], second["Fold"]) == (VARIANTS[0], "0", "1")
    assert [first[f"Chosen {title}"] for title in ("learning rate", "batch size", "weight decay")] == [1e-3, 16, 0.01]
    assert (first["Inner score"], first["Trial"]) == (0.9, 3)
    assert [first[f"Trials {state}"] for state in ("complete", "stopped", "diverged", "failed")] == [2, 1, 1, 0]


def test_a_shared_search_serves_all_folds_and_its_score_is_said_to_be_doubtful():
    table = best_table(summary(search([trial(0)], shared=True)))
    assert rows_of(table)[0]["Fold"] == "all"
    assert "outside fold 0 is doubtful" in table.notes[0]
    assert "too good as an estimate" in table.notes[0]
    assert "doubtful" not in best_table(mixed()).notes[0]


def test_settings_are_shown_with_significant_digits_and_kept_in_full():
    table = best_table(one_search(trial(0, rate=1.23456789e-5)))
    assert "1.23e-5" in render_text(table)
    assert "1.23456789e-05" in render_csv(table)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1e-5, "1e-5"), (0.000316227, "0.000316"), (0.0, "0"), (16, "16"), (1024, "1024"), (2.5e7, "2.5e7")],
)
def test_a_setting_is_shown_as_people_write_it(value, shown):
    assert show_setting(value) == shown


def test_the_agreement_is_the_range_of_the_choices_and_how_many_lie_at_an_end():
    rates = (1e-5, 2e-4, 1e-3, 9.9e-3)
    table = agreement_table(summary(*(search([trial(0, rate=rate, batch=8)], fold) for fold, rate in enumerate(rates))))
    rate, batch, _ = rows_of(table)
    assert [rate[f"Chosen {title}"] for title in ("lowest", "median", "highest")] == [1e-5, 2e-4, 9.9e-3]
    assert (rate["At an end lower"], rate["At an end upper"]) == (1, 1)
    assert (batch["At an end lower"], batch["At an end upper"], batch["Searches"]) == (4, 0, 4)
    assert (rate["Searched"], batch["Searched"]) == ("1e-5 to 0.01 (log)", "8, 16, 32")


def test_what_stopping_saved_is_of_what_would_have_been_done_else():
    (row,) = rows_of(cost_table(mixed()))
    # Of each search two complete trials, one that stopped, and one that diverged and would have done no more.
    assert row["Inner folds done"] == pytest.approx(2 * (3 + 3 + 0.5 + 0.1))
    assert row["Inner folds without stopping"] == pytest.approx(2 * (3 + 3 + 3 + 0.1))
    assert row["Inner folds share saved"] == pytest.approx(1 - 6.6 / 9.1)
    assert (row["Searches"], row["Trials done"], row["Seconds"]) == (2, 8, 480)


def test_several_variants_have_a_row_of_all_in_the_end():
    table = cost_table(summary(search([trial(0)]), search([trial(0), trial(1)], variant=VARIANTS[1])))
    assert [row["Variant"] for row in rows_of(table)] == [*VARIANTS, "all"]
    assert rows_of(table)[-1]["Trials done"] == 3
    assert table.totals == {2}


def test_no_number_is_ever_shown_as_nan():
    failed = trial(0, None, "failed")
    nothing = summary(search([failed]))
    for one in (mixed(), nothing):
        for make in (best_table, agreement_table, cost_table, lambda s: importance_table(s, [None] * len(s.searches))):
            for render in (render_csv, render_latex, render_markdown, render_text):
                assert "nan" not in render(make(one)).lower()
    assert rows_of(cost_table(nothing))[0]["Inner folds share saved"] != 0
    assert best_table(nothing).shown()[0][5] == "n/a"


# Ends of what was searched


@given(st.floats(1e-5, 1e-2), st.floats(1e-5, 1e-2))
def test_positions_rise_from_0_to_1(one, other):
    whole = summary()
    low, high = sorted(whole.position("learning_rate", value) for value in (one, other))
    assert 0 <= low <= high <= 1
    assert (low, high) == tuple(whole.position("learning_rate", value) for value in sorted((one, other)))


def test_positions_are_even_over_logarithms_and_listed_values():
    whole = summary()
    assert [whole.position("learning_rate", value) for value in (1e-5, 1e-4, 1e-2)] == pytest.approx([0, 1 / 3, 1])
    assert [whole.position("batch_size", value) for value in (8, 16, 32)] == [0, 0.5, 1]
    assert whole.position("weight_decay", 0.025) == pytest.approx(0.25)
    assert replace(whole, choices={"batch_size": (8,)}).position("batch_size", 8) == 0.5


@pytest.mark.parametrize(
    ("key", "value", "end"),
    [
        ("learning_rate", 1e-5, "lower"),
        ("learning_rate", 1.4e-5, "lower"),
        ("learning_rate", 1.5e-5, None),
        ("learning_rate", 6.9e-3, None),
        ("learning_rate", 7.2e-3, "upper"),
        ("weight_decay", 0.0, None),
        ("weight_decay", 0.096, "upper"),
        ("batch_size", 8, "lower"),
        ("batch_size", 16, None),
        ("batch_size", 32, "upper"),
    ],
)
def test_an_end_is_a_bound_with_five_percent_beside_it_or_the_last_listed_value(key, value, end):
    assert summary().end_of_range(key, value) == end


def test_one_of_two_listed_values_is_no_end():
    two = summary(choices={"batch_size": (8, 16)})
    assert two.end_of_range("batch_size", 8) is two.end_of_range("batch_size", 16) is None


def test_choices_at_an_end_are_warned_of():
    found = at_ends(summary(*(search([trial(0, rate=rate)], f) for f, rate in enumerate((1e-5, 1.1e-5, 1e-3)))))
    assert found == (
        f"{VARIANTS[0]}: the best learning rate of 2 of 3 searches lies at the lower end of what was searched "
        "(1e-5 to 0.01 (log)); a wider space may do better.",
    )
    (alone,) = at_ends(one_search(trial(0, batch=32)))
    assert "the best batch size lies at the upper end" in alone
    assert at_ends(mixed()) == ()


# Importance


def drawn(scored, n=16, state="complete"):
    """Trials of random settings with the score that a function of the settings gives."""
    rng = np.random.default_rng(0)
    trials = []
    for number in range(n):
        rate, decay = 10 ** rng.uniform(-5, -2), rng.uniform(0, 0.1)
        made = trial(number, 0.0, state, float(rate), int(rng.choice([8, 16, 32])), float(decay))
        trials.append(replace(made, score=scored(made.settings)))
    return trials


def test_the_setting_that_makes_the_score_has_all_the_importance():
    # Were rates not on a scale of logarithms, nine tenths of them would score the same.
    trials = drawn(lambda settings: math.log10(settings["learning_rate"]))
    one = one_search(*trials)
    found = importance_of_keys(one, one.searches[0])
    assert found is not None
    assert found["learning_rate"] > 0.9
    assert found["batch_size"] < 0.05
    assert tuple(found) == KEYS
    assert importance_of_keys(one, one.searches[0]) == found


def test_listed_values_count_equally_in_the_importance():
    batches = (8, 16, 32, 64, 128)
    trials = [
        trial(n, float(n % 5 == 0) + float(n % 2), batch=batches[n % 5], decay=0.025 + 0.05 * (n % 2))
        for n in range(40)
    ]
    one = one_search(*trials, keys=("batch_size", "weight_decay"), choices={"batch_size": batches})
    found = importance_of_keys(one, one.searches[0])
    assert found is not None
    # The variance of a first of five values is 1/5 x 4/5, that of a half of the range 1/4.
    assert found["batch_size"] == pytest.approx(0.16 / (0.16 + 0.25), abs=0.02)


@pytest.mark.parametrize(
    "trials",
    [
        drawn(lambda settings: settings["weight_decay"], n=7),
        drawn(lambda _: 0.9),
        [trial(number, number / 10) for number in range(9)],
        [*drawn(lambda settings: settings["weight_decay"], n=7), trial(7, math.nan), trial(8, 0.7, "stopped")],
    ],
    ids=["few", "equal scores", "equal settings", "few with a score"],
)
def test_of_too_few_different_trials_no_importance_is_told(trials):
    one = one_search(*trials)
    assert importance_of_keys(one, one.searches[0]) is None
    assert rows_of(importance_table(one, [None]))[0]["Importance mean"] == TOO_FEW


def test_the_importance_of_a_variant_is_the_mean_over_its_searches_with_its_range():
    shares = [dict.fromkeys(KEYS, share) for share in (0.2, 0.6)]
    two = summary(*(search([trial(0)], fold) for fold in range(3)), search([trial(0)], variant=VARIANTS[1]))
    rows = rows_of(importance_table(two, [shares[0], None, shares[1], None]))
    assert [rows[0][f"Importance {title}"] for title in ("mean", "lowest", "highest")] == pytest.approx([0.4, 0.2, 0.6])
    assert rows[0]["Searches"] == 2
    assert [row["Importance mean"] for row in rows[3:]] == [TOO_FEW] * 3


def test_learning_rate_and_batch_size_are_looked_at_together_else_what_matters_most():
    assert important_pair(summary(), [None]) == ("learning_rate", "batch_size")
    others = summary(keys=("weight_decay", "epochs", "dropout"))
    assert important_pair(others, [{"weight_decay": 0.1, "epochs": 0.3, "dropout": 0.5}]) == ("dropout", "epochs")
    assert important_pair(others, [None]) == ("weight_decay", "epochs")
    assert important_pair(summary(keys=("dropout",)), [None]) is None


# What figures are drawn of


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["complete", "stopped", "diverged"])), min_size=1))
def test_the_best_so_far_is_that_of_the_complete_trials_up_to_each(ends):
    trials = [trial(number, score, state) for number, (score, state) in enumerate(ends)]
    for larger, best in ((True, max), (False, min)):
        one = summary(search(trials, chosen=0), larger_is_better=larger)
        for n, found in enumerate(one.best_so_far(one.searches[0]), start=1):
            complete = [score for score, state in ends[:n] if state == "complete"]
            assert found == best(complete) if complete else math.isnan(found)


@given(st.floats(1e-5, 1e-2), st.sampled_from([8, 16, 32]), st.floats(0, 0.1))
def test_every_value_lies_in_the_bin_that_is_labelled_with_it(rate, batch, decay):
    one = one_search(trial(0, rate=rate, batch=batch, decay=decay))
    rates, batches, decays = (Bins.of(one, key) for key in KEYS)
    assert rates.labels[::2] == ("1e-5", "0.0001", "0.001", "0.01")
    for bins, value, bounds in ((rates, rate, (1e-5, 1e-2)), (decays, decay, (0, 0.1))):
        edges = (bounds[0], *bins.bounds, bounds[1])
        assert len(bins.labels) == len(edges) == bins.count + 1
        assert edges[bins.index(value)] <= value <= edges[bins.index(value) + 1]
    assert batches.labels[batches.index(batch)] == str(batch)


def test_few_whole_numbers_have_a_bin_each():
    made = [trial(n, settings={"epochs": epochs}) for n, epochs in enumerate((3, 6))]
    one = summary(search(made), keys=("epochs",), ranges={"epochs": (3.0, 6.0)}, choices={}, log_keys=frozenset())
    assert Bins.of(one, "epochs").labels == ("3", "4", "5", "6")
    assert [Bins.of(one, "epochs").index(value) for value in (3, 4, 6)] == [0, 1, 3]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_better_score_is_higher_and_darker_whichever_way_is_better(sign):
    trials = [trial(number, sign * score) for number, score in enumerate((0.5, 0.7, 0.9))]
    scale = ScoreScale.of(one_search(*trials, larger_is_better=sign > 0), VARIANTS[0])
    assert scale is not None
    assert [scale.height(sign * score) for score in (0.5, 0.7, 0.9)] == pytest.approx([0, 0.5, 1])
    assert sum(scale.colour(sign * 0.9)) < sum(scale.colour(sign * 0.7)) < sum(scale.colour(sign * 0.5))
    assert not scale.is_cut


def test_a_trial_that_learned_nothing_does_not_take_the_colours_of_all_others():
    scores = (0.9, 0.89, 0.88, 0.87, 0.86, 0.1)
    scale = ScoreScale.of(one_search(*(trial(number, score) for number, score in enumerate(scores))), VARIANTS[0])
    assert scale is not None
    assert scale.is_cut
    assert scale.height(0.1) == 0
    assert scale.height(0.87) < 0.7


def test_equal_scores_are_all_the_best_and_no_score_has_no_scale():
    scale = ScoreScale.of(one_search(trial(0), trial(1)), VARIANTS[0])
    assert scale is not None
    assert (scale.height(0.9), scale.ticks()) == (1, [(0.9, "0.900")])
    assert ScoreScale.of(one_search(trial(0, None, "failed")), VARIANTS[0]) is None


def test_an_axis_has_its_bounds_and_round_values_apart_from_each_other():
    whole = summary(ranges={"learning_rate": (9e-6, 2e-2), "weight_decay": (0.0, 0.1)})
    assert [label for _, label in axis_ticks(whole, "learning_rate")] == ["9e-6", "0.0001", "0.001", "0.02"]
    assert [label for _, label in axis_ticks(whole, "batch_size")] == ["8", "16", "32"]
    many = replace(whole, choices={"batch_size": tuple(range(1, 41))})
    assert len(axis_ticks(many, "batch_size")) <= 9
    places = [place for place, _ in axis_ticks(whole, "weight_decay")]
    assert places[0] == 0
    assert places[-1] == 1
    assert min(np.diff(places)) > 0.09


# Words, page and checklist


def words_of(found: Section) -> str:
    return " ".join(sentence for item in found.content if isinstance(item, Words) for sentence in item.sentences)


def test_the_words_say_what_was_searched_and_how_it_ended():
    early = mixed()
    early = replace(early, searches=[early.searches[0], replace(early.searches[1], planned=24)])
    told = " ".join(how_it_was_searched(early))
    assert "learning rate 1e-5 to 0.01 (log); batch size 8, 16, 32; weight decay 0 to 0.1" in told
    assert "2 searches in the training and validation parts of their outer folds: 4 to 24 trials on 3 inner" in told
    assert "macro AUC (val_auc; more is better)" in told
    assert "Parzen" in told
    assert "successive halving" in told
    assert "Of 8 trials: 4 complete, 2 stopped early, 2 diverged. Training and testing took 8.0 minutes" in told
    assert f"Ended before all planned trials were made: {VARIANTS[0]} fold 1 (4 of 24)." in told
    assert NESTED in told
    assert "Ended before" not in " ".join(how_it_was_searched(mixed()))


def test_a_space_that_is_gone_through_is_not_said_to_be_sampled():
    grid = replace(
        summary(search([trial(n, batch=batch) for n, batch in enumerate((8, 16, 32))])), keys=("batch_size",)
    )
    told = " ".join(how_it_was_searched(replace(grid, scheduler="none", metric="val_loss", larger_is_better=False)))
    assert "Every combination" in told
    assert "Parzen" not in told
    assert "No trial was stopped early" in told
    assert "log loss (val_loss; less is better)" in told


@pytest.mark.parametrize(("seconds", "words"), [(3, "3 seconds"), (600, "10.0 minutes"), (9000, "2.5 hours")])
def test_a_time_is_told_in_the_unit_that_suits_it(seconds, words):
    assert show_duration(seconds) == words


@pytest.fixture
def nothing_is_drawn(monkeypatch):
    """Figures take long to draw; tests/integration looks at them."""

    def picture(name):
        return Picture(name, "Title", "Caption.", "Words.", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"")

    monkeypatch.setattr(sweep_section, "parallel_picture", lambda _, variant: picture(f"sweep_parallel_{variant}"))
    monkeypatch.setattr(sweep_section, "cells_picture", lambda _, variant, __: picture(f"sweep_cells_{variant}"))
    monkeypatch.setattr(sweep_section, "progress_picture", lambda _: picture("sweep_progress"))


def page(found):
    return render_page(small_results(), [found])


@pytest.mark.usefixtures("nothing_is_drawn")
def test_selection_on_reported_folds_is_warned_of_in_words_not_in_colour_alone():
    shared = sweep_section.sweep_section(summary(search([trial(0)], shared=True)))
    assert f'<p class="warning"><strong>Warning:</strong> {SELECTION_ON_REPORTED_FOLDS}.</p>' in page(shared)
    assert NESTED not in words_of(shared)
    nested = sweep_section.sweep_section(mixed())
    assert SELECTION_ON_REPORTED_FOLDS not in words_of(nested)
    assert '<p class="warning"' not in page(nested)


@pytest.mark.usefixtures("nothing_is_drawn")
def test_the_section_has_everything_in_the_order_of_reading():
    found = sweep_section.sweep_section(mixed())
    names = [item.name for item in found.content if not isinstance(item, Words)]
    drawn = f"sweep_parallel_{VARIANTS[0]}", f"sweep_cells_{VARIANTS[0]}"
    tables = "sweep_best", "sweep_agreement", "sweep_importance", "sweep_progress", "sweep_cost"
    assert names == [*tables[:2], *drawn, *tables[2:]]


@pytest.mark.usefixtures("nothing_is_drawn")
def test_a_single_setting_is_not_set_against_another():
    found = sweep_section.sweep_section(summary(search([trial(0)]), keys=("learning_rate",)))
    assert [table.name for table in tables_of([found])] == ["sweep_best", "sweep_agreement", "sweep_cost"]
    assert len(list(pictures_of([found]))) == 2


@pytest.mark.usefixtures("nothing_is_drawn")
def test_names_are_text_and_never_markup():
    name = "<script>alert(1)</script> & {{ 7 * 7 }}"
    text = page(sweep_section.sweep_section(summary(search([trial(0, batch=8)], variant=name))))
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; {{ 7 * 7 }}: the best batch size" in text


def test_a_report_has_the_section_after_the_comparison_only_where_there_was_a_sweep(monkeypatch):
    monkeypatch.setattr(sections, "sweep_section", lambda found: Section("sweep-section", f"Sweep {found is not None}"))
    for name in ("comparison_picture", "roc_picture", "learning_picture"):
        monkeypatch.setattr(sections, name, lambda *_: None)
    monkeypatch.setattr(sections, "calibration_section", lambda *_: Section("calibration-section", "Calibration"))
    for results, there in ((small_results(sweep=mixed()), True), (small_results(), False)):
        titles = [found.title for found in sections.report_sections(sections.Findings.of(results))]
        assert titles[titles.index("Comparison of variants") + 1] == f"Sweep {there}"
    assert not sweep_section.sweep_section(None)


def test_the_checklist_tells_which_settings_a_sweep_chose_and_by_what():
    sections_of_study: dict[str, Any] = {
        "name": "small",
        "seed": 7,
        "cohort": {"manifest": "m.csv", "classes": list(CLASSES)},
        "training": {"learning_rate": 0.00123, "epochs": 33},
        "variants": {"models": ["vgg16"]},
    }
    config = Study.model_validate(sections_of_study)

    def told(sweep):
        found = claim_answers(small_results(config=config, sweep=sweep), [])
        return {number: answer.text for number, answer in found.items()}

    nested = told(mixed())
    assert "learning rate chosen by a sweep" in nested[25]
    assert "0.00123" not in nested[25]
    assert "33 epochs" in nested[25]
    assert "2 searches" in nested[25]
    assert "8 trials" in nested[25]
    assert "dropout 0.5" in nested[22]
    assert NESTED in nested[26]
    shared = told(summary(search([trial(0)], shared=True), keys=("dropout",), choices={"dropout": (0.1, 0.2)}))
    assert "dropout chosen by a sweep" in shared[22]
    assert SELECTION_ON_REPORTED_FOLDS in shared[26]
    assert NESTED not in shared[26]
    assert "sweep" not in " ".join(told(None).values())
