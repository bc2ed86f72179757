"""Gathering what a sweep did, for its table and its section of the report."""

from cxrdist.config import Study
from cxrdist.report.sweep import SweepSearch, SweepSummary, SweepTrial
from cxrdist.run.context import read_plan
from cxrdist.run.store import Store
from cxrdist.run.sweep_plan import Search
from cxrdist.run.sweep_results import choices_of, chosen_text, planned_searches, records_of
from cxrdist.study.plan import make_variants
from cxrdist.study.search import TrialRecord


def sweep_summary(store: Store, study: Study) -> SweepSummary | None:
    """Return what a study's sweep did; None where it has none, or it is not over."""
    if study.sweep is None:
        return None
    done = [(choice.search, choice.number) for choice in choices_of(store, study, read_plan(store))]
    order = [variant.name for variant in make_variants(study.variants.views, study.variants.models)]
    # A variant that the study no longer has may have been searched before.
    done = [one for one in done if one[0].variant.name in order]
    done.sort(key=lambda one: (order.index(one[0].variant.name), one[0].fold))
    if not done:
        return None
    rules = done[0][0].rules
    return SweepSummary(
        keys=tuple(dimension.key for dimension in rules.space),
        choices={d.key: d.choices for d in rules.space if d.choices},
        ranges={d.key: (d.low, d.high) for d in rules.space if not d.choices},
        log_keys=frozenset(d.key for d in rules.space if d.log),
        metric=study.sweep.metric,
        larger_is_better=rules.larger_is_better,
        inner_folds=rules.folds,
        searcher=study.sweep.searcher,
        scheduler=study.sweep.scheduler,
        searches=[_search(search, chosen, records_of(store, search)) for search, chosen in done],
        seed=study.seed,
    )


def sweep_marks(store: Store) -> list[str]:
    """Return what changes where another trial is over or another choice was made."""
    searches = planned_searches(store)
    return [f"{one.key} {one.fingerprint} {len(records_of(store, one))} {chosen_text(store, one)}" for one in searches]


def _search(search: Search, chosen: int, records: list[TrialRecord]) -> SweepSearch:
    trials = [_trial(record) for record in records]
    score = next(trial.score for trial in trials if trial.number == chosen)
    return SweepSearch(
        variant=search.variant.name,
        fold=search.fold,
        shared=search.shared,
        planned=search.trials,
        trials=trials,
        chosen=chosen,
        score=float("nan") if score is None else score,
    )


def _trial(record: TrialRecord) -> SweepTrial:
    seen = record.score
    if seen is None and record.rung_scores:
        seen = record.rung_scores[-1]
    return SweepTrial(
        number=record.number,
        settings=dict(record.settings),
        state=str(record.state),
        score=record.score,
        best_seen=seen,
        inner_folds=record.work,
        seconds=record.seconds,
    )
