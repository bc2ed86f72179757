"""`cxrdist submit` and `cxrdist jobs`: studies as jobs of a cluster that runs elsewhere."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cxrdist.cli.help import OrderedGroup, WithExamples
from cxrdist.cli.output import require_reader

INTERRUPTED = 130

_F = TypeVar("_F", bound=Callable[..., Any])

_TO = click.option(
    "--to",
    required=True,
    metavar="ADDRESS|slurm|kuberay",
    help="A Ray cluster's dashboard, http://HOST:PORT; or SLURM; or Kubernetes with KubeRay.",
)
_NAMESPACE = click.option("--namespace", metavar="NAME", help="kuberay: of Kubernetes; by default kubectl's own.")


def _where_jobs_are(function: _F) -> _F:
    """Add the options that say where jobs are looked for."""
    run_dir = click.option(
        "--run-dir", metavar="DIR", help="slurm: find its jobs when SLURM has forgotten them (after minutes), too."
    )
    return _TO(_NAMESPACE(run_dir(function)))


@click.command(
    cls=WithExamples,
    epilog="""
    cxrdist submit study.yaml --to http://127.0.0.1:8265 --images /shared/images --run-dir /shared/runs/1
    cxrdist submit study.yaml --to slurm --images /shared/images --run-dir /shared/runs/1 --slurm nodes=2
    cxrdist submit study.yaml --to kuberay --images /shared/images --run-dir /shared/runs/1 --image REGISTRY/cxrdist:1
    cxrdist submit study.yaml --to slurm --images /shared/images --run-dir /shared/runs/1 --command audit
    """,
)
@click.argument("study", type=click.Path(path_type=Path, dir_okay=False))
@_TO
@click.option("--images", required=True, metavar="DIR", help="Folder of the images, as the cluster sees it.")
@click.option("--run-dir", required=True, metavar="DIR", help="Where everything is kept, as the cluster sees it.")
@click.option("--manifest", metavar="FILE", help="The manifest, as the cluster sees it; by default it is sent along.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the study file. Repeatable."
)
@click.option(
    "--command",
    type=click.Choice(["run", "sweep", "audit"]),
    default="run",
    show_default=True,
    help="What is done with the study: cxrdist run, sweep or audit.",
)
@click.option(
    "--slurm",
    multiple=True,
    metavar="OPTION[=VALUE]",
    help="slurm: a long option of sbatch: nodes=2, gpus-per-node=4, time=12:00:00, partition=gpu. Repeatable.",
)
@click.option("--image", metavar="IMAGE", help="kuberay: the container image; needed.")
@_NAMESPACE
@click.option("--workers", type=click.IntRange(min=1), help="kuberay: the most worker pods; 4.")
@click.option("--gpus-per-worker", type=click.IntRange(min=0), help="kuberay: GPUs of each worker pod; 1.")
@click.option(
    "--follow/--detach", default=True, help="Show the job's output and end with its status (default), or not."
)
@click.option("--dry-run", is_flag=True, help="Show what would be sent, and send nothing.")
def submit(
    study: Path,
    to: str,
    images: str,
    run_dir: str,
    manifest: str | None,
    settings: tuple[str, ...],
    command: Any,
    follow: bool,  # noqa: FBT001 - click passes by name
    dry_run: bool,  # noqa: FBT001
    **options: Any,
) -> None:
    """Run a study, its sweep alone, or its audit as a job of a Ray cluster, of SLURM, or of Kubernetes.

    Sends the study file and its manifest, to a Ray cluster this software, too; elsewhere it is installed. Images, run
    directory and cache are places that all machines see. To resume a study, submit it again with the same --run-dir.
    """
    from cxrdist.config import load_study
    from cxrdist.run.job_package import pack, submission_name
    from cxrdist.run.job_servers import connect

    package = pack(load_study(study, settings=settings), run_dir, images, manifest, command)
    name = submission_name(package, time.time())
    server = connect(to, **options)
    if dry_run:
        click.echo(server.preview(package, name), nl=False)
        click.echo("nothing was sent (--dry-run)", err=True)
        return
    number = server.submit(package, name)
    click.echo(f"job {name} was submitted to {to}" + (f" as number {number}" if number else ""))
    if follow:
        _follow(server, number or name, to, options["namespace"])


@click.group(cls=OrderedGroup)
def jobs() -> None:
    """List, watch and stop the studies that were submitted to a cluster."""


@jobs.command(
    name="list",
    epilog="""
    cxrdist jobs list --to http://127.0.0.1:8265
    cxrdist jobs list --to slurm --run-dir /shared/runs/1
    cxrdist jobs list --to kuberay --namespace studies
    """,
)
@_where_jobs_are
def list_jobs(to: str, **options: Any) -> None:
    """List the studies that were submitted, the latest first."""
    from rich.console import Console
    from rich.table import Table

    from cxrdist.run.job_servers import connect

    table = Table(box=None, header_style="bold")
    for title in ("job", "study", "state", "started", "number"):
        table.add_column(title, no_wrap=True)
    for job in connect(to, **options).jobs():
        table.add_row(job.name, job.study, job.state, job.started, job.number)
    Console().print(table)


@jobs.command(
    epilog="""
    cxrdist jobs logs my-study-20261124-101500 --to http://127.0.0.1:8265
    cxrdist jobs logs my-study-20261124-101500 --to slurm --follow
    """
)
@click.argument("name", metavar="JOB")
@_where_jobs_are
@click.option("--follow", is_flag=True, help="Until the job ends, and end with its status.")
def logs(name: str, to: str, follow: bool, **options: Any) -> None:  # noqa: FBT001 - click passes by name
    """Show what a job has printed."""
    from cxrdist.run.job_servers import connect

    server = connect(to, **options)
    if follow:
        _follow(server, name, to, options["namespace"])
    else:
        click.echo(server.logs(name), nl=False)


@jobs.command(
    epilog="""
    cxrdist jobs stop my-study-20261124-101500 --to http://127.0.0.1:8265
    cxrdist jobs stop my-study-20261124-101500 --to kuberay
    """
)
@click.argument("name", metavar="JOB")
@_where_jobs_are
def stop(name: str, to: str, **options: Any) -> None:
    """Stop a job in order; submit the study again to resume it."""
    from cxrdist.run.job_servers import connect

    if connect(to, **options).stop(name):
        click.echo(f"job {name} was asked to stop; what was done is kept")
    else:
        click.echo(f"job {name} is not running")


def _show(text: str) -> None:
    click.echo(text, nl=False)
    require_reader()


def _follow(server: Any, name: str, to: str, namespace: str | None) -> None:
    try:
        status = server.follow(name, _show, click.echo)
    except KeyboardInterrupt:
        where = f"{to} --namespace {namespace}" if namespace else to
        click.echo(f"\nThe job goes on; `cxrdist jobs logs {name} --to {where} --follow` shows it again.")
        sys.exit(INTERRUPTED)
    if status:
        sys.exit(status)
