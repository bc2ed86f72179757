"""A tiny cohort of phantoms, studies on it, and ways to run the command line on them."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cxrdist.cohort.phantoms import draw_phantoms

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
training: {{epochs: 400, batch_size: 8, learning_rate: 1e-3}}
execution: {{threads: 1, checkpoint_seconds: 0.0, keep_models: false}}
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
    status, output = place.run(*place.arguments())
    assert status == 0, output
    results = place.results("run")
    assert len([name for name in results if name.endswith(".parquet")]) == 4
    return results


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command line in this process: quicker, for what ends before training begins."""
    from cxrdist.cli import main

    def call(*arguments: str) -> tuple[int, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["cxrdist", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
        captured = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return code, captured.out + captured.err

    return call
