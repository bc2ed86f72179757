"""What the commands do, once they are chosen."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from cxrdist.cli.aggregate import log_aggregate
from cxrdist.cli.gather import gather, results_fingerprint, with_images
from cxrdist.cli.kept_images import kept_pictures, predictions_mark, write_kept_images
from cxrdist.cli.location import shown as shown_path
from cxrdist.cli.provenance import git_commit_of_file
from cxrdist.cohort.phantoms import draw_phantoms
from cxrdist.config import Study, load_study
from cxrdist.config.location import is_remote
from cxrdist.errors import CxrdistError, UserError
from cxrdist.outputs import RECORD, was_changed
from cxrdist.report.render import render_text
from cxrdist.report.sections import Findings
from cxrdist.report.write import headline_tables, write_report
from cxrdist.run.artefacts import read_json
from cxrdist.run.claim import claim_study
from cxrdist.run.computing import Computing
from cxrdist.run.context import read_plan
from cxrdist.run.display import ConsoleDisplay
from cxrdist.run.driver import run_study
from cxrdist.run.look_ahead import look_ahead
from cxrdist.run.lung_plan import LUNGS
from cxrdist.run.object_store import open_store
from cxrdist.run.store import Store, explained
from cxrdist.run.tracking_upload import tracked
from cxrdist.study import layout


def run_command(
    study_file: Path,
    settings: Sequence[str],
    overrides: Mapping[str, Any],
    run_dir: str | None,
    *,
    dry_run: bool = False,
) -> None:
    """Run a study and make its report, or say what that would do to the run directory.

    Raises:
        CxrdistError: fold jobs failed or diverged; the others are done and kept.
    """
    study = load_study(study_file, settings=settings, overrides=overrides)
    store = run_store(study, run_dir)
    console = Console()
    display = ConsoleDisplay(console)
    if dry_run:
        look_ahead(study, store, display)
        return
    claim_study(store, study, [study_file])
    with tracked(study, store, git_commit_of_file(study_file), display.say) as display.follower:
        trained = run_to_end(study, store, display)
        log_aggregate(study, store, print_report(store, partial=False, keep=not trained), display.say)


def run_to_end(study: Study, store: Store, display: ConsoleDisplay, computing: Computing | None = None) -> bool:
    """Do whatever of a study is not done yet, as `run_study` does; return whether anything was.

    Raises:
        CxrdistError: fold jobs failed or diverged; the others are done and kept.
    """
    summary = run_study(study, store, display, computing)
    n_jobs = len(summary.plan.jobs)
    if summary.done_before == n_jobs:
        display.say(f"Nothing to train: all {n_jobs} fold jobs of {store.where('')} were done before.")
    elif summary.done_before:
        display.say(f"{summary.done_before} of {n_jobs} fold jobs were done before.")
    if summary.unfinished:
        lines = "\n".join(f"  {key}  {o.state}: {o.reason}" for key, o in summary.unfinished.items())
        raise CxrdistError(
            f"{len(summary.unfinished)} of {n_jobs} fold jobs have no predictions:\n{lines}\n"
            f"Run again to try the failed ones once more, or see `cxrdist report {place(store)} --partial`."
        )
    return summary.done_before < n_jobs


def report_command(run_dir: str, *, partial: bool, cache: str | None) -> None:
    """Make tables, figures and the page."""
    store = existing_run(run_dir)
    require_study(store)
    print_report(store, partial=partial, cache=cache)


def phantoms_command(folder: Path, patients: int, size: int, seed: int, marker: str | None) -> None:
    """Draw phantoms."""
    with explained(f"The folder {folder}", "choose another", folder):
        manifest = draw_phantoms(
            folder, patients_per_class=patients, images_per_patient=(1, 3), size=size, seed=seed, marker=marker
        )
    click.echo(f"phantoms: {manifest}")


def schema_command() -> None:
    """Print the JSON schema of a study file."""
    click.echo(json.dumps(Study.model_json_schema(), indent=2))


def run_store(study: Study, run_dir: str | None = None) -> Store:
    """Return the run directory of a study: the one given, or the one of its name."""
    return open_store(run_dir or f"runs/{study.name}")


def existing_run(run_dir: str) -> Store:
    """Return a run directory's artefacts.

    Raises:
        UserError: it is not a run directory.
    """
    store = open_store(run_dir)
    if not store.hurried().exists(layout.PLAN):
        raise UserError(f"{run_dir} is not a run directory (it holds no {layout.PLAN}); `cxrdist run` makes one.")
    return store


def require_study(store: Store) -> None:
    """Refuse a run directory that holds something else.

    Raises:
        UserError: the lung network is trained there.
    """
    if (read_json(store, layout.PLAN) or {}).get("kind") == LUNGS:
        raise UserError(
            f"{store.where('')} holds the training of a lung network, not a study; `cxrdist status` shows how it "
            "stands."
        )


def print_report(store: Store, *, partial: bool, keep: bool = False, cache: str | None = None) -> Findings:
    """Print a report's tables, then write the report as `write_report_of` does."""
    findings = Findings.of(gather(store, partial=partial))
    for table in headline_tables(findings):
        click.echo(render_text(table))
    findings = write_report_of(store, findings, keep=keep, cache=cache)
    click.echo(f"report: {place(store, f'{layout.REPORT}/index.html')}")
    return findings


