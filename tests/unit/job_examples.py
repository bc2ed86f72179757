"""A study to submit, and stand-ins for the programs that take it."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from cxrdist.config import Study, load_study
from cxrdist.run.job_package import Package, pack

KEY = "0123456789abcdef0123456789abcdef01234567"
NAME = "tiny-20261124-101500"
STUDY = """\
name: tiny
cohort:
  manifest: {manifest}
  classes: [normal, covid19]
execution: {{cache: /shared/cache}}
"""

# Answers the n-th call of a verb by the file VERB.n, or by VERB; one that ends in .err is an error.
STAND_IN = """\
#!/bin/sh
cd {folder}
printf '%s\\n' "$*" >>calls
[ "$1" != create ] || {{ cat; echo '---'; }} >>sent
n=$(grep -c -- "^$1 " calls)
for answer in "$1.$n" "$1"; do
    [ ! -e "$answer.err" ] || {{ cat "./$answer.err" >&2; exit 1; }}
    [ ! -e "$answer" ] || {{ cat "./$answer"; exit; }}
done
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study whose user has a key in the environment."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    (tmp_path / "images.csv").write_text("image_id,path,label\na,a.png,normal\n")
    (tmp_path / "study.yaml").write_text(STUDY.format(manifest="images.csv"))
    return load_study(tmp_path / "study.yaml")


@pytest.fixture
def package(study: Study) -> Package:
    return pack(study, "/shared/runs/1", "/shared/images")


class StandIn:
    """A program on the PATH that records its calls."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(STAND_IN.format(folder=shlex.quote(str(self.folder))))
        program.chmod(0o755)

    def answer(self, verb: str, text: str) -> None:
        (self.folder / verb).write_text(text)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], StandIn]:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}/usr/bin{os.pathsep}/bin")
    return lambda name: StandIn(tmp_path, name)
