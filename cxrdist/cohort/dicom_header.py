"""What a cohort needs of the headers of DICOM radiographs, and no name, date, place or number of a visit."""

import hashlib
import hmac
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom import uid

from cxrdist.cohort.dicom_elements import DicomFile, dicom_damage_as_image_error, open_dicom
from cxrdist.cohort.files import LIMITS, Limits, by, check_pixels, open_image_file
from cxrdist.cohort.missing import known
from cxrdist.errors import ImageError, UserError

_RADIOGRAPHY = ("CR", "DX", "RG", "DR")
"""DR is no modality of the standard, but some devices write it for DX."""
_UNTOLD = (None, "SC", "OT")
"""Modalities of exports and of digitised films, among them radiographs."""
_CHEST = re.compile("CHEST|THORAX|TORAX|TORACE|LUNG|PULM|CXR|PECHO|BRUSTKORB")
_MORE_THAN_CHEST = re.compile("ABD|PELV|SPINE")

_AGE = re.compile(r"(\d{1,3}) ?([YMWD]?)")
_AGE_UNITS_A_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}
_OLDEST = 90

# PS3.16 CID 4010, in SNOMED RT and SNOMED CT.
_VIEWS = {
    **dict.fromkeys(("R-10206", "399348003"), "AP"),
    **dict.fromkeys(("R-10214", "399066004", "R-40888", "272479007"), "PA"),
    **dict.fromkeys(("R-10232", "399198007"), "RL"),
    **dict.fromkeys(("R-10236", "399173006"), "LL"),
    **dict.fromkeys(("R-102CD", "399067008"), "LATERAL"),
}

_CHECKED = (
    "Modality",
    "BodyPartExamined",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
)
_TOLD = (
    "PatientID",
    "StudyInstanceUID",
    "SOPInstanceUID",
    "PatientAge",
    "PatientSex",
    "ViewPosition",
    "ViewCodeSequence",
)


@dataclass(frozen=True)
class DicomHeader:
    """All that is kept of a header."""

    patient_id: str | None
    """A pseudonym, unless ids were to be kept."""
    study_id: str | None
    """A pseudonym of the study's UID."""
    image_id: str | None
    """A pseudonym of the SOP instance's UID."""
    age: int | None
    """Whole years, at most 90; None where PatientAge is not of the form 045Y, 018M, 003W, 010D or 45."""
    sex: str | None
    """M, F or O."""
    modality: str | None
    body_part: str | None
    doubt: str | None
    """Why this may be no radiograph of the chest, in words that follow the file's name; None where nothing says so."""
    view_position: str | None
    """ViewPosition as given, else what the view's code means; not guessed from descriptions, which may name people."""
    photometric_interpretation: str
    rows: int
    columns: int
    transfer_syntax: str
    """UID."""


def pseudonym(identifier: str, salt: bytes, prefix: str = "patient") -> str:
    """Return the first 16 hexadecimal digits of an HMAC-SHA-256 of `identifier`, behind `prefix` and a hyphen.

    Whoever does not know the salt can neither undo it nor try identifiers.

    Args:
        identifier: any text.
        salt: the secret key.
        prefix: says what it stands for.

    Raises:
        UserError: the salt is empty.
    """
    if not salt:
        raise UserError("The salt of pseudonyms is empty; it must be some 32 random bytes, which are kept secret.")
    return f"{prefix}-{hmac.new(salt, identifier.encode(), hashlib.sha256).hexdigest()[:16]}"


def read_dicom_header(
    path: Path, salt: bytes, *, root: Path | None = None, keep_ids: bool = False, limits: Limits = LIMITS
) -> DicomHeader:
    """Read the header of a radiograph, without its pixels; whether it is of the chest, `doubt` says.

    Args:
        path: a DICOM file, whatever its name.
        salt: the secret key of pseudonyms.
        root: the folder that a link may not lead out of; by default the file's own.
        keep_ids: whether `patient_id` is PatientID itself; UIDs are pseudonyms in any case.
        limits: what the file may cost.

    Raises:
        ImageError: the file cannot be read, is not DICOM, or is refused by `open_radiograph`; the reason quotes no
            identifier.
        UserError: the salt is empty.
    """
    root = path.parent if root is None else root
    with open_image_file(root, str(path.absolute()), limits) as file, dicom_damage_as_image_error():
        dicom = open_radiograph(file, limits, _TOLD)
        elements = dicom.elements
        patient = known(elements.text("PatientID"))
        return DicomHeader(
            patient_id=patient if keep_ids or patient is None else pseudonym(patient, salt),
            study_id=_pseudonym_of_uid(elements.text("StudyInstanceUID"), salt, "study"),
            image_id=_pseudonym_of_uid(elements.text("SOPInstanceUID"), salt, "image"),
            age=_years(elements.text("PatientAge")),
            sex=_sex(elements.text("PatientSex")),
            modality=elements.text("Modality"),
            body_part=elements.text("BodyPartExamined"),
            doubt=doubt_of_chest(dicom),
            view_position=elements.text("ViewPosition") or _view_of_code(dicom),
            photometric_interpretation=elements.word("PhotometricInterpretation") or "",
            rows=elements.required("Rows"),
            columns=elements.required("Columns"),
            transfer_syntax=dicom.transfer_syntax,
        )


