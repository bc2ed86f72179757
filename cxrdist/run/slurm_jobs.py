"""Studies as jobs of SLURM: submitted by sbatch, asked for by squeue, scontrol and sacct, stopped by scancel."""

import codecs
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrdist.config.location import is_remote
from cxrdist.errors import UserError
from cxrdist.run.job_package import Package, study_of
from cxrdist.run.job_protocol import SLURM, WAITING_IS_LONG, Job, find_job
from cxrdist.run.programs import RefusedError, ask

SCRIPT = Path(__file__).parent / "templates" / "study.sbatch"
SUBMITTED = "submitted"
"""Folder of a run directory that holds, for each job, its study, its manifest and its output."""
OUTPUT = "output.log"

_MARK = "cxrdist-"
"""Begins the names under which SLURM knows our jobs."""
_OURS = frozenset({"array", "chdir", "error", "export", "job-name", "open-mode", "output", "parsable", "wrap"})
"""Options of sbatch that are not the user's to choose."""
_OVER = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
        *("REVOKED", "TIMEOUT"),
    }
)
_NEEDS = "use --to slurm on a machine from which SLURM's jobs are submitted"
_POLL_SECONDS = 1.0
_ASK_SECONDS = 5.0
"""A controller that many people ask is slow for all of them."""
_SIGNALLED = 128


@dataclass(frozen=True)
class _Standing:
    state: str
    reason: str
    exit_status: int

    @property
    def is_over(self) -> bool:
        return self.state in _OVER


class SlurmJobs:
    """The SLURM of this machine.

    Args:
        options: of sbatch, without the hyphens: `nodes=2`, `exclusive`.
        run_dir: whose jobs are found when SLURM has forgotten them, too.

    Raises:
        UserError: an option cannot be given.
    """

    def __init__(self, options: Sequence[str] = (), run_dir: str | None = None) -> None:
        self._options = [_option(text) for text in options]
        self._run_dir = run_dir

    def preview(self, package: Package, name: str) -> str:
        """Return the command line of sbatch and the script."""
        command = shlex.join(["sbatch", *self._arguments(package, name)])
        return f"# PATH={_programs()}:$PATH\n# {command}\n\n{SCRIPT.read_text()}"

    def submit(self, package: Package, name: str) -> str:
        """Write the study beside its results, and submit the script; return the job's number."""
        folder = _folder(package.run_dir, name)
        try:
            folder.mkdir(parents=True)
            package.write(folder)
        except OSError as error:
            raise UserError(f"The folder {str(folder)!r} cannot be written ({error.strerror}).") from None
        # The job has the environment of whoever submits it, SLURM's default, in which this software is found.
        environment = {**os.environ, "PATH": f"{_programs()}:{os.environ.get('PATH', '')}"}
        try:
            answer = ask("sbatch", *self._arguments(package, name), needs=_NEEDS, environment=environment)
        except UserError:
            shutil.rmtree(folder)
            raise
        return answer.strip().partition(";")[0]

    def jobs(self) -> list[Job]:
        """Return the user's jobs: those that SLURM knows, by number, then those of the run directory."""
        return [job for job, _ in self._jobs()]

    def logs(self, name: str) -> str:
        """Return what a job has printed so far, over all its starts."""
        try:
            return (self._job(name)[1] / OUTPUT).read_text(errors="replace")
        except OSError:
            return ""

    def stop(self, name: str) -> bool:
        """Have the study stop in order, and with it the job; one that has not begun is taken back."""
        job, _ = self._job(name)
        if not job.number or job.state.upper() in _OVER:
            return False
        # To the script alone: a plain scancel ends Ray's processes at the same moment, before the study has.
        in_order = ("--batch", "--signal=TERM") if job.state == "running" else ()
        ask("scancel", *in_order, job.number, needs=_NEEDS)
        return True

    def follow(self, name: str, write: Callable[[str], None], say: Callable[[str], None]) -> int:
        """Pass on what a job prints until it ends, requeued or not, and return its exit status."""
        job, folder = self._job(name)
        if not job.number:
            raise UserError(f"SLURM has forgotten the job {job.name!r}; its output is {str(folder / OUTPUT)!r}.")
        output = _Growing(folder / OUTPUT)
        waiting_since = time.monotonic()
        told = False
        while True:
            standing = _standing(job.number)
            if standing.state != "PENDING":
                waiting_since = time.monotonic()
            elif not told and time.monotonic() - waiting_since > WAITING_IS_LONG:
                say(f"job {job.name} is waiting: SLURM's reason is {standing.reason}")
                told = True
            asked = time.monotonic()
            while time.monotonic() - asked < (_POLL_SECONDS if standing.is_over else _ASK_SECONDS):
                write(output.read())
                time.sleep(_POLL_SECONDS)
            if standing.is_over:
                break
        write(output.read())
        if standing.state not in ("COMPLETED", "FAILED"):
            say(f"job {job.name} ended: {standing.state.lower()}")
        return standing.exit_status

    def _arguments(self, package: Package, name: str) -> list[str]:
        folder = _folder(package.run_dir, name)
        output = str(folder / OUTPUT).replace("%", "%%")
        ours = ["--parsable", f"--job-name={_MARK}{name}", f"--chdir={folder}", f"--output={output}"]
        return [*ours, *self._options, str(SCRIPT), *package.arguments()]

    def _job(self, name: str) -> tuple[Job, Path]:
        jobs = self._jobs()
        found = find_job([job for job, _ in jobs], name, SLURM)
        return next((job, folder) for job, folder in jobs if job is found)

    def _jobs(self) -> list[tuple[Job, Path]]:
        """Return jobs with their folders."""
        known: dict[str, tuple[Job, Path]] = {}
        queue = ask("squeue", "--me", "--states=all", "--noheader", "--format=%i|%j|%T|%S|%Z", needs=_NEEDS)
        accounts = _accounts("JobIDRaw,JobName,State,Start,WorkDir", "--starttime=now-30days")
        for line in (*accounts, *queue.splitlines()):
            number, name, state, start, folder = line.strip().split("|", maxsplit=4)
            if name.startswith(_MARK):
                plain = name.removeprefix(_MARK)
                job = Job(plain, study_of(plain), state.split()[0].lower(), _started(state, start), number)
                known[number] = (job, Path(folder))
        folders = sorted(Path(self._run_dir, SUBMITTED).glob("*"), reverse=True) if self._run_dir else []
        names = {job.name for job, _ in known.values()}
        forgotten = [(Job(f.name, study_of(f.name), "forgotten"), f) for f in folders if f.name not in names]
        return [*sorted(known.values(), key=lambda entry: int(entry[0].number), reverse=True), *forgotten]


