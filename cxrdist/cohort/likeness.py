"""Names that are nearly equal, and probably meant to be the same."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"(^|:)0*(\d+)(?:\.0+)?$")
"""At the end of an id, or alone: `007` and `7.0` of `cohen:7`."""


def folded(name: str) -> str:
    """Return what nearly equal names have in common: no case, blanks, zeros before numbers, `.0` or ways of accents.

    >>> folded("P 7") == folded("p7"), folded("007") == folded("7.0"), folded("7") == folded("70")
    (True, True, False)
    """
    plain = "".join(unicodedata.normalize("NFKC", name).casefold().split())
    return _NUMBER.sub(r"\1\2", plain)


def nearly_equal(names: Iterable[str]) -> list[list[str]]:
    """Return the names of which there are others that are nearly equal, each with those others; all sorted."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        alike[folded(name)].append(name)
    return sorted(some for some in alike.values() if len(some) > 1)


def difference(a: str, b: str) -> str:
    """Return in words how two nearly equal names differ first, since some differences cannot be seen."""
    composed = [unicodedata.normalize("NFC", name) for name in (a, b)]
    if composed[0] == composed[1]:
        return "in how their accents are stored"
    if composed[0].casefold() == composed[1].casefold():
        return "in small and capital letters"
    if "".join(composed[0].split()) == "".join(composed[1].split()):
        return "in blanks"
    return "in how they are written"


def nearly_equal_names(words: str, alike: Sequence[Sequence[str]]) -> str:
    """Return a sentence, without a full stop, about names that `nearly_equal` found; `words` says what they are."""
    a, b = alike[0][:2]
    n = sum(map(len, alike))
    return f"{n:,} {words} are nearly equal, but count as different: {a!r} and {b!r} differ {difference(a, b)}"
