"""Collections that come with a table of their images, metadata.csv."""

from collections.abc import Iterable

from cxrdist.cohort.near_files import NearFiles
from cxrdist.cohort.sources.folder import Folder
from cxrdist.cohort.sources.listing import Place, find_file
from cxrdist.cohort.sources.sheet import Sheet, read_sheet
from cxrdist.config.section import Section
from cxrdist.errors import UserError


class MetadataOptions(Section):
    """How such a collection is read."""

    metadata: str | None = None
    """Its table, relative to the folder; by default the metadata.csv nearest to the root."""


def read_metadata(place: Place, options: MetadataOptions, collection: str, *columns: str) -> tuple[str, Sheet]:
    """Return the path of a collection's table, and the table.

    Raises:
        UserError: there is none, or it lacks one of the columns.
    """
    path = find_file(place.folder, r"metadata\.csv", options.metadata)
    if path is None:
        raise UserError(f"There is no metadata.csv of {collection} in {str(place.folder.root)!r}.")
    sheet = read_sheet(place.folder.root, path)
    sheet.require(*columns)
    return path, sheet


def notes_of_near(folder: Folder, listed: Iterable[str], table: str) -> list[str]:
    """Return a sentence about listed files that are not there, where others of nearly the same names are."""
    hint = NearFiles(folder.files).hint(sorted(set(listed) - set(folder.files)))
    return [f"of the files that {table} lists and that are not there, {hint}"] if hint else []
