"""Claim: what a study asks of an object store grows with its epochs and fold jobs, not with its images.

Run with `python -m benchmarks.object_store`. Runs one small study inline (heads on a frozen trunk, phantoms of 32 px),
its run directory and cache in a bucket of an S3 server on loopback, behind a relay that counts requests and bytes; then
again with twice the epochs or folds. Differences give what an epoch and a fold job ask for.
The same study in a folder, in the same run, shows what the store adds to an epoch on a network without distance.
"""

import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lanes import PATIENTS, Recorder, phantom_study
from cxrdist.cohort.phantoms import draw_phantoms
from cxrdist.config import ExecutionConfig
from cxrdist.run.driver import run_study
from cxrdist.run.object_store import open_store
from tests.integration.object_server import ObjectServer, object_server

EPOCHS, FOLDS = 20, 3
WRITES = ("PUT", "POST", "DELETE")


@dataclass(frozen=True)
class Asked:
    """What a study asked of the store, and how long its epochs took."""

    reads: int
    writes: int
    bytes_read: int
    bytes_written: int
    seconds: float
    """Of fold jobs, an epoch."""


def run(manifest: Path, folder: Path, server: ObjectServer | None, *, epochs: int, folds: int) -> Asked:
    """Run a study with everything in a folder, or in a bucket."""
    name = f"{epochs}-{folds}"
    run_dir, cache = (
        str(folder / name / part) if server is None else server.location(f"{name}/{part}") for part in ("run", "cache")
    )
    execution = ExecutionConfig(executor="inline", threads=1, cache=cache, keep_models=False)
    study = phantom_study("bucket", manifest, folds=folds, epochs=epochs, execution=execution)
    recorder = Recorder()
    if server is not None:
        server.requests.clear()
        server.carried.clear()
    summary = run_study(study, open_store(run_dir), recorder)
    assert not summary.unfinished
    first, last = recorder.times("started", frozenset(job.key for job in summary.plan.jobs))[0], recorder.events[-1][0]
    methods = Counter(request.method for request in server.requests) if server else Counter[str]()
    writes = sum(methods[method] for method in WRITES)
    carried = server.carried if server else Counter[str]()
    return Asked(
        methods.total() - writes, writes, carried["read"], carried["written"], (last - first) / (epochs * folds)
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary, object_server() as server:
        folder = Path(temporary)
        os.environ["XDG_CACHE_HOME"] = str(folder / "machine")
        manifest = draw_phantoms(
            folder / "images", patients_per_class=PATIENTS, images_per_patient=(1, 1), size=64, seed=0
        )
        here = run(manifest, folder, None, epochs=EPOCHS, folds=FOLDS)
        base = run(manifest, folder, server, epochs=EPOCHS, folds=FOLDS)
        longer = run(manifest, folder, server, epochs=2 * EPOCHS, folds=FOLDS)
        wider = run(manifest, folder, server, epochs=EPOCHS, folds=2 * FOLDS)
    print("| | reads | writes |")
    print("|---|---|---|")
    parts = ("reads", "writes")
    epoch = {p: (getattr(longer, p) - getattr(base, p)) / (EPOCHS * FOLDS) for p in parts}
    job = {p: (getattr(wider, p) - getattr(base, p)) / FOLDS - EPOCHS * epoch[p] for p in parts}
    study = {p: getattr(base, p) - FOLDS * (job[p] + EPOCHS * epoch[p]) for p in parts}
    for label, of in (("an epoch", epoch), ("a fold job, besides", job), ("the study, besides", study)):
        print(f"| {label} | " + " | ".join(f"{of[p]:.1f}" for p in parts) + " |")
    print(f"\n{FOLDS} fold jobs of {EPOCHS} epochs read {base.bytes_read:,} bytes and wrote {base.bytes_written:,}.")
    print(f"An epoch took {1000 * base.seconds:.1f} ms, in a folder {1000 * here.seconds:.1f} ms.")


if __name__ == "__main__":
    main()
