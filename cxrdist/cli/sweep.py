"""`cxrdist sweep`: searching for settings without training the outer folds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from cxrdist.cli.commands import place, run_store
from cxrdist.cli.gather_sweep import sweep_summary
from cxrdist.cli.provenance import git_commit_of_file
from cxrdist.config import load_study
from cxrdist.report.render import render_text
from cxrdist.report.sweep_tables import best_table
from cxrdist.run.claim import claim_study
from cxrdist.run.display import ConsoleDisplay
from cxrdist.run.driver import run_sweep
from cxrdist.run.tracking_upload import tracked


def sweep_command(study_file: Path, settings: Sequence[str], overrides: Mapping[str, Any], run_dir: str | None) -> None:
    """Do a study's sweep and print what was chosen.

    Raises:
        CxrdistError: a search has no trial that was done to the end.
    """
    study = load_study(study_file, settings=settings, overrides=overrides)
    store = run_store(study, run_dir)
    claim_study(store, study, [study_file])
    display = ConsoleDisplay(Console())
    with tracked(study, store, git_commit_of_file(study_file), display.say):
        run_sweep(study, store, display)
    summary = sweep_summary(store, study)
    if summary is not None:
        click.echo(render_text(best_table(summary)))
    command = f"cxrdist run {study_file}" + (f" --run-dir {place(store)}" if run_dir else "")
    click.echo(f"`{command}` trains each fold with what was chosen.")
