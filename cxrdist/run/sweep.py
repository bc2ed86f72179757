"""The searches of a sweep, while they go on: which trial is next, and what became of those before."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cxrdist.errors import CxrdistError
from cxrdist.run.artefacts import AGAIN, DamagedError, read_json, whole
from cxrdist.run.store import Store
from cxrdist.run.sweep_plan import Search
from cxrdist.run.trial import read_record, write_record
from cxrdist.study.fingerprint import fingerprint
from cxrdist.study.layout import SearchFiles
from cxrdist.study.queue import LOSSES
from cxrdist.study.recipe import Settings
from cxrdist.study.search import Proposal, TrialRecord, TrialState, choose, known_to
from cxrdist.study.suggest import propose


@dataclass(frozen=True)
class TrialEvent:
    """Something that happened to a trial, for the display."""

    kind: str
    """`started`, `step`, `ended`, `left` (out of time, or its worker was lost) or `note`."""
    search: str = ""
    number: int = 0
    lane: str = ""
    work: float = 0.0
    """Inner folds done, with the part of the last one."""
    mean: float | None = None
    """Mean score so far."""
    record: TrialRecord | None = None
    text: str = ""


class Sweep:
    """Hands out the trials of all searches, round robin, and keeps their records.

    Args:
        store: the run directory; the records that are there already count.
        searches: what is searched.
        listener: told what happens.
    """

    def __init__(
        self, store: Store, searches: Sequence[Search], listener: Callable[[TrialEvent], None] | None = None
    ) -> None:
        self.store = store
        self.searches = {search.key: search for search in searches}
        self.records: dict[str, dict[int, TrialRecord]] = {}
        self._taken: set[tuple[str, int]] = set()
        self._losses: dict[tuple[str, int], int] = {}
        self._furthest: dict[tuple[str, int], float] = {}
        self.listener = listener
        self.out_of_time = False
        """Set where no more trials are to begin."""
        for search in searches:
            found = {n: known_record(store, search, n) for n in range(search.trials)}
            # A trial that failed, by an error or for want of memory, is tried again.
            self.records[search.key] = {
                number: record for number, record in found.items() if record and record.state is not TrialState.FAILED
            }

    def claim(self) -> tuple[Search, Proposal] | None:
        """Take the next trial; None where all are taken, or those that are left wait for others to end."""
        if self.out_of_time:
            return None
        left = [
            (number, order, search)
            for order, search in enumerate(self.searches.values())
            if (number := self._next(search)) is not None
        ]
        for number, _, search in sorted(left, key=lambda one: one[:2]):
            known = known_to(number, search.rules, self.records[search.key])
            if known is not None:
                self._taken.add((search.key, number))
                return search, propose(search.rules, number, known)
        return None

    def settle(self, key: str, record: TrialRecord) -> None:
        """Take note of a trial that is over; its record is written by whoever did it."""
        self._taken.discard((key, record.number))
        self.records[key][record.number] = record
        self.tell(TrialEvent("ended", key, record.number, work=record.work, mean=record.score, record=record))

    def give_back(self, key: str, number: int, text: str = "") -> None:
        """Take note that a trial was left as it is; `text` says why."""
        self._taken.discard((key, number))
        self.tell(TrialEvent("left", key, number, text=text))

    def progressed(self, key: str, number: int, work: float) -> None:
        """Take note of how far a trial is: where that is further than ever, workers lost before do not count."""
        if work > self._furthest.get((key, number), 0.0):
            self._furthest[key, number] = work
            self._losses.pop((key, number), None)

    def lose(self, key: str, proposal: Proposal) -> None:
        """Take note that a trial's worker was lost: it is to be taken again, unless it is what kills workers."""
        losses = self._losses[key, proposal.number] = self._losses.get((key, proposal.number), 0) + 1
        if losses < LOSSES:
            self.give_back(key, proposal.number, "its worker was lost; it continues where it was")
            return
        reason = f"its worker was lost {LOSSES} times in a row (out of memory?)"
        record = TrialRecord(proposal.number, proposal.settings, TrialState.FAILED, reason=reason)
        write_record(self.store, key, self.searches[key].fingerprint, record)
        self.settle(key, record)

    @property
    def over(self) -> bool:
        """Return whether nothing is in work, and nothing left to be taken."""
        nothing_left = self.out_of_time or all(self._next(search) is None for search in self.searches.values())
        return nothing_left and not self._taken

    def tell(self, event: TrialEvent) -> None:
        """Tell the listener."""
        if self.listener is not None:
            self.listener(event)

    def _next(self, search: Search) -> int | None:
        own = self.records[search.key]
        return next((n for n in range(search.trials) if n not in own and (search.key, n) not in self._taken), None)


