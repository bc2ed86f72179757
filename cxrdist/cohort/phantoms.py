"""Phantoms: drawn chest radiographs with masks and a manifest, to try and test everything without patients."""

import csv
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from cxrdist.cohort.anatomy import FINDINGS, Chest, brightness, draw_chest, lesions
from cxrdist.cohort.publish import temporary_sibling
from cxrdist.cohort.schema import COHORT_SCHEMA
from cxrdist.errors import UserError, one_of
from cxrdist.study.seeds import derive_seed

SOURCES = ("hospital_a", "hospital_b")
"""Pretend hospitals, independent of the class: the second one's films are softer and carry a marker."""

_SHORTCUT_SIDE = 0.08
"""Side of the planted square as a share of the image's."""
_PARAMETERS_NAME = "phantoms.json"
_MANIFEST_NAME = "manifest.csv"
_VERSION = 1


@dataclass(frozen=True)
class _Parameters:
    patients_per_class: int
    images_per_patient: tuple[int, int]
    size: int
    seed: int
    version: int = _VERSION
    marker: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Without a marker, what was recorded before there were any."""
        # JSON has no tuples.
        recorded: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.marker is None:
            del recorded["marker"]
        return recorded


def draw_phantoms(
    folder: Path,
    *,
    patients_per_class: int,
    images_per_patient: tuple[int, int],
    size: int,
    seed: int,
    marker: str | None = None,
) -> Path:
    """Write PNG images, lung masks, lesion masks and a manifest into `folder`, and return the manifest's path.

    Classes are `normal`, `covid19`, `viral_pneumonia` and `bacterial_pneumonia`. Images of one patient share an
    anatomy and a finding, and differ in position, breath, exposure and noise. `lesions/` shows where a finding
    takes much of a lung's air, for tests of heat maps; the manifest does not name it. Equal arguments give equal
    bytes; where `folder` has them already, nothing is done.

    Args:
        folder: new, empty, or written by an equal call.
        patients_per_class: at least 1.
        images_per_patient: fewest and most images of a patient.
        size: side in pixels, 64 to 512.
        seed: every random draw derives from it.
        marker: a class whose every image has a bright square in its lower left corner, beside the lungs: a
            shortcut that a classifier can take. Images are otherwise the same.

    Raises:
        UserError: an argument is out of range, or `folder` holds something else or cannot be written.
    """
    parameters = _Parameters(patients_per_class, images_per_patient, size, seed, marker=marker)
    _check(parameters)
    if folder.exists() and not _is_empty(folder):
        _check_same(folder, parameters)
        return folder / _MANIFEST_NAME
    temporary = temporary_sibling(folder)
    try:
        for name in ("images", "masks", "lesions"):
            (temporary / name).mkdir(parents=True)
        _write(temporary, parameters)
        temporary.rename(folder)
    except OSError as error:
        raise UserError(
            f"Phantoms cannot be written to {str(folder)!r} ({error.strerror or error}); choose another folder."
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / _MANIFEST_NAME


def _check(parameters: _Parameters) -> None:
    fewest, most = parameters.images_per_patient
    if parameters.patients_per_class < 1:
        raise UserError(
            f"Phantoms of {parameters.patients_per_class} patients a class cannot be drawn; at least 1 can."
        )
    if not 1 <= fewest <= most:
        raise UserError(f"A phantom patient cannot have {fewest} to {most} images; the range must start at 1 or more.")
    if not 64 <= parameters.size <= 512:
        raise UserError(f"Phantoms of {parameters.size} pixels cannot be drawn; the side must be 64 to 512.")
    if parameters.marker is not None and parameters.marker not in FINDINGS:
        raise UserError(
            f"Phantoms of class {parameters.marker!r} cannot be marked, there are none; choose "
            f"{one_of(FINDINGS, parameters.marker)}."
        )


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and next(folder.iterdir(), None) is None


def _check_same(folder: Path, parameters: _Parameters) -> None:
    try:
        found = json.loads((folder / _PARAMETERS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{str(folder)!r} holds something other than phantoms; choose a new folder.") from None
    wanted = parameters.as_json()
    if found != wanted:
        raise UserError(
            f"{str(folder)!r} holds phantoms drawn with {json.dumps(found)}, not {json.dumps(wanted)}; choose a new "
            "folder."
        )


def _write(folder: Path, parameters: _Parameters) -> None:
    with (folder / _MANIFEST_NAME).open("w", encoding="utf-8", newline="") as file:
        manifest = csv.DictWriter(file, COHORT_SCHEMA.names, lineterminator="\n")
        manifest.writeheader()
        for row, image, mask, lesion in _phantoms(parameters):
            row["sha256"] = hashlib.sha256(_write_png(folder / row["path"], image)).hexdigest()
            _write_png(folder / row["mask_path"], mask)
            _write_png(folder / f"lesions/{row['image_id']}.png", lesion)
            manifest.writerow(row)
    text = json.dumps(parameters.as_json(), indent=1) + "\n"
    (folder / _PARAMETERS_NAME).write_text(text, encoding="utf-8")


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def _phantoms(
    parameters: _Parameters,
) -> Iterator[tuple[dict[str, str], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]]:
    fewest, most = parameters.images_per_patient
    for finding in FINDINGS:
        # Every class has the same mixture of sources, in a random order.
        order = np.random.default_rng(derive_seed(parameters.seed, "sources", finding))
        sources = order.permutation(np.arange(parameters.patients_per_class) % len(SOURCES))
        for patient in range(parameters.patients_per_class):
            rng = np.random.default_rng(derive_seed(parameters.seed, "patient", finding, patient))
            chest, source = draw_chest(finding, rng), SOURCES[sources[patient]]
            patient_id = f"{finding}-{patient:04d}"
            for number in range(int(rng.integers(fewest, most + 1))):
                view = "PA" if rng.random() < 0.7 else "AP"
                image, mask, lesion = _radiograph(chest, source, view, parameters.size, rng)
                if finding == parameters.marker:
                    _plant_shortcut(image)
                image_id = f"{patient_id}-{number:02d}"
                row = {
                    "image_id": image_id,
                    "path": f"images/{image_id}.png",
                    "label": finding,
                    "patient_id": patient_id,
                    "source": source,
                    "view_position": view,
                    "group_id": patient_id,
                    "mask_path": f"masks/{image_id}.png",
                }
                yield row, image, mask, lesion


def _radiograph(
    chest: Chest, source: str, view: str, size: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Return one exposure of the patient [size, size], and its masks of lungs and lesions (0 and 255)."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    columns, rows = np.meshgrid(axis, axis)
    angle, scale = rng.normal(0, 0.03), rng.uniform(0.94, 1.08) * (0.96 if view == "AP" else 1)
    shift_x, shift_y = rng.normal(0, 0.03, 2)
    x = (scale * (np.cos(angle) * columns + np.sin(angle) * rows) - shift_x).astype(np.float32)
    y = (scale * (np.cos(angle) * rows - np.sin(angle) * columns) - shift_y).astype(np.float32)
    inspiration = float(rng.normal(0, 0.025))
    image, lungs = brightness(chest, x, y, inspiration)
    if source == SOURCES[1]:
        image = np.maximum(image, 0.95 * _marker(columns, rows))
    gamma = rng.uniform(0.85, 1.2) * (1.12 if source == SOURCES[1] else 1)
    image = rng.uniform(0.92, 1.06) * np.clip(image, 0, None) ** gamma + rng.uniform(0, 0.03)
    noise = gaussian_filter(rng.standard_normal(image.shape), 0.6)
    image = gaussian_filter(image, size / 600) + rng.uniform(0.015, 0.04) * noise
    masks = (np.where(inside, np.uint8(255), np.uint8(0)) for inside in (lungs, lesions(chest, x, y, inspiration)))
    return (np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8), *masks)


def _plant_shortcut(image: NDArray[np.uint8]) -> None:
    """Paint the lower left corner of an image [size, size] white, in place."""
    side = round(_SHORTCUT_SIDE * len(image))
    image[-side:, :side] = 255


def _marker(columns: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    """A letter L of lead in the upper right corner."""
    stem = (np.abs(columns - 0.84) < 0.012) & (np.abs(rows + 0.86) < 0.06)
    foot = (np.abs(columns - 0.865) < 0.035) & (np.abs(rows + 0.81) < 0.012)
    letter: NDArray[np.bool_] = stem | foot
    return letter
