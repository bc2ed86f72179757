"""Claim: whatever is killed at whatever moment, the same command goes on to the same bytes and leaves nothing behind.

Run with `python -m benchmarks.kills`: twenty kills with each executor (`--kills`, `--executor`), drawn from `--seed`:
of the driver by SIGKILL, SIGTERM and SIGINT, and on Ray also of a lane, of the board and of Ray's own processes. The
study is small (heads on a frozen trunk, four fold jobs) and has the default settings, but for a checkpoint after every
epoch. After each kill the command is given again until the study is done; then predictions and tables are compared with
those of an undisturbed run, byte by byte. Exits with 1 where anything differs, is left or shows a traceback.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cxrdist.cohort.phantoms import draw_phantoms
from cxrdist.machine import usable_cores

STUDY = """\
name: kills
cohort: {{manifest: {manifest}, classes: [normal, covid19, viral_pneumonia, bacterial_pneumonia]}}
preprocessing: {{size: 32}}
folds: {{k: 2, validation: 0.3}}
variants: {{views: [whole, segmented], models: [vgg16]}}
model: {{weights: none, transfer: frozen, vgg_hidden: 64}}
training: {{epochs: {epochs}, batch_size: 8, learning_rate: 1e-3}}
execution: {{checkpoint_seconds: 0}}
"""
EPOCHS = 150
QUICK_EPOCHS = 15

MOST_IN_A_STUDY = 2
"""Kills before a study is left alone, so that it ends."""
GONE_SECONDS = 60.0
"""A process that lives so long after its driver is one that was left."""
PATIENCE = 300.0
"""Seconds in which a command ends by itself after a kill, however busy the machine."""
POLL_SECONDS = 0.05

DRIVER = {f"driver {number.name}": number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)}
OF_RAY = {"lane": "ray::", "board": "ray::MeasuredBoard", "raylet": "raylet/raylet", "GCS": "gcs/gcs_server"}
"""What their command lines hold; a lane is any other worker of Ray's that has work: Train's controller, too."""


@dataclass(frozen=True)
class Process:
    """A process by its number and the moment of its start, so that another of the same number is another one."""

    pid: int
    started: str


@dataclass
class Family:
    """A driver and everything that it, or what it started, has started since."""

    driver: subprocess.Popen[str]
    members: set[Process] = field(default_factory=set)

    def look(self) -> dict[Process, str]:
        """Return those that live, with their command lines."""
        table = dict(_processes())
        pids = {one.pid for one in self.members if one in table} | {self.driver.pid}
        grown = -1
        while grown < len(pids):
            grown = len(pids)
            pids |= {one.pid for one, (parent, _) in table.items() if parent in pids}
        living = {one: line for one, (_, line) in table.items() if one.pid in pids and one.pid != self.driver.pid}
        self.members |= set(living)
        return living


@dataclass(frozen=True)
class Kill:
    """One kill, and what came of it."""

    executor: str
    target: str
    moment: float
    """Seconds after the start of the command."""
    status: int
    ended: float
    """Seconds until the command ended after it."""
    last: float
    """Seconds until the last process of it was gone after that."""
    left: int
    """Processes that were still there after `GONE_SECONDS`."""
    error: str
    """What the command said last."""
    traceback: bool


@dataclass
class Counts:
    """What a number of kills came to."""

    kills: list[Kill] = field(default_factory=list)
    studies: int = 0
    differing: int = 0
    """Studies whose predictions or tables differ from those of an undisturbed run."""

    @property
    def left(self) -> int:
        return sum(kill.left for kill in self.kills)

    @property
    def tracebacks(self) -> int:
        return sum(kill.traceback for kill in self.kills)

    @property
    def holds(self) -> bool:
        return not (self.differing or self.left or self.tracebacks)


@dataclass(frozen=True)
class Place:
    """Where studies are run."""

    folder: Path
    executor: str

    def start(self, run_dir: str) -> subprocess.Popen[str]:
        images = self.folder / "phantoms"
        where = ["--images", str(images), "--run-dir", str(self.folder / run_dir), "--executor", self.executor]
        where += ["--set", f"execution.cache={self.folder / 'cache'}"]
        with (self.folder / "output").open("w") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "cxrdist", "run", str(self.folder / "study.yaml"), *where],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def output(self) -> str:
        """What the last command printed."""
        return (self.folder / "output").read_text()

    def results(self, run_dir: str) -> dict[str, str]:
        """Return a hash of each file of predictions and tables."""
        root = self.folder / run_dir
        files = [*root.glob("jobs/*/*/predictions.parquet"), *root.glob("report/tables/*")]
        return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def _processes() -> Iterator[tuple[Process, tuple[int, str]]]:
    """Yield every process of this machine but zombies, with its parent and its command line."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # The name, in parentheses, may hold spaces.
            state, parent, *rest = (entry / "stat").read_text().rpartition(")")[2].split()
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if state != "Z":
            yield Process(int(entry.name), rest[17]), (int(parent), line)


def prepare(folder: Path, executor: str, epochs: int = EPOCHS) -> Place:
    """Draw the images and write the study."""
    draw_phantoms(folder / "phantoms", patients_per_class=6, images_per_patient=(1, 2), size=64, seed=3)
    (folder / "study.yaml").write_text(STUDY.format(manifest=folder / "phantoms" / "manifest.csv", epochs=epochs))
    return Place(folder, executor)