def open_radiograph(stream: BinaryIO, limits: Limits, keywords: tuple[str, ...]) -> DicomFile:
    """Read elements of a DICOM file as `open_dicom`, and refuse what cannot be a grey radiograph.

    Accepted are the modalities CR, DX, RG and DR, and SC, OT and none, which radiographs may have after an export. What
    part of the body it shows is not decided here: headers are often wrong about it (`doubt_of_chest`).

    Args:
        stream: the file from its first byte.
        limits: bound the pixels that the header tells of.
        keywords: elements beside those that are checked.

    Raises:
        ImageError: as `open_dicom`; also another modality, several frames, colour, more pixels than the limit, or an
            element that cannot be what it is.
    """
    dicom = open_dicom(stream, limits, (*_CHECKED, *keywords))
    elements = dicom.elements
    modality = elements.text("Modality")
    if modality not in _RADIOGRAPHY + _UNTOLD:
        raise ImageError(f"is of the modality {(modality or '')[:16]!r}, not a radiograph (CR, DX, RG or DR)")
    frames = elements.number("NumberOfFrames")
    if frames not in (None, 1):
        raise ImageError(f"has {frames:g} frames, not one")
    interpretation = elements.word("PhotometricInterpretation")
    if interpretation is None:
        raise ImageError("lacks PhotometricInterpretation")
    if interpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError(f"is in colour ({interpretation[:16]})")
    samples = elements.required("SamplesPerPixel")
    if samples != 1:
        raise ImageError(f"is in colour: it has {samples} samples a pixel")
    size = elements.required("Columns"), elements.required("Rows")
    if 0 in size:
        raise ImageError(f"has {by(size)} pixels")
    check_pixels(size, limits)
    allocated = elements.required("BitsAllocated")
    if allocated not in (8, 16):
        raise ImageError(f"has {allocated} bits allocated a pixel, neither 8 nor 16")
    return dicom


def doubt_of_chest(dicom: DicomFile) -> str | None:
    """Return why a radiograph may not be of the chest, in words that follow the file's name, or None.

    BodyPartExamined says so where it names another part, or chest and abdomen. Where it is empty, a secondary capture,
    or a file without a modality of radiography, may be anything.
    """
    modality, body_part = dicom.elements.text("Modality"), dicom.elements.text("BodyPartExamined")
    if body_part is not None:
        plain = without_accents(body_part)
        if _CHEST.search(plain) and not _MORE_THAN_CHEST.search(plain):
            return None
        return f"is a radiograph of {body_part[:32]!r}, not of the chest"
    is_capture = dicom.sop_class is not None and f"{dicom.sop_class}.".startswith(
        f"{uid.SecondaryCaptureImageStorage}."
    )
    if not is_capture and modality not in _UNTOLD:
        return None
    what = "is a secondary capture" if is_capture else f"has the modality {modality}" if modality else "has no Modality"
    return f"{what}, and no BodyPartExamined that names the chest"


def without_accents(body_part: str) -> str:
    """Return the name of a part of the body in capitals without accents."""
    letters = unicodedata.normalize("NFKD", body_part.upper())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _pseudonym_of_uid(identifier: str | None, salt: bytes, prefix: str) -> str | None:
    return pseudonym(identifier, salt, prefix) if identifier is not None else None


def _years(age: str | None) -> int | None:
    match = _AGE.fullmatch((age or "").upper())
    if match is None:
        return None
    return min(int(int(match[1]) / _AGE_UNITS_A_YEAR[match[2]]), _OLDEST)


def _sex(sex: str | None) -> str | None:
    return sex.upper() if sex is not None and sex.upper() in ("M", "F", "O") else None


def _view_of_code(dicom: DicomFile) -> str | None:
    code = dicom.elements.first_item("ViewCodeSequence")
    return _VIEWS.get(code.text("CodeValue") or "") if code is not None else None
