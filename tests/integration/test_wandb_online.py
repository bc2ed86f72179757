"""A study followed online, by a stand-in for W&B's server that answers, fails, refuses, hangs or is not there."""

import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tracking
from cxrdist.run.tracking_wandb import OVER
from tests.integration.conftest import Workplace, wait_for
from tests.integration.wandb_files import files_of, runs_of
from tests.integration.wandb_server import Behaviour, StandIn, stand_in

WHOLE = ("--wandb", "online", "--set", "variants.views=[whole]")
SHORT = (*WHOLE, "--set", "training.epochs=3")
BRINGS = "offline-run-*` brings them"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """An API key in the environment of what is run."""
    drawn = secrets.token_hex(20)
    monkeypatch.setenv("WANDB_API_KEY", drawn)
    return drawn


@contextmanager
def server(behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with stand_in(behaviour) as standing:
        monkeypatch.setenv("WANDB_BASE_URL", standing.url)
        yield standing


def kept(standing: StandIn) -> dict[str, dict[str, Any]]:
    """Return the runs whose files are in the run directory: not the one that shows epochs at once."""
    return {run_id: run for run_id, run in standing.runs.items() if run["jobType"] != "live"}


def command_lines() -> set[bytes]:
    """Return those of all processes."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.add(path.read_bytes())
    return found


class Watch:
    """Looks at the command lines of all processes, again and again."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            self.seen |= command_lines()


def test_an_online_study_arrives_as_it_is_written_and_the_key_is_nowhere(
    workplace: Workplace, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server("answers", monkeypatch) as standing, Watch() as watch:
        status, output = workplace.run(*workplace.arguments(*SHORT))
    assert status == 0, output
    assert f"W&B: 3 runs were uploaded to {standing.url}" in output

    written = runs_of(workplace.folder / "run")
    assert sorted(run["displayName"] for run in kept(standing).values()) == sorted(written)
    for run_id, run in kept(standing).items():
        same = written[run["displayName"]]
        assert (run_id, run["groupName"], run["jobType"]) == (same.id, same.group, same.job_type)
        assert standing.exits[run_id] == 0
    for same in written.values():
        if same.job_type == "fold":
            losses = [row["fold/train_loss"] for row in standing.history[same.id]]
            assert losses == [row["train_loss"] for row in same.rows]
    named = {name: kind for name, kind in standing.artifacts.items() if kind != "run_table"}
    assert named == {"tiny-cohort": "cohort", "tiny-splits": "splits"}
    assert standing.files["tiny-cohort/cohort.csv"].startswith(b'"image_id","label"')

    assert len(standing.keys) == 1, "nobody said who they are"
    assert key not in output
    assert any(b"wandb" in line and b"sync" in line for line in watch.seen)
    assert not any(key.encode() in line for line in watch.seen)
    holders = [p for p in workplace.folder.rglob("*") if p.is_file() and key.encode() in p.read_bytes()]
    assert holders == []


def test_epochs_are_seen_while_their_fold_job_is_still_in_work(
    workplace: Workplace, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server("answers", monkeypatch) as standing:

        def live() -> str:
            return next((run_id for run_id, run in standing.runs.items() if run.get("jobType") == "live"), "")

        def seen_in_work() -> str:
            keys = {name.removesuffix("/epoch") for row in standing.history.get(live(), []) for name in row}
            jobs = [key for key in keys if (workplace.folder / "run/jobs" / key / "history.jsonl").exists()]
            return next((key for key in jobs if not (workplace.folder / "run/jobs" / key / "done.json").exists()), "")

        process = workplace.start(*workplace.arguments(*WHOLE, "--set", "training.epochs=4000"))
        wait_for(process, seen_in_work)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    row = standing.history[live()][0]
    assert row["whole-vgg16/fold-0/epoch"] >= 1
    assert row["whole-vgg16/fold-0/validation_loss"] > 0
    assert standing.runs[live()]["groupName"] == "tiny"


def test_a_study_that_is_resumed_continues_its_runs(
    workplace: Workplace, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert key
    many = workplace.arguments(*WHOLE, "--set", "training.epochs=300")
    checkpoint = workplace.folder / "run/jobs/whole-vgg16/fold-0/checkpoint.safetensors"
    with server("answers", monkeypatch) as standing:
        with workplace.start(*many) as process:
            wait_for(process, lambda: "written" if checkpoint.exists() else "")
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        assert kept(standing) == {}, "who interrupts does not wait"
        status, output = workplace.run(*many)
    assert status == 0, output
    ids = {run["displayName"]: run_id for run_id, run in kept(standing).items()}
    assert sorted(ids) == ["aggregate", "whole-vgg16/fold-0", "whole-vgg16/fold-1"]
    assert standing.starts.count(ids["whole-vgg16/fold-0"]) == 2
    assert len([path for path in files_of(workplace.folder / "run") if ids["whole-vgg16/fold-0"] in path.name]) == 2
    for name in ("whole-vgg16/fold-0", "whole-vgg16/fold-1"):
        steps = [row["_step"] for row in standing.history[ids[name]]]
        assert steps == sorted(set(steps))
        assert steps[-1] == 300
        assert standing.exits[ids[name]] == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("hangs", "does not answer"),
        ("fails", "answers with status 500"),
        ("refuses", "returned error 401"),
    ],
)
def test_what_a_server_does_not_take_stays_for_later_and_that_is_said_once(
    workplace: Workplace, key: str, monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour, reason: str
) -> None:
    with server(behaviour, monkeypatch):
        status, output = workplace.run(*workplace.arguments(*SHORT))
    assert status == 0, output
    said = [line for line in output.splitlines() if "W&B" in line]
    assert len(said) == 1
    assert said[0].startswith("W&B: 3 of 3 runs were not uploaded: ")
    assert reason in said[0]
    assert BRINGS in said[0]
    assert "tracking stopped" not in output
    assert key not in output

    # The same command, where the server answers again, brings them and does no work.
    with server("answers", monkeypatch) as standing:
        status, output = workplace.run(*workplace.arguments(*SHORT))
    assert status == 0, output
    assert "Nothing to train" in output
    assert sorted(run["displayName"] for run in kept(standing).values()) == sorted(runs_of(workplace.folder / "run"))


@pytest.mark.long
def test_a_server_that_hangs_costs_a_study_seconds_at_its_end_and_leaves_no_process(
    workplace: Workplace, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert key
    seconds = []
    status, output = workplace.run(*workplace.arguments(*SHORT[2:], run_dir="warm"))
    assert status == 0, output
    for wandb in ("offline", "online"):
        with server("hangs", monkeypatch) as standing:
            started = time.monotonic()
            status, output = workplace.run(*workplace.arguments("--wandb", wandb, *SHORT[2:], run_dir=wandb))
            seconds.append(time.monotonic() - started)
            assert status == 0, output
            # Offline, nobody asks.
            assert bool(standing.requests) == (wandb == "online")
            assert not [line for line in command_lines() if str(workplace.folder).encode() in line]
    assert seconds[1] - seconds[0] < 12


@pytest.mark.long
def test_a_server_that_is_not_there_is_said_and_costs_nothing(
    workplace: Workplace, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert key
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    status, output = workplace.run(*workplace.arguments(*SHORT))
    assert status == 0, output
    assert "3 of 3 runs were not uploaded: http://127.0.0.1:9 does not answer" in output


@pytest.mark.long
def test_auto_is_offline_without_a_key_and_online_with_one(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with server("answers", monkeypatch) as standing:
        status, output = workplace.run(*workplace.arguments("--wandb", "auto", *SHORT[2:]))
        assert status == 0, output
        assert standing.requests == []
        monkeypatch.setenv("WANDB_API_KEY", secrets.token_hex(20))
        status, output = workplace.run(*workplace.arguments("--wandb", "auto", *SHORT[2:]))
    assert status == 0, output
    assert len(standing.runs) == 3


@pytest.mark.long
def test_wandb_sync_of_an_offline_study_gives_the_same_runs(
    workplace: Workplace, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert key
    status, output = workplace.run(*workplace.arguments("--wandb", "offline", *SHORT[2:]))
    assert status == 0, output
    written = runs_of(workplace.folder / "run")
    with server("answers", monkeypatch) as standing:
        folders = [str(run.path.parent) for run in written.values()]
        subprocess.run([sys.executable, "-m", "wandb", "sync", *folders], check=True, timeout=120)
    told = {(run_id, run["displayName"], run["jobType"]) for run_id, run in standing.runs.items()}
    assert told == {(run.id, run.name, run.job_type) for run in written.values()}
    assert "predictions" in " ".join(standing.files)


@pytest.mark.long
def test_what_a_killed_process_left_is_uploaded_once_as_far_as_it_is_whole(
    workplace: Workplace, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert key
    status, output = workplace.run(*workplace.arguments("--wandb", "offline", *SHORT[2:]))
    assert status == 0, output
    cut = runs_of(workplace.folder / "run")["whole-vgg16/fold-0"]
    cut.path.write_bytes(cut.path.read_bytes()[:-20])
    (cut.path.parent / OVER).unlink()
    empty = cut.path.parents[1] / "offline-run-20200101_000000-abc"
    empty.mkdir()
    (empty / "run-abc.wandb").write_bytes(cut.path.read_bytes()[:7])
    with server("answers", monkeypatch) as standing:
        status, output = workplace.run(*workplace.arguments(*SHORT))
        assert status == 0, output
        assert "W&B: 3 runs were uploaded" in output
        assert [row["_step"] for row in standing.history[cut.id]] == [1, 2, 3]
        status, output = workplace.run(*workplace.arguments(*SHORT))
        assert status == 0, output
        assert "W&B" not in output
        assert standing.starts.count(cut.id) == 1


@pytest.mark.long
def test_a_sweep_is_uploaded_too(workplace: Workplace, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert key
    arguments = workplace.arguments(*SHORT)
    arguments[0] = "sweep"
    space = "sweep={space: {learning_rate: {low: 1e-4, high: 1e-2, scale: log}}, trials: 2, folds: 2, nesting: shared}"
    with server("answers", monkeypatch) as standing:
        status, output = workplace.run(*arguments, "--set", space)
    assert status == 0, output
    assert sorted(run["displayName"] for run in kept(standing).values()) == [
        "whole-vgg16/shared/trial-000",
        "whole-vgg16/shared/trial-001",
    ]
    assert {run["jobType"] for run in standing.runs.values()} == {"trial"}


def test_the_benchmark_compares_the_quickest_tenth_of_epochs() -> None:
    undisturbed, disturbed = [1.0] * 4, [1.0] * 3 + [50.0]
    base = [tracking.Timing(undisturbed, disturbed, jobs=10.0, whole=20.0)] * 3
    own = [tracking.Timing([2 * one for one in disturbed], undisturbed, jobs=11.0, whole=23.0)] * 3
    assert (tracking.ratio(own, base, "clock"), tracking.ratio(own, base, "processor")) == (2, 1)
    last = tracking.report({tracking.BASELINE: base, "hangs": own})[-1]
    assert last == "hangs | 2000 (2000) | 2.000 | 1000 (1000) | 1.000 | 11.0 | 3.0"


@pytest.mark.long
def test_the_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    tracking.main(["--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" | ")[0] for line in lines[2:-1]] == list(tracking.CASES)
    assert lines[-1].startswith("hanging: ")
