"""Files that a table probably means, where it names others that are not there."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from cxrdist.cohort.sources.folder import name_of, walk
from cxrdist.errors import UserError

_ENDING = re.compile(r"\.(?:png|jpe?g|webp|dcm|dicom|tiff?|bmp|gif)$")


class NearFiles:
    """The files of a folder, by what nearly equal paths have in common."""

    def __init__(self, files: Iterable[str]) -> None:
        """Know paths relative to the folder."""
        self._by_path: defaultdict[str, list[str]] = defaultdict(list)
        self._by_name: defaultdict[str, list[str]] = defaultdict(list)
        for file in sorted(files):
            path = _folded(file)
            self._by_path[path].append(file)
            self._by_name[name_of(path)].append(file)

    def of(self, path: str) -> str | None:
        """Return the one file that a path may mean, or None where there is none, or several.

        They differ in small and capital letters, in how accents are stored, in backslashes, in the name's ending, or
        else in the folders.
        """
        wanted = _folded(path)
        found = self._by_path.get(wanted) or self._by_name.get(name_of(wanted)) or []
        return found[0] if len(found) == 1 else None

    def hint(self, missing: Sequence[str]) -> str:
        """Return of paths that are not there how many may be others, with one of them; "" where none is."""
        pairs = [(path, near) for path in missing if (near := self.of(path)) is not None and near != path]
        if not pairs:
            return ""
        path, near = pairs[0]
        found = f"{len(pairs):,} of {len(missing):,} may be others that are there, such as {near!r} for {path!r}"
        is_unseen = unicodedata.normalize("NFC", path) == unicodedata.normalize("NFC", near)
        return f"{found} (accents are stored in two ways, composed and decomposed)" if is_unseen else found


def hint_below(root: Path, missing: Sequence[str]) -> str:
    """Return `NearFiles.hint` for the files below a folder; "" where there are too many files to look at."""
    try:
        return NearFiles(walk(root).files).hint(missing)
    except UserError:
        return ""


def _folded(path: str) -> str:
    plain = unicodedata.normalize("NFC", path).casefold().replace("\\", "/").strip("/")
    return _ENDING.sub("", plain)
