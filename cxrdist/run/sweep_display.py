"""What a person sees of a sweep: a live table on a terminal, plain lines in a log."""

import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cxrdist.run.sweep import Sweep, TrialEvent
from cxrdist.run.text import duration
from cxrdist.study.recipe import Settings
from cxrdist.study.search import TrialRecord, TrialState, choose

LOG_SECONDS = 5.0
"""In a log, at most one line within this time, but for a new best trial and for one that ended badly."""

_WIDE = 120
"""Characters of a terminal that shows what is in work, too."""

_BAD = (TrialState.DIVERGED, TrialState.FAILED)


class SweepDisplay:
    """Shows the searches of a sweep while it is entered; called with what happens."""

    def __init__(self, console: Console, sweep: Sweep) -> None:
        self._console = console
        self._sweep = sweep
        self._trials = sum(search.trials for search in sweep.searches.values())
        self._before = self._ended
        self._in_work: dict[tuple[str, int], float] = {}
        self._started = time.monotonic()
        self._last_line = 0.0
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> "SweepDisplay":
        searches = "1 search" if len(self._sweep.searches) == 1 else f"{len(self._sweep.searches)} searches"
        done = f", {self._before} of them done before" if self._before else ""
        self._say(f"sweep: {searches}, {self._trials} trials in all{done}")
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._refresh()
            self._live.stop()

    def __call__(self, event: TrialEvent) -> None:
        """Show what happened."""
        key = (event.search, event.number)
        match event.kind:
            case "started" | "step":
                self._in_work[key] = max(event.work, self._in_work.get(key, 0.0))
            case "left":
                self._in_work.pop(key, None)
                if event.text:
                    self._say(f"{event.search}  trial {event.number}  {event.text}")
            case "note":
                self._say(event.text)
            case "ended" if event.record is not None:
                self._in_work.pop(key, None)
                self._end(event.search, event.record)
        self._refresh()

    @property
    def _ended(self) -> int:
        return sum(len(records) for records in self._sweep.records.values())

    def _end(self, key: str, record: TrialRecord) -> None:
        search = self._sweep.searches[key]
        best = choose(search.rules, list(self._sweep.records[key].values()))
        is_best = best is not None and best.number == record.number
        now = time.monotonic()
        if self._live is not None or not (
            is_best or record.state in _BAD or now - self._last_line >= LOG_SECONDS or self._ended == self._trials
        ):
            return
        self._last_line = now
        score = "" if record.score is None else f"  {search.metric} {record.score:.4f}"
        standing = "  the best so far" if is_best else f"  {record.reason}" if record.reason else ""
        self._say(
            f"{key}  trial {record.number}  {record.state}{score}  {shown_settings(record.settings)}{standing}  "
            f"[{self._ended} of {self._trials} trials, {self._left()}]"
        )

    def _left(self) -> str:
        done = self._ended - self._before
        if not done:
            return "time left unknown"
        seconds = (time.monotonic() - self._started) / done * (self._trials - self._ended)
        return f"about {duration(seconds)} left"

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        table = Table(box=None, header_style="bold", caption=f"{self._ended} of {self._trials} trials, {self._left()}")
        searches = self._sweep.searches
        table.add_column("search", overflow="fold")
        for name in ("trials", "stopped", "diverged"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column(f"best {next(iter(searches.values())).metric}", justify="right")
        table.add_column("with", overflow="fold")
        if self._console.width >= _WIDE:
            table.add_column("in work (inner folds done)", overflow="fold")
        for key, search in searches.items():
            records = list(self._sweep.records[key].values())
            best = choose(search.rules, records)
            in_work = [f"{number} ({work:.1f})" for (of, number), work in sorted(self._in_work.items()) if of == key]
            row = [
                key,
                f"{len(records)}/{search.trials}",
                str(sum(record.state is TrialState.STOPPED for record in records)),
                str(sum(record.state in _BAD for record in records)),
                "" if best is None or best.score is None else f"{best.score:.4f}",
                "" if best is None else shown_settings(best.settings),
                ", ".join(in_work),
            ]
            table.add_row(*row[: len(table.columns)])
        return table

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def shown_settings(settings: Settings) -> str:
    """Return settings for people, such as `learning_rate 0.00034, batch_size 16`."""
    return ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in settings)
