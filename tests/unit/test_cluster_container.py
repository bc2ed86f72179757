"""The image's Dockerfile keeps the rules that hadolint and others have for such files; each rule can be broken."""

import fnmatch
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "cluster" / "container"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
IGNORED = (FOLDER / "Dockerfile.dockerignore").read_text()

SECRET = re.compile(r"\w*(TOKEN|PASSWORD|SECRET|CREDENTIAL|(API|PRIVATE|ACCESS)_?KEY)\w*(?==|$)", re.IGNORECASE)
"""The name of a variable that holds one."""


@dataclass
class Stage:
    """One build stage: what it starts from, and its instructions in order."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        """Return the arguments of each instruction of one kind."""
        return [rest for kind, rest in self.steps if kind == word]


def stages(text: str) -> list[Stage]:
    """Parse the instructions of a Dockerfile, with comments left out and continued lines joined."""
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    found: list[Stage] = []
    for line in filter(str.strip, lines):
        word, rest = line.split(maxsplit=1)
        if word.upper() == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(base.strip(), name.strip()))
        else:
            found[-1].steps.append((word.upper(), rest.strip()))
    return found


def sent_to_builder(path: str) -> bool:
    """Return whether the .dockerignore file lets a path through: the last line that matches decides."""
    verdict = True
    for line in IGNORED.splitlines():
        pattern = line.strip().removeprefix("!")
        if (
            pattern
            and not pattern.startswith("#")
            and any(fnmatch.fnmatch(part, pattern) for part in (path, *map(str, Path(path).parents)))
        ):
            verdict = line.startswith("!")
    return verdict


def faults(text: str) -> Iterator[str]:
    """Say what is wrong with a Dockerfile."""
    parsed = stages(text)
    names = {stage.name for stage in parsed}
    for stage in parsed:
        if stage.base not in names and not re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}", stage.base):
            yield f"base not pinned: {stage.base}"
        if stage.all("CMD") and not re.fullmatch(r"[1-9]\d*:[1-9]\d*", (stage.all("USER") or [""])[-1]):
            yield f"no numbered user but root's at the end: {stage.name}"
        yield from (f"ADD: {rest}" for rest in stage.all("ADD"))
        yield from (f"secret: {rest}" for word in ("ENV", "ARG") for rest in stage.all(word) if SECRET.search(rest))
        for rest in stage.all("COPY"):
            sources = [] if rest.startswith("--from=") else rest.split()[:-1]
            yield from (f"not there: {name}" for name in sources if not (ROOT / name).exists())
            yield from (f"not sent to the builder: {name}" for name in sources if not sent_to_builder(name))
        for rest in stage.all("RUN"):
            if "apt-get install" in rest and not (
                "--no-install-recommends" in rest and "rm -rf /var/lib/apt/lists" in rest
            ):
                yield f"apt leaves more than was asked for: {rest}"
            for command in re.findall(r"pip install[^&]*", rest):
                if "--require-hashes" not in command and not command.endswith(
                    "--no-build-isolation --compile-bytecode ."
                ):
                    yield f"packages without hashes: {command}"
    if not parsed[-1].all("CMD"):
        yield "the last stage, which is what is built by default, runs nothing"


def test_the_dockerfile_keeps_every_rule() -> None:
    assert len(stages(DOCKERFILE)) == 5
    assert list(faults(DOCKERFILE)) == []


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (replaced("3.11.14-slim-bookworm@", "latest@"), "base not pinned"),
        (lambda text: re.sub(r"@sha256:\w+", "", text), "base not pinned"),
        (replaced("USER 1000:1000", "USER 0:0"), "no numbered user"),
        (replaced("USER 1000:1000\n", ""), "no numbered user"),
        (replaced("WORKDIR /src", "ADD https://example.org/x.tar /src"), "ADD"),
        (replaced("RAY_USAGE_STATS_ENABLED=0", "WANDB_API_KEY=0"), "secret"),
        (replaced("COPY cxrdist cxrdist", "COPY cxrdists cxrdist"), "not there"),
        (replaced("COPY cxrdist cxrdist", "COPY tests tests"), "not sent to the builder"),
        (replaced(" --no-install-recommends", ""), "apt leaves"),
        (replaced("    && rm -rf /var/lib/apt/lists/*", "    && true"), "apt leaves"),
        (replaced("--require-hashes ", ""), "packages without hashes"),
        (replaced('CMD ["cxrdist", "--help"]', ""), "runs nothing"),
    ],
)
def test_a_broken_rule_is_seen(change: Callable[[str], str], fault: str) -> None:
    assert any(fault in found for found in faults(change(DOCKERFILE)))


@pytest.mark.parametrize("path", ["runs/demo/images/a.png", ".git/config", ".venv/bin/python", "data_manifests/a.csv"])
def test_data_and_history_never_reach_the_builder(path: str) -> None:
    assert not sent_to_builder(path)


def test_the_launchers_packages_keep_the_locks_versions() -> None:
    locked, launcher = (
        dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (path).read_text(), flags=re.MULTILINE))
        for path in (ROOT / "requirements.lock", FOLDER / "launcher.lock")
    )
    assert {"boto3", "google-api-python-client"} <= set(launcher)
    other = {name: version for name, version in launcher.items() if locked.get(name, version) != version}
    assert other == {}, "make cluster/container/launcher.lock again, as its first lines say"


def program(name: str) -> str | None:
    """Return where a linter is: in this environment, or on the PATH."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def test_hadolint_finds_nothing() -> None:
    hadolint = program("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, str(FOLDER / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_shellcheck_finds_nothing() -> None:
    shellcheck = program("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    folders = (ROOT / name for name in ("cluster", "cxrdist", ".ci", "tests", "benchmarks", "jobs"))
    scripts = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".sh", ".sbatch")]
    scripts.append(ROOT / ".ci" / "run")
    assert len(scripts) >= 3
    done = subprocess.run([shellcheck, *map(str, scripts)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
