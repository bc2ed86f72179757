"""A report as data: sections of words, tables and figures, which the page shows and the folder keeps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cxrdist.report.style import Picture
from cxrdist.report.table import Table


@dataclass(frozen=True)
class Words:
    """Sentences of a section: paragraphs, or points of a list."""

    sentences: tuple[str, ...]
    points: bool = False
    lead: bool = False
    """Set larger: what a reader takes home."""
    warning: bool = False
    """Set in red, each after the word "Warning": what makes scores doubtful."""


@dataclass(frozen=True)
class Section:
    """A part of a report under its own heading."""

    anchor: str
    """Where links to it lead; unique on the page."""
    title: str
    content: Sequence[Words | Table | Picture] = ()
    parts: Sequence["Section"] = ()
    """Sections one level below."""

    def __bool__(self) -> bool:
        """Whether there is anything to read in it."""
        return bool(self.content) or any(self.parts)


def tables_of(sections: Sequence[Section]) -> Iterator[Table]:
    """Yield the tables in the order of reading."""
    for section in sections:
        yield from (item for item in section.content if isinstance(item, Table))
        yield from tables_of(section.parts)


def pictures_of(sections: Sequence[Section]) -> Iterator[Picture]:
    """Yield the figures in the order of reading."""
    for section in sections:
        yield from (item for item in section.content if isinstance(item, Picture))
        yield from pictures_of(section.parts)
