"""Studies as jobs of a Ray cluster: packed, submitted, followed and stopped through Ray's job API."""

import asyncio
import logging
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import cxrdist
from cxrdist.config.models import Study
from cxrdist.errors import CxrdistError, UserError, first_few

MANIFEST_FOLDER = "manifest"

_MARK = "cxrdist"
"""Key of a job's metadata that tells ours from others'."""

_POLL_SECONDS = 1.0
_WAITING_IS_LONG = 30.0


@dataclass(frozen=True)
class Package:
    """What is sent to a cluster: a study file, its manifest, and the software itself."""

    files: dict[str, bytes]
    """Content by name, relative to the job's working folder."""
    entrypoint: tuple[str, ...]
    """The command and its arguments."""

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(len(content) for content in self.files.values())


def pack(study: Study, run_dir: str) -> Package:
    """Pack a study for a cluster.

    The manifest goes along; images, weights, cache and run directory are paths that all machines of the cluster see.

    Args:
        study: with absolute paths.
        run_dir: as the cluster sees it.

    Raises:
        UserError: the manifest cannot be read, or a path is not given or not absolute.
    """
    manifest = study.manifest_path()
    try:
        content = manifest.read_bytes()
    except OSError as error:
        raise UserError(f"The manifest {str(manifest)!r} cannot be read ({error.strerror}).") from None
    if study.cohort.images is None:
        raise UserError("The folder of the images, as the cluster sees it, is not given: add --images DIR.")
    if not Path(run_dir).is_absolute():
        raise UserError(
            f"--run-dir is {run_dir!r}, but should be an absolute path that all machines of the cluster see."
        )
    name = f"{MANIFEST_FOLDER}/{manifest.name}"
    data = study.model_dump(mode="json")
    data["cohort"]["manifest"] = name
    data["execution"] |= {"executor": "ray", "address": "auto"}
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return Package(
        files={"study.yaml": text.encode(), name: content},
        entrypoint=("python", "-m", "cxrdist", "run", "study.yaml", "--run-dir", run_dir),
    )


def submission_name(study: Study, now: float) -> str:
    """Return a name for a job, new each second: a study that is submitted again continues under another."""
    return f"{study.name}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}"


class RayJobs:
    """The job server of a cluster.

    Raises:
        UserError: nothing answers at the address, or it asks for a token.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(
                f"--to is {address!r}, but should be the address of a cluster's dashboard, such as "
                "http://127.0.0.1:8265."
            )
        # Its client tells of every package that it sends.
        logging.getLogger("ray").setLevel(logging.ERROR)
        with self._answering():
            self._client = JobSubmissionClient(address)

    def submit(self, package: Package, name: str, study: str) -> None:
        """Send a package, and have its command run on the cluster."""
        with tempfile.TemporaryDirectory(prefix="cxrdist-") as folder:
            for path, content in package.files.items():
                target = Path(folder, "work", path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            software = Path(folder, "software", "cxrdist")
            shutil.copytree(Path(cxrdist.__file__).parent, software, ignore=shutil.ignore_patterns("__pycache__"))
            with self._answering():
                self._client.submit_job(
                    # The one form that Ray takes; every argument is quoted.
                    entrypoint=shlex.join(package.entrypoint),
                    submission_id=name,
                    runtime_env={"working_dir": str(Path(folder, "work")), "py_modules": [str(software)]},
                    metadata={_MARK: cxrdist.__version__, "study": study},
                    entrypoint_num_cpus=0,
                )

    def jobs(self) -> list[JobDetails]:
        """Return the jobs that this software submitted, the latest first."""
        with self._answering():
            found = [job for job in self._client.list_jobs() if _MARK in (job.metadata or {})]
        return sorted(found, key=lambda job: job.start_time or 0, reverse=True)

    def job(self, name: str) -> JobDetails:
        """Return one job.

        Raises:
            UserError: there is none of that name.
        """
        for job in self.jobs():
            if job.submission_id == name:
                return job
        names = first_few(str(job.submission_id) for job in self.jobs())
        raise UserError(f"There is no job {name!r} at {self._address}; jobs there: {names or 'none'}.")

    def logs(self, name: str) -> str:
        """Return what a job has printed so far."""
        self.job(name)
        with self._answering():
            return str(self._client.get_job_logs(name))

    def stop(self, name: str) -> bool:
        """Ask a job to stop in order; return whether it was running."""
        self.job(name)
        with self._answering():
            return bool(self._client.stop_job(name))

    def follow(self, name: str, write: Callable[[str], None], say: Callable[[str], None]) -> int:
        """Pass on what a job prints until it ends, and return its exit status.

        Args:
            name: of the job.
            write: takes pieces of its output.
            say: told what the user should know.
        """
        self._await_start(name, say)
        with self._answering():
            asyncio.run(self._tail(name, write))
        job = self.job(name)
        while not JobStatus(job.status).is_terminal():
            time.sleep(_POLL_SECONDS)
            job = self.job(name)
        if job.status == JobStatus.SUCCEEDED:
            return 0
        if job.driver_exit_code is None:
            say(f"job {name} {str(job.status).lower()}: {job.message or 'no reason is given'}")
            return 1
        return int(job.driver_exit_code)

    def _await_start(self, name: str, say: Callable[[str], None]) -> None:
        started = time.monotonic()
        told = False
        while self.job(name).status == JobStatus.PENDING:
            if not told and time.monotonic() - started > _WAITING_IS_LONG:
                say(
                    f"job {name} has been waiting for {_WAITING_IS_LONG:.0f} s: its files are being unpacked, or the "
                    "cluster has no room for it; see its dashboard"
                )
                told = True
            time.sleep(_POLL_SECONDS)

    async def _tail(self, name: str, write: Callable[[str], None]) -> None:
        async for text in self._client.tail_job_logs(name):
            write(text)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except ConnectionError:
            raise UserError(
                f"No Ray job server answers at {self._address!r}; give the address of its dashboard with --to."
            ) from None
        except AuthenticationError:
            raise UserError(
                f"The cluster at {self._address!r} asks for a token: set RAY_AUTH_MODE=token, and have its token in "
                "~/.ray/auth_token, readable by you alone."
            ) from None
        except RuntimeError as error:
            reason = next(iter(str(error).strip().splitlines()), "no reason is given")
            raise CxrdistError(f"The cluster at {self._address!r} refused: {reason}") from None


def job_rows(jobs: Sequence[JobDetails]) -> list[tuple[str, str, str, str]]:
    """Return name, study, state and start of jobs, for people."""
    return [
        (
            str(job.submission_id),
            str((job.metadata or {}).get("study", "")),
            str(job.status).lower(),
            "" if not job.start_time else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.start_time / 1000)),
        )
        for job in jobs
    ]
