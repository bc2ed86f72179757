"""The files of a folder that nobody vouches for: bounded, and never from outside it."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cxrdist.errors import UserError

MAX_FILES = 2_000_000
MAX_DEPTH = 64

IGNORED = "is a file of an operating system or of a program, not data"
_NOT_PLAIN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_IGNORED_PREFIXES = (".", "~$")
_IGNORED_NAMES = frozenset({"__macosx", "thumbs.db", "desktop.ini", "fetched.json"})


@dataclass(frozen=True)
class Folder:
    """What lies in a folder, by paths relative to it with slashes."""

    root: Path
    """Resolved."""
    files: tuple[str, ...]
    """Sorted."""
    unused: Mapping[str, tuple[str, ...]]
    """By reason: what is no file of the folder."""


def walk(folder: Path, max_files: int = MAX_FILES) -> Folder:
    """Return the regular files in `folder` and the folders in it.

    Ignored are names that begin with a dot or `~$`, `__MACOSX`, `Thumbs.db`, `desktop.ini` and `fetched.json`, folders
    with all that is in them. A link to a file in `folder` is that file; no other link is followed.

    Args:
        folder: where the source lies.
        max_files: most files and folders.

    Raises:
        UserError: `folder` is none, or holds more than `max_files`, or folders more than MAX_DEPTH deep.
    """
    if not folder.is_dir():
        raise UserError(f"The folder of a source {str(folder)!r} does not exist; give it as --source NAME=DIR.")
    root = folder.resolve()
    files: list[str] = []
    unused: defaultdict[str, list[str]] = defaultdict(list)
    waiting = [("", 0)]
    n_seen = 0
    while waiting:
        prefix, depth = waiting.pop()
        try:
            with os.scandir(root / prefix) as entries:
                found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError:
            unused["is a folder that cannot be read"].append(prefix)
            continue
        n_seen += len(found)
        if n_seen > max_files or depth > MAX_DEPTH:
            much = f"more than {max_files:,} files" if n_seen > max_files else f"folders more than {MAX_DEPTH} deep"
            raise UserError(f"The folder {str(folder)!r} holds {much}; name the folder of the images themselves.")
        for entry in found:
            reason = _reason(entry, root)
            if reason is not None:
                unused[reason].append(f"{prefix}{entry.name}")
            elif entry.is_dir(follow_symlinks=False):
                waiting.append((f"{prefix}{entry.name}/", depth + 1))
            else:
                files.append(f"{prefix}{entry.name}")
    return Folder(root, tuple(sorted(files)), {reason: tuple(sorted(names)) for reason, names in unused.items()})


def name_of(path: str) -> str:
    """Return the last part of a path with slashes."""
    return PurePosixPath(path).name


def is_plain(text: str) -> bool:
    """Whether a text stays on its line, and can be written as UTF-8."""
    return not _NOT_PLAIN.search(text)


def _reason(entry: "os.DirEntry[str]", root: Path) -> str | None:
    """Why an entry is neither a file nor a folder to go through, or None."""
    if entry.name.startswith(_IGNORED_PREFIXES) or entry.name.casefold() in _IGNORED_NAMES:
        return IGNORED
    if not is_plain(entry.name) or "\\" in entry.name:
        return "has a name with characters that no table should hold"
    if entry.is_symlink():
        return _reason_of_link(Path(entry.path), root)
    if entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False):
        return None
    return "is neither a file nor a folder"


def _reason_of_link(path: Path, root: Path) -> str | None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return "is a link to nothing"
    if not target.is_relative_to(root):
        return "is a link that leads out of the folder"
    return None if target.is_file() else "is a link to a folder, which is not followed"
