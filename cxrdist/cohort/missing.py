"""The words by which programs say that a value is missing."""

MISSING = frozenset({"", "nan", "-nan", "none", "null", "na", "n/a", "<na>", "nat", "#n/a", "#na", "#null!"})
"""In small letters."""


def is_missing(text: str) -> bool:
    """Whether a cell is empty, or holds a word by which programs say that it is: NaN, None, NULL, N/A, NA, NaT, <NA>.

    >>> is_missing("nan"), is_missing("N/A"), is_missing("0"), is_missing("unknown")
    (True, True, False, False)
    """
    return text.casefold() in MISSING


def known(text: str | None) -> str | None:
    """Return the text of a cell, or None where it is missing."""
    return None if text is None or is_missing(text) else text
