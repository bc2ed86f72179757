"""What every server of jobs does, whoever it is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cxrdist.errors import UserError, first_few
from cxrdist.run.job_package import Package

SLURM, KUBERAY = "slurm", "kuberay"

WAITING_IS_LONG = 30.0
"""Seconds after which someone who follows a job is told why it has not begun."""


@dataclass(frozen=True)
class Job:
    """A study that was submitted."""

    name: str
    study: str
    state: str
    """In the server's words, in lower case."""
    started: str = ""
    """Local time, for people; empty before."""
    number: str = ""
    """What the server itself calls the job, where that is not its name."""


class JobServer(Protocol):
    """Takes studies as jobs.

    Its methods raise UserError where a program or a server is not there, or refuses, or has no job of a name.
    """

    def preview(self, package: Package, name: str) -> str:
        """Return what `submit` would send, as the server would read it."""

    def submit(self, package: Package, name: str) -> str:
        """Send a study, and return what the server calls its job, empty where that is the name."""

    def jobs(self) -> list[Job]:
        """Return the jobs that this software submitted, the latest first."""

    def logs(self, name: str) -> str:
        """Return what a job has printed so far."""

    def stop(self, name: str) -> bool:
        """Have a job stop in order; return whether it was waiting or running."""

    def follow(self, name: str, write: Callable[[str], None], say: Callable[[str], None]) -> int:
        """Pass on what a job prints until it ends, and return its exit status.

        Args:
            name: of the job.
            write: takes pieces of its output.
            say: told what the user should know.
        """


def find_job(jobs: list[Job], name: str, where: str) -> Job:
    """Return one of the jobs, by its name or by what the server calls it.

    Raises:
        UserError: there is none, or there are several of the name.
    """
    found = [job for job in jobs if job.number == name] or [job for job in jobs if job.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        numbers = ", ".join(job.number for job in found)
        raise UserError(f"There are {len(found)} jobs {name!r} at {where}; name one by its number: {numbers}.")
    names = first_few(job.name for job in jobs)
    raise UserError(f"There is no job {name!r} at {where}; jobs there: {names or 'none'}.")
