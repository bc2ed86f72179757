"""Any table with the files that it names: which of its columns are the cohort's, and which rows are meant."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from cxrdist.cohort.missing import known
from cxrdist.cohort.near_files import NearFiles
from cxrdist.cohort.schema import COHORT_SCHEMA, REQUIRED
from cxrdist.cohort.sources.listing import Collector, Listing, Place, SourceImage, age_of, sex_of
from cxrdist.cohort.sources.sheet import Row, read_sheet
from cxrdist.config.section import Section
from cxrdist.errors import UserError, one_of

_COLUMNS = (*COHORT_SCHEMA.names, "original_sha256", "age", "sex")


class TableOptions(Section):
    """How the table is read."""

    table: str
    """.csv, .tsv or .parquet, relative to the folder."""
    columns: dict[str, str]
    """The table's column of each of the cohort's."""


def list_table(place: Place, options: TableOptions) -> Listing:
    """List the rows of a table; that their files are there is seen when they are opened.

    Raises:
        UserError: the table cannot be read or contradicts itself, or `columns` do not fit it.
    """
    columns = options.columns
    for name in columns:
        if name not in _COLUMNS:
            raise UserError(f"{name!r} in 'columns' of the source {place.name!r} is not {one_of(_COLUMNS, name)}.")
    lacking = [name for name in REQUIRED if name not in columns]
    if lacking:
        raise UserError(f"'columns' of the source {place.name!r} lacks {lacking[0]!r}; it needs {', '.join(REQUIRED)}.")
    sheet = read_sheet(place.folder.root, options.table)
    sheet.require(*columns.values())
    for key in ("image_id", "path"):
        for value in ("label", "patient_id"):
            if value not in columns:
                continue
            sheet.one_each(columns[key], columns[value], lambda text: str(PurePosixPath(text)))
    collector = Collector(place.folder)
    there, missing = set(place.folder.files), []
    for number, row in zip(sheet.numbers, sheet.rows, strict=True):
        image = _image(place.name, place.folder.root, row, columns)
        if isinstance(image, str):
            collector.leave(f"data row {number}", image)
        else:
            collector.add(image)
            if image.path not in there:
                missing.append(image.path)
    hint = NearFiles(there).hint(missing)
    return collector.listing(
        f"column {columns['patient_id']} of {options.table}" if "patient_id" in columns else "not known",
        sheet.columns,
        [*sheet.notes, *([f"of files that are not there, {hint}"] if hint else [])],
    )


def _image(source: str, root: Path, row: Row, columns: Mapping[str, str]) -> SourceImage | str:
    """The image of a row, or why there is none."""
    values = {name: known(row[column]) for name, column in columns.items()}
    image_id, path = values["image_id"], _inside(root, values["path"])
    mask = values.get("mask_path") and _inside(root, values["mask_path"])
    if image_id is None or values["path"] is None:
        return "has no image_id or no path"
    if any(PurePosixPath(values.get(name) or "").is_absolute() for name in ("path", "mask_path")):
        return "has an absolute path; paths start at the source's folder"
    if path is None or (values.get("mask_path") and mask is None):
        return "has a path that leads out of the folder"
    return SourceImage(
        image_id=image_id,
        path=path,
        label=row[columns["label"]] or None,
        source=values.get("source") or source,
        patient_id=values.get("patient_id"),
        group_id=values.get("group_id"),
        view_position=values.get("view_position"),
        age=age_of(values.get("age") or ""),
        sex=sex_of(values.get("sex") or ""),
        mask_paths=(mask,) if mask else (),
        sha256=_lower(values.get("sha256")),
        original_sha256=_lower(values.get("original_sha256")),
        facts=row,
    )


def _lower(digest: str | None) -> str | None:
    return None if digest is None else digest.lower()


def _inside(root: Path, path: str | None) -> str | None:
    """The path as it is written best, if it is below the folder, as written and through links."""
    normal = PurePosixPath(path or "")
    if normal.is_absolute() or ".." in normal.parts or not normal.parts:
        return None
    try:
        return str(normal) if (root / normal).resolve().is_relative_to(root) else None
    except (OSError, ValueError, RuntimeError):
        return None
