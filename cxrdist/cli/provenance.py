"""Which code it is that runs, and which study file: the commit of the working copy, where it is in one."""

import os
import shutil
import subprocess
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

_TIMEOUT = 5.0
_OID = "# branch.oid "
_NO_COMMIT = "(initial)"


def git_commit(folder: Path) -> str | None:
    """Return the commit of the working copy that a package is in, with " + local changes" where its folder differs.

    Args:
        folder: of the package, with its `__init__.py`; the working folder does not count.

    Returns:
        None where the package is not under version control, as one installed inside somebody else's working copy,
        and where git is missing, refuses or takes longer than 5 s.
    """
    return _commit(folder, "__init__.py", changes_in=".")


def git_commit_of_file(path: Path) -> str | None:
    """Return the commit of the working copy that a file is in, with " + local changes" where the file differs.

    Returns:
        None as in `git_commit`.
    """
    return _commit(path.parent, path.name, changes_in=path.name)


def _commit(folder: Path, name: str, *, changes_in: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    try:
        _run(git, folder, "ls-files", "--error-unmatch", "--", name)
        status = _run(git, folder, "status", "--porcelain=v2", "--branch", "--untracked-files=all", "--", changes_in)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = status.splitlines()
    commit = next((line.removeprefix(_OID) for line in lines if line.startswith(_OID)), _NO_COMMIT)
    if commit == _NO_COMMIT:
        return None
    changed = any(not line.startswith("#") for line in lines)
    return f"{commit} + local changes" if changed else commit


def _run(git: str, folder: Path, *arguments: str) -> str:
    # GIT_DIR and the like, which hooks set, would name another working copy. Nothing is written, no helper started.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [git, "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    return subprocess.run(  # noqa: S603 - a list without a shell, of which only the folder and a name in it vary
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=_TIMEOUT,
        env=environment,
    ).stdout
