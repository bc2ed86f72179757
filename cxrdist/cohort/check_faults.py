"""What no study should be run with: files, copies and classes."""

from collections.abc import Iterator, Sequence

import numpy as np

from cxrdist.cohort.check_copies import Copies
from cxrdist.cohort.check_files import CheckedFiles
from cxrdist.cohort.check_finding import Finding, counted, has_or_have, is_or_are
from cxrdist.cohort.check_table import CheckedTable
from cxrdist.cohort.check_text import MOST_OF_A_NAME, MOST_OF_A_REASON, one_line, short_name
from cxrdist.cohort.near_files import hint_below
from cxrdist.config.models import CohortConfig, FoldsConfig
from cxrdist.errors import first_few

MAX_QUARANTINED = float(CohortConfig.model_fields["max_quarantined"].default)
DEFAULT_FOLDS = FoldsConfig().k


def about_files(table: CheckedTable, files: CheckedFiles) -> Iterator[Finding]:
    """Yield what is wrong with the table, with rows and with files."""
    for note in table.manifest.table.notes:
        yield Finding("files", f"{note}.", "Look at names and labels with accents.")
    n, bad = len(table), len(files.faults)
    if table.faults:
        yield Finding(
            "files",
            f"{counted(len(table.faults), 'row')} of the manifest cannot be used; the first: "
            f"{one_line(table.faults[0].reason, MOST_OF_A_REASON)}",
            "Correct these rows, or remove them; all are in quarantine.csv.",
            refused=True,
        )
    missing, changed = (sum(fault.problem == problem for fault in files.faults) for problem in ("missing", "changed"))
    if missing:
        paths = _missing_paths(table, files)
        hint = hint_below(table.root, paths)
        yield Finding(
            "files",
            f"{missing:,} of {counted(n, 'image file')} {is_or_are(missing)} missing, such as "
            f"{one_line(paths[0], MOST_OF_A_NAME)!r}" + (f"; {one_line(hint, MOST_OF_A_REASON)}." if hint else "."),
            "Look at --images and at the paths, fetch the files, or remove their rows; they are in quarantine.csv.",
            refused=True,
        )
    if changed:
        yield Finding(
            "files",
            f"{changed:,} of {counted(n, 'image file')} {is_or_are(changed)} not what the manifest describes: the "
            "SHA-256 differs.",
            "Fetch the files again; if they were changed on purpose, give their new SHA-256 in the manifest.",
            refused=True,
        )
    if bad > MAX_QUARANTINED * n:
        yield Finding(
            "files",
            f"{bad:,} of {counted(n, 'image')} ({bad / n:.1%}) cannot be used, more than the {MAX_QUARANTINED:.0%} "
            "that a study allows by default.",
            "Replace the files, remove their rows, or raise cohort.max_quarantined in the study file.",
            refused=True,
        )
    elif bad > missing + changed:
        unreadable = bad - missing - changed
        yield Finding(
            "files",
            f"{unreadable:,} of {counted(n, 'image file')} cannot be read.",
            "A study leaves them out and says so; replace the files, or remove their rows.",
        )
    blind = table.without_sha256
    if blind:
        yield Finding(
            "files",
            f"{counted(blind, 'image')} {has_or_have(blind)} no SHA-256 in the manifest, so that nobody will notice if "
            "a file changes.",
            "Add the column sha256, as the command sha256sum prints it.",
        )


def _missing_paths(table: CheckedTable, files: CheckedFiles) -> list[str]:
    missing = {fault.index for fault in files.faults if fault.problem == "missing"}
    return [
        str(path)
        for index, batch in table.batches()
        for row, path in zip(index.tolist(), batch.column("path").to_pylist(), strict=True)
        if row in missing
    ]


def about_copies(table: CheckedTable, copies: Copies) -> Iterator[Finding]:
    """Yield copies that contradict each other, or that folds would divide."""
    n = len(copies.conflicts)
    if n:
        one = copies.conflicts[0]
        labels = [short_name(table.label.names[table.label.codes[row]]) for row in (one.a, one.b)]
        yield Finding(
            "copies",
            f"{counted(n, 'pair')} of copies of one radiograph {has_or_have(n)} different labels, such as {labels[0]} "
            f"and {labels[1]}.",
            "Look at the pairs below; correct the wrong label, or remove both rows where nobody knows.",
            refused=True,
        )
    n = len(copies.across_groups)
    if n:
        rows = {row for pair in copies.across_groups for row in (pair.a, pair.b)}
        before = {copies.groups_before[row] for row in rows}
        after = {copies.groups[row] for row in rows}
        yield Finding(
            "copies",
            f"{counted(n, 'pair')} of copies of one radiograph {is_or_are(n)} in different groups or patients "
            f"({len(before):,} that should be {len(after):,}), so that a network could be tested on an image it was "
            "trained on.",
            "Use the manifest.csv beside this page, in whose column group_id they are joined.",
            refused=True,
        )


def about_classes(
    table: CheckedTable, files: CheckedFiles, copies: Copies, classes: Sequence[str] | None
) -> Iterator[Finding]:
    """Yield why the classes cannot be divided into folds."""
    if not len(files.usable):
        # Why there is none was said of rows and files.
        return
    labels, groups = table.label.codes[files.usable], copies.group_codes()[files.usable]
    n_groups = {name: len(np.unique(groups[labels == code])) for code, name in enumerate(table.label.names)}
    n_groups |= dict.fromkeys(set(classes or ()) - set(n_groups), 0)
    if len(n_groups) < 2:
        yield Finding(
            "images",
            f"All images have one label ({first_few(map(short_name, n_groups))}): there is nothing to tell apart.",
            "Look at the column label, and at --classes.",
            refused=True,
        )
    elif len(np.unique(groups)) == 1:
        yield Finding(
            "images",
            "All images are of one patient or group, but training and test need different ones.",
            "Look at the columns patient_id and group_id.",
            refused=True,
        )
    for name, count in n_groups.items():
        if count < 2 and len(n_groups) > 1:
            yield Finding(
                "images",
                f"Class {short_name(name)} has usable images of "
                f"{counted(count, 'patient or group', 'patients or groups')}, and at least 2 are needed for folds.",
                "Add images, or leave the class out with --classes.",
                refused=True,
            )
        elif count < DEFAULT_FOLDS and len(n_groups) > 1:
            yield Finding(
                "images",
                f"Class {short_name(name)} has usable images of only {count} patients or groups.",
                f"Set folds.k to at most {count} in the study file (it is {DEFAULT_FOLDS} by default), or add images.",
            )
