"""What commands write at a place that the user names: never over an input, nor over a file of the user's own."""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cxrdist.errors import UserError

RECORD = ".cxrdist.json"
"""In a folder: which of its files this program wrote, and what tells whether they are still as it wrote them."""

_ENDING = re.compile(r"\.([A-Za-z][A-Za-z0-9]*)$")
_OF_IMAGES = frozenset(
    ("bmp", "dcm", "dic", "dicom", "gif", "ima", "j2k", "jp2", "jpeg", "jpg", "png", "tif", "tiff", "webp")
)

_Mark = tuple[int, int, str]
"""Size in bytes, time of the last change in nanoseconds, SHA-256."""
_Record = dict[str, _Mark | None]
"""By name; None of a file that is being written, or was when the command was killed."""


class Outputs:
    """The files that a command is to write into a folder, once it is known that none of them is the user's.

    A file may be written that is not there, and one be replaced that this program wrote and nobody has changed since:
    RECORD says so, by the SHA-256, which is computed only where size and time are others. Names are recorded before
    the files are written, so that a command that was killed half way may go on.

    Args:
        folder: need not be there.
        names: of the files, relative to it, with slashes.
        option: by which the user named the folder, for messages, such as `--out`.
        inputs: files that the command reads, or would read if they were there.
        trees: folders of images. Below them a folder of its own is no harm, but one with images of others is.
        known: names that an earlier version, which kept no record, is known to have written.

    Raises:
        UserError: one is an input, lies among the inputs, or is a file that this program is not known to have written.
    """

    def __init__(
        self,
        folder: Path,
        names: Iterable[str],
        *,
        option: str,
        inputs: Iterable[Path] = (),
        trees: Iterable[Path] = (),
        known: Collection[str] = (),
    ) -> None:
        self._folder = os.path.realpath(folder)
        self._names = list(dict.fromkeys(names))
        self._option, self._remedy = option, f"give another place as {option}"
        self._inputs = _without_links(inputs)
        self._trees = {os.path.realpath(tree) for tree in trees}
        self._known = frozenset(known)
        self._check()

    def is_recorded(self, name: str) -> bool:
        """Return whether a file is recorded and is as it was written."""
        return _is_ours(Path(self._folder, name), name, read_record(self._folder) or {})

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let the files be written while the context lasts, and record them.

        Raises:
            UserError: meanwhile the user has put a file there.
            OSError: the folder cannot be written.
        """
        self._check()
        Path(self._folder).mkdir(parents=True, exist_ok=True)
        self._record(dict.fromkeys(self._names))
        try:
            yield
        finally:
            # Where it cannot be written the names stay claimed, which loses nothing.
            with suppress(OSError):
                paths = {name: Path(self._folder, name) for name in self._names}
                self._record({name: _mark(path) for name, path in paths.items() if path.is_file()})

    def _record(self, own: _Record) -> None:
        names = set(self._names)
        others = {name: mark for name, mark in (read_record(self._folder) or {}).items() if name not in names}
        path = Path(self._folder, RECORD)
        temporary = path.with_name(f"{RECORD}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps({"files": others | own}, indent=0) + "\n", encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _check(self) -> None:
        ours: _Record = {**dict.fromkeys(self._known), **(read_record(self._folder) or {})}
        targets = _without_links(Path(self._folder, name) for name in self._names)
        there = {name: path for name, path in zip(self._names, targets, strict=True) if os.path.lexists(path)}
        read = set(self._inputs)
        of_inputs = {_identity(path) for path in self._inputs} - {None} if there else set()
        for path in targets:
            if path in read or _identity(path) in of_inputs:
                raise UserError(f"{path!r} would be written, but is an input of the command; {self._remedy}.")
        for name, path in there.items():
            if not _is_ours(Path(path), name, ours):
                what = "was changed since this program wrote it" if name in ours else "is not known to be its own"
                raise UserError(f"{path!r} is there and {what}; move it away, or {self._remedy}.")
        self._check_folders(ours)

    def _check_folders(self, ours: Mapping[str, object]) -> None:
        written = {*_without_links(Path(self._folder, name) for name in (*ours, RECORD))}
        images = (path for path in self._inputs if _may_be_image(path))
        holding = {os.path.dirname(path) for path in images}  # noqa: PTH120 - of thousands of texts
        folders = dict.fromkeys(os.path.dirname(os.path.join(self._folder, name)) for name in self._names)  # noqa: PTH118, PTH120
        for folder in folders:
            _require_folder(Path(folder), self._option)
            real = os.path.realpath(folder)
            if real in self._trees:
                raise UserError(f"{folder!r} is a folder of inputs, which nothing is written into; {self._remedy}.")
            is_among = any(real.startswith(os.path.join(tree, "")) for tree in self._trees)  # noqa: PTH118
            if is_among and (real in holding or not written.issuperset(_images_of(real))):
                raise UserError(f"{folder!r} lies among the inputs and is no folder of its own; {self._remedy}.")


def was_changed(folder: Path, name: str) -> bool:
    """Return whether a file is there that this program wrote, but is not as it was written."""
    record, path = read_record(folder) or {}, folder / name
    return name in record and os.path.lexists(path) and not _is_ours(path, name, record)


def read_record(folder: str | Path) -> _Record | None:
    """Return what the RECORD of a folder says, or None where there is none that can be read."""
    try:
        files = json.loads(Path(folder, RECORD).read_bytes())["files"]
        return {str(name): None if mark is None else _as_mark(*mark) for name, mark in files.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _as_mark(size: int, changed: int, digest: str) -> _Mark:
    return size, changed, digest


def _mark(path: Path) -> _Mark:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, digest


def _is_ours(path: Path, name: str, ours: Mapping[str, _Mark | None]) -> bool:
    if name not in ours or path.is_symlink() or not path.is_file():
        return False
    mark = ours[name]
    if mark is None:
        return True
    try:
        status = path.stat()
        return (status.st_size, status.st_mtime_ns) == mark[:2] or (
            status.st_size == mark[0] and _mark(path)[2] == mark[2]
        )
    except OSError:
        return False


def _without_links(paths: Iterable[Path]) -> list[str]:
    """Return absolute paths through no links but, perhaps, the last; thousands of files lie in a few folders."""
    folders: dict[str, str] = {}
    found = []
    for path in paths:
        folder, name = os.path.split(path)
        if name in ("", ".", ".."):
            folder, name = str(path), ""
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        found.append(os.path.join(folders[folder], name) if name else folders[folder])  # noqa: PTH118
    return found


def _identity(path: str) -> tuple[int, int] | None:
    """Return what two names of one file have in common, or None where there is no file."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _may_be_image(name: str) -> bool:
    # DICOM files are often called by their UID, without an ending.
    ending = _ENDING.search(name)
    return ending is None or ending[1].lower() in _OF_IMAGES


def _images_of(folder: str) -> Iterator[str]:
    """Yield the files of a folder, those of folders in it not, that may be images by their names."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry.path for entry in entries if _may_be_image(entry.name) and not entry.is_dir())
    except FileNotFoundError:
        return


def _require_folder(path: Path, option: str) -> None:
    """Refuse a folder that cannot be made since a file has its name, or that of one it lies in."""
    for each in (path, *path.parents):
        if each.is_dir():
            return
        if os.path.lexists(each):
            raise UserError(
                f"{str(path)!r} cannot be made, for {str(each)!r} is no folder; choose another with {option}."
            )
