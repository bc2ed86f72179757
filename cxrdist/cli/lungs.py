"""`cxrdist lungs`: the commands about lung masks, thin and quick to start."""

from pathlib import Path
from typing import Any

import click

from cxrdist.cli.help import OrderedGroup

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(cls=OrderedGroup)
def lungs() -> None:
    """Lung masks: train the network that makes them, or make them for a cohort.

    A study with the views `segmented`, `lung_box` or `lungs_blanked` needs neither: it makes its masks by itself.
    """


def _where(function: Any) -> Any:
    for option in (
        click.option("--workers", type=click.IntRange(min=1), help="Networks at a time; by default by GPUs or cores."),
        click.option("--executor", type=click.Choice(["ray", "inline"]), default="ray", show_default=True),
        click.option("--cache", type=_FOLDER, help="Folder of decoded images and masks; by default the user's cache."),
        click.option("--images", type=_FOLDER, required=True, help="Folder that the manifests' paths start from."),
        click.option(
            "--cohort", "manifest", type=_FILE, required=True, help="Manifest of the images, or a recipe that maps one."
        ),
    ):
        function = option(function)
    return function


@lungs.command(
    epilog="""
    cxrdist lungs train --cohort data_manifests/lungs_montgomery.yaml --images DIR
    cxrdist lungs train --cohort data_manifests/lungs_all.yaml --images DIR --with-heart cohen --hold-out 0.1
    cxrdist lungs train --cohort mine.csv --images DIR --test others.csv --folds 0 --init builtin
    """
)
@_where
@click.option(
    "--test",
    "tests",
    type=_FILE,
    multiple=True,
    help="Manifest of other images, with masks, to test the final network on. Repeatable.",
)
@click.option("--folds", type=click.IntRange(0, 100), default=5, show_default=True, help="By patient; 0 for none.")
@click.option(
    "--final/--no-final",
    default=True,
    show_default=True,
    help="Train the network to keep as well, or those of the folds alone.",
)
@click.option(
    "--hold-out",
    type=click.FloatRange(0, 0.5),
    default=0.0,
    show_default=True,
    help="Share of the patients that the final network is tested on instead of trained.",
)
@click.option("--per-source", type=click.IntRange(min=1), help="Most images of each source, drawn by patient.")
@click.option(
    "--with-heart",
    multiple=True,
    metavar="SOURCE",
    help="Source whose masks include the heart: they then decide the lungs' outer border alone. Repeatable.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=100, show_default=True)
@click.option(
    "--small-epochs",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The first so many epochs see images of half the side, at a quarter of the cost.",
)
@click.option("--init", metavar="WEIGHTS", help="Start from these: builtin, or a model.safetensors of such a training.")
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--learning-rate", type=click.FloatRange(0, 1, min_open=True), default=1e-3, show_default=True)
@click.option("--schedule", type=click.Choice(["constant", "cosine"]), default="constant", show_default=True)
@click.option("--augmentation", type=click.Choice(["paper", "strong"]), default="paper", show_default=True)
@click.option(
    "--normalization",
    type=click.Choice(["none", "batch"]),
    default="none",
    show_default=True,
    help="batch: learn faster, by batch normalisation that becomes part of the convolutions when the network is kept.",
)
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Write what is needed to resume at the first epoch's end after so many seconds.",
)
@click.option("--run-dir", type=_FOLDER, default=Path("runs/lungs"), show_default=True)
def train(**options: Any) -> None:
    """Train the lung network: folds by patient, then the network to keep; run again to resume.

    Prints IoU and Dice of each fold beside the paper's. The network is RUN_DIR/jobs/final/model.safetensors, which a
    study takes as lungs.weights.
    """
    from cxrdist.cli.lung_commands import train_command

    train_command(**options)


@lungs.command(
    epilog="""
    cxrdist lungs apply --cohort images.csv --images DIR --out masks
    cxrdist lungs apply --cohort images.csv --images DIR --out masks --weights runs/lungs/jobs/final/model.safetensors
    """
)
@_where
@click.option(
    "--out", type=_FOLDER, required=True, help="Folder of their own for the masks: PNG files named like the images."
)
@click.option(
    "--weights",
    default="builtin",
    show_default=True,
    help="Of the network: builtin, or a model.safetensors of `cxrdist lungs train`.",
)
def apply(**options: Any) -> None:
    """Make the lung masks of a cohort as files; none is computed twice.

    Writes a mask of each image's size, and masks.csv with what was measured of each and what is implausible. Images
    whose masks would have one name (x.png and x.jpg) have masks named by their whole names; masks.csv says which is
    whose. No file is replaced but what an earlier run wrote.
    """
    from cxrdist.cli.lung_commands import apply_command

    apply_command(**options)
