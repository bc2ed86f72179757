"""Studies as jobs of a Ray cluster: submitted, followed and stopped through Ray's job API."""

import asyncio
import logging
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import cxrdist
from cxrdist.errors import CxrdistError, UserError
from cxrdist.run.job_package import Package
from cxrdist.run.job_protocol import WAITING_IS_LONG, Job, find_job

_MARK = "cxrdist"
"""Key of a job's metadata that tells ours from others'."""

_POLL_SECONDS = 1.0


class RayJobs:
    """The job server of a cluster, at the address of its dashboard."""

    def __init__(self, address: str) -> None:
        self._address = address

    @cached_property
    def _client(self) -> JobSubmissionClient:
        # It tells of every package that it sends.
        logging.getLogger("ray").setLevel(logging.ERROR)
        return JobSubmissionClient(self._address)

    def preview(self, package: Package, name: str) -> str:
        """Return the files with their sizes, and the command."""
        files = "".join(f"{path}  {len(content):,} bytes\n" for path, content in package.files.items())
        return f"{files}job {name} on the cluster: {_entrypoint(package)}\n"

    def submit(self, package: Package, name: str) -> str:
        """Send a study and this software, and have them run on the cluster."""
        with tempfile.TemporaryDirectory(prefix="cxrdist-") as folder:
            package.write(Path(folder, "work"))
            software = Path(folder, "software", "cxrdist")
            shutil.copytree(Path(cxrdist.__file__).parent, software, ignore=shutil.ignore_patterns("__pycache__"))
            with self._answering():
                self._client.submit_job(
                    entrypoint=_entrypoint(package),
                    submission_id=name,
                    runtime_env={"working_dir": str(Path(folder, "work")), "py_modules": [str(software)]},
                    metadata={_MARK: cxrdist.__version__, "study": package.study.name},
                    entrypoint_num_cpus=0,
                )
        return ""

    def jobs(self) -> list[Job]:
        """Return the jobs that this software submitted, the latest first."""
        return [_job(details) for details in self._details()]

    def logs(self, name: str) -> str:
        """Return what a job has printed so far."""
        submission = self._find(name).submission_id
        with self._answering():
            return str(self._client.get_job_logs(submission))

    def stop(self, name: str) -> bool:
        """Ask a job to stop in order; return whether it was running."""
        submission = self._find(name).submission_id
        with self._answering():
            return bool(self._client.stop_job(submission))

    def follow(self, name: str, write: Callable[[str], None], say: Callable[[str], None]) -> int:
        """Pass on what a job prints until it ends, and return its exit status.

        Args:
            name: of the job.
            write: takes pieces of its output.
            say: told what the user should know.
        """
        name = str(self._find(name).submission_id)
        self._await_start(name, say)
        with self._answering():
            asyncio.run(self._tail(name, write))
        job = self._find(name)
        while not JobStatus(job.status).is_terminal():
            time.sleep(_POLL_SECONDS)
            job = self._find(name)
        if job.status == JobStatus.SUCCEEDED:
            return 0
        if job.driver_exit_code is None:
            say(f"job {name} {str(job.status).lower()}: {job.message or 'no reason is given'}")
            return 1
        return int(job.driver_exit_code)

    def _details(self) -> list[JobDetails]:
        with self._answering():
            found = [job for job in self._client.list_jobs() if _MARK in (job.metadata or {})]
        return sorted(found, key=lambda job: job.start_time or 0, reverse=True)

    def _find(self, name: str) -> JobDetails:
        found = self._details()
        job = find_job([_job(details) for details in found], name, self._address)
        return next(details for details in found if details.submission_id == job.name)

    def _await_start(self, name: str, say: Callable[[str], None]) -> None:
        started = time.monotonic()
        told = False
        while self._find(name).status == JobStatus.PENDING:
            if not told and time.monotonic() - started > WAITING_IS_LONG:
                say(
                    f"job {name} has been waiting for {WAITING_IS_LONG:.0f} s: its files are being unpacked, or the "
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


def _entrypoint(package: Package) -> str:
    # The one form that Ray takes; every argument is quoted.
    return shlex.join(("python", "-m", "cxrdist", *package.arguments()))


def _job(details: JobDetails) -> Job:
    start = details.start_time
    return Job(
        str(details.submission_id),
        str((details.metadata or {}).get("study", "")),
        str(details.status).lower(),
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(start / 1000)) if start else "",
        details.job_id or "",
    )
