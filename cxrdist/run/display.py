"""What a person sees of a run: bars on a terminal, plain lines in a log."""

import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from cxrdist.run.board import Event
from cxrdist.run.sweep import Sweep
from cxrdist.run.sweep_display import SweepDisplay
from cxrdist.run.text import duration
from cxrdist.study.queue import ENDED, State, Unit

LOG_SECONDS = 5.0
"""In a log, at most one line of progress within this time."""


class ConsoleDisplay:
    """Shows a run on a console, with an estimate of what is left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._units: dict[str, Unit] = {}
        self._share: dict[str, float] = {}
        self._epochs: dict[str, int] = {}
        self._counted: set[str] = set()
        self._what = ""
        self._done = 0
        self._started = self._last_line = 0.0
        self._explained_since: dict[str, tuple[int, float]] = {}
        """Of each variant, how many heat maps there were when they were first counted, and when that was."""
        self.follower: Callable[[Event], None] = lambda _: None
        """Told of every epoch, too."""

    def say(self, text: str) -> None:
        """Print a sentence."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def decoded(self, done: int, total: int) -> None:
        """Show how many images are decoded."""
        if done == total or self._due():
            self.say(f"decoded {done} of {total} images")

    def masked(self, done: int, total: int) -> None:
        """Show how many lung masks are made."""
        if done == total or self._due():
            self.say(f"made {done} of {total} lung masks")

    def explained(self, variant: str, done: int, total: int) -> None:
        """Show how many of a variant's heat maps are made, and how long the rest will take."""
        first, since = self._explained_since.setdefault(variant, (done, time.monotonic()))
        left = ""
        if first < done < total:
            left = f", about {duration((time.monotonic() - since) / (done - first) * (total - done))} left"
        if self._console.is_terminal:
            if self._bars is None:
                self._bars = self._new_bars()
            if variant not in self._tasks:
                self._tasks[variant] = self._bars.add_task(variant, total=total, text="heat maps")
            self._bars.update(self._tasks[variant], completed=done, text=f"heat maps{left}")
        elif done == total or self._due():
            self.say(f"{variant}: made {done} of {total} heat maps{left}")

    def begin(self, units: Sequence[Unit], epochs: Mapping[str, int]) -> None:
        """Show that work on these units begins; those with `epochs` train, the others pass images through trunks."""
        self._units = {unit.key: unit for unit in units}
        self._share = dict.fromkeys(self._units, 0.0)
        self._epochs = {key: epochs[key] for key in self._units if key in epochs}
        self._counted = set(self._epochs) or set(self._units)
        self._what = "fold jobs" if self._epochs else "runs of images through trunks"
        self._done = 0
        self._started = time.monotonic()
        if self._console.is_terminal:
            self._bars = self._new_bars()
            self._tasks[""] = self._bars.add_task(self._what, total=len(self._counted), text="starting workers")
        else:
            self.say(f"starting workers for {len(self._counted)} {self._what}")

    def event(self, event: Event) -> None:
        """Show what happened."""
        match event.kind:
            case "joined":
                self.say(f"worker {event.lane} is ready")
            case "started":
                self._start(event)
            case "epoch":
                # Testing comes after the last epoch.
                epochs = self._epochs[event.key]
                done = dict(event.measures).get("share", event.epoch / epochs)
                self._share[event.key] = done * epochs / (epochs + 1)
                self._epoch(event)
                self.follower(event)
            case "settled":
                self._settle(event)
            case "note":
                self.say(f"{event.lane}: {event.text}")

    def sweeping(self, sweep: Sweep) -> SweepDisplay:
        """Show a sweep while what is returned is entered."""
        return SweepDisplay(self._console, sweep)

    def end(self) -> None:
        """Take the bars away."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _new_bars(self) -> Progress:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
        )
        bars = Progress(*columns, console=self._console)
        bars.start()
        return bars

    def _start(self, event: Event) -> None:
        self._share[event.key] = 0.0
        if self._bars is not None and event.key not in self._tasks:
            total = self._epochs.get(event.key, 1)
            self._tasks[event.key] = self._bars.add_task(event.key, total=total, text="")

    def _epoch(self, event: Event) -> None:
        text = _measures(dict(event.measures))
        if self._bars is not None:
            self._bars.update(self._tasks[event.key], completed=event.epoch, text=text)
            self._bars.update(self._tasks[""], text=self._left())
        elif self._due():
            self.say(f"{event.key}  epoch {event.epoch}/{self._epochs[event.key]}  {text}  [{self._overall()}]")

    def _settle(self, event: Event) -> None:
        ended = event.state in ENDED
        self._share[event.key] = 1.0 if ended else 0.0
        if event.key in self._counted and ended:
            self._done += 1
        if self._bars is not None:
            task = self._tasks.pop(event.key, None)
            if task is not None:
                self._bars.remove_task(task)
            self._bars.update(self._tasks[""], completed=self._done, text=self._left())
        if event.state is State.DONE:
            if self._bars is None:
                self.say(f"{event.key}  done  [{self._overall()}]")
        else:
            again = "" if ended else "; it is tried again"
            verb = str(event.state) if ended else "interrupted"
            self.say(f"{event.key}  {verb}: {event.text}{again}")

    def _overall(self) -> str:
        return f"{self._done} of {len(self._counted)} {self._what}, {self._left()}"

    def _left(self) -> str:
        total = sum(unit.cost for unit in self._units.values())
        done = sum(self._units[key].cost * share for key, share in self._share.items())
        if not done:
            return "time left unknown"
        seconds = (time.monotonic() - self._started) * (total - done) / done
        return f"about {duration(seconds)} left"

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._last_line < LOG_SECONDS:
            return False
        self._last_line = now
        return True


def _measures(m: dict[str, float]) -> str:
    if "validation_loss" not in m:
        return f"loss {m['train_loss']:.3f}  Dice {m['train_dice']:.3f} (training)"
    return (
        f"loss {m['train_loss']:.3f} / {m['validation_loss']:.3f}  "
        f"accuracy {m['train_accuracy']:.3f} / {m['validation_accuracy']:.3f} (training / validation)"
    )
