"""The command line: thin, and quick to start; what a command needs is imported when it runs."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from cxrdist import __version__
from cxrdist.cli.cohort import cohort
from cxrdist.cli.dashboard import dashboard
from cxrdist.cli.help import OrderedGroup
from cxrdist.cli.jobs import jobs, submit
from cxrdist.cli.location import RunLocation
from cxrdist.cli.lungs import lungs
from cxrdist.cli.options import absolute, cache_option, execution_options, overrides, run_options, study_options
from cxrdist.cli.output import ReaderGoneError, survive_readers
from cxrdist.errors import CxrdistError, UserError, explanation
from cxrdist.run.background import is_left_behind

INTERRUPTED = 130
UNREAD = 141
"""As of a program that SIGPIPE ends."""

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(cls=OrderedGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Which chest-X-ray classifier is better? Describe a study in one file; every fold of every variant is trained
    in parallel, and the tables come from predictions on images that the network did not see.

    \b
    First steps:
      cxrdist phantoms phantoms                       draw images to try it on
      cxrdist plan jobs/demo.yaml --images phantoms   see what would be done
      cxrdist run jobs/demo.yaml --images phantoms    do it; again to resume
    """


@cli.command(
    epilog="""
    cxrdist run jobs/resnet34_three_class.yaml --images DIR
    cxrdist run jobs/vgg16_four_class.yaml --images DIR --set training.epochs=2 --workers 2
    cxrdist run study.yaml --executor inline --run-dir /data/runs/first
    cxrdist run study.yaml --images DIR --set folds.k=10 --dry-run
    """
)
@study_options
@run_options
@click.option("--dry-run", is_flag=True, help="Say which fold jobs would be kept, set aside and done; do nothing.")
def run(study: Path, settings: tuple[str, ...], run_dir: str | None, dry_run: bool, **options: Any) -> None:  # noqa: FBT001 - click passes by name
    """Run a study; run it again to resume.

    Does whatever of the study is not done yet, its sweep first where it has one, then makes its tables, figures and
    page. What a changed study makes stale is set aside in the run directory.
    """
    from cxrdist.cli.commands import run_command

    run_command(study, settings, overrides(**options), run_dir, dry_run=dry_run)


@cli.command(
    epilog="""
    cxrdist sweep jobs/resnet34_three_class_sweep.yaml --images DIR
    cxrdist sweep study.yaml --set sweep.trials=50 --set sweep.nesting=shared
    """
)
@study_options
@run_options
def sweep(study: Path, settings: tuple[str, ...], run_dir: str | None, **options: Any) -> None:
    """Search for settings, as `sweep` in a study file says; do it again to resume.

    Inside the training part of every outer fold, by inner folds of its own, so that no test image has a part in a
    choice. `cxrdist run` does the same first, and then trains each fold with what was chosen.
    """
    from cxrdist.cli.sweep import sweep_command

    sweep_command(study, settings, overrides(**options), run_dir)


@cli.command(
    epilog="""
    cxrdist plan jobs/resnet34_three_class.yaml --images DIR
    cxrdist plan study.yaml --set folds.k=10
    """
)
@study_options
def plan(study: Path, images: Path | None, settings: tuple[str, ...]) -> None:
    """Show what a study would do; train nothing.

    Cohort by class and source, folds with their class counts, fold jobs, images to pass, parameters, estimated
    memory, and warnings.
    """
    from cxrdist.cli.planning import plan_command

    plan_command(study, settings, {"cohort.images": absolute(images)})


@cli.command(
    epilog="""
    cxrdist status runs/demo
    cxrdist status runs/demo --watch
    """
)
@click.argument("run_dir", metavar="RUN", type=RunLocation())
@click.option("--watch", is_flag=True, help="Show it as it changes, until nobody works on the run any more.")
def status(run_dir: str, watch: bool) -> None:  # noqa: FBT001 - click passes by name
    """Show how every fold job of a run stands."""
    from cxrdist.cli.status import status_command

    status_command(run_dir, watch=1.0 if watch else None)


@cli.command(
    epilog="""
    cxrdist report runs/demo
    cxrdist report runs/demo --partial
    """
)
@click.argument("run_dir", metavar="RUN", type=RunLocation())
@click.option("--partial", is_flag=True, help="Make the tables of a study that is not complete; they say so.")
@cache_option
def report(run_dir: str, partial: bool, cache: str | None) -> None:  # noqa: FBT001 - click passes by name
    """Make tables and figures again, from predictions.

    Images and heat maps are drawn anew where the cache of decoded images is at hand, else as they were kept.
    """
    from cxrdist.cli.commands import report_command

    report_command(run_dir, partial=partial, cache=cache)


@cli.command(
    epilog="""
    cxrdist compare runs/frozen runs/finetuned
    cxrdist compare runs/a runs/b runs/c --out runs/a-b-c
    """
)
@click.argument("run_dirs", metavar="RUN RUN ...", nargs=-1, required=True, type=RunLocation())
@click.option(
    "--out", type=_FOLDER, default="runs/compare", show_default=True, help="Folder of the page, tables and figures."
)
def compare(run_dirs: tuple[str, ...], out: Path) -> None:
    """Put complete studies of the same cohort side by side.

    Scores, intervals and tests of all their variants, and the settings in which the studies differ. Studies of other
    images or classes are refused.
    """
    from cxrdist.cli.compare import compare_command

    compare_command(run_dirs, out)


