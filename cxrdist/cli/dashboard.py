"""`cxrdist dashboard`: panels of a study's runs at Weights & Biases."""

from pathlib import Path

import click

from cxrdist.cli.help import WithExamples


@click.command(
    cls=WithExamples,
    epilog="""
    cxrdist dashboard runs/demo
    cxrdist dashboard jobs/resnet34_three_class.yaml
    """,
)
@click.argument("target", metavar="STUDY|RUN")
def dashboard(target: str) -> None:
    """Make a W&B workspace for a study: curves of its folds by variant, results, ROC curves, sweep.

    Writes it into the run directory, of a study file runs/NAME, and saves it at W&B where there is an API key and a
    server that answers; doing it again replaces it.
    """
    from cxrdist.cli.commands import existing_run, place, require_study, run_store
    from cxrdist.config import load_study
    from cxrdist.config.location import is_remote
    from cxrdist.run.context import read_study
    from cxrdist.run.dashboard import WORKSPACE, write_dashboard

    if is_remote(target) or Path(target).is_dir():
        store = existing_run(target)
        require_study(store)
        study = read_study(store)
    else:
        study = load_study(Path(target))
        store = run_store(study)
    with store.explained("make room or give the right to write"):
        saved = write_dashboard(study, store)
    click.echo(f"workspace: {place(store, WORKSPACE)}")
    if saved.url:
        click.echo(f"saved: {saved.url}")
    else:
        click.echo(f"Not saved at W&B: {saved.reason}; `cxrdist dashboard {target}` does it where that is otherwise.")
