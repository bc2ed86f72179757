"""Where the manifest of a cohort goes that was built: never over what it was built from, nor over a file of others."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cxrdist.cohort.build import COLUMNS, write_manifest
from cxrdist.cohort.recipes import BuildRecipe
from cxrdist.config.location import with_home
from cxrdist.errors import UserError
from cxrdist.outputs import Outputs


class ManifestOutput:
    """The place of a manifest, which is not one of the files that it is built from, nor another file of the user's.

    What an earlier version built is told by its columns; a record of it was not kept, so that it stays unless it comes
    out the same.

    Args:
        path: of the manifest.
        recipe: that it is built by.
        folders: of the recipe's sources.

    Raises:
        UserError: something else lies there, or its folder does not exist.
    """

    def __init__(self, path: Path, recipe: BuildRecipe, folders: Mapping[str, Path]) -> None:
        if not path.parent.is_dir():
            raise UserError(
                f"The manifest {str(path)!r} cannot be written, for {str(path.parent)!r} is no folder; name another as "
                "--out."
            )
        self._path = path
        self._outputs = Outputs(
            path.parent,
            [path.name],
            option="--out",
            inputs=[recipe.path, *([] if recipe.like is None else [recipe.like]), *_tables(recipe, folders)],
            known=[path.name] if _is_manifest(path) else [],
        )

    def write(self, manifest: bytes) -> bool:
        """Write a manifest whole or not at all; return whether the file was another before.

        Raises:
            UserError: what lies there is not known to be this program's, and is another manifest.
            OSError: it cannot be written.
        """
        path = self._path
        is_recorded = self._outputs.is_recorded(path.name)
        if path.exists() and not is_recorded and not (path.is_file() and path.read_bytes() == manifest):
            raise UserError(
                f"{str(path)!r} is another manifest than what was built, and it is not known whose; move it away, or "
                "name another as --out."
            )
        with self._outputs.writing():
            return write_manifest(path, manifest)


def _tables(recipe: BuildRecipe, folders: Mapping[str, Path]) -> list[Path]:
    """Return where the tables may lie that the sources of a recipe name."""
    found = []
    for source in recipe.sources.values():
        options = source.options.model_dump()
        for part in (options, options.get("labels")):
            # What cannot be a path is said where the table is read.
            with suppress(ValueError):
                if isinstance(part, dict) and part.get("table"):
                    table = with_home(part["table"])
                    found += [start / table for start in (recipe.path.resolve().parent, *folders.values())]
    return found


def _is_manifest(path: Path) -> bool:
    """Return whether a file begins as a manifest that was built."""
    try:
        with path.open("rb") as file:
            return file.readline() == ",".join(COLUMNS).encode() + b"\n"
    except OSError:
        return False
