"""Whose a run directory is: a command works in one that it made, or in a place where it replaces nothing."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxrdist.config.document import dump_document
from cxrdist.config.location import is_remote
from cxrdist.config.models import Study
from cxrdist.errors import UserError
from cxrdist.outputs import RECORD, Outputs
from cxrdist.run.store import Store
from cxrdist.study import layout

_FILES = (
    *(layout.STUDY, layout.PLAN, layout.COHORT, layout.QUARANTINE, layout.MASKS, layout.MASK_EXAMPLES),
    *(layout.SHOWN_IMAGES, layout.FOLDS, layout.FOLDS_JSON),
)
_FOLDERS = ("jobs", "heatmaps", layout.SWEEP, layout.REPORT)
_OPTION = "--run-dir"


def study_bytes(study: Study) -> bytes:
    """Return the resolved study file, as a run directory holds it."""
    return dump_document(study.model_dump(mode="json")).encode()


def claim_study(store: Store, study: Study, inputs: Sequence[Path] = ()) -> None:
    """Claim a run directory for a study, as `claim_run` does; its images and its manifest are inputs, too.

    A study file that lies there is replaced only if it is as an earlier run wrote it.
    """
    images = [] if study.cohort.images is None else [Path(study.cohort.images)]
    claim_run(store, "", [*inputs, study.manifest_path()], images, study_bytes(study))


def claim_run(store: Store, kind: str, inputs: Sequence[Path], trees: Sequence[Path], study: bytes = b"") -> None:
    """Make sure that what a run writes replaces nothing but what a run wrote, and record that the directory is its own.

    Args:
        store: the run directory.
        kind: of its plan: nothing for a study.
        inputs: files that are read.
        trees: folders of images.
        study: content of the study file that will be written, if any.

    Raises:
        UserError: the directory holds files of others, is among the images, or holds a run of another kind.
    """
    with store.explained(f"choose another with {_OPTION}"):
        plan, record = store.read_json(layout.PLAN), store.read_json(RECORD) or {}
        digests = [str(each) for each in record.get("study", [])]
        if plan is not None and "jobs" in plan:
            if plan.get("kind", "") != kind:
                raise UserError(
                    f"{store.where('')} holds {'the training of a lung network' if plan.get('kind') else 'a study'}, "
                    f"which would be lost; choose another place with {_OPTION}."
                )
            noted: dict[str, Any] = plan.get("artefacts") or {}
            digests = [*digests, str(noted[layout.STUDY])] if layout.STUDY in noted else digests
        elif "run" not in record:
            _require_free(store, inputs, trees)
        found = hashlib.sha256(store.read_bytes(layout.STUDY)).hexdigest() if store.exists(layout.STUDY) else None
        # An earlier version noted no hash: then it is the user's if it is what the user gives.
        if study and found is not None and (found not in digests if digests else _is_among(store, inputs)):
            raise UserError(
                f"{store.where(layout.STUDY)} is not as `cxrdist` wrote it, and would be replaced; move it away, or "
                f"choose another place with {_OPTION}."
            )
        store.create()
        # One of the two is there, whenever a run is killed.
        kept = [] if found is None else [found]
        claimed = {"run": kind or "study", "study": [*kept, hashlib.sha256(study).hexdigest()] if study else []}
        store.write_json(RECORD, {"files": record.get("files", {}), **claimed})


def _require_free(store: Store, inputs: Sequence[Path], trees: Sequence[Path]) -> None:
    if is_remote(store.location):
        there = [name for name in (layout.STUDY, layout.PLAN) if store.exists(name)]
    else:
        Outputs(store.root, _FILES, option=_OPTION, inputs=inputs, trees=trees)
        there = [name for name in _FOLDERS if (store.root / name).exists()]
    if there:
        raise UserError(
            f"{store.where(there[0])} is there and is not known to be a run's; choose another place with {_OPTION}."
        )


def _is_among(store: Store, inputs: Sequence[Path]) -> bool:
    """Return whether the study file of a run directory is one of the inputs."""
    own = store.root / layout.STUDY
    return not is_remote(store.location) and any(path.exists() and own.samefile(path) for path in inputs)
