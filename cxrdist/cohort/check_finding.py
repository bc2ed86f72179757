"""Something that a check found, in a sentence with numbers, and what to do about it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something to put right, or to know."""

    section: str
    """Anchor of the page's section about it."""
    sentence: str
    remedy: str
    refused: bool = False
    """Whether no study should be run before it is put right."""


def counted(n: int, one: str, many: str | None = None) -> str:
    """Return `"1,234 images"`."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def is_or_are(n: int) -> str:
    """Return the verb of `n` things."""
    return "is" if n == 1 else "are"


def has_or_have(n: int) -> str:
    """Return the verb of `n` things."""
    return "has" if n == 1 else "have"
