"""`cxrdist cohort build`: from sources to the manifest of a cohort, and what a person sees meanwhile."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxrdist.cli.cohort_check import check_display
from cxrdist.cli.help import WithExamples
from cxrdist.errors import UserError

if TYPE_CHECKING:
    from cxrdist.cohort.build import BuiltCohort

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(
    cls=WithExamples,
    epilog="""
    cxrdist cohort build data_manifests/recipes/three_class.yaml --source bundle=DIR
    cxrdist cohort build recipe.yaml --source hospital=dicom --out cohort.csv
    cxrdist cohort build recipe.yaml --source cohen=data/cohen --source kaggle=data/kaggle --partial
    """,
)
@click.argument("recipe", type=_FILE)
@click.option(
    "--source", "sources", multiple=True, metavar="NAME=DIR", help="Folder of a source of the recipe. Repeatable."
)
@click.option("--out", type=_FILE, help="The manifest; by default NAME.csv, by the recipe's name, in this folder.")
@click.option("--partial", is_flag=True, help="Go on without sources, or images that `like` lists, that are missing.")
@click.option("--keep-ids", is_flag=True, help="Take PatientID of DICOM files as it is, instead of a pseudonym.")
@click.option(
    "--salt-file",
    type=_FILE,
    help="Secret of pseudonyms, made where there is none; by default one in your folder of settings.",
)
def build(
    recipe: Path,
    sources: tuple[str, ...],
    out: Path | None,
    partial: bool,  # noqa: FBT001 - click passes by name
    keep_ids: bool,  # noqa: FBT001
    salt_file: Path | None,
) -> None:
    """Build the manifest of a cohort from its sources, as they are on disk.

    RECIPE says which images of which sources are taken, and with which labels. The manifest is a table of ids, labels,
    patients, files and their hashes, without pixels. What is not used is counted, with the reason. A file that is there
    is replaced only if it is a manifest that was built before and not changed since.
    """
    build_command(recipe, sources, out, salt_file, partial=partial, keep_ids=keep_ids)


def build_command(
    recipe_file: Path,
    sources: tuple[str, ...],
    out: Path | None,
    salt_file: Path | None,
    *,
    partial: bool,
    keep_ids: bool,
) -> None:
    """Build a cohort, write its manifest, and say what came of it.

    Raises:
        UserError: as of `cxrdist.cohort.build.build_cohort` and `cxrdist.cohort.build_output.ManifestOutput`.
    """
    from rich.console import Console

    from cxrdist.cohort.build import build_cohort
    from cxrdist.cohort.build_output import ManifestOutput
    from cxrdist.cohort.recipes import read_recipe
    from cxrdist.cohort.sources.salt import read_salt
    from cxrdist.config.location import own_folder
    from cxrdist.run.object_store import user_cache
    from cxrdist.run.store import explained

    recipe, folders = read_recipe(recipe_file), _folders(sources)
    target = out or Path(f"{recipe.name}.csv")
    output = ManifestOutput(target, recipe, folders)
    cache = user_cache()
    console = Console()
    display = check_display(console)

    def looked_at(done: int, total: int) -> None:
        nonlocal display
        display.show(done, total)
        if done == total:
            # What is counted next is something else.
            display.end()
            display = check_display(console)

    def say(text: str) -> None:
        display.say(text)

    def salt() -> bytes:
        salt_path = salt_file or own_folder("XDG_CONFIG_HOME", ".config") / "cxrdist" / "salt"
        secret = read_salt(salt_path)
        say(
            f"Ids of DICOM files become pseudonyms with the secret in {salt_path}: keep it to yourself, and keep it, "
            "or the same patients get other ones."
        )
        return secret

    try:
        with explained(f"The cache folder {str(cache)!r}", "set XDG_CACHE_HOME to another folder", cache):
            built = build_cohort(
                recipe,
                folders,
                cache,
                salt=salt,
                keep_ids=keep_ids,
                partial=partial,
                on_progress=looked_at,
                on_note=say,
            )
    finally:
        display.end()
    with explained(f"The manifest {str(target)!r}", "name another as --out", target.parent):
        verb = "is" if output.write(built.manifest) else "was already"
    say(f"{target} {verb} the manifest of {_summary(built)}.")
    say(f"Its paths start at {built.root}: give that folder as --images.")
    if keep_ids:
        say("It holds patient ids as the files have them: keep it where those may be.")


def _folders(sources: tuple[str, ...]) -> dict[str, Path]:
    from cxrdist.config.location import with_home

    folders: dict[str, Path] = {}
    for source in sources:
        name, equals, folder = source.partition("=")
        if not (equals and name and folder):
            raise UserError(f"--source is {source!r}, but should be NAME=DIR, such as --source kaggle=data/kaggle.")
        if name in folders:
            raise UserError(f"--source names {name!r} twice; a source lies in one folder.")
        try:
            folders[name] = with_home(folder)
        except ValueError as error:
            raise UserError(f"--source is {source!r}, but {error}.") from None
    return folders


def _summary(built: "BuiltCohort") -> str:
    n_images = sum(built.labels.values())
    labels = ", ".join(f"{label} {count}" for label, count in built.labels.items())
    unknown = f" and {built.without_patient} images of unknown ones" if built.without_patient else ""
    groups = "" if built.groups is None else f", in {built.groups} groups after joining those of copies"
    return f"{n_images} images ({labels}) of {built.patients} patients{unknown}{groups}"
