"""What must hold for every row of a cohort before a study may use it."""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa

from cxrdist.cohort.schema import COHORT_SCHEMA, REQUIRED
from cxrdist.errors import UserError, one_of

LONGEST_TEXT = 4096
"""Characters of a value: longer ones are no names, and arrays of fixed width would hold as much for each row."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_rows(table: pa.Table, rows: Sequence[int], manifest: Path, root: Path, classes: Sequence[str]) -> pa.Table:
    """Return COHORT_SCHEMA with paths normalised and hashes in lower case, in the order of `table`.

    Args:
        table: the columns of COHORT_SCHEMA.
        rows: each row's number in the file, for messages.
        manifest: named in messages.
        root: resolved folder that no path may leave, not through a symbolic link either.
        classes: the valid labels.

    Raises:
        UserError: the first row that is wrong, with its value and number.
    """
    columns: dict[str, list[str | None]] = {name: table.column(name).to_pylist() for name in COHORT_SCHEMA.names}

    def where(position: int) -> str:
        return f"data row {rows[position]} of {str(manifest)!r}"

    for name, values in columns.items():
        for position, value in enumerate(values):
            if value is not None and len(value) > LONGEST_TEXT:
                raise UserError(
                    f"The {name} in {where(position)} has {len(value):,} characters, but may have {LONGEST_TEXT:,}."
                )
    for name in REQUIRED:
        for position, value in enumerate(columns[name]):
            if value is None:
                unless = ", unless cohort.classes names them" if name == "label" else ""
                raise UserError(
                    f"The required {name} is empty in {where(position)}; words such as nan, None, NULL and N/A count "
                    f"as empty{unless}."
                )
    for position, label in enumerate(columns["label"]):
        if label not in classes:
            raise UserError(
                f"The label {label!r} in {where(position)} is not {one_of(classes, label)}; add it to cohort.classes "
                "or leave the row out."
            )
    for position, digest in enumerate(columns["sha256"]):
        if digest is not None:
            columns["sha256"][position] = digest.lower()
            if not _SHA256.fullmatch(digest.lower()):
                raise UserError(f"The sha256 {digest!r} in {where(position)} is not 64 hexadecimal digits.")
    for name in ("path", "mask_path"):
        folders: dict[PurePosixPath, bool] = {}
        for position, path in enumerate(columns[name]):
            if path is not None:
                normal = PurePosixPath(path)
                if normal.is_absolute():
                    raise UserError(
                        f"The {name} {path!r} in {where(position)} is absolute; {_as_relative(root, path)}."
                    )
                if not _stays_inside(normal, root, folders):
                    raise UserError(
                        f"The {name} {path!r} in {where(position)} leads out of the image folder {str(root)!r}; "
                        "it must be relative, without '..', and no symbolic link may leave the folder."
                    )
                columns[name][position] = str(normal)
    for name in ("image_id", "path"):
        first: dict[str | None, int] = {}
        for position, value in enumerate(columns[name]):
            if first.setdefault(value, position) != position:
                raise UserError(listed_twice(name, value, rows[first[value]], rows[position], manifest))
    return pa.table(columns, schema=COHORT_SCHEMA)


def listed_twice(name: str, value: str | None, first: int, second: int, manifest: Path) -> str:
    """Return the sentence of a value that two rows have, by their numbers in the file."""
    return f"The {name} {value!r} is listed twice, in data rows {first} and {second} of {str(manifest)!r}."


def _as_relative(root: Path, path: str) -> str:
    """Return, in words, how an absolute path is written in a table whose paths start at `root`."""
    rule = f"paths start at the image folder {str(root)!r}"
    absolute = PurePosixPath(path)
    for folder in reversed(absolute.parents):
        below = absolute.relative_to(folder)
        if folder.name and _stays_inside(below, root, {}) and os.path.lexists(root / below):
            return f"{rule}: write {str(below)!r}"
    return rule


def _stays_inside(path: PurePosixPath, root: Path, folders: dict[PurePosixPath, bool]) -> bool:
    """Whether `path` is below `root` as written and, as far as it exists, in fact; `folders` is a memory."""
    if path.is_absolute() or ".." in path.parts or "\0" in str(path) or path == PurePosixPath("."):
        return False
    if path.parent not in folders:
        folders[path.parent] = _resolves_inside(root / path.parent, root)
    file = root / path
    return folders[path.parent] and (not os.path.islink(file) or _resolves_inside(file, root))  # noqa: PTH114


def _resolves_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a loop of symbolic links
        return False
