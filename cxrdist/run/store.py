"""Artefacts in a folder: written under a temporary name, then renamed, so that a name means a whole file."""

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cxrdist.errors import UserError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}


class Store:
    """A folder of artefacts, named by relative paths with forward slashes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Return where an artefact is or would be."""
        return self.root / name

    def exists(self, name: str) -> bool:
        """Return whether the artefact is there."""
        return self.path(name).is_file()

    def read_bytes(self, name: str) -> bytes:
        """Return an artefact's content; FileNotFoundError where there is none."""
        return self.path(name).read_bytes()

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return a JSON artefact, or None where it is missing or damaged."""
        try:
            value = json.loads(self.read_bytes(name))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write an artefact as a whole."""
        self.write_file(name, lambda path: path.write_bytes(data))

    def write_json(self, name: str, value: object) -> None:
        """Write a JSON artefact, for people to read too."""
        self.write_bytes(name, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def write_file(self, name: str, write: Callable[[Path], object]) -> None:
        """Let `write` fill a temporary file beside the artefact, then give it the artefact's name."""
        target = self.path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Two lanes may write the same artefact when one was taken for dead: each has its own temporary name.
        temporary = target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.tmp")
        try:
            write(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, *names: str) -> None:
        """Remove artefacts, those that are there."""
        for name in names:
            self.path(name).unlink(missing_ok=True)

    def remove_leftovers(self, folder: str) -> None:
        """Remove temporary files that a killed process left in `folder`."""
        for leftover in self.path(folder).glob(".*.tmp"):
            leftover.unlink(missing_ok=True)


@contextmanager
def explained(what: str, remedy: str) -> Iterator[None]:
    """Turn a full disk or a missing right into one sentence for the user."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise UserError(f"{what} is full ({error.strerror}); free some room or {remedy}, and run again.") from None
        if error.errno in _NO_RIGHT or isinstance(error, (NotADirectoryError, FileNotFoundError, FileExistsError)):
            raise UserError(f"{what} cannot be written ({error.strerror}); {remedy}.") from None
        raise
