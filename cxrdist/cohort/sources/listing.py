"""What a source says of its images, before any of them is opened."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cxrdist.cohort.sources.folder import Folder, is_plain, name_of
from cxrdist.errors import UserError

Progress = Callable[[int, int], None]
"""Called with how many files are done, of how many."""

SECOND = "is the second of its name"
"""The reason for which a file is not used."""

_LONGEST_TEXT = 1000
_OLDEST, _IMPOSSIBLE = 90, 120
_AGE = re.compile(r"0*(\d{1,3})(?:\.\d+)?\s*(?:Y|yrs?|years?)?", re.IGNORECASE)
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "O", "other": "O"}


@dataclass(frozen=True)
class SourceImage:
    """One image of a source."""

    image_id: str
    """Distinct within a cohort: the source's name comes first, unless a table gave it."""
    path: str
    """Relative to the source's folder, with slashes."""
    label: str | None
    """None where there is none; a word for a missing one is left to the recipe."""
    source: str
    patient_id: str | None = None
    group_id: str | None = None
    view_position: str | None = None
    age: str | None = None
    """Whole years, at most 90."""
    sex: str | None = None
    """M, F or O."""
    mask_paths: tuple[str, ...] = ()
    """Of the lungs: one file, or one a lung."""
    sha256: str | None = None
    """That the file must have."""
    original_sha256: str | None = None
    """Of the file that this one was made from; None where it is the file itself."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What else is known, by column, for `where`."""


@dataclass(frozen=True)
class Listing:
    """All that a source has."""

    images: tuple[SourceImage, ...]
    """In no order that means anything."""
    columns: tuple[str, ...]
    """Of `SourceImage.facts`."""
    patients: str
    """How patient ids were derived, after "patients of NAME: "."""
    unused: Mapping[str, tuple[str, ...]]
    """By reason, which follows a file's name in a sentence."""
    notes: tuple[str, ...] = ()
    """Sentences without a full stop."""


@dataclass(frozen=True)
class Place:
    """Where a source lies, and how it is read."""

    name: str
    """Of the source."""
    folder: Folder
    recipes: Path
    """The folder of the recipe, which the paths of tables of labels start from."""
    salt: Callable[[], bytes]
    """The secret key of pseudonyms, made where there is none yet."""
    keep_ids: bool
    """Whether patient ids of DICOM files are taken as they are."""
    on_progress: Progress | None = None
    """Called where every file has to be opened."""

    def each(self, files: Sequence[str]) -> Iterator[str]:
        """Yield files, and tell how many are done."""
        for done, file in enumerate(files, start=1):
            yield file
            if self.on_progress is not None:
                self.on_progress(done, len(files))


class Collector:
    """Gathers what a source has, and refuses what no table should hold."""

    def __init__(self, folder: Folder) -> None:
        self._images: dict[str, SourceImage] = {}
        self._paths: dict[str, SourceImage] = {}
        self._unused: defaultdict[str, list[str]] = defaultdict(list)
        for reason, names in folder.unused.items():
            self._unused[reason].extend(names)

    def add(self, image: SourceImage) -> None:
        """Take an image, unless its id or its file is taken, or a text of it cannot stand in a table."""
        texts = (image.image_id, image.path, image.label, image.patient_id, image.group_id, image.view_position)
        if any(text and (len(text) > _LONGEST_TEXT or not is_plain(text)) for text in texts):
            self.leave(ascii(image.path[:200]), "has a value with control characters, or of more than 1,000 characters")
        elif image.image_id in self._images:
            self.leave(image.path, _contradiction(self._images[image.image_id], image) or SECOND)
        elif image.path in self._paths:
            self.leave(image.path, _contradiction(self._paths[image.path], image) or "is listed twice")
        else:
            self._paths[image.path] = image
            self._images[image.image_id] = image

    def leave(self, name: str, reason: str) -> None:
        """Count what is not used."""
        self._unused[reason].append(name)

    def listing(self, patients: str, columns: Iterable[str] = (), notes: Iterable[str] = ()) -> Listing:
        """Return what was gathered."""
        unused = {reason: tuple(names) for reason, names in self._unused.items()}
        return Listing(tuple(self._images.values()), tuple(columns), patients, unused, tuple(notes))


def _contradiction(first: SourceImage, second: SourceImage) -> str | None:
    for name in ("label", "patient_id"):
        a, b = getattr(first, name), getattr(second, name)
        if a != b:
            return f"contradicts what was said of it before, which counts: {name} {b!r}, not {a!r}"
    return None


def shallowest_first(files: Iterable[str]) -> list[str]:
    """Return paths so that of several copies of a file that with the shortest way comes first."""
    return sorted(files, key=lambda path: (path.count("/"), path))


def find_file(folder: Folder, pattern: str, given: str | None) -> str | None:
    """Return the path of the one file nearest to the root whose name matches, or None where there is none.

    Args:
        folder: where to look.
        pattern: of the whole name, in any case.
        given: the path, where the recipe names it.

    Raises:
        UserError: the given one is not there, or several are equally near.
    """
    if given is not None:
        if given not in folder.files:
            raise UserError(f"There is no file {given!r} in {str(folder.root)!r}, which the recipe names.")
        return given
    found = shallowest_first(f for f in folder.files if re.fullmatch(pattern, name_of(f), re.IGNORECASE))
    nearest_ones = [path for path in found if path.count("/") == found[0].count("/")]
    if len(nearest_ones) > 1:
        raise UserError(
            f"{str(folder.root)!r} holds several tables, {nearest_ones[0]!r} and {nearest_ones[1]!r}; name one of them "
            "in the recipe, as 'metadata' of the source."
        )
    return nearest_ones[0] if nearest_ones else None


def age_of(text: str) -> str | None:
    """Return whole years, 90 for all above, of `65`, `65.0`, `058Y` or `45yrs`; None of anything else."""
    match = _AGE.fullmatch(text.strip())
    return str(min(int(match[1]), _OLDEST)) if match and int(match[1]) <= _IMPOSSIBLE else None


def sex_of(text: str) -> str | None:
    """Return M, F or O of such letters or words, in any case; None of anything else."""
    return _SEXES.get(text.strip().casefold())


def slug(text: str) -> str:
    """Return a finding as a label: `No Lung Opacity / Not Normal` as `no_lung_opacity_not_normal`."""
    return re.sub(r"[^0-9a-z|]+", "_", text.casefold()).strip("_")
