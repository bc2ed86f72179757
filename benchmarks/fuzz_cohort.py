"""Claim: whatever a file holds, reading it ends soon, in little memory, with a result or the error meant for it.

Run with `python -m benchmarks.fuzz_cohort [--minutes M] [--seed S]`. Damaged images must give an `ImageError`, tables
and recipes a `UserError`. Each is made from a number, counting up from S, and read in a process that may die;
`--minutes 0 --seed N` does case N alone again, and shows all of what went wrong.
"""

import argparse
import json
import multiprocessing
import os
import re
import resource
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.damaged_files import Case, case_of, intact
from cxrdist.cohort.decode import Preprocessing, decode_image, decode_mask, image_size
from cxrdist.cohort.files import Limits
from cxrdist.cohort.manifest import open_manifest, read_manifest
from cxrdist.cohort.recipes import read_recipe
from cxrdist.cohort.table import load_cohort
from cxrdist.errors import ImageError, UserError

LIMITS = Limits(max_bytes=2**22, max_pixels=2_000_000)
SECONDS = 20
"""A case may take so long; GDCM's process alone may take some of them."""
MEMORY = 2**30
"""Bytes that a case may take beyond what the process has when it starts."""


@dataclass
class Report:
    """What came of the cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    """The seed that first had an outcome."""
    failures: list[tuple[int, str]] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, 0)
    done: int = 0

    def add(self, seed: int, outcomes: Sequence[str], seconds: float) -> None:
        self.done += 1
        self.slowest = max(self.slowest, (seconds, seed))
        for outcome in outcomes:
            self.outcomes[outcome] += 1
            self.first.setdefault(outcome, seed)


def outcomes_of(case: Case, folder: Path) -> list[str]:
    """Read the file in every way that there is for its kind, and return what came of each.

    Raises:
        Exception: what no reader may raise.
    """
    return [f"{case.kind} {name}: {_outcome(read, folder)}" for name, read in _readers(case, folder)]


def _outcome(read: Callable[[], object], folder: Path) -> str:
    try:
        read()
    except (ImageError, UserError) as error:
        # Names and numbers would make every message another outcome.
        text = str(error).replace(str(folder), "").partition(": ")[0 if isinstance(error, ImageError) else 2]
        text = re.sub(r"'.*'|\".*\"", "'...'", text or str(error), flags=re.DOTALL)
        return f"{type(error).__name__}: {re.sub(r'0x[0-9a-f]+|[0-9][0-9,.]*', 'N', text)[:40]!r}"
    return "result"


def _readers(case: Case, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    if case.kind in ("csv", "parquet", "manifest", "recipe"):
        yield from _table_readers(case, folder)
        return
    preprocessing = Preprocessing(32, "pad" if case.seed % 3 == 0 else "stretch")
    yield "image", lambda: _checked_image(case.data, preprocessing)
    yield "mask", lambda: decode_mask(case.data, preprocessing, LIMITS, None)


def _checked_image(data: bytes, preprocessing: Preprocessing) -> None:
    square, size = decode_image(data, preprocessing, LIMITS)
    if square.shape != (32, 32) or square.dtype != np.uint8 or image_size(data, LIMITS) != size:
        raise AssertionError(f"{square.shape} {square.dtype} of an image of {size}, told {image_size(data, LIMITS)}")


def _table_readers(case: Case, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    for name in ("csv", "parquet"):
        (folder / f"table.{name}").write_bytes(intact()[name][0])
    ending = case.kind if case.kind in ("csv", "parquet") else "yaml"
    file = folder / f"case.{ending}"
    file.write_bytes(case.data)
    if case.kind == "recipe":
        yield "read_recipe", lambda: read_recipe(file)
    else:
        yield "read_manifest", lambda: read_manifest(open_manifest(file, folder, None))
        yield "load_cohort", lambda: load_cohort(file, folder, None).doubts()
        yield "load_cohort of classes", lambda: load_cohort(file, folder, ("covid19", "normal")).groups("group")


def _work(connection: Connection, seed: int) -> None:
    """Do cases until somebody ends the process; say before each what it is, and afterwards what came of it."""
    intact()
    # What codecs print about damaged files is of no use.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, most))
    with tempfile.TemporaryDirectory() as folder:
        while True:
            case = case_of(seed)
            connection.send_bytes(json.dumps({"seed": seed}).encode())
            start = time.perf_counter()
            answer: dict[str, object]
            try:
                answer = {"outcomes": outcomes_of(case, Path(folder))}
            except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
                answer = {"failure": f"{case.kind}\n{traceback.format_exc()}"}
            answer |= {"seed": seed, "seconds": time.perf_counter() - start}
            connection.send_bytes(json.dumps(answer).encode())
            seed += 1


def fuzz(seed: int, minutes: float) -> Report:
    """Do cases from `seed` on until the time is over, at least one."""
    report = Report()
    end = time.monotonic() + 60 * minutes
    while True:
        failure = _some_cases(seed + report.done, end, report)
        if failure is None:
            return report
        report.failures.append((seed + report.done, failure))
        report.done += 1
        if time.monotonic() >= end:
            return report


def _some_cases(seed: int, end: float, report: Report) -> str | None:
    """Do cases in one process until the time is over (None), or until it hangs or dies."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, seed), daemon=True)
    process.start()
    there.close()
    try:
        here.recv_bytes()  # the first case: the process has started
        while here.poll(SECONDS):
            message = json.loads(here.recv_bytes())
            if "failure" in message:
                report.failures.append((message["seed"], message["failure"]))
            if "seconds" in message:
                report.add(message["seed"], message.get("outcomes", []), message["seconds"])
                if time.monotonic() >= end:
                    return None
        return f"no end within {SECONDS} s"
    except EOFError:
        process.join()
        return f"the process died with status {process.exitcode}"
    finally:
        process.kill()
        process.join()


def _short(failure: str) -> str:
    lines = failure.strip().splitlines()
    frames = re.findall(r'File ".*/(cxrdist/[^"]+)", line (\d+)', failure)
    place = " of " + ":".join(frames[-1]) if frames else ""
    return f"{lines[0]}{place}: {lines[-1][:150]}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_cohort", description="Damaged files, read.")
    parser.add_argument("--minutes", type=float, default=2.0, help="how long; 0 for one case")
    parser.add_argument("--seed", type=int, default=0, help="the first case")
    options = parser.parse_args(arguments)
    report = fuzz(options.seed, options.minutes)
    for outcome, count in sorted(report.outcomes.items()):
        print(f"{count:>8,}  {outcome}  (first: {report.first[outcome]})")
    print(
        f"{report.done:,} cases from {options.seed}, {len(report.outcomes)} different outcomes, "
        f"the slowest {report.slowest[0]:.2f} s ({report.slowest[1]}), {len(report.failures)} failures"
    )
    alike: dict[str, list[int]] = {}
    for seed, what in report.failures:
        alike.setdefault(what if options.minutes == 0 else _short(what), []).append(seed)
    for what, seeds in alike.items():
        print(f"FAILED {len(seeds)} times, first {', '.join(map(str, seeds[:3]))}: {what}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