@cli.command(
    epilog="""
    cxrdist heatmaps runs/demo
    cxrdist heatmaps runs/demo --image patient-7-a --image patient-9-b
    cxrdist heatmaps runs/demo --variant whole-vgg16 --class true
    """
)
@click.argument("run_dir", metavar="RUN", type=RunLocation())
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="ID",
    help="Draw the maps of this image instead, into RUN/heatmaps/images. Repeatable.",
)
@click.option("--variant", "variants", multiple=True, metavar="NAME", help="Of this variant alone. Repeatable.")
@click.option(
    "--method",
    type=click.Choice(["auto", "cam", "gradcam"]),
    default="auto",
    show_default=True,
    help="auto: class activation maps where the head allows them, else Grad-CAM.",
)
@click.option(
    "--class",
    "class_",
    default="predicted",
    show_default=True,
    metavar="CLASS",
    help="Which class is explained: predicted, true, or the name of one for all images.",
)
@cache_option
def heatmaps(
    run_dir: str, images: tuple[str, ...], variants: tuple[str, ...], method: Any, class_: str, cache: str | None
) -> None:
    """Show which parts of an image speak for a class, and how much of that lies in the lungs.

    Makes the maps of all test images, each by the network that was not trained on the image, and prints the share of
    their mass inside the lungs; what was made before is not made again.
    """
    from cxrdist.cli.heatmaps import heatmaps_command

    heatmaps_command(run_dir, images, variants, method, class_, cache)


@cli.command(
    epilog="""
    cxrdist audit runs/my-study
    cxrdist audit runs/my-study --executor inline
    cxrdist audit jobs/vgg16_four_class.yaml --images DIR
    """
)
@click.option("--run-dir", type=RunLocation(), help="Of a study file: where everything is kept; by default runs/NAME.")
@cache_option
@execution_options
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Of a study file: change a key of it. Repeatable."
)
@click.option("--images", type=_FOLDER, help="Of a study file: folder that the manifest's paths start from.")
@click.argument("target", metavar="RUN|STUDY")
def audit(
    target: str,
    images: Path | None,
    settings: tuple[str, ...],
    run_dir: str | None,
    **execution: Any,
) -> None:
    """Audit a study for shortcuts: what tells the classes apart that is not the lungs?

    Trains the study's models on everything but the lungs, and to tell the source of images of one class; tries
    linear classifiers of the files' shapes and of thumbnails; with the folds of the study, each with an interval.
    """
    from cxrdist.cli.audit import audit_command

    audit_command(target, settings, absolute(images), execution, run_dir)


@cli.command(
    epilog="""
    cxrdist phantoms phantoms
    cxrdist phantoms large --patients 40 --size 256 --seed 7
    cxrdist phantoms marked --marker covid19
    """
)
@click.argument("folder", type=_FOLDER)
@click.option("--patients", type=click.IntRange(2, 10_000), default=18, show_default=True, help="Patients a class.")
@click.option("--size", type=click.IntRange(64, 512), default=96, show_default=True, help="Side in pixels.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--marker", metavar="CLASS", help="Plant a shortcut: a bright corner marker on every image of this class."
)
def phantoms(folder: Path, patients: int, size: int, seed: int, marker: str | None) -> None:
    """Draw a cohort of chest phantoms to try things on.

    Four classes, several patients with several images each, lung masks, and a manifest.
    """
    from cxrdist.cli.commands import phantoms_command

    phantoms_command(folder, patients, size, seed, marker)


@cli.command(
    epilog="""
    cxrdist schema > study.schema.json
    """
)
def schema() -> None:
    """Print the JSON schema of a study file.

    It describes every key, and editors complete and check a study file by it.
    """
    from cxrdist.cli.commands import schema_command

    schema_command()


cli.add_command(dashboard)
cli.add_command(cohort)
cli.add_command(lungs)
cli.add_command(submit)
cli.add_command(jobs)


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit status 2, never a traceback."""
    # A cluster's time limit comes as SIGTERM: stop in order, as for Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    # A thread of Ray Tune's that works on for a moment after its cluster was left would start another one. Ray reads
    # this when it is imported.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    survive_readers()
    status = _run()
    if is_left_behind():
        os._exit(status)
    sys.exit(status)


def _run() -> int:
    try:
        code = cli.main(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CxrdistError as error:
        _complain(str(error))
        return error.exit_status
    except (KeyboardInterrupt, click.Abort):
        _complain("Interrupted; what was done is kept, and the same command continues.")
        return INTERRUPTED
    except ReaderGoneError:
        return UNREAD
    except OSError as error:
        sentence = explanation(error)
        if sentence is None:
            raise
        _complain(sentence)
        return UserError.exit_status
    return code if isinstance(code, int) else 0


def _complain(text: str) -> None:
    click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(text, err=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
