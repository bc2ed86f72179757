"""A tiny cohort of phantoms, studies on it, and ways to run the command line on them."""

import csv
import hashlib
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest
import torch

from cxrdist.cohort.phantoms import draw_phantoms
from cxrdist.run.store import Store, parse_json

Command = Callable[..., tuple[int, str]]
"""Runs the command line and returns its exit status and what it printed."""

DEADLINE = 240.0
"""Seconds after which what is waited for will not come."""

# A frozen trunk's head trains in milliseconds an epoch: many epochs to be killed in, dropout and checkpoints included.
STUDY = """\
name: tiny
seed: 5
cohort:
  manifest: {manifest}
  classes: [normal, covid19, viral_pneumonia, bacterial_pneumonia]
preprocessing: {{size: 32}}
folds: {{k: 2, validation: 0.3}}
variants: {{views: [whole, segmented], models: [vgg16]}}
model: {{weights: none, transfer: frozen, vgg_hidden: 64}}
training: {{epochs: 120, batch_size: 8, learning_rate: 1e-3}}
execution: {{threads: 1, checkpoint_seconds: 0.0, keep_models: false}}
"""

THREADS = "threads: 1, "
"""What tests of the default settings leave out."""
assert THREADS in STUDY

STUDY_EPOCHS = "epochs: 120"
"""What tests replace that need more or fewer."""
assert STUDY_EPOCHS in STUDY

SWEEP = """\
sweep:
  space:
    learning_rate: {low: 1e-5, high: 1e-1, scale: log}
    batch_size: {values: [4, 8]}
  trials: 6
  folds: 2
  concurrency: 3
"""


@dataclass(frozen=True)
class Workplace:
    """A folder with a study file, its images and a cache of its own."""

    folder: Path
    images: Path
    cache: Path

    @property
    def study(self) -> Path:
        """The study file."""
        return self.folder / "study.yaml"

    def arguments(self, *more: str, run_dir: str = "run", executor: str = "inline") -> list[str]:
        """Arguments of `cxrdist run` for the study."""
        where = ["--images", str(self.images), "--run-dir", str(self.folder / run_dir), "--executor", executor]
        cache = ["--set", f"execution.cache={self.cache}"]
        return ["run", str(self.study), *where, *cache, *more]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command line in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "cxrdist", *arguments],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::ResourceWarning"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run the command line to its end; return its exit status and what it printed."""
        with self.start(*arguments) as process:
            output, _ = process.communicate(timeout=400)
        return process.returncode, output

    def results(self, run_dir: str) -> dict[str, bytes]:
        """Read every prediction and table of a run: what must not depend on how it was run."""
        root = self.folder / run_dir
        files = [*root.glob("jobs/*/*/predictions.parquet"), *root.glob("report/tables/*")]
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(files)}


def wait_for(process: subprocess.Popen[str], look: Callable[[], str]) -> str:
    """Wait until `look` finds something while the process runs."""
    started = time.monotonic()
    while time.monotonic() - started < DEADLINE:
        found = look()
        if found:
            return found
        if process.poll() is not None:
            raise AssertionError(f"ended too early:\n{process.communicate()[0]}")
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"nothing found in {DEADLINE} s:\n{process.communicate()[0]}")


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition holds."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "still not so"
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def ray_processes(name: str) -> list[int]:
    """Return the Ray workers of this machine that do what is called `name`: Ray gives its processes such titles."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(f"ray::{name}".encode()):
            found.append(int(process.name))
    return found


def decided(files: Mapping[str, bytes]) -> dict[str, object]:
    """Everything that a sweep decided, by name of its files, without the time that it took."""
    found: dict[str, object] = {}
    for name, data in files.items():
        assert "progress" not in name, "a trial was left in work"
        values = parse_json(data)
        values.pop("seconds", None)
        found[name] = values
    return found


def rows_of(cohort: Path) -> list[dict[str, str]]:
    """Read a cohort's manifest."""
    with (cohort / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(cohort: Path, rows: list[dict[str, str]], name: str = "manifest.csv") -> None:
    """Write a manifest into a cohort's folder."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    (cohort / name).write_text(text.getvalue())


def assert_one_sentence(result: tuple[int, str], status: int, words: Iterable[str]) -> None:
    """Assert that a command ended with `status` and one sentence that holds the words."""
    code, output = result
    assert code == status, output
    message = output[output.index("Error: ") :]
    for word in words:
        assert word in message
    assert "Traceback" not in output
    assert len(message.strip().splitlines()) == 1


def run_here(*arguments: str) -> tuple[int, str]:
    """Run the command line in this process; return its exit status and what it printed."""
    from cxrdist.cli import main

    output, threads = io.StringIO(), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(output):
        patch.setattr(sys, "argv", ["cxrdist", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    torch.set_num_threads(threads)
    code = ended.value.code
    assert isinstance(code, int)
    return code, output.getvalue()


def rewrite(run: Path, name: str, **changes: object) -> None:
    """Change a JSON artefact of a run as the program itself would, with the checksum of what it then holds."""
    store = Store(run)
    store.write_json(name, {**(store.read_json(name) or {}), **changes})


def vouch_for(run: Path, name: str) -> None:
    """Note the hash of a file that a test has changed where the run keeps it: in its plan, or in a job's mark."""
    path = PurePosixPath(name)
    mark = "plan.json" if len(path.parts) == 1 else str(path.with_name("done.json"))
    noted = (Store(run).read_json(mark) or {})["artefacts"]
    rewrite(run, mark, artefacts={**noted, path.name: hashlib.sha256((run / name).read_bytes()).hexdigest()})


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 6 patients a class."""
    folder = tmp_path_factory.mktemp("phantoms") / "images"
    draw_phantoms(folder, patients_per_class=6, images_per_patient=(1, 2), size=64, seed=3)
    return folder


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded images, shared by the tests that do not test the cache."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def workplace(tmp_path: Path, phantoms: Path, shared_cache: Path) -> Workplace:
    """A study on the phantoms in a folder of its own."""
    (tmp_path / "study.yaml").write_text(STUDY.format(manifest=phantoms / "manifest.csv"))
    return Workplace(tmp_path, phantoms, shared_cache)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, phantoms: Path, shared_cache: Path) -> dict[str, bytes]:
    """Predictions and tables of the study, run inline without disturbance."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "study.yaml").write_text(STUDY.format(manifest=phantoms / "manifest.csv"))
    place = Workplace(folder, phantoms, shared_cache)
    status, output = run_here(*place.arguments())
    assert status == 0, output
    results = place.results("run")
    assert len([name for name in results if name.endswith(".parquet")]) == 4
    return results


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, a cache and settings of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def command() -> Command:
    """Run the command line in this process: quicker, for what needs no process of its own."""
    return run_here