@dataclass(frozen=True)
class Choice:
    """What a search chose."""

    search: Search
    number: int
    settings: Settings
    score: float
    trials: int
    """Trials that were over."""
    whole: bool
    """Whether the search went to its end, and not only until its time was over."""


def make_choices(sweep: Sweep) -> list[Choice]:
    """Choose for each search, and write the choices down.

    Raises:
        CxrdistError: no trial of a search was done to the end.
    """
    return [_choose(sweep, search) for search in sweep.searches.values()]


def known_record(store: Store, search: Search, number: int) -> TrialRecord | None:
    """Return a trial that is over; one that is damaged counts as none, and is done again."""
    try:
        return read_record(store, search.key, search.fingerprint, number)
    except DamagedError:
        return None


def read_choice(store: Store, search: Search, minutes: float | None) -> Choice | None:
    """Return what an earlier run chose for the same search; None where it did not come so far.

    A search that ended with its time is over as long as it is given no other time.

    Raises:
        DamagedError: the choice is not what was written, or a trial that it was made from is missing or another.
    """
    files = SearchFiles(search.key)
    data = read_json(store, files.choice)
    if data is None or data.get("search") != search.fingerprint:
        return None
    with whole(store.where(files.choice), AGAIN):
        if data["whole"]:
            if data["trials"] != search.trials:
                return None
        elif data["minutes"] != minutes or minutes is None:
            return None
        settings = tuple((key, value) for key, value in data["settings"])
        choice = Choice(search, data["number"], settings, data["score"], data["trials"], data["whole"])
        # Other versions noted no trials; of a whole search they are known.
        made_from = data.get("made_from", dict.fromkeys(range(search.trials if data["whole"] else 0)))
    for number, mark in made_from.items():
        name = files.trial(int(number))
        record = read_record(store, search.key, search.fingerprint, int(number))
        if record is None or (mark is not None and mark != _mark(record)):
            what = (
                "is missing, or of another search"
                if record is None
                else "is not the trial that the choice was made from"
            )
            raise DamagedError(f"{store.where(name)} {what}; {AGAIN}.")
    return choice


def known_choice(
    store: Store, search: Search, minutes: float | None, say: Callable[[str], None] | None = None
) -> Choice | None:
    """Return what an earlier run chose, as `read_choice`; what is damaged is said, and made again."""
    try:
        return read_choice(store, search, minutes)
    except DamagedError as error:
        if say is not None:
            say(f"{str(error).removesuffix(f'; {AGAIN}.')}: what is missing of the search {search.key} is done again.")
        return None


def write_choice(store: Store, choice: Choice, minutes: float | None) -> None:
    """Write a choice, as the mark of a search that is over."""
    search = choice.search
    records = [known_record(store, search, number) for number in range(search.trials)]
    store.write_json(
        SearchFiles(search.key).choice,
        {
            "search": search.fingerprint,
            "number": choice.number,
            "settings": choice.settings,
            "score": choice.score,
            "trials": choice.trials,
            "whole": choice.whole,
            "minutes": minutes,
            "made_from": {str(record.number): _mark(record) for record in records if record is not None},
        },
    )


def _mark(record: TrialRecord) -> str:
    """Return the hash of what a choice depends on of a trial."""
    return fingerprint({"settings": record.settings, "state": str(record.state), "scores": record.fold_scores})


SettingsByFold = Mapping[str, Mapping[int, Settings]]
"""Chosen settings by variant and outer fold."""


def settings_by_fold(choices: Sequence[Choice], n_folds: int) -> SettingsByFold:
    """Return the chosen settings by variant and outer fold."""
    chosen: dict[str, dict[int, Settings]] = {}
    for choice in choices:
        folds = range(n_folds) if choice.search.shared else [choice.search.fold]
        chosen.setdefault(choice.search.variant.name, {}).update(dict.fromkeys(folds, choice.settings))
    return chosen


def _choose(sweep: Sweep, search: Search) -> Choice:
    records = list(sweep.records[search.key].values())
    best = choose(search.rules, records)
    if best is not None and best.score is not None:
        whole = len(records) == search.trials
        return Choice(search, best.number, best.settings, best.score, len(records), whole)
    if not records:
        raise CxrdistError(
            f"The sweep's time was over before the search {search.key} finished a trial (sweep.minutes)."
        )
    states = {state: sum(record.state is state for record in records) for state in TrialState}
    if states[TrialState.DIVERGED] == len(records):
        raise CxrdistError(
            f"All {len(records)} trials of {search.key} diverged ({records[0].reason}); give lower learning rates in "
            "sweep.space."
        )
    ended = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    reason = next((record.reason for record in records if record.state is TrialState.FAILED), records[-1].reason)
    raise CxrdistError(f"No trial of {search.key} was done to the end ({ended}): {reason}.")
