"""Folders that appear whole or not at all, whatever is killed or runs at the same time."""

import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cxrdist.errors import UserError, file_of, is_about

_TEMPORARY = re.compile(r"\.(?P<host>.+)\.(?P<pid>\d+)\.[0-9a-f]{8}\.partial")


@contextmanager
def cache_errors(cache: Path) -> Iterator[None]:
    """Turn a full disk, missing rights and the like into a `UserError` that names `cache`, but for other files."""
    try:
        yield
    except OSError as error:
        if file_of(error) is not None and not is_about(error, cache):
            raise
        raise UserError(
            f"The cache folder {str(cache)!r} cannot be written ({error.strerror or error}); free space there, or set "
            "execution.cache to another folder."
        ) from None


def temporary_sibling(folder: Path) -> Path:
    """Return a name beside `folder` that tells which process of which machine uses it."""
    return folder.parent / f".{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.partial"


def remove_leftovers(parent: Path) -> None:
    """Remove what processes of this machine were writing below `parent` when they were killed."""
    for path in parent.iterdir():
        match = _TEMPORARY.fullmatch(path.name)
        if match and match["host"] == socket.gethostname() and not _is_alive(int(match["pid"])):
            shutil.rmtree(path, ignore_errors=True)


def publish(temporary: Path, folder: Path, is_same: Callable[[], bool]) -> None:
    """Rename `temporary` to `folder`.

    Args:
        temporary: a complete folder beside `folder`; may still be there afterwards.
        folder: its final name.
        is_same: whether what another process has put there meanwhile is as good; else it is replaced.

    Raises:
        OSError: the file system refused.
    """
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        if not is_same():
            discarded = temporary_sibling(folder)
            folder.rename(discarded)
            temporary.rename(folder)
            shutil.rmtree(discarded, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
