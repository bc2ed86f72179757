"""The cohort: which images there are, with label, patient and source, checked before anything is decoded."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxrdist.cohort.checks import check_rows
from cxrdist.cohort.likeness import nearly_equal, nearly_equal_names
from cxrdist.cohort.manifest import open_manifest, read_manifest
from cxrdist.cohort.schema import COHORT_SCHEMA
from cxrdist.errors import UserError, first_few
from cxrdist.study.fingerprint import fingerprint

__all__ = ["COHORT_SCHEMA", "Cohort", "GroupBy", "load_cohort"]

GroupBy = Literal["group", "patient", "image"]


@dataclass(frozen=True)
class Cohort:
    """The images of a study; every row was checked by `load_cohort`."""

    table: pa.Table
    """COHORT_SCHEMA, sorted by image_id."""
    root: Path
    """Resolved folder that `path` and `mask_path` start from."""
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Sentences about how its table was read, which belong to what is doubtful."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> list[str | None]:
        """The values of one column of COHORT_SCHEMA, in the order of `image_ids`."""
        return list(self.table.column(name).to_pylist())

    @property
    def image_ids(self) -> list[str]:
        """Sorted and distinct."""
        return [str(i) for i in self.column("image_id")]

    @property
    def labels(self) -> NDArray[np.int64]:
        """[n], index into `classes`."""
        index = {name: i for i, name in enumerate(self.classes)}
        return np.array([index[str(label)] for label in self.column("label")], dtype=np.int64)

    @property
    def sources(self) -> NDArray[np.str_]:
        """[n], "" where unknown."""
        return np.array([source or "" for source in self.column("source")], dtype=np.str_)

    def groups(self, by: GroupBy) -> NDArray[np.str_]:
        """[n], the name of what must not be divided between training and test.

        `image`: each image alone. `patient`: the patient, or the image where the patient is unknown.
        `group`: the manifest's group_id, else the patient, else the image; groups that share a patient are
        one group, so that a group is never smaller than a patient. Names begin with their kind.
        """
        images = [f"image:{i}" for i in self.image_ids]
        if by == "image":
            return np.array(images, dtype=np.str_)
        patients = [f"patient:{p}" if p else i for p, i in zip(self.column("patient_id"), images, strict=True)]
        if by == "patient":
            return np.array(patients, dtype=np.str_)
        groups = [f"group:{g}" if g else p for g, p in zip(self.column("group_id"), patients, strict=True)]
        return _joined(groups, patients)

    @cached_property
    def content_hash(self) -> str:
        """64 hexadecimal digits over all columns and the classes; the same in any row order and folder."""
        return fingerprint({"classes": list(self.classes), "columns": self.table.to_pydict()})

    def subset(self, keep: NDArray[np.bool_]) -> "Cohort":
        """The images where `keep` [n] is true."""
        return Cohort(self.table.filter(pa.array(keep, type=pa.bool_())), self.root, self.classes, self.notes)

    def doubts(self) -> list[str]:
        """What makes results on this cohort doubtful, one sentence each, for the log and the report."""
        return [*self.notes, *self._doubts_about_names(), *self._doubts_about_patients(), *self._doubts_about_sources()]

    def _doubts_about_names(self) -> list[str]:
        columns = {"patient ids": "patient_id", "group ids": "group_id", "labels": "label", "sources": "source"}
        doubts = []
        for words, column in columns.items():
            alike = nearly_equal({name for name in self.column(column) if name})
            if alike:
                doubts.append(nearly_equal_names(words, alike))
        return doubts

    def _doubts_about_patients(self) -> list[str]:
        doubts = []
        patients = self.column("patient_id")
        unknown = sum(not patient for patient in patients)
        if unknown:
            doubts.append(
                f"patient ids are missing for {unknown} of {len(self)} images: "
                "each of these is taken as its own patient"
            )
        classes_of: dict[str, set[str]] = {}
        for patient, label in zip(patients, self.column("label"), strict=True):
            if patient:
                classes_of.setdefault(patient, set()).add(str(label))
        mixed = sorted(patient for patient, labels in classes_of.items() if len(labels) > 1)
        if mixed:
            verb = "patient has" if len(mixed) == 1 else "patients have"
            doubts.append(f"{len(mixed)} {verb} images of more than one class ({first_few(mixed)})")
        return doubts

    def _doubts_about_sources(self) -> list[str]:
        doubts = []
        sources, labels = self.sources, self.labels
        for index, name in enumerate(self.classes):
            own, others = set(sources[labels == index].tolist()), set(sources[labels != index].tolist()) - {""}
            if "" in own or not own or not others - own:
                continue
            if len(own) == 1:
                doubts.append(f"class {name} comes from one source only ({min(own)})")
            elif not own & others:
                doubts.append(f"class {name} shares no source with another class ({first_few(sorted(own))})")
        return doubts


def load_cohort(manifest: Path, images: Path, classes: Sequence[str] | None) -> Cohort:
    """Read and check the table of a study's images; the image files themselves are not opened.

    Args:
        manifest: a .csv or .parquet file with the columns of COHORT_SCHEMA, or a .yaml recipe that maps a
            foreign table (see `cxrdist.cohort.manifest`).
        images: the folder that the table's paths start from.
        classes: every label that may occur, in the order of the study's tables; None takes whatever there is, one
            patient's images too, since nothing is to be told apart.

    Raises:
        UserError: the table cannot be read or mapped, or a row is wrong or contradicts another one.
    """
    if not images.is_dir():
        raise UserError(
            f"The image folder {str(images)!r} does not exist; give the folder that the manifest's paths start from "
            "as cohort.images or --images."
        )
    root = images.resolve()
    opened = open_manifest(manifest, root, classes)
    table, rows = read_manifest(opened)
    is_study = classes is not None
    if classes is None:
        classes = sorted(set(table.column("label").to_pylist()) - {None})
    checked = check_rows(table, rows, manifest, root, classes)
    cohort = Cohort(checked.sort_by("image_id").combine_chunks(), root, tuple(classes), opened.table.notes)
    missing = [name for name, count in _counts(cohort).items() if count == 0]
    if missing:
        raise UserError(
            f"Class {missing[0]!r} of cohort.classes has no image in {str(manifest)!r}; its labels are "
            f"{', '.join(sorted(set(map(str, cohort.column('label')))))}."
        )
    if is_study and len(set(cohort.groups("patient").tolist())) == 1:
        raise UserError(
            f"All {len(cohort)} images of {str(manifest)!r} are of one patient ({cohort.column('patient_id')[0]!r}), "
            "but training and test need different patients; look at the column patient_id."
        )
    return cohort


def _counts(cohort: Cohort) -> dict[str, int]:
    seen = Counter(cohort.column("label"))
    return {name: seen[name] for name in cohort.classes}


def _joined(groups: list[str], patients: list[str]) -> NDArray[np.str_]:
    """[n], each row's connected component when rows of one group or one patient are linked; its first name."""
    names, codes = np.unique(np.array([groups, patients], dtype=np.str_), return_inverse=True)
    group_codes, patient_codes = codes.reshape(2, -1)
    links = coo_array((np.ones(len(groups), dtype=np.int8), (group_codes, patient_codes)), shape=(len(names),) * 2)
    _, component = connected_components(links, directed=False)
    # `names` is sorted, so the first name of a component is a group's wherever it has one.
    _, first = np.unique(component, return_index=True)
    return np.asarray(names[first[component[group_codes]]], dtype=np.str_)