def find(target: str, living: dict[Process, str], random_: random.Random) -> int | None:
    """Return the process of a target, None where there is none now."""
    mark = OF_RAY[target]
    found = sorted(
        one.pid
        for one, line in living.items()
        if mark in line and (target != "lane" or not any(word in line for word in ("MeasuredBoard", "IDLE", "Agent")))
    )
    return random_.choice(found) if found else None


def kill_at(place: Place, run_dir: str, target: str, moment: float, random_: random.Random) -> Kill | None:
    """Give the command, kill the target at the moment, and see what comes of it; None where it had ended before."""
    started = time.monotonic()
    with place.start(run_dir) as driver:
        family = Family(driver)
        struck = None
        while struck is None and driver.poll() is None:
            time.sleep(POLL_SECONDS)
            living = family.look()
            if time.monotonic() - started >= moment:
                pid = driver.pid if target in DRIVER else find(target, living, random_)
                if pid is not None and driver.poll() is None:
                    os.kill(pid, DRIVER.get(target, signal.SIGKILL))
                    struck = time.monotonic()
        while driver.poll() is None:
            family.look()
            time.sleep(POLL_SECONDS)
            if struck is not None and time.monotonic() - struck > PATIENCE:
                driver.kill()
        ended = time.monotonic()
    while living := family.look():
        if time.monotonic() - ended > GONE_SECONDS:
            break
        time.sleep(POLL_SECONDS)
    last = time.monotonic() - ended
    for one in living:
        os.kill(one.pid, signal.SIGKILL)
    if struck is None:
        return None
    output = place.output()
    error = output[output.rindex("Error: ") :].strip() if "Error: " in output else ""
    return Kill(
        place.executor,
        target,
        struck - started,
        driver.returncode,
        ended - struck,
        last,
        len(living),
        " ".join(error.split()),
        "Traceback" in output,
    )


def finish(place: Place, run_dir: str) -> float:
    """Give the command until the study is done, and return the seconds that it took."""
    started = time.monotonic()
    with place.start(run_dir) as driver:
        driver.wait()
    if driver.returncode != 0:
        raise RuntimeError(f"an undisturbed command ended with status {driver.returncode}:\n{place.output()}")
    return time.monotonic() - started


def campaign(folder: Path, executor: str, kills: int, seed: int, epochs: int = EPOCHS) -> Counts:
    """Kill so many times, and say what came of it."""
    place, random_, counts = prepare(folder, executor, epochs), random.Random(seed), Counts()
    seconds = finish(place, "undisturbed")
    expected = place.results("undisturbed")
    print(f"{executor}: {len(expected)} files to compare, of a study of {seconds:.1f} s; seed {seed}", flush=True)
    targets = [*DRIVER, *(OF_RAY if executor == "ray" else {})]
    drawn: list[str] = []
    while len(counts.kills) < kills:
        run_dir = f"run-{counts.studies}"
        for _ in range(min(MOST_IN_A_STUDY, kills - len(counts.kills))):
            drawn = drawn or random_.sample(targets, len(targets))
            kill = kill_at(place, run_dir, drawn[-1], random_.uniform(0, seconds), random_)
            if kill is None:
                break
            drawn.pop()
            counts.kills.append(kill)
            print(_line(len(counts.kills), kill), flush=True)
            if kill.status == 0:
                break
        finish(place, run_dir)
        counts.studies += 1
        found = place.results(run_dir)
        if found != expected:
            counts.differing += 1
            names = sorted(name for name in expected.keys() | found.keys() if found.get(name) != expected.get(name))
            print(f"  differing: {', '.join(names)}", flush=True)
        shutil.rmtree(folder / run_dir)
    return counts


def _line(number: int, kill: Kill) -> str:
    return (
        f"  {number:2} {kill.target:14} at {kill.moment:5.1f} s: status {kill.status:3} {kill.ended:5.1f} s later, all "
        f"gone {kill.last:4.1f} s after that{f', {kill.left} LEFT' if kill.left else ''}"
        f"{', TRACEBACK' if kill.traceback else ''}{f'  {kill.error[:100]}' if kill.error else ''}"
    )


def report(executor: str, counts: Counts) -> str:
    kinds = ", ".join(f"{name} {n}" for name, n in sorted(Counter(kill.target for kill in counts.kills).items()))
    silent = sum(kill.status not in (0, -signal.SIGKILL) and not kill.error for kill in counts.kills)
    slowest = max(kill.ended for kill in counts.kills)
    last = max(kill.last for kill in counts.kills)
    return (
        f"{executor}: {len(counts.kills)} kills in {counts.studies} studies ({kinds})\n"
        f"  studies that differ from an undisturbed one: {counts.differing}; tracebacks: {counts.tracebacks}; commands "
        f"that ended badly without a sentence: {silent} (the slowest ended after {slowest:.1f} s)\n"
        f"  processes left after {GONE_SECONDS:.0f} s: {counts.left} (the last was gone {last:.1f} s after its driver)"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--executor", choices=["inline", "ray", "both"], default="both")
    parser.add_argument("--quick", action="store_true", help="a shorter study")
    given = parser.parse_args(arguments)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As where a shell has put this into the background: the drivers would ignore it, too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    print(f"{usable_cores()} cores, load {os.getloadavg()[0]:.1f}")
    holds = True
    for executor in ("inline", "ray") if given.executor == "both" else (given.executor,):
        with tempfile.TemporaryDirectory() as temporary:
            epochs = QUICK_EPOCHS if given.quick else EPOCHS
            counts = campaign(Path(temporary), executor, given.kills, given.seed, epochs)
            print(report(executor, counts), flush=True)
            holds = holds and counts.holds
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
