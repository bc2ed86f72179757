"""Options that commands share."""

from pathlib import Path
from typing import Any

import click

from cxrdist.cli.location import RunLocation

FOLDER = click.Path(path_type=Path, file_okay=False)


def study_options(function: Any) -> Any:
    """Give a command a study file and what changes it."""
    for option in (
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change a key of the study file, such as training.epochs=2. Repeatable.",
        ),
        click.option("--images", type=FOLDER, help="Folder that the manifest's paths start from."),
        click.argument("study", type=click.Path(path_type=Path, dir_okay=False)),
    ):
        function = option(function)
    return function


def run_options(function: Any) -> Any:
    """Give a command what says where and how a study is worked on."""
    for option in (
        click.option(
            "--run-dir",
            type=RunLocation(),
            help="Where everything is kept: a folder, or s3://BUCKET/PREFIX; by default runs/NAME.",
        ),
        click.option("--wandb", type=click.Choice(["off", "auto", "offline", "online"]), help="Weights & Biases; off."),
        execution_options,
    ):
        function = option(function)
    return function


def cache_option(function: Any) -> Any:
    """Give a command that reads a run directory what says where its decoded images are."""
    option = click.option(
        "--cache",
        type=RunLocation(),
        help="Where the decoded images are, if no longer where the run had them: a folder, or s3://BUCKET/PREFIX.",
    )
    return option(function)


def execution_options(function: Any) -> Any:
    """Give a command what says who works."""
    for option in (
        click.option("--address", metavar="ADDRESS", help="Ray cluster to join; by default a local one is started."),
        click.option(
            "--workers", type=click.IntRange(min=1), help="Fold jobs or trials at a time; by default by GPUs or cores."
        ),
        click.option(
            "--executor", type=click.Choice(["ray", "inline"]), help="ray (default): in parallel; inline: here."
        ),
    ):
        function = option(function)
    return function


def overrides(
    *, images: Path | None, executor: str | None, workers: int | None, address: str | None, wandb: str | None
) -> dict[str, Any]:
    """Return what the options change of a study file, by key."""
    return {
        "cohort.images": absolute(images),
        "execution.executor": executor,
        "execution.workers": workers,
        "execution.address": address,
        "tracking.wandb": wandb,
    }


def absolute(folder: Path | None) -> str | None:
    """Return a folder as a study takes it."""
    return None if folder is None else str(folder.resolve())
