"""What a sweep left in a run directory, for people and for reports."""

from cxrdist.config.models import Study
from cxrdist.run.store import Store
from cxrdist.run.sweep import read_choice
from cxrdist.run.sweep_plan import Search, read_search
from cxrdist.run.trial import read_record
from cxrdist.study import layout
from cxrdist.study.layout import SearchFiles
from cxrdist.study.search import TrialRecord


def planned_searches(store: Store) -> list[Search]:
    """Return the searches of a run directory, by name."""
    found = [name for name in store.names(layout.SWEEP) if name.endswith("/search.json")]
    return [read_search(store, "/".join(name.split("/")[-3:-1]))[0] for name in found]


def records_of(store: Store, search: Search) -> list[TrialRecord]:
    """Return the trials of a search that are over, by number."""
    found = (read_record(store, search.key, search.fingerprint, number) for number in range(search.trials))
    return [record for record in found if record is not None]


def chosen_number(store: Store, study: Study, search: Search) -> int | None:
    """Return the number of the chosen trial; None where the search is not over."""
    choice = read_choice(store, search, study.sweep.minutes if study.sweep else None)
    return None if choice is None else choice.number


def chosen_text(store: Store, search: Search) -> str:
    """Return the choice as it was written; empty where there is none."""
    name = SearchFiles(search.key).choice
    return store.read_bytes(name).decode() if store.exists(name) else ""
