"""The secret key of pseudonyms: made once, for its owner's eyes only."""

import os
import secrets
import stat
from pathlib import Path

from cxrdist.errors import UserError

SALT_BYTES = 32


def read_salt(path: Path) -> bytes:
    """Return the SALT_BYTES in a file, which is made of random ones where there is none.

    Raises:
        UserError: it cannot be read or made, is of another size, or others than its owner can read it.
    """
    try:
        if not path.exists():
            _make(path)
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            salt = file.read(SALT_BYTES + 1)
    except OSError as error:
        raise UserError(
            f"The salt file {str(path)!r} cannot be used ({error.strerror or error}); name another as --salt-file."
        ) from None
    if stat.S_IMODE(mode) & 0o077:
        raise UserError(
            f"The salt file {str(path)!r} can be read by others than its owner (mode {stat.S_IMODE(mode):04o}), so "
            "that pseudonyms could be undone; `chmod 600` it."
        )
    if len(salt) != SALT_BYTES:
        raise UserError(
            f"The salt file {str(path)!r} does not hold {SALT_BYTES} bytes; restore it, or name a new one as "
            "--salt-file, which gives all patients other pseudonyms."
        )
    return salt


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(SALT_BYTES))
