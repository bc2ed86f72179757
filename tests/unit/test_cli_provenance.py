"""What a report says of its making: the commit of the code, its own working copy's or none, seeds and folds."""

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cxrdist.cli import gather, provenance
from cxrdist.cli.provenance import PACKAGE, git_commit
from cxrdist.config.models import Study
from cxrdist.report.inference import infer
from cxrdist.report.scores import all_scores
from tests.unit.report_examples import small_results

GIT = shutil.which("git")
IDENTITY = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")

needs_git = pytest.mark.skipif(GIT is None, reason="git is not installed")


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch, tmp_path_factory):
    """Neither the user's git configuration nor a hook's variables decide."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


def git(folder, *arguments):
    command = [str(GIT), "-C", str(folder), *IDENTITY, *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=environment)
    return result.stdout.strip()


def package_in(root: Path) -> Path:
    folder = root / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    return folder


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    folder = package_in(tmp_path_factory.mktemp("committed"))
    (folder.parent / "README").write_text("")
    git(folder.parent, "init", "-q", "--template=")
    git(folder.parent, "add", ".")
    git(folder.parent, "commit", "-q", "-m", "first")
    return folder.parent


@pytest.fixture
def package(committed, tmp_path):
    """A package that is committed in a working copy of its own."""
    return Path(shutil.copytree(committed, tmp_path / "copy")) / "package"


@needs_git
def test_a_clean_package_has_the_commit_of_its_working_copy(package):
    commit = git(package, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert git_commit(package) == commit
    (package / "__init__.py").write_text("x = 1\n")
    git(package, "commit", "-q", "-a", "-m", "second")
    assert git_commit(package) == git(package, "rev-parse", "HEAD") != commit


@needs_git
@pytest.mark.parametrize(("name", "staged"), [("__init__.py", False), ("__init__.py", True), ("new.py", False)])
def test_what_is_not_committed_in_the_package_is_told(package, name, staged):
    (package / name).write_text("x = 1\n")
    if staged:
        git(package, "add", ".")
    assert git_commit(package) == f"{git(package, 'rev-parse', 'HEAD')} + local changes"


@needs_git
def test_changes_outside_the_package_and_ignored_files_do_not_count(package):
    commit = git(package, "rev-parse", "HEAD")
    (package.parent / "README").write_text("changed")
    (package.parent / "notes.txt").write_text("new")
    (package.parent / ".gitignore").write_text("*.pyc\n")
    (package / "module.pyc").write_text("")
    assert git_commit(package) == commit


@needs_git
def test_neither_the_working_folder_nor_variables_of_a_hook_name_the_working_copy(package, tmp_path, monkeypatch):
    commit = git(package, "rev-parse", "HEAD")
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    git(other, "commit", "-q", "--allow-empty", "-m", "other")
    monkeypatch.chdir(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert git_commit(package) == commit


@needs_git
def test_a_package_installed_inside_another_working_copy_has_no_commit(package):
    (package.parent / ".gitignore").write_text("/.venv/\n")
    assert git_commit(package_in(package.parent / ".venv")) is None


@needs_git
def test_a_package_outside_any_working_copy_has_no_commit(tmp_path):
    assert git_commit(package_in(tmp_path)) is None


@needs_git
def test_a_working_copy_without_commits_has_none(tmp_path):
    folder = package_in(tmp_path)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    assert git_commit(folder) is None


@needs_git
def test_asking_writes_nothing_into_the_working_copy(package):
    (package / "__init__.py").touch()
    before = {path: path.stat().st_mtime_ns for path in sorted((package.parent / ".git").rglob("*"))}
    git_commit(package)
    assert {path: path.stat().st_mtime_ns for path in sorted((package.parent / ".git").rglob("*"))} == before


def test_without_git_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(PACKAGE) is None


@pytest.mark.parametrize(
    "error",
    [subprocess.TimeoutExpired("git", 5), PermissionError("git"), subprocess.CalledProcessError(128, "git")],
)
def test_a_git_that_fails_or_hangs_leaves_the_commit_out(monkeypatch, error):
    limits = []

    def fail(command, **options):
        assert isinstance(command, list)
        assert not options.get("shell")
        limits.append(options["timeout"])
        raise error

    monkeypatch.setattr(shutil, "which", lambda _: "git")
    monkeypatch.setattr(subprocess, "run", fail)
    assert git_commit(PACKAGE) is None
    assert limits == [5]


def test_the_package_is_this_one():
    assert (PACKAGE / "cli" / "provenance.py").samefile(provenance.__file__)
    assert PACKAGE.name == "cxrdist"


def facts(**folds):
    study = Study.model_validate(
        {"name": "small", "seed": 7, "cohort": {"manifest": "m.csv", "classes": ["a", "b"]}, "folds": folds}
    )
    plan: Any = SimpleNamespace(study="s", cohort="c", jobs=(), networks={})
    return dict(gather._facts(study, plan, []))


def test_the_facts_hold_the_commit_only_where_there_is_one(monkeypatch):
    monkeypatch.setattr(gather, "git_commit", lambda folder: f"{folder} + local changes")
    assert facts()["Git commit (report)"] == f"{PACKAGE} + local changes"
    monkeypatch.setattr(gather, "git_commit", lambda _: None)
    assert "Git commit (report)" not in facts()


def test_the_facts_hold_the_folds_as_far_as_the_protocol_uses_them(monkeypatch):
    monkeypatch.setattr(gather, "git_commit", lambda _: None)
    assert facts(k=7, validation=0.2)["Folds"] == (
        "kfold with k = 7, by group, stratified by class_and_source, validation 0.2"
    )
    assert facts(protocol="holdout_75_25", k=7)["Folds"] == (
        "holdout_75_25, by group, stratified by class_and_source, validation 0.15"
    )
    assert facts(protocol="holdout_batches", group_by="image")["Folds"] == "holdout_batches, by image"


def test_the_facts_hold_the_seed_from_which_the_bootstrap_draws(monkeypatch):
    class DrawnError(Exception):
        """Nothing need be drawn once the seed is known."""

    def stop(seed):
        raise DrawnError(str(seed))

    monkeypatch.setattr(gather, "git_commit", lambda _: None)
    monkeypatch.setattr(np.random, "default_rng", stop)
    results = small_results(seed=7)
    with pytest.raises(DrawnError) as drawn:
        infer(results, all_scores(results)[0])
    told = facts()["Random draws of the statistics"]
    assert told == f'2,000 resamples from derive_seed(7, "bootstrap") = {drawn.value}'
