"""A folder of DICOM files, as hospitals export them, with labels from a table or from the names of its folders."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cxrdist.cohort.dicom_header import DicomHeader, pseudonym, read_dicom_header, without_accents
from cxrdist.cohort.likeness import folded
from cxrdist.cohort.near_files import NearFiles
from cxrdist.cohort.sources.folder import name_of
from cxrdist.cohort.sources.listing import Collector, Listing, Place, SourceImage
from cxrdist.cohort.sources.sheet import read_sheet
from cxrdist.config.location import with_home
from cxrdist.config.section import Section
from cxrdist.errors import ImageError, UserError

_NO_LABEL = "has no label"
_MOST_FOREIGN = 0.1
"""Share of the radiographs with a label that may be left out for the part of the body that they name."""
_AMBIGUOUS = "shares its name with other files, so that its whole path must stand in the table of labels"


class DicomLabels(Section):
    """Where labels come from."""

    by: Literal["folder", "file", "patient_id", "pseudonym"]
    """The first folder of a file's path, or what the rows of `table` are told by."""
    table: Annotated[str, Field(min_length=1)] | None = None
    """.csv, .tsv or .parquet; a relative path starts at the recipe."""
    key: str | None = None
    """Its column of files, PatientIDs or pseudonyms; by default as `by`."""
    label: str = "label"
    """Its column of labels."""

    @model_validator(mode="after")
    def _table_where_rows_are_needed(self) -> "DicomLabels":
        if (self.by == "folder") == (self.table is not None):
            raise ValueError("labels by 'folder' have no table, all others need one")
        return self


class DicomOptions(Section):
    """How the folder is read."""

    labels: DicomLabels
    body_parts: Literal["any"] | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None
    """What BodyPartExamined may say, beside the chest: one of these, whatever the case; or anything, or nothing."""


def list_dicom(place: Place, options: DicomOptions) -> Listing:
    """List the chest radiographs with a label.

    Raises:
        UserError: the table of labels cannot be read, or contradicts itself; or as `Place.salt`; or more than a tenth
            of the radiographs with a label may not be of the chest, and `body_parts` does not say what is meant.
    """
    salt = place.salt()
    labels = _Labels(place, options.labels)
    collector = Collector(place.folder)
    seen: set[str] = set()
    foreign: Counter[str] = Counter()
    n_telling = 0
    for path in place.each(place.folder.files):
        try:
            # The id itself is needed to look up its label; only a pseudonym of it is kept.
            header = read_dicom_header(place.folder.root / path, salt, root=place.folder.root, keep_ids=True)
        except ImageError as error:
            collector.leave(path, str(error))
            continue
        alias = pseudonym(header.patient_id, salt) if header.patient_id else None
        image = header.image_id or pseudonym(path, salt, "image")
        if header.doubt is not None and not _is_meant(header, options):
            collector.leave(path, header.doubt)
            if labels.has(path, header.patient_id, alias):
                foreign[repr(header.body_part[:32]) if header.body_part else "nothing"] += 1
            continue
        label = labels.of(path, header.patient_id, alias)
        if label is None:
            collector.leave(path, _NO_LABEL)
        elif labels.is_ambiguous(path):
            collector.leave(path, _AMBIGUOUS)
        elif image in seen:
            collector.leave(path, "is another file of an image that is there already (SOPInstanceUID)")
        else:
            seen.add(image)
            n_telling += header.patient_id is not None and header.patient_id in path
            collector.add(_image(place, path, image, label, header, header.patient_id if place.keep_ids else alias))
    notes = labels.notes()
    if foreign:
        notes.append(_about_foreign(place.name, foreign, len(seen), options))
    if n_telling and not place.keep_ids:
        notes.append(
            f"the paths of {n_telling} files hold their PatientID, and so will the manifest; rename files and folders "
            "before you share it"
        )
    patients = "PatientID as it is" if place.keep_ids else "pseudonyms of PatientID"
    return collector.listing(f"{patients}; where there is none, the study is the group", ("modality",), notes)


def _is_meant(header: DicomHeader, options: DicomOptions) -> bool:
    if options.body_parts is None or options.body_parts == "any":
        return options.body_parts is not None
    given = {without_accents(part).strip() for part in options.body_parts}
    return header.body_part is not None and without_accents(header.body_part).strip() in given


