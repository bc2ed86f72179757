"""`cxrdist cohort fetch`: what a person sees and agrees to before a source is fetched, and while it is."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxrdist.cli.help import WithExamples
from cxrdist.cli.progress import CountDisplay
from cxrdist.errors import CxrdistError, UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

    from cxrdist.cohort.catalogue import Source


@click.command(
    cls=WithExamples,
    epilog="""
    cxrdist cohort fetch cohen
    cxrdist cohort fetch montgomery --out sources --yes
    """,
)
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data"),
    show_default=True,
    help="Folder of sources: the files come into OUT/NAME.",
)
@click.option("--sha256", metavar="DIGEST", help="Of the archive; one with another is refused.")
@click.option("--yes", is_flag=True, help="Do not ask: the terms are known and accepted.")
def fetch(name: str, out: Path, sha256: str | None, yes: bool) -> None:  # noqa: FBT001 - click passes by name
    """Fetch a public source of chest X-rays from its home; run again to continue.

    NAME is cohen, cohen-2020-05-27, montgomery, shenzhen, kaggle or radiography; of nih and rsna it says how to get
    them. Shows licence, terms, citation and size, and asks. OUT/NAME/fetched.json records what came; kept or shared
    without the files, it makes sure that the same ones are fetched again.
    """
    fetch_command(name, out, sha256, yes=yes)


def fetch_command(name: str, out: Path, sha256: str | None, *, yes: bool) -> None:
    """Show what is known of a source, ask, and fetch it.

    Raises:
        CxrdistError: it was not agreed to, or as of `cxrdist.cohort.fetch.fetch`.
    """
    from rich.console import Console

    from cxrdist.cohort import fetch as fetching
    from cxrdist.cohort.catalogue import find_source

    source = find_source(name)
    digest = _digest(sha256)
    there = fetching.find_fetched(source, out, digest)
    if there is not None:
        click.echo(
            f"{name} is in {out / name} already, fetched on {there.fetched}: {there.files:,} files of an archive with "
            f"the SHA-256 {there.sha256}; remove all but {fetching.LOCK} there to fetch them again."
        )
        return
    _show(source, out, digest)
    if not yes and not sys.stdin.isatty():
        raise UserError(
            f"Nobody can be asked whether to fetch {name} on these terms, for the input is not a terminal; give --yes "
            "if you accept them."
        )
    click.echo(f"size     {_size(source)}")
    if not yes and not click.confirm(f"Fetch {name} on these terms?"):
        raise CxrdistError("Nothing was fetched, for the terms were not accepted.")
    display = fetch_display(Console())
    try:
        done = fetching.fetch(source, out, display, sha256=digest)
    finally:
        display.end()
    click.echo(
        f"{name}: {done.files:,} files, {size_text(done.contents_bytes)}, in {out / name}; their archive's SHA-256 "
        f"({done.sha256}) is recorded in {out / name / fetching.LOCK}."
    )


def fetch_display(console: "Console") -> CountDisplay:
    """Return what shows how many bytes were received."""

    def columns() -> "Sequence[ProgressColumn]":
        from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

        return BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()

    def line(done: int, total: int | None) -> str:
        return f"received {size_text(done)}" + ("" if total is None else f" of {size_text(total)}")

    return CountDisplay(console, columns, line)


def size_text(size: int) -> str:
    """Return a number of bytes for people: `617.3 MB`."""
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_each:
            return f"{size / bytes_each:.1f} {unit}"
    return f"{size} bytes"


def _show(source: "Source", out: Path, digest: str | None) -> None:
    from cxrdist.cohort.catalogue import ByHand
    from cxrdist.cohort.fetch import LOCK, holds_files, read_lock

    if isinstance(source.home, ByHand):
        return
    target = out / source.name
    lock = read_lock(target)
    if digest is not None:
        checksum = f"{digest} (from --sha256)"
    elif source.home.sha256 is not None:
        checksum = source.home.sha256
    elif lock is not None and lock.address == source.home.address:
        checksum = f"{lock.sha256} (from {target / LOCK})"
    else:
        checksum = f"none is known beforehand: that of what comes is recorded in {target / LOCK}"
    replaces = f", where it replaces what was fetched on {lock.fetched}" if lock and holds_files(target) else ""
    click.echo(f"{source.name}: {source.title}")
    for name, text in (
        ("from", source.home.address),
        ("licence", source.licence),
        ("terms", source.terms),
        ("cite", source.citation),
        ("SHA-256", checksum),
        ("into", f"{target}{replaces}"),
    ):
        click.echo(f"{name:<8} {text}")


def _size(source: "Source") -> str:
    from cxrdist.cohort.catalogue import Download, KaggleDataset
    from cxrdist.cohort.fetch import kaggle_client
    from cxrdist.cohort.transfer import remote_size

    size = None
    if isinstance(source.home, Download):
        size = source.home.size or remote_size(source.home)
    elif isinstance(source.home, KaggleDataset):
        kaggle_client(source.home)
        size = source.home.size
    return "not known beforehand" if size is None else size_text(size)


def _digest(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise UserError(f"--sha256 is {text!r}, but should be 64 hexadecimal digits, as `sha256sum` prints them.")
    return None if text is None else text.lower()
