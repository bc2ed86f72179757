"""Claim: Weights & Biases does not slow training: within 3 % of no tracking, also where its server hangs.

Run with `python -m benchmarks.tracking`. Trains the same two fold jobs (ResNet-34, phantoms of 32 px, inline, one
thread) in new processes: without tracking, twice, which shows the noise; offline; and online against a stand-in for its
server on loopback that answers, that takes connections and never answers, and that is not there. All in turn, repeated.

An epoch is measured from the end of one to the end of the next, with all that tracking does in between, by the clock
and by the processor time of all threads. Other work on the machine can only lengthen one, so that the quickest tenth of
all rounds' epochs is compared, and the medians are shown.
"""

import argparse
import itertools
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Literal

from benchmarks.lanes import Recorder, phantom_study
from cxrdist.cohort.phantoms import draw_phantoms
from cxrdist.config import ExecutionConfig, Study, TrackingConfig
from cxrdist.errors import CxrdistError
from cxrdist.run.board import Event
from cxrdist.run.driver import run_study
from cxrdist.run.store import Store
from cxrdist.run.tracking_upload import tracked
from tests.integration.wandb_server import stand_in

BASELINE = "off"
CASES = (BASELINE, "off, again", "offline", "online, answers", "online, hangs", "online, not there")
TARGET = 0.03
Measure = Literal["clock", "processor"]
MEASURES: tuple[Measure, ...] = ("clock", "processor")


@dataclass(frozen=True)
class Scale:
    """How much is trained."""

    patients: int
    """Of each of four classes."""
    epochs: int
    rounds: int


FULL = Scale(patients=6, epochs=20, rounds=5)
QUICK = Scale(patients=6, epochs=2, rounds=1)


@dataclass(frozen=True)
class Timing:
    """One case's run, in seconds."""

    clock: Sequence[float]
    """Of each epoch."""
    processor: Sequence[float]
    """Of each epoch, of all threads."""
    jobs: float
    """From the start of the first fold job to the end of the last: tracking's starts and ends included."""
    whole: float
    """The study with what is waited for at its end, without imports."""


@dataclass
class CpuRecorder(Recorder):
    """A display that notes when epochs ended, by the clock and in processor time."""

    epochs: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    follower: Callable[[Event], None] = lambda _: None

    def event(self, event: Event) -> None:
        super().event(event)
        if event.kind == "epoch":
            self.follower(event)
            self.epochs[event.key].append((time.perf_counter(), time.process_time()))


def study_of(manifest: Path, cache: Path, case: str, scale: Scale) -> Study:
    mode = case.partition(",")[0]
    execution = ExecutionConfig(executor="inline", threads=1, cache=str(cache), keep_models=False)
    study = phantom_study("tracking", manifest, folds=2, epochs=scale.epochs, transfer="finetune", execution=execution)
    return study.model_copy(update={"tracking": TrackingConfig.model_validate({"wandb": mode})})


def measure(study: Study, run_dir: Path) -> Timing:
    """Run a study as `cxrdist run` does, without its report."""
    recorder, store = CpuRecorder(), Store(run_dir)
    started = time.monotonic()
    with tracked(study, store, None, print) as recorder.follower:
        summary = run_study(study, store, recorder)
    whole = time.monotonic() - started
    if summary.unfinished:
        raise CxrdistError(f"{len(summary.unfinished)} fold jobs were not done: {summary.unfinished}")
    keys = frozenset(job.key for job in summary.plan.jobs)
    jobs = max(recorder.times("settled", keys)) - min(recorder.times("started", keys))
    pairs = [pair for ends in recorder.epochs.values() for pair in itertools.pairwise(ends)]
    clock, processor = ([after[index] - before[index] for before, after in pairs] for index in (0, 1))
    return Timing(clock, processor, jobs, whole)


