"""What is installed holds what `cxrdist submit` sends, the same files that cluster/ shows."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cxrdist.run import kuberay_manifest, slurm_jobs

ROOT = Path(__file__).resolve().parents[2]
SHOWN = [ROOT / "cluster" / "slurm" / "study.sbatch", ROOT / "cluster" / "kuberay" / "rayjob.yaml"]
PRINT = """
from cxrdist.run import kuberay_manifest, slurm_jobs
print(slurm_jobs.SCRIPT, kuberay_manifest.TEMPLATE, sep="\\n")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_a_checkout_shows_the_files_that_are_sent() -> None:
    assert [path.resolve() for path in SHOWN] == [slurm_jobs.SCRIPT, kuberay_manifest.TEMPLATE]


def test_a_wheel_finds_the_same_files_in_itself(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINT],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = [Path(line) for line in done.stdout.splitlines()]
    assert all(path.is_relative_to(installed) for path in found)
    assert [path.read_bytes() for path in found] == [path.read_bytes() for path in SHOWN]
    assert not any(path.is_symlink() for path in found)
