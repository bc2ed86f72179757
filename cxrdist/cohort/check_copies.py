"""Copies of one radiograph among the images of a table: of which classes, patients and sources, in which groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrdist.cohort.check_files import CheckedFiles
from cxrdist.cohort.check_table import CheckedTable
from cxrdist.cohort.duplicates import Pair, across_patients, conflicts_of_label, find_duplicates, merge_groups


@dataclass(frozen=True, eq=False)
class Copies:
    """What was found."""

    pairs: Sequence[Pair]
    """Of the table's rows; sorted."""
    conflicts: Sequence[Pair]
    """Those of different labels."""
    across_patients: Sequence[Pair]
    """Those of different known patients."""
    across_sources: Sequence[Pair]
    """Those of different known sources."""
    across_groups: Sequence[Pair]
    """Those that the table's groups do not keep together."""
    groups_before: Sequence[str]
    """[n], what the table keeps together."""
    groups: Sequence[str]
    """[n], the same with copies together."""

    def group_codes(self) -> NDArray[np.int64]:
        """[n], number of each row's group, copies together, in the order of first occurrence."""
        code_of: dict[str, int] = {}
        return np.array([code_of.setdefault(group, len(code_of)) for group in self.groups], dtype=np.int64)

    def group_ids(self) -> list[str]:
        """[n], values for the column group_id that keep these groups, and no others, together when they are read."""
        given = {name: name.removeprefix("group:") for name in set(self.groups) if name.startswith("group:")}
        taken = set(given.values())
        written = []
        for name in self.groups:
            one = given.get(name, name)
            # A group_id may look like the name of a patient or image.
            while name not in given and one in taken:
                one += "+"
            written.append(one)
        return written


def find_copies(table: CheckedTable, files: CheckedFiles) -> Copies:
    """Compare all usable images with each other."""
    rows = files.usable.tolist()
    pairs = [
        Pair(rows[pair.a], rows[pair.b], pair.distance, pair.correlation, pair.exact)
        for pair in find_duplicates(files.marks)
    ]
    groups = table.group_names()
    return Copies(
        pairs=pairs,
        conflicts=conflicts_of_label(pairs, table.label.texts()),
        across_patients=across_patients(pairs, table.patient.texts()),
        across_sources=_differing(pairs, table.source.codes),
        across_groups=[pair for pair in pairs if groups[pair.a] != groups[pair.b]],
        groups_before=groups,
        groups=merge_groups(groups, pairs),
    )


def _differing(pairs: Sequence[Pair], codes: NDArray[np.int32]) -> list[Pair]:
    return [pair for pair in pairs if codes[pair.a] != codes[pair.b] and codes[pair.a] >= 0 and codes[pair.b] >= 0]
