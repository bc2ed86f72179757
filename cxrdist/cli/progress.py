"""Progress of work that is counted: a bar on a terminal, plain lines in a log, and how long the rest will take."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cxrdist.run.text import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

LOG_SECONDS = 5.0
"""In a log, at most one line of progress within this time."""


class CountDisplay:
    """Shows on a console how much is done of something.

    Args:
        console: a terminal, or a log.
        columns: makes what the bar shows, when it is first needed.
        line: says in words that so much of so much (None where that is not known) is done.
    """

    def __init__(
        self,
        console: "Console",
        columns: "Callable[[], Sequence[ProgressColumn]]",
        line: Callable[[int, int | None], str],
    ) -> None:
        self._console = console
        self._columns = columns
        self._line = line
        self._bar: Progress | None = None
        self._started: tuple[int, float] | None = None
        """How much there was when it was first counted, and when that was."""
        self._last_line = 0.0

    def say(self, text: str) -> None:
        """Print a sentence."""
        self.end()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, done: int, total: int | None) -> None:
        """Show how much is done."""
        if self._console.is_terminal:
            self._move(done, total)
        else:
            self._log(done, total)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _move(self, done: int, total: int | None) -> None:
        from rich.progress import Progress

        if self._bar is None:
            self._bar = Progress(*self._columns(), console=self._console)
            self._bar.add_task("", total=total, completed=done)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done)

    def _log(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        # What is fetched may begin anew.
        if self._started is None or done < self._started[0]:
            self._started = done, now
        if done != total and now - self._last_line < LOG_SECONDS:
            return
        self._last_line = now
        first, since = self._started
        left = ""
        if total is not None and first < done < total:
            left = f", about {duration((now - since) / (done - first) * (total - done))} left"
        self.say(f"{self._line(done, total)}{left}")
