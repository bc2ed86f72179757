"""`cxrdist status`: how every fold job of a run stands, once or as it changes."""

import time
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cxrdist.cli.commands import existing_run
from cxrdist.cli.output import require_reader
from cxrdist.run.artefacts import DamagedError, read_json
from cxrdist.run.context import read_plan, read_study
from cxrdist.run.lock import Sign, Watch
from cxrdist.run.lung_plan import LUNGS, read_lung_plan
from cxrdist.run.results import JobStatus, Standing, all_statuses
from cxrdist.run.store import Store
from cxrdist.run.sweep_results import check_sweep, planned_searches, records_of
from cxrdist.run.text import duration
from cxrdist.study import layout

_BAR = 20
_ENDED = (Standing.DONE, Standing.FAILED, Standing.DIVERGED)


def status_command(run_dir: str, *, watch: float | None = None) -> None:
    """Print a table of all fold jobs, or of the lung network's; with `watch`, again every so many seconds.

    Watching ends when no driver works on the run any more.
    """
    store = existing_run(run_dir)
    console = Console()
    drivers = Watch(store.hurried())
    driver = drivers.driver()
    if watch is None:
        statuses = _statuses(store, driver)
        console.print(_picture(store, statuses, driver, bars=False))
        for one in statuses:
            if one.standing is Standing.DAMAGED:
                raise DamagedError(one.reason)
        if not _is_of_lungs(store):
            check_sweep(store, read_study(store), read_plan(store))
        return
    with Live(
        _picture(store, _statuses(store, driver), driver, bars=True), console=console, auto_refresh=False
    ) as live:
        while driver is not None:
            time.sleep(watch)
            require_reader()
            driver = drivers.driver()
            live.update(_picture(store, _statuses(store, driver), driver, bars=True), refresh=True)


def _is_of_lungs(store: Store) -> bool:
    return (read_json(store, layout.PLAN) or {}).get("kind") == LUNGS


def _statuses(store: Store, driver: Sign | None) -> list[JobStatus]:
    jobs = read_lung_plan(store).jobs if _is_of_lungs(store) else read_plan(store).jobs
    return all_statuses(store, jobs, driver_lives=driver is not None)


def _picture(store: Store, statuses: Sequence[JobStatus], driver: Sign | None, *, bars: bool) -> RenderableType:
    lines = [f"{one.job.key} {one.standing}: {one.reason}" for one in statuses if one.reason]
    if not _is_of_lungs(store):
        lines += [
            f"sweep {search.key}: {len(records_of(store, search))} of {search.trials} trials done"
            for search in planned_searches(store)
        ]
    if driver is not None:
        lines.append(f"worked on by process {driver.pid} on {driver.host}")
    done = sum(one.standing is Standing.DONE for one in statuses)
    left = time_left(statuses)
    lines.append(f"{done} of {len(statuses)} done" + ("" if left is None else f", about {duration(left)} left"))
    return Group(_table(statuses, bars=bars), *(Text(line) for line in lines))


def _table(statuses: Sequence[JobStatus], *, bars: bool) -> Table:
    table = Table(box=None, header_style="bold")
    for name in ("fold job", "state", "epoch", "time", "accuracy", "worker"):
        table.add_column(name, justify="right" if name in ("epoch", "time", "accuracy") else "left", no_wrap=True)
    if bars:
        table.add_column("", width=_BAR)
    for status in statuses:
        row: list[RenderableType] = [
            status.job.key,
            str(status.standing),
            f"{status.epoch}/{status.epochs}" if status.epochs else "",
            duration(status.seconds) if status.seconds else "",
            "" if status.accuracy is None else f"{status.accuracy:.3f}",
            status.lane,
        ]
        if bars:
            row.append(ProgressBar(total=status.epochs or 1, completed=status.epoch, width=_BAR))
        table.add_row(*row)
    return table


def time_left(statuses: Sequence[JobStatus]) -> float | None:
    """Estimate how many seconds are left; None where nothing is in work, or nothing can be said yet.

    From what an epoch took so far, for the epochs that are left, divided between the workers of now.
    """
    running = [one for one in statuses if one.standing is Standing.RUNNING]
    epochs = sum(one.epoch for one in statuses if one.seconds)
    if not running or not epochs:
        return None
    each = sum(one.seconds for one in statuses) / epochs
    whole = max(one.epochs for one in statuses)
    left = sum((one.epochs or whole) - one.epoch for one in statuses if one.standing not in _ENDED)
    return each * left / len({one.lane for one in running})