def measure_in_new_process(study: Study, folder: Path, environment: Mapping[str, str]) -> Timing:
    folder.mkdir()
    (folder / "study.json").write_text(study.model_dump_json())
    code = "import sys, benchmarks.tracking; benchmarks.tracking.write_measure(sys.argv[1])"
    command = [sys.executable, "-c", code, str(folder)]
    subprocess.run(command, check=True, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    return Timing(**json.loads((folder / "timing.json").read_text()))


def write_measure(folder: str) -> None:
    """What the new process does."""
    study = Study.model_validate_json((Path(folder) / "study.json").read_text())
    (Path(folder) / "timing.json").write_text(json.dumps(asdict(measure(study, Path(folder) / "run"))))


@contextmanager
def server_of(case: str) -> Iterator[dict[str, str]]:
    """Give the environment of a case, with its server."""
    key = {"WANDB_API_KEY": secrets.token_hex(20)}
    if case in ("online, answers", "online, hangs"):
        with stand_in("answers" if case == "online, answers" else "hangs") as server:
            yield {**key, "WANDB_BASE_URL": server.url}
        return
    with socket.socket() as taken:
        # Bound, but not listened to: a connection is refused.
        taken.bind(("127.0.0.1", 0))
        yield {**key, "WANDB_BASE_URL": f"http://127.0.0.1:{taken.getsockname()[1]}"}


def measure_all(folder: Path, scale: Scale) -> dict[str, list[Timing]]:
    """Measure all cases in turn, each round starting with another one."""
    manifest = draw_phantoms(
        folder / "phantoms", patients_per_class=scale.patients, images_per_patient=(2, 2), size=64, seed=0
    )
    timings: dict[str, list[Timing]] = {case: [] for case in CASES}
    for number in range(scale.rounds):
        for case in (*CASES[number:], *CASES[:number]):
            study = study_of(manifest, folder / "cache", case, scale)
            with server_of(case) as environment:
                own = folder / f"{number}-{CASES.index(case)}"
                timings[case].append(measure_in_new_process(study, own, environment))
    return timings


def pooled(timings: Sequence[Timing], name: Measure) -> list[float]:
    return [seconds for one in timings for seconds in (one.clock if name == "clock" else one.processor)]


def quickest_tenth(timings: Sequence[Timing], name: Measure) -> float:
    """Return the first decile of all rounds' epochs."""
    return quantiles(pooled(timings, name), n=10, method="inclusive")[0]


def ratio(own: Sequence[Timing], baseline: Sequence[Timing], name: Measure) -> float:
    return quickest_tenth(own, name) / quickest_tenth(baseline, name)


def report(timings: Mapping[str, Sequence[Timing]]) -> list[str]:
    lines = ["case | epoch, ms (median) | ratio | processor time, ms (median) | ratio | fold jobs, s | longer by, s"]
    base = timings[BASELINE]
    for case, own in timings.items():
        clock, processor = (median(pooled(own, name)) for name in MEASURES)
        longer = median(one.whole - other.whole for one, other in zip(own, base, strict=True))
        lines.append(
            f"{case} | {1000 * quickest_tenth(own, 'clock'):.0f} ({1000 * clock:.0f}) | "
            f"{ratio(own, base, 'clock'):.3f} | "
            f"{1000 * quickest_tenth(own, 'processor'):.0f} ({1000 * processor:.0f}) | "
            f"{ratio(own, base, 'processor'):.3f} | {median(one.jobs for one in own):.1f} | {longer:.1f}"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="hardly any training: to see that it runs")
    scale = QUICK if parser.parse_args(arguments).quick else FULL
    print(
        f"2 fold jobs of {scale.epochs} epochs, {scale.rounds} rounds, the quickest tenth of epochs; {os.cpu_count()} "
        f"cores, load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        timings = measure_all(Path(folder), scale)
    print("\n".join(report(timings)))
    slower = ratio(timings["online, hangs"], timings[BASELINE], "clock") - 1
    print(f"hanging: {100 * slower:+.1f} % an epoch, target within {100 * TARGET:.0f} %; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
