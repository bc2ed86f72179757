"""What a sweep left in a run directory, for people and for reports."""

from collections.abc import Sequence

from cxrdist.config.models import Study
from cxrdist.run.artefacts import AGAIN, DamagedError
from cxrdist.run.context import Plan
from cxrdist.run.store import Store
from cxrdist.run.sweep import Choice, read_choice
from cxrdist.run.sweep_plan import Search, read_search
from cxrdist.run.trial import read_record
from cxrdist.study import layout
from cxrdist.study.layout import SearchFiles
from cxrdist.study.search import TrialRecord


def planned_searches(store: Store) -> list[Search]:
    """Return the searches of a run directory, by name.

    Raises:
        DamagedError: one is not what was written.
    """
    found = [name for name in store.names(layout.SWEEP) if name.endswith("/search.json")]
    return [read_search(store, "/".join(name.split("/")[-3:-1])) for name in found]


def records_of(store: Store, search: Search) -> list[TrialRecord]:
    """Return the trials of a search that are over, by number.

    Raises:
        DamagedError: one is not what was written.
    """
    found = (read_record(store, search.key, search.fingerprint, number) for number in range(search.trials))
    return [record for record in found if record is not None]


def choices_of(store: Store, study: Study, plan: Plan) -> list[Choice]:
    """Return the choices of the searches that are over, by name.

    Raises:
        DamagedError: one is not what was written, or not what the plan's fold jobs are made with.
    """
    minutes = study.sweep.minutes if study.sweep else None
    found = [read_choice(store, search, minutes) for search in planned_searches(store)]
    choices = [choice for choice in found if choice is not None]
    _check_plan(store, study, plan, choices)
    return choices


def check_sweep(store: Store, study: Study, plan: Plan) -> None:
    """Refuse a sweep of which a file is not what was written.

    Raises:
        DamagedError: it says which.
    """
    if study.sweep is not None:
        choices_of(store, study, plan)
        for search in planned_searches(store):
            records_of(store, search)


def chosen_text(store: Store, search: Search) -> str:
    """Return the choice as it was written; empty where there is none."""
    name = SearchFiles(search.key).choice
    return store.read_bytes(name).decode() if store.exists(name) else ""


def _check_plan(store: Store, study: Study, plan: Plan, choices: Sequence[Choice]) -> None:
    """Refuse choices that fold jobs of the plan are not made with: each of these was chosen."""
    n_folds = len({job.fold for job in plan.jobs})
    shared = study.sweep is not None and study.sweep.nesting == "shared" and n_folds > 1
    chosen = {choice.search.key: choice.settings for choice in choices}
    for job in plan.jobs:
        if not job.settings:
            continue
        key = f"{job.variant.name}/{'shared' if shared else f'fold-{job.fold}'}"
        if key not in chosen:
            files = SearchFiles(key)
            name = files.choice if store.exists(files.search) else files.search
            what = "is of another search" if store.exists(name) else "is missing"
            raise DamagedError(f"{store.where(name)} {what}; {AGAIN}.")
        if chosen[key] != job.settings:
            name = SearchFiles(key).choice
            raise DamagedError(f"{store.where(name)} is not what {job.key} was trained with; {AGAIN}.")