def _about_foreign(name: str, foreign: Counter[str], n_used: int, options: DicomOptions) -> str:
    """Return a sentence about the radiographs with a label that are left out for what they show.

    Raises:
        UserError: they are more than a tenth, and the recipe does not say which parts of the body are meant.
    """
    left_out, of_all = foreign.total(), foreign.total() + n_used
    counts = ", ".join(
        f"{part} {count}" for part, count in sorted(foreign.items(), key=lambda item: (-item[1], item[0]))
    )
    sentence = (
        f"{left_out} of {of_all} radiographs with a label are not used, because BodyPartExamined does not say that "
        f"they show the chest, but {counts}"
    )
    if options.body_parts is None and left_out > _MOST_FOREIGN * of_all:
        raise UserError(
            f"{name}: {sentence}. That is more than {_MOST_FOREIGN:.0%}: if they do show it, write 'body_parts: any', "
            "or a list of what it may say, beside 'labels' of the source; 'body_parts: [CHEST]' leaves them out."
        )
    return sentence


def _image(place: Place, path: str, image: str, label: str, header: DicomHeader, patient_id: str | None) -> SourceImage:
    return SourceImage(
        image_id=f"{place.name}/{image}",
        path=path,
        label=label,
        source=place.name,
        patient_id=patient_id,
        group_id=header.study_id if patient_id is None else None,
        view_position=header.view_position,
        age=None if header.age is None else str(header.age),
        sex=header.sex,
        facts={"modality": header.modality or ""},
    )


class _Labels:
    """The labels of a source's files."""

    def __init__(self, place: Place, options: DicomLabels) -> None:
        self._by = options.by
        self._files = place.folder.files
        self._unlabelled: set[str] = set()
        self._names = Counter(name_of(path) for path in place.folder.files)
        self._label_of: dict[str, str] = {}
        self._table = ""
        self._used: set[str] = set()
        self._notes: list[str] = []
        if options.table is not None:
            try:
                table = place.recipes / with_home(options.table)
            except ValueError as error:
                raise UserError(f"The table of labels is {options.table!r}, but {error}.") from None
            self._read(table, options)

    def of(self, path: str, patient_id: str | None, alias: str | None) -> str | None:
        """Return the label of a file, or None."""
        if self._by == "folder":
            return path.split("/")[0] if "/" in path else None
        key = self._key(path, patient_id, alias)
        if key is None:
            if patient_id is not None:
                self._unlabelled.add(patient_id)
            return None
        self._used.add(key)
        return self._label_of[key] or None

    def has(self, path: str, patient_id: str | None, alias: str | None) -> bool:
        """Whether a file has a label; it need not be used."""
        if self._by == "folder":
            return "/" in path
        key = self._key(path, patient_id, alias)
        return key is not None and bool(self._label_of[key])

    def _key(self, path: str, patient_id: str | None, alias: str | None) -> str | None:
        keys = {"file": (path, name_of(path)), "patient_id": (patient_id,), "pseudonym": (alias,)}[self._by]
        return next((key for key in keys if key in self._label_of), None)

    def is_ambiguous(self, path: str) -> bool:
        """Whether the label is told by a name that several files have."""
        return self._by == "file" and path not in self._label_of and self._names[name_of(path)] > 1

    def notes(self) -> list[str]:
        """Return what the table has too much, in a sentence."""
        unused = len(self._label_of) - len(self._used)
        if not unused:
            return self._notes
        hint = self._hint([key for key in self._label_of if key not in self._used])
        keys = f"{unused} of {len(self._label_of)} keys of {self._table!r} belong to no image"
        return [*self._notes, f"{keys}; {hint}" if hint else keys]

    def _hint(self, unused: Sequence[str]) -> str:
        if self._by == "file":
            return NearFiles(self._files).hint(unused)
        # No id is said.
        near = {folded(patient) for patient in self._unlabelled} & {folded(key) for key in unused}
        if not near or self._by != "patient_id":
            return ""
        return (
            f"{len(near)} of them are nearly PatientIDs of images without a label: 7, 007 and 7.0 are different, and "
            "so are p7, P7 and P 7"
        )

    def _read(self, path: Path, options: DicomLabels) -> None:
        sheet = read_sheet(path.parent, path.name)
        key = options.key or options.by
        sheet.require(key, options.label)
        self._table = sheet.name
        self._notes = list(sheet.notes)

        def key_of(text: str) -> str:
            return str(PurePosixPath(text.replace("\\", "/"))) if self._by == "file" else text

        # A patient's id is not said.
        rows = sheet.one_each(key, options.label, key_of, named=self._by == "file")
        self._label_of = {name: row[options.label] for name, row in rows.items()}
