"""Checking a cohort before anybody trains on it: its table, every file, copies, and shortcuts to the class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrdist.cohort.check_cache import MarksCache
from cxrdist.cohort.check_copies import Copies, find_copies
from cxrdist.cohort.check_doubts import (
    about_body_parts,
    about_looks,
    about_names,
    about_patients,
    about_shortcuts,
    about_sources,
    about_views,
)
from cxrdist.cohort.check_faults import about_classes, about_copies, about_files
from cxrdist.cohort.check_files import CheckedFiles, check_files
from cxrdist.cohort.check_finding import Finding
from cxrdist.cohort.check_shortcuts import Shortcut, find_shortcuts
from cxrdist.cohort.check_table import CheckedTable, read_table
from cxrdist.cohort.chunks import ChunkRunner, run_on_cores
from cxrdist.cohort.looks import OddLook, find_odd


@dataclass(frozen=True, eq=False)
class CohortCheck:
    """All that a check found."""

    table: CheckedTable
    files: CheckedFiles
    copies: Copies
    odd: Sequence[OddLook]
    """Of the usable images."""
    shortcuts: Sequence[Shortcut]
    findings: Sequence[Finding]
    """What no study should be run with comes first."""

    @property
    def refused(self) -> bool:
        """Whether something must be put right before a study is run."""
        return any(finding.refused for finding in self.findings)


def check_cohort(
    manifest: Path,
    images: Path,
    cache: Path,
    *,
    classes: Sequence[str] | None = None,
    run_chunks: ChunkRunner = run_on_cores,
    on_progress: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> CohortCheck:
    """Check a cohort; nothing is written but the cache, from which the same call continues after an interruption.

    Args:
        manifest: .csv, .parquet or .yaml recipe.
        images: the folder that its paths start from.
        cache: folder for everything that can be made again; marks of files go to `cache/marks`.
        classes: the valid labels; None for whatever there is.
        run_chunks: where files are decoded; by default in one process a core.
        on_progress: called with the files looked at and those in all.
        on_note: called with a sentence about what takes long, and about damaged parts of the cache.

    Raises:
        UserError: the manifest cannot be read, or most of it is wrong (see `read_table`).
        CxrdistError: a process that decodes died, or the manifest was changed meanwhile.
        OSError: the cache cannot be written.
    """
    table = read_table(manifest, images, classes)
    files = check_files(table, MarksCache(cache, table.root, on_note), run_chunks, on_progress)
    if on_note is not None:
        on_note(f"looking for copies among {len(files.usable):,} images")
    copies = find_copies(table, files)
    odd = find_odd(files.looks)
    shortcuts = find_shortcuts(table, files, copies)
    findings = [
        *about_files(table, files),
        *about_copies(table, copies),
        *about_classes(table, files, copies, classes),
        *about_names(table),
        *about_patients(table),
        *about_views(table),
        *about_body_parts(table, files),
        *about_looks(table, files, odd),
        *about_sources(table),
        *about_shortcuts(table, shortcuts),
    ]
    return CohortCheck(table, files, copies, odd, shortcuts, sorted(findings, key=lambda finding: not finding.refused))
