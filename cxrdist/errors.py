"""Errors that a person reads: one sentence with the value, what would be valid, and where to look."""

import difflib
from collections.abc import Iterable


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
