"""`cxrdist submit` and `cxrdist jobs`: studies as jobs of a cluster that runs elsewhere."""

import sys
import time
from pathlib import Path
from typing import Any

import click

from cxrdist.cli.help import OrderedGroup, WithExamples

INTERRUPTED = 130

_TO = click.option(
    "--to", "address", required=True, metavar="ADDRESS", help="The cluster's dashboard, http://HOST:PORT."
)


@click.command(
    cls=WithExamples,
    epilog="""
    cxrdist submit jobs/smoke.yaml --to http://127.0.0.1:8265 --images /shared/phantoms --run-dir /shared/runs/smoke
    cxrdist submit study.yaml --to http://127.0.0.1:8265 --images /shared/images --run-dir /shared/runs/1 --detach
    """,
)
@click.argument("study", type=click.Path(path_type=Path, dir_okay=False))
@_TO
@click.option("--images", required=True, metavar="DIR", help="Folder of the images, as the cluster sees it.")
@click.option("--run-dir", required=True, metavar="DIR", help="Where everything is kept, as the cluster sees it.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the study file. Repeatable."
)
@click.option(
    "--follow/--detach", default=True, help="Show the job's output and end with its status (default), or not."
)
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
def submit(
    study: Path,
    address: str,
    images: str,
    run_dir: str,
    settings: tuple[str, ...],
    follow: bool,  # noqa: FBT001 - click passes by name
    dry_run: bool,  # noqa: FBT001
) -> None:
    """Run a study as a job of a Ray cluster.

    Sends the study file, its manifest and this software through the cluster's job server. The cluster needs the same
    versions of the dependencies; images, run directory and cache are folders that all its machines see. To resume a
    study, submit it again with the same --run-dir.
    """
    from cxrdist.config import load_study
    from cxrdist.run.ray_jobs import RayJobs, pack, submission_name

    loaded = load_study(study, settings=settings)
    loaded = loaded.model_copy(update={"cohort": loaded.cohort.model_copy(update={"images": _absolute(images)})})
    package = pack(loaded, run_dir)
    name = submission_name(loaded, time.time())
    for path, content in package.files.items():
        click.echo(f"{path}  {len(content):,} bytes")
    click.echo(f"on the cluster: {' '.join(package.entrypoint)}")
    if dry_run:
        click.echo("nothing was sent (--dry-run)")
        return
    jobs = RayJobs(address)
    jobs.submit(package, name, loaded.name)
    click.echo(f"job {name} was submitted to {address}")
    if follow:
        _follow(jobs, name, address)


@click.group(cls=OrderedGroup)
def jobs() -> None:
    """List, watch and stop the studies that were submitted to a cluster."""


@jobs.command(
    name="list",
    epilog="""
    cxrdist jobs list --to http://127.0.0.1:8265
    """,
)
@_TO
def list_jobs(address: str) -> None:
    """List the studies that were submitted, the latest first."""
    from rich.console import Console
    from rich.table import Table

    from cxrdist.run.ray_jobs import RayJobs, job_rows

    table = Table(box=None, header_style="bold")
    for title in ("job", "study", "state", "started"):
        table.add_column(title, no_wrap=True)
    for row in job_rows(RayJobs(address).jobs()):
        table.add_row(*row)
    Console().print(table)


@jobs.command(
    epilog="""
    cxrdist jobs logs my-study-20261124-101500 --to http://127.0.0.1:8265
    cxrdist jobs logs my-study-20261124-101500 --to http://127.0.0.1:8265 --follow
    """
)
@click.argument("name", metavar="JOB")
@_TO
@click.option("--follow", is_flag=True, help="Until the job ends, and end with its status.")
def logs(name: str, address: str, follow: bool) -> None:  # noqa: FBT001 - click passes by name
    """Show what a job has printed."""
    from cxrdist.run.ray_jobs import RayJobs

    server = RayJobs(address)
    if follow:
        server.job(name)
        _follow(server, name, address)
    else:
        click.echo(server.logs(name), nl=False)


@jobs.command(
    epilog="""
    cxrdist jobs stop my-study-20261124-101500 --to http://127.0.0.1:8265
    """
)
@click.argument("name", metavar="JOB")
@_TO
def stop(name: str, address: str) -> None:
    """Stop a job in order; submit the study again to resume it."""
    from cxrdist.run.ray_jobs import RayJobs

    if RayJobs(address).stop(name):
        click.echo(f"job {name} was asked to stop; what was done is kept")
    else:
        click.echo(f"job {name} is not running")


def _follow(jobs: Any, name: str, address: str) -> None:
    try:
        status = jobs.follow(name, lambda text: click.echo(text, nl=False), click.echo)
    except KeyboardInterrupt:
        click.echo(f"\nThe job goes on; `cxrdist jobs logs {name} --to {address} --follow` shows it again.")
        sys.exit(INTERRUPTED)
    if status:
        sys.exit(status)


def _absolute(folder: str) -> str:
    from cxrdist.errors import UserError

    if not Path(folder).is_absolute():
        raise UserError(f"--images is {folder!r}, but should be an absolute path that all machines of the cluster see.")
    return folder
