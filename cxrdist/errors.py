"""Errors that a person reads: one sentence with the value, what would be valid, and where to look."""

import difflib
import errno
import os
from collections.abc import Iterable
from pathlib import Path


class CxrdistError(Exception):
    """A failure that is explained in one sentence; the command ends with `exit_status`."""

    exit_status = 1


class UserError(CxrdistError):
    """Something that the user can put right: a wrong key, a missing file, an impossible study."""

    exit_status = 2


class IncompleteStudyError(CxrdistError):
    """A study whose fold jobs are not all done, where the whole was asked for."""


class ImageError(Exception):
    """An image file that cannot be used; the message is the reason that quarantine records."""


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def file_of(error: OSError) -> str | None:
    """Return the file that an error of the system is about, or None where it names none."""
    return None if error.errno is None or not isinstance(error.filename, str | bytes) else os.fsdecode(error.filename)


def is_about(error: OSError, folder: Path) -> bool:
    """Return whether an error of the system is about a file in a folder, or about one that the folder lies in."""
    file, root = file_of(error), folder.absolute()
    return file is not None and (
        Path(file).absolute().is_relative_to(root) or root.is_relative_to(Path(file).absolute())
    )


def refusal(error: OSError, what: str, remedy: str) -> str:
    """Say in a sentence what the system refused of a folder or file.

    Args:
        error: as it came.
        what: what it is to the user, at the beginning of the sentence.
        remedy: what would help there.
    """
    file, reason = file_of(error), error.strerror
    if error.errno in _NO_ROOM:
        return f"{what} is full ({reason}); free some room or {remedy}, and run again."
    unreadable = file is not None and Path(file).exists() and not os.access(file, os.R_OK)
    named = f"{reason}: {file!r}" if file is not None and file not in what else reason
    return f"{what} cannot be {'read' if unreadable else 'written'} ({named}); {remedy}."


def explanation(error: OSError) -> str | None:
    """Say in a sentence what the system refused, where nobody knew the file better; None if it is about no file."""
    file = file_of(error)
    if error.errno in _NO_ROOM:
        return (
            f"The disk of {file!r} is full ({error.strerror}); free some room there, and run again."
            if file is not None
            else f"A disk is full ({error}); free some room for results, the cache and temporary files, and run again."
        )
    if file is None:
        return None
    if isinstance(error, FileNotFoundError):
        return f"There is no {file!r} (any more); put it there, or correct what names it."
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return f"This account may not use {file!r} ({error.strerror}); give it the right to, or name another place."
    return f"{file!r} cannot be used ({error.strerror}); look after it, or name another place."


def nearest(word: str, valid: Iterable[str]) -> str | None:
    """Return the member of `valid` that `word` most likely meant, or None where nothing is close."""
    matches = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.6)
    return matches[0] if matches else None


def one_of(valid: Iterable[str], wrong: str | None = None) -> str:
    """Return `"one of a, b, c"`, with the nearest to `wrong` pointed out.

    >>> one_of(["fp32", "bf16"], "bf61")
    "one of fp32, bf16 (did you mean 'bf16'?)"
    """
    names = list(valid)
    hint = nearest(wrong, names) if wrong is not None else None
    return f"one of {', '.join(names)}" + (f" (did you mean {hint!r}?)" if hint else "")


def first_few(values: Iterable[str], limit: int = 3) -> str:
    """Return the first `limit` values as text, with the number of those left out."""
    every = list(values)
    shown = ", ".join(every[:limit])
    return shown if len(every) <= limit else f"{shown} and {len(every) - limit} more"