def write_report_of(store: Store, findings: Findings, *, keep: bool = False, cache: str | None = None) -> Findings:
    """Write the report of a run, and say what it lacks; return what it shows, with its images.

    Args:
        store: the run directory.
        findings: without images.
        keep: whether nothing is done where there is a report of the same results already.
        cache: location of the cache, where it is no longer the one that the run had.
    """
    results, plan = results_fingerprint(store), read_plan(store)
    before = store.read_json(layout.REPORT_MADE_FROM) or {}
    if keep and store.exists(f"{layout.REPORT}/index.html") and before.get("results") == results:
        return findings
    with_pictures, shown = with_images(store, findings.results, cache)
    predictions = predictions_mark(store, plan)
    files = before.get("files", [])
    if before.get("predictions", predictions) == predictions:
        with_pictures = replace(with_pictures, kept_pictures=kept_pictures(store, with_pictures, files))
    findings = replace(findings, results=with_pictures)
    with store.explained("make room or give the right to write"):
        store.write_json(layout.REPORT_MADE_FROM, {**before, "results": None, "files": files})
        if shown.made and shown.images:
            write_kept_images(store, plan, list(shown.images.values()))
        paths = write_report(findings, store.root / layout.REPORT, known=_known(store, files))
        written = [path.relative_to(store.root).as_posix() for path in paths]
        # Such as tables of a variant that the study no longer has; what others put there or changed is theirs.
        stale = sorted(set(files).intersection(store.names(layout.REPORT)).difference(written))
        store.remove(*(name for name in stale if not was_changed(store.root / layout.REPORT, _in_report(name))))
        store.push(layout.REPORT)
        # What could not be had now may be there next time.
        made_from = None if shown.lacking else results
        store.write_json(
            layout.REPORT_MADE_FROM, {"results": made_from, "predictions": predictions, "files": sorted(written)}
        )
    for sentence in shown.lacking:
        click.echo(sentence)
    return findings


def _known(store: Store, files: Sequence[str]) -> list[str]:
    """Return the names in the report's folder that may be replaced, of artefacts that an earlier report listed."""
    folder = store.root / layout.REPORT
    if is_remote(store.location):
        # Here are copies, which may be older than what another machine wrote.
        (folder / RECORD).unlink(missing_ok=True)
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return [_in_report(name) for name in files]


def _in_report(name: str) -> str:
    return name.removeprefix(f"{layout.REPORT}/")


def place(store: Store, name: str = "") -> str:
    """Return where an artefact is, as it is short to read."""
    return store.where(name) if is_remote(store.location) else str(shown_path(store.root / name))