class _Growing:
    """A file that grows, read piece by piece; it may come later."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def read(self) -> str:
        """Return what was added since the last time."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                piece = file.read()
        except OSError:
            return ""
        self._offset += len(piece)
        return self._decoder.decode(piece)


def _option(text: str) -> str:
    key = text.partition("=")[0]
    if not re.fullmatch(r"[a-z][a-z-]+", key):
        raise UserError(f"--slurm {text!r} should be a long option of sbatch without hyphens, such as nodes=2.")
    if key in _OURS:
        raise UserError(f"--slurm {text!r} cannot be given: `cxrdist submit` sets sbatch's --{key} itself.")
    return f"--{text}"


def _folder(run_dir: str, name: str) -> Path:
    # What is in an object store has no folder that SLURM can write to: the working folder, as sbatch itself has it.
    return (Path.cwd() if is_remote(run_dir) else Path(run_dir)) / SUBMITTED / name


def _programs() -> Path:
    """The folder of this environment's programs, `cxrdist` and `ray` among them."""
    return Path(sys.executable).parent


def _accounts(fields: str, which: str) -> list[str]:
    """Return the lines of sacct, none where SLURM keeps no accounts."""
    try:
        return ask(
            *("sacct", "--allocations", "--noheader", "--parsable2", f"--format={fields}", which), needs=_NEEDS
        ).splitlines()
    except UserError:
        return []


def _standing(number: str) -> _Standing:
    """Return how a job stands.

    Raises:
        UserError: SLURM has forgotten it.
    """
    try:
        told = dict(re.findall(r"(\w+)=(\S*)", ask("scontrol", "--oneliner", "show", "job", number, needs=_NEEDS)))
        state, reason, code = told["JobState"], told["Reason"], told["ExitCode"]
    except RefusedError:
        accounts = _accounts("State,Reason,ExitCode", f"--jobs={number}")
        if not accounts:
            raise
        state, reason, code = accounts[0].split("|")
    state = state.split()[0]
    status, signal = (int(part) for part in code.split(":"))
    if state != "COMPLETED":
        status = status or (_SIGNALLED + signal if signal else 1)
    return _Standing(state, reason, status)


def _started(state: str, start: str) -> str:
    # Of a job that waits this is when SLURM expects to start it.
    return start.replace("T", " ") if state != "PENDING" and start[:1].isdigit() else ""
