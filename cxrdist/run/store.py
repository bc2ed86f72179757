"""Artefacts by name: written as a whole or not at all, in a folder here, or in an object store elsewhere."""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from cxrdist.errors import UserError, is_about, refusal
from cxrdist.study.fingerprint import fingerprint

CHECKSUM = "checksum"
"""Last key of JSON artefacts: hash of all the others."""


class Store:
    """A folder of artefacts, named by relative paths with forward slashes.

    Artefacts are written under a temporary name, then renamed, so that a name means a whole file.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        """Where files for people, such as the report, are written; of an object store, a copy on this machine."""

    @property
    def location(self) -> str:
        """What `open_store` opens it by, in another process or on another machine."""
        return str(self.root.absolute())

    def create(self) -> None:
        """Make sure that artefacts can be written."""
        self.root.mkdir(parents=True, exist_ok=True)

    def explained(self, remedy: str) -> AbstractContextManager[None]:
        """Turn what the system refuses of a run directory's files into one sentence, with what a person can do."""
        return explained(f"The run directory {self.where('')}", remedy, self.root)

    def sub(self, name: str) -> "Store":
        """Return the store of what lies in a folder of this one."""
        return Store(self.root / name)

    def hurried(self) -> "Store":
        """Return the same store for what is not worth waiting for: it gives up soon where it does not answer."""
        return self

    def where(self, name: str) -> str:
        """Return where an artefact is or would be, for people."""
        return str(self.root / name)

    def local(self, name: str) -> Path:
        """Return an artefact as a file on this machine; one that is not there is a path without a file."""
        return self.root / name

    def local_files(self, names: Sequence[str]) -> list[Path]:
        """Return several artefacts as files on this machine, as `local` does."""
        return [self.local(name) for name in names]

    def exists(self, name: str) -> bool:
        """Return whether the artefact is there."""
        return self.local(name).is_file()

    def names(self, folder: str) -> list[str]:
        """Return the names of all artefacts in a folder and in those beneath it, sorted."""
        found = (path.relative_to(self.root) for path in (self.root / folder).rglob("*") if path.is_file())
        return sorted(path.as_posix() for path in found if not path.name.endswith(".tmp"))

    def read_bytes(self, name: str) -> bytes:
        """Return an artefact's content; FileNotFoundError where there is none."""
        return (self.root / name).read_bytes()

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return a JSON artefact, or None where it is missing or damaged."""
        try:
            return parse_json(self.read_bytes(name))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write an artefact as a whole."""
        self.write_file(name, lambda path: path.write_bytes(data))

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON artefact, for people to read too, with a checksum of its content."""
        self.write_bytes(name, json_bytes(value))

    def write_file(self, name: str, write: Callable[[Path], object]) -> None:
        """Let `write` fill a temporary file beside the artefact, then give it the artefact's name."""
        with whole_file(self.root / name) as temporary:
            write(temporary)

    def adopt(self, path: Path) -> str:
        """Return a name by which all who open this store find a file of this machine."""
        return str(path)

    def copy(self, name: str, to: str) -> None:
        """Give an artefact a second name."""
        self.write_file(to, lambda path: shutil.copyfile(self.root / name, path))

    def move(self, name: str, to: str) -> None:
        """Give an artefact, or a folder of artefacts, another name; there is nothing of that name."""
        (self.root / to).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).rename(self.root / to)

    def remove(self, *names: str) -> None:
        """Remove artefacts, those that are there."""
        for name in names:
            (self.root / name).unlink(missing_ok=True)

    def remove_leftovers(self, folder: str) -> None:
        """Remove temporary files that a killed process left in `folder`."""
        for leftover in (self.root / folder).glob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    def fetch_folder(self, folder: str, check: Callable[[Path], None]) -> None:
        """Have the files of a folder under `root`, if it is there, which an artefact `index.json` says.

        Args:
            folder: to which nothing is added once it is there.
            check: told where it is before it gets its name; what it raises makes it as if it had not come.
        """

    def publish_folder(self, folder: str) -> None:
        """Let others see a folder that was written under `root`."""

    def pull(self, folder: str) -> None:
        """Have all that others wrote into a folder under `root`."""

    def push(self, folder: str) -> None:
        """Let others see what was written into a folder under `root`."""


def json_bytes(value: Mapping[str, Any], *, compact: bool = False) -> bytes:
    """Return an object as JSON text, whose last key is a checksum of all the others."""
    plain = json.loads(json.dumps(value, allow_nan=False))
    form: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    return (json.dumps({**plain, CHECKSUM: fingerprint(plain)}, ensure_ascii=False, **form) + "\n").encode()


def parse_json(data: bytes) -> dict[str, Any]:
    """Read what `json_bytes` wrote; what has no checksum, as other versions wrote it, is taken as it is.

    Raises:
        ValueError: it is not JSON, not an object, or not what was written.
    """
    try:
        value = json.loads(data)
    except ValueError:
        raise ValueError("is empty" if not data else "is not whole JSON") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    checksum = value.pop(CHECKSUM, None)
    if checksum is not None and checksum != fingerprint(value):
        raise ValueError("does not have the content that its checksum is of")
    return value


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Give a temporary file to fill, and then the target's name to it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Two lanes may write the same artefact when one was taken for dead: each has its own temporary name.
    temporary = target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            # A write into an open file does not say which.
            error.filename = str(target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def explained(what: str, remedy: str, root: Path) -> Iterator[None]:
    """Turn what the system refuses of the files of one folder into one sentence for the user.

    An error of another file goes on as it is, to whoever knows what would help there.

    Args:
        what: the folder, for people.
        remedy: what they can do about it.
        root: the folder, or a file.
    """
    try:
        yield
    except OSError as error:
        if not is_about(error, root):
            raise
        raise UserError(refusal(error, what, remedy)) from None
