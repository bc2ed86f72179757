"""What a run directory holds and its plan does not: another study is refused, what the study was before is set aside.

Set aside is a run directory of its own, as far as it goes: with the plan that its results were made by. Nothing is
deleted, and where the study becomes again what it was, its results come back.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cxrdist.cohort.table import Cohort
from cxrdist.config.models import Study
from cxrdist.errors import UserError, first_few
from cxrdist.run.artefacts import DamagedError, read_json
from cxrdist.run.context import read_study, read_table
from cxrdist.run.lung_plan import LUNGS
from cxrdist.run.results import Job, is_done
from cxrdist.run.store import Store
from cxrdist.run.sweep_plan import Search
from cxrdist.study import layout
from cxrdist.study.layout import JobFiles, SearchFiles
from cxrdist.study.plan import FoldJob

_ANOTHER = "choose another run directory with --run-dir"

_ABOUT = (
    layout.STUDY,
    layout.PLAN,
    layout.COHORT,
    layout.QUARANTINE,
    layout.FOLDS,
    layout.FOLDS_JSON,
    layout.MASKS,
    layout.MASK_EXAMPLES,
)
"""What says of which study results are."""


def require_same_study(store: Store, study: Study) -> None:
    """Refuse a run directory that holds the results of something else.

    Raises:
        UserError: the lung network is trained there, or it holds results of a study of another name.
    """
    if (_read(store, layout.PLAN) or {}).get("kind") == LUNGS:
        raise UserError(f"{store.where('')} holds the training of a lung network; {_ANOTHER}.")
    try:
        name = read_study(store).name
    except DamagedError:
        # It is written anew.
        return
    if name != study.name and _has_results(store):
        raise UserError(f"{store.where('')} holds results of the study {name!r}, not of {study.name!r}; {_ANOTHER}.")


def require_lungs(store: Store) -> None:
    """Refuse a run directory that holds a study, where the lung network is to be trained.

    Raises:
        UserError: it does.
    """
    plan = _read(store, layout.PLAN)
    if plan is not None and plan.get("kind") != LUNGS:
        raise UserError(f"{store.where('')} holds a study, not the training of a lung network; {_ANOTHER}.")


def require_same_cohort(store: Store, cohort: Cohort) -> None:
    """Refuse a run directory that holds results on other images.

    Args:
        store: the run directory.
        cohort: every image that the study's manifest lists.

    Raises:
        UserError: it does. Images that could not be used then, and can be now, are no other images.
    """
    if not _has_results(store):
        return
    try:
        before = read_table(store, layout.COHORT)
    except DamagedError:
        # Nothing but their fingerprints says what the results are of.
        return
    ids = before.column("image_id").to_pylist()
    left_out = {one["image_id"] for one in (_read(store, layout.QUARANTINE) or {}).get("images", [])}
    listed = cohort.image_ids
    lacking = first_few(sorted(set(ids) - set(listed)))
    more = first_few(sorted(set(listed) - set(ids) - left_out))
    if lacking or more:
        differ = f"does not list {lacking}" if lacking else f"lists {more}, too"
        raise UserError(
            f"{store.where('')} holds results on {len(ids)} images, and the manifest {differ}: it is another cohort; "
            f"{_ANOTHER}."
        )
    used = set(ids)
    now = cohort.table.filter(pa.array([image_id in used for image_id in listed], pa.bool_()))
    changed = [name for name in now.column_names if now.column(name).to_pylist() != before.column(name).to_pylist()]
    if changed:
        raise UserError(
            f"{store.where('')} holds results on the same images, but the manifest has changed in "
            f"{first_few(changed)}: it is another cohort; {_ANOTHER}."
        )


@dataclass(frozen=True)
class Misfits:
    """What lies in a run directory and does not belong to the plan, or belongs to it and lies aside."""

    kept: int
    """Fold jobs of the plan that are done, or come back."""
    stale: Sequence[str]
    """Fold jobs of the plan, by key, with results of an earlier one."""
    gone: Sequence[str]
    """Fold jobs, by key, that the plan no longer has."""
    searches: Sequence[str]
    """Searches of a sweep, by key, that are stale or gone."""
    back: Mapping[str, str]
    """Folders that were set aside and belong to the plan: where they lie, by where they belong."""


def find_misfits(
    store: Store, jobs: Sequence[Job], searches: Sequence[Search] = (), undecided: Collection[str] = ()
) -> Misfits:
    """Compare a run directory with a plan that is not written yet.

    Args:
        store: the run directory.
        jobs: of the plan.
        searches: of the plan's sweep.
        undecided: keys of the jobs that depend on searches that are not over: what they left is out of the way until
            then, and comes back if it is of what is chosen.
    """
    planned = {JobFiles(job.key).folder: job.fingerprint for job in jobs if job.key not in undecided}
    planned |= {SearchFiles(search.key).folder: search.fingerprint for search in searches}
    of_jobs = _fingerprints(store, layout.JOBS, ("done.json", "ended.json", "progress.json"))
    of_searches = _fingerprints(store, layout.SWEEP, ("search.json",))
    keys = {JobFiles(job.key).folder: job.key for job in jobs}
    stale = [
        keys[folder] for folder, own in of_jobs.items() if folder in keys and own and planned.get(folder) not in own
    ]
    gone = [folder.removeprefix(f"{layout.JOBS}/") for folder in of_jobs if folder not in keys]
    changed = [folder for folder, own in of_searches.items() if own and planned.get(folder) not in own]
    free = {*planned}.difference(of_jobs, of_searches).union(JobFiles(key).folder for key in stale).union(changed)
    aside = _fingerprints(store, layout.SET_ASIDE, ("done.json", "search.json"))
    back = {
        place: folder
        for folder, own in aside.items()
        if (place := folder.split("/", 2)[-1]) in free and planned.get(place) in own
    }
    done = [job for job in jobs if job.key not in undecided and is_done(store, job)]
    return Misfits(
        kept=len(done) + sum(place in keys for place in back),
        stale=stale,
        gone=gone,
        searches=[folder.removeprefix(f"{layout.SWEEP}/") for folder in changed],
        back=back,
    )


def open_jobs(study: Study, jobs: Sequence[FoldJob]) -> list[str]:
    """Return the keys of the fold jobs of a plan whose settings a search has not chosen yet."""
    return [job.key for job in jobs if study.sweep is not None and not job.settings]


def describe_misfits(misfits: Misfits, n_jobs: int, place: str) -> list[str]:
    """Say what becomes of a run directory's results, a sentence each; nothing where all stays as it is.

    Args:
        misfits: of the run directory.
        n_jobs: fold jobs of the plan.
        place: where what does not belong to it is set aside, in words.
    """
    changes = [
        f"{_count(len(keys), thing)} ({first_few(sorted(keys))}) {what}"
        for keys, thing, what in (
            (misfits.stale, "fold job", "of another plan"),
            (misfits.gone, "fold job", "that it no longer has"),
            (misfits.searches, "search", "of another sweep"),
        )
        if keys
    ]
    said = [f"The study has changed; set aside in {place}: {'; '.join(changes)}."] if changes else []
    if misfits.back:
        said.append(f"Results that were set aside come back: {first_few(sorted(misfits.back))}.")
    if said:
        said.append(f"{misfits.kept} of {_count(n_jobs, 'fold job')} {'is' if misfits.kept == 1 else 'are'} kept.")
    return said


def set_aside(store: Store, misfits: Misfits, place: str) -> None:
    """Move what does not belong to the plan out of the way, and what belongs to it to where it belongs.

    Args:
        store: the run directory, with the earlier plan still in it.
        misfits: what is moved.
        place: of `free_place`.
    """
    keys = [*misfits.stale, *misfits.gone]
    if keys or misfits.searches:
        for name in _ABOUT:
            if store.exists(name):
                store.copy(name, f"{place}/{name}")
    if keys:
        # The report is of these results, too, and cannot be made again of those that stay.
        report = (_read(store, layout.REPORT_MADE_FROM) or {}).get("files", [])
        heat = _heat_of({key.partition("/")[0] for key in keys}, store.names(layout.HEATMAPS))
        for name in [layout.SHOWN_IMAGES, *report, layout.REPORT_MADE_FROM, *heat]:
            if store.exists(name):
                store.move(name, f"{place}/{name}")
    for folder in [*(JobFiles(key).folder for key in keys), *(SearchFiles(key).folder for key in misfits.searches)]:
        store.move(folder, f"{place}/{folder}")
    for folder, aside in misfits.back.items():
        store.move(aside, folder)


def make_room(
    store: Store,
    say: Callable[[str], None],
    jobs: Sequence[Job],
    searches: Sequence[Search] = (),
    undecided: Collection[str] = (),
) -> bool:
    """Set aside what a plan that is not written yet does not hold, and say so before; see `find_misfits`.

    Returns:
        True: the plan may be written.
    """
    misfits, place = find_misfits(store, jobs, searches, undecided), free_place(store)
    for sentence in describe_misfits(misfits, len(jobs), store.where(place)):
        say(sentence)
    set_aside(store, misfits, place)
    return True


def make_room_for_cohort(store: Store, say: Callable[[str], None], cohort: Cohort) -> None:
    """Set aside all results on other images than a cohort's, in a run directory that is not the user's own."""
    try:
        require_same_cohort(store, cohort)
    except UserError:
        make_room(store, say, ())


def free_place(store: Store) -> str:
    """Return a folder of a run directory for what is set aside now."""
    taken = {int(name.split("/")[1]) for name in store.names(layout.SET_ASIDE) if name.split("/")[1].isdecimal()}
    return f"{layout.SET_ASIDE}/{max(taken, default=0) + 1}"


def _fingerprints(store: Store, within: str, marks: Collection[str]) -> dict[str, set[str]]:
    """Return by folder what its artefacts of these names say that they were made for."""
    found: dict[str, set[str]] = {}
    for name in store.names(within):
        folder, _, own = name.rpartition("/")
        if own in marks:
            said = (_read(store, name) or {}).get("fingerprint")
            found.setdefault(folder, set()).update([said] if isinstance(said, str) else [])
        elif not folder.endswith("/trials"):
            found.setdefault(folder, set())
    return found


def _read(store: Store, name: str) -> dict[str, Any] | None:
    """Read what decides where results belong; what is damaged says nothing, and is told of where it is needed."""
    try:
        return read_json(store, name)
    except DamagedError:
        return None


def _heat_of(variants: set[str], names: Sequence[str]) -> list[str]:
    """Return the heat maps of variants: VARIANT.arrow, VARIANT.CLASS.arrow, images/ID.VARIANT.png and the like."""
    return [name for name in names if variants.intersection(name.rpartition("/")[2].split(".")[:2])]


def _has_results(store: Store) -> bool:
    return bool(store.names(layout.JOBS) or store.names(layout.SWEEP))


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
