"""`cxrdist cohort check`: what a person sees while a cohort is checked, and of what was found."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxrdist.cli.help import WithExamples
from cxrdist.cli.progress import CountDisplay
from cxrdist.errors import CxrdistError, UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

    from cxrdist.cohort.check_cohort import CohortCheck
    from cxrdist.cohort.chunks import ChunkRunner

PAGE = "index.html"


@click.command(
    cls=WithExamples,
    epilog="""
    cxrdist cohort check manifest.csv --images DIR
    cxrdist cohort check data_manifests/four_class.yaml --images DIR --out checked --workers 2
    cxrdist cohort check cohort.parquet --images /data --classes normal,covid19 --executor ray --address HOST:6379
    """,
)
@click.option("--classes", metavar="A,B,C", help="The labels that are meant; by default whatever there is.")
@click.option("--address", metavar="ADDRESS", help="Of --executor ray: cluster to join; by default a local one starts.")
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where files are decoded: in processes of this machine, or as tasks of a Ray cluster that sees the files.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Of --executor local: cores to decode on; by default all there are."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/cohort-check"),
    show_default=True,
    help="Folder of the page and the lists.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder that the manifest's paths start from.",
)
@click.argument("manifest", type=click.Path(path_type=Path, dir_okay=False))
def check(
    manifest: Path,
    images: Path,
    out: Path,
    workers: int | None,
    executor: str,
    address: str | None,
    classes: str | None,
) -> None:
    """Check a cohort before anybody trains on it; run again to continue.

    MANIFEST is a .csv or .parquet table, or a .yaml recipe. Every file is opened, hashed and decoded; copies of one
    radiograph are found, and what tells the classes apart without the lungs is measured. OUT/index.html shows it, and
    OUT/manifest.csv is the manifest with copies joined in group_id. OUT is a folder of its own, in which only what an
    earlier check wrote is replaced.

    \b
    Exit status 1 where something must be put right first:
      rows that no study accepts (empty, listed twice, a label not in --classes, a path out of DIR);
      files that are missing or of another SHA-256;
      more unusable images than a study allows by default;
      copies of one radiograph with different labels;
      copies of one radiograph in different patients and groups, which folds would divide;
      fewer than two classes, or a class with fewer than two patients or groups.
    Exit status 2 where the call is wrong or the manifest cannot be read.
    Exit status 0 otherwise: folds may be built, whatever is warned of.
    """
    check_command(manifest, images, out, _classes(classes), workers=workers, executor=executor, address=address)


def check_command(
    manifest: Path,
    images: Path,
    out: Path,
    classes: Sequence[str] | None,
    *,
    workers: int | None,
    executor: str,
    address: str | None,
) -> None:
    """Check a cohort, write the page and the lists, and print what matters most.

    Raises:
        CxrdistError: something must be put right first, or as of `check_cohort`.
    """
    from rich.console import Console

    from cxrdist.cohort.check_cohort import check_cohort
    from cxrdist.cohort.check_write import LISTS
    from cxrdist.cohort.manifest import files_of_manifest
    from cxrdist.outputs import Outputs
    from cxrdist.run.object_store import user_cache
    from cxrdist.run.store import explained

    if address is not None and executor != "ray":
        raise UserError(f"--address is {address!r}, which is about --executor ray; add it, or leave --address out.")
    if workers is not None and executor == "ray":
        raise UserError(f"--workers is {workers}, which is about --executor local; with ray, the cluster decides.")
    read = files_of_manifest(manifest, images)
    outputs = Outputs(out, [PAGE, *LISTS], option="--out", inputs=read, trees=[images])
    cache = user_cache()
    display = check_display(Console())
    try:
        with (
            _runner(executor, workers, address) as run_chunks,
            explained(f"The cache folder {str(cache)!r}", "set XDG_CACHE_HOME to another folder", cache),
        ):
            done = check_cohort(
                manifest,
                images,
                cache,
                classes=classes,
                run_chunks=run_chunks,
                on_progress=display.show,
                on_note=display.say,
            )
    finally:
        display.end()
    with explained(f"The folder {str(out)!r}", "give another one as --out", out), outputs.writing():
        page = _write(done, out)
    _summarise(done, page)


def _write(done: "CohortCheck", out: Path) -> Path:
    from cxrdist.cohort.check_write import write_lists
    from cxrdist.report.cohort_page import render_cohort_page
    from cxrdist.report.cohort_tables import MOST_ROWS
    from cxrdist.run.store import Store

    written = write_lists(done, out, MOST_ROWS)
    store = Store(out)
    store.write_bytes(PAGE, render_cohort_page(done, written).encode())
    return store.local(PAGE)


def _summarise(done: "CohortCheck", page: Path) -> None:
    from cxrdist.report.cohort_page import extent

    click.echo(extent(done))
    before, after = (len(set(groups)) for groups in (done.copies.groups_before, done.copies.groups))
    click.echo(
        f"pairs of copies of one radiograph: {len(done.copies.pairs):,}; patients or groups: {before:,}, with copies "
        f"joined {after:,}"
    )
    refused = [finding for finding in done.findings if finding.refused]
    for finding in done.findings:
        colour, word = ("red", "Put right") if finding.refused else ("yellow", "Warning")
        click.secho(f"{word}: ", fg=colour, nl=False)
        click.echo(finding.sentence)
    click.echo(f"page: {page}")
    if refused:
        raise CxrdistError(
            f"{len(refused)} finding{'s' if len(refused) > 1 else ''} of {len(done.findings)} must be put right before "
            f"folds are made; {page} says how."
        )


@contextmanager
def _runner(executor: str, workers: int | None, address: str | None) -> Iterator["ChunkRunner"]:
    if executor == "ray":
        from cxrdist.run.ray_session import RaySession

        with RaySession(address) as session:
            yield session.run_chunks
        return
    from cxrdist.cohort.chunks import run_on_cores

    with _on_cores(workers):
        yield run_on_cores


@contextmanager
def _on_cores(count: int | None) -> Iterator[None]:
    """Let this process, and those that it starts, use at most `count` of its cores, where the system can say so."""
    if count is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(every)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, every)


def _classes(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise UserError(f"--classes is {text!r}, but should be distinct labels with commas between, as normal,covid19.")
    return names


def check_display(console: "Console") -> CountDisplay:
    """Return what shows how many images were looked at."""

    def columns() -> "Sequence[ProgressColumn]":
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        return TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()

    return CountDisplay(console, columns, lambda done, total: f"looked at {done:,} of {total or 0:,} images")
