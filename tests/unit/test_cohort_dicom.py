"""DICOM: pixels against the standard's formulas in plain float64, headers that tell nobody's name, hostile files."""

import hashlib
import hmac
import logging
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataset import Dataset

from cxrdist.cohort.chunks import DecodeChunk, ImageFile, decode_chunk
from cxrdist.cohort.decode import Preprocessing, decode_grey, decode_image, decode_mask, image_size
from cxrdist.cohort.dicom import decode_dicom, dicom_size, windowed
from cxrdist.cohort.dicom_elements import open_dicom
from cxrdist.cohort.dicom_header import pseudonym, read_dicom_header
from cxrdist.cohort.files import LIMITS, Limits
from cxrdist.errors import ImageError, UserError
from tests.unit.dicom_examples import as_signed, codes_of, dicom_file, lookup_table

ORIGINALS = Path(__file__).resolve().parents[2] / ".." / "shared" / "cxr" / "originals"
SALT = b"a salt of this test"


def decoded(data, limits=LIMITS):
    return decode_dicom(data, limits)


def grey_of(brightness):
    return np.rint(255 * brightness)


def own_range(values, counted=True):
    """Brightness by the lowest and highest of the values that are counted."""
    low, high = (
        values[np.broadcast_to(counted, values.shape)].min(),
        values[np.broadcast_to(counted, values.shape)].max(),
    )
    return np.clip((values - low) / (high - low), 0, 1)


def by_the_standard(values, center, width, function):
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2 pixel by pixel, with an output from 0 to 1."""
    out = np.empty(values.shape)
    for at, x in np.ndenumerate(values):
        if function == "LINEAR":
            if x <= center - 0.5 - (width - 1) / 2:
                out[at] = 0
            elif x > center - 0.5 + (width - 1) / 2:
                out[at] = 1
            else:
                out[at] = (x - (center - 0.5)) / (width - 1) + 0.5
        elif function == "LINEAR_EXACT":
            if x <= center - width / 2:
                out[at] = 0
            elif x > center + width / 2:
                out[at] = 1
            else:
                out[at] = (x - center) / width + 0.5
        else:
            with np.errstate(over="ignore"):
                out[at] = 1 / (1 + np.exp(-4 * (x - center) / width))
    return out


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_without_a_window_the_image_fills_the_greys_by_its_own_range(bits, signed, interpretation):
    codes = codes_of(bits=bits) // 2 + 5
    data = dicom_file(codes, bits, PixelRepresentation=int(signed), PhotometricInterpretation=interpretation)
    grey = decoded(data)
    reference = grey_of(own_range(as_signed(codes, bits) if signed else codes.astype(float)))
    assert (grey.dtype, grey.shape) == (np.uint8, codes.shape)
    assert (grey.min(), grey.max()) == (0, 255)
    np.testing.assert_array_equal(grey, 255 - reference if interpretation == "MONOCHROME1" else reference)


def test_bits_above_those_stored_are_no_part_of_a_pixel():
    codes = codes_of(bits=12)
    overlay = (np.arange(codes.size).reshape(codes.shape) % 3 == 0) * 0x8000
    np.testing.assert_array_equal(decoded(dicom_file(codes + overlay.astype(np.uint16))), decoded(dicom_file(codes)))


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("slope", "intercept"), [(None, None), (0.37, -250.5), (-2, 31)])
def test_the_first_window_of_the_rescaled_values_decides(function, signed, slope, intercept):
    codes = codes_of(bits=12)
    values = (as_signed(codes, 12) if signed else codes.astype(float)) * (slope or 1.0) + (intercept or 0.0)
    center, width = float(np.round(np.median(values), 1)), float(np.round(np.ptp(values) / 3))
    data = dicom_file(
        codes,
        PixelRepresentation=int(signed),
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        WindowCenter=[center, 1.0],
        WindowWidth=[width, 2.0],
        VOILUTFunction=function,
    )
    reference = grey_of(by_the_standard(values, center, width, function or "LINEAR"))
    np.testing.assert_array_equal(decoded(data), reference)
    assert len(np.unique(reference)) > 100


def test_the_window_not_the_image_decides_what_is_black_and_white():
    dim = decoded(dicom_file(codes_of(bits=12) // 8 + 100, WindowCenter=2048, WindowWidth=4096))
    assert (dim.min(), dim.max()) == (grey_of(100 / 4095), grey_of((4095 // 8 + 100) / 4095))


def test_a_window_of_width_1_is_a_threshold():
    codes = codes_of(bits=12)
    center = int(np.sort(codes, axis=None)[codes.size // 2])
    grey = decoded(dicom_file(codes, WindowCenter=center, WindowWidth=1))
    np.testing.assert_array_equal(grey, np.where(codes >= center, 255, 0))


@pytest.mark.parametrize(
    "more",
    [{"WindowCenter": 40}, {"WindowWidth": 40}, {"WindowCenter": "", "WindowWidth": ""}, {"VOILUTFunction": "X"}],
)
def test_half_a_window_is_none(more):
    np.testing.assert_array_equal(decoded(dicom_file(**more)), decoded(dicom_file()))


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize(("bits", "packed"), [(8, True), (8, False), (10, False), (16, False)])
@pytest.mark.parametrize("first", [-90, 0, 60])
def test_a_voi_lut_maps_to_all_its_levels_and_comes_before_a_window(syntax, bits, packed, first):
    codes = codes_of(bits=8)
    entries = (np.sqrt(np.linspace(0, 0.8, 150)) * (2**bits - 1)).astype(np.int64)
    big_endian = syntax == uid.ExplicitVRBigEndian
    data = dicom_file(
        codes,
        8,
        transfer_syntax=syntax,
        RescaleSlope=1,
        RescaleIntercept=-50,
        WindowCenter=10,
        WindowWidth=3,
        VOILUTSequence=lookup_table(first, entries, bits, packed=packed, big_endian=big_endian),
    )
    index = np.clip(codes.astype(np.int64) - 50 - first, 0, 149)
    np.testing.assert_array_equal(decoded(data), grey_of(entries[index] / (2**bits - 1)))


@pytest.mark.parametrize(("held", "declared"), [(12, 16), (12, 8), (10, 12), (16, 12), (8, 16)])
def test_a_voi_lut_maps_to_the_levels_that_its_entries_need_whatever_it_declares(held, declared):
    entries = np.rint(np.sqrt(np.linspace(0, 0.8, 256)) * (2**held - 1)).astype(np.int64)
    codes = codes_of(bits=8)
    truly, wrongly = (
        decoded(dicom_file(codes, 8, VOILUTSequence=lookup_table(0, entries, bits))) for bits in (held, declared)
    )
    np.testing.assert_array_equal(truly, grey_of(entries[codes] / (2**held - 1)))
    np.testing.assert_array_equal(wrongly, truly)


def test_words_of_the_standard_are_read_in_any_case():
    window: dict[str, Any] = {"WindowCenter": 2000, "WindowWidth": 900}
    written = {
        "VOILUTFunction": "SIGMOID",
        "PhotometricInterpretation": "MONOCHROME1",
        "PresentationLUTShape": "INVERSE",
    }
    for keyword, word in written.items():
        told: list[dict[str, Any]] = [{keyword: word}, {keyword: word.lower()}]
        capitals, small = (decoded(dicom_file(**window, **each)) for each in told)
        np.testing.assert_array_equal(small, capitals)
        assert (capitals != decoded(dicom_file(**window))).any()


def test_a_voi_lut_is_entered_at_the_nearest_integer():
    codes = codes_of(bits=8)
    data = dicom_file(codes, 8, RescaleSlope=0.3, VOILUTSequence=lookup_table(0, np.arange(256), 8))
    np.testing.assert_array_equal(decoded(data), np.rint(codes * 0.3))


@pytest.mark.parametrize("signed", [False, True])
def test_a_modality_lut_comes_before_everything(signed):
    codes = codes_of(bits=12)
    stored = as_signed(codes, 12) if signed else codes.astype(np.int64)
    first = -1500 if signed else 700
    entries = (np.arange(2000) ** 2) // 70
    data = dicom_file(
        codes,
        PixelRepresentation=int(signed),
        ModalityLUTSequence=lookup_table(first, entries, 16),
        RescaleSlope=9,
        RescaleIntercept=9,
        WindowCenter=20_000,
        WindowWidth=30_000,
    )
    values = entries[np.clip(stored - first, 0, 1999)]
    np.testing.assert_array_equal(decoded(data), grey_of(by_the_standard(values, 20_000, 30_000, "LINEAR")))


def test_a_lut_of_65536_entries_is_written_as_0():
    codes = codes_of(bits=16)
    entries = np.arange(65_536)[::-1]
    data = dicom_file(codes, 16, VOILUTSequence=lookup_table(0, entries, 16))
    np.testing.assert_array_equal(decoded(data), grey_of(entries[codes] / 65_535))


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("value", "limit", "signed"), [(4095, None, False), (3800, 4095, False), (4095, 3800, False), (-2048, -1900, True)]
)
def test_padding_is_black_and_does_not_count(interpretation, value, limit, signed):
    codes = codes_of(bits=12)
    stored = as_signed(codes, 12) if signed else codes.astype(np.int64)
    padding = (stored >= min(value, limit or value)) & (stored <= max(value, limit or value))
    assert 0 < padding.sum() < padding.size / 2
    words = [None if word is None else word % 2**16 for word in (value, limit)]
    data = dicom_file(
        codes,
        PixelRepresentation=int(signed),
        PhotometricInterpretation=interpretation,
        PixelPaddingValue=value if signed else words[0],
        PixelPaddingRangeLimit=limit if signed else words[1],
    )
    reference = grey_of(own_range(stored, ~padding))
    reference = 255 - reference if interpretation == "MONOCHROME1" else reference
    np.testing.assert_array_equal(decoded(data), np.where(padding, 0, reference))


def test_monochrome1_and_inverse_mean_one_inversion():
    plain = decoded(dicom_file())
    for interpretation, shape, inverted in [
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", True),
    ]:
        grey = decoded(dicom_file(PhotometricInterpretation=interpretation, PresentationLUTShape=shape))
        np.testing.assert_array_equal(grey, 255 - plain if inverted else plain)


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("more", [{}, {"PixelPaddingValue": 77}])
def test_an_image_of_one_value_is_black(interpretation, more):
    data = dicom_file(np.full((9, 5), 77, np.uint16), PhotometricInterpretation=interpretation, **more)
    assert not decoded(data).any()


@settings(max_examples=25, deadline=None)
@given(slope=st.floats(0.01, 50), intercept=st.floats(-5000, 5000), negative=st.booleans())
def test_without_a_window_no_rescaling_changes_the_image_but_a_negative_one_which_inverts_it(
    slope, intercept, negative
):
    rescaled: dict[str, Any] = {
        "RescaleSlope": f"{-slope if negative else slope:.6f}",
        "RescaleIntercept": f"{intercept:.6f}",
    }
    plain = decoded(dicom_file()).astype(int)
    grey = decoded(dicom_file(**rescaled)).astype(int)
    # Rounding may fall to the other side.
    assert np.abs((255 - grey if negative else grey) - plain).max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30),
    center=st.floats(-1e5, 1e5),
    width=st.floats(1e-3, 1e6),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_a_window_is_monotone_and_keeps_to_0_and_1(values, center, width, function):
    assume(function != "LINEAR" or width >= 1)
    ordered = np.sort(np.array(values))
    brightness = windowed(ordered, center, width, function)
    assert (np.diff(brightness) >= 0).all()
    assert brightness.min() >= 0
    assert brightness.max() <= 1
    np.testing.assert_allclose(brightness, by_the_standard(ordered, center, width, function), atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=9),
    center=st.floats(allow_nan=False, allow_infinity=False),
    width=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_a_window_beyond_all_reason_still_gives_numbers(values, center, width, function):
    assume(function != "LINEAR" or width >= 1)
    brightness = windowed(np.array(values), center, width, function)
    assert ((brightness >= 0) & (brightness <= 1)).all()


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
@pytest.mark.parametrize(("bits", "shape"), [(8, (8, 6)), (8, (7, 5)), (12, (7, 5))])
def test_native_pixels_are_the_same_in_every_transfer_syntax(syntax, bits, shape):
    codes = codes_of(shape, bits)
    data = dicom_file(codes, bits, transfer_syntax=syntax)
    np.testing.assert_array_equal(decoded(data), grey_of(own_range(codes.astype(float))))
    assert dicom_size(data, LIMITS) == (shape[1], shape[0])


def test_8_bits_in_big_endian_words_are_swapped():
    codes = codes_of((7, 5), 8)
    data = dicom_file(codes, 8, transfer_syntax=uid.ExplicitVRBigEndian)
    at = data.index(b"\x7f\xe0\x00\x10OB") + 12
    words = np.frombuffer(data[at:], "<u2").astype(">u2").tobytes()
    swapped = data[: at - 8] + b"OW" + data[at - 6 : at] + words
    np.testing.assert_array_equal(decoded(swapped), decoded(data))


def test_a_file_is_decoded_by_the_function_for_all_images_whatever_its_name(tmp_path):
    codes = codes_of((40, 30))
    data = dicom_file(codes)
    square, size = decode_image(data, Preprocessing(16), LIMITS)
    assert square.shape == (16, 16)
    assert size == (30, 40) == image_size(data, LIMITS)
    np.testing.assert_array_equal(square, decode_grey(data, Preprocessing(16)))
    (tmp_path / "good.png").write_bytes(data)
    (tmp_path / "colour.dcm").write_bytes(dicom_file(PhotometricInterpretation="RGB", SamplesPerPixel=3))
    (tmp_path / "other.dcm").write_bytes(b"not DICOM")
    files = tuple(ImageFile(name, name, None, None) for name in ("good.png", "colour.dcm", "other.dcm"))
    chunk = decode_chunk(DecodeChunk(0, tmp_path, files, Preprocessing(16), with_masks=False, limits=LIMITS))
    np.testing.assert_array_equal(chunk.pixels, square[None])
    assert {bad.image_id: bad.reason for bad in chunk.failures} == {
        "colour.dcm": "is in colour (RGB)",
        "other.dcm": "is not an image (JPEG, PNG, TIFF, WebP or DICOM)",
    }


def test_a_mask_cannot_be_dicom():
    with pytest.raises(ImageError, match=r"^is DICOM, not JPEG, PNG, TIFF or WebP$"):
        decode_mask(dicom_file(), Preprocessing(16), LIMITS, None)


def cut_in_pixels():
    return dicom_file()[:-3]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not DICOM"),
        (b"\0" * 128 + b"DCIM" + b"\0" * 90, "is not DICOM: it does not have the letters DICM after 128 bytes"),
        (b"\0" * 128 + b"DICM", "does not tell its transfer syntax"),
        (dicom_file(sop_class=uid.MediaStorageDirectoryStorage), "is a DICOMDIR"),
        (
            dicom_file(transfer_syntax=uid.HTJ2KLossless, frame=b"\0\0"),
            r"has the transfer syntax 'High-Throughput JPEG 2000 .*', which cannot be decoded",
        ),
        (dicom_file(transfer_syntax=uid.MPEG2MPML, frame=b"\0\0"), "has the transfer syntax 'MPEG2"),
        (dicom_file(transfer_syntax=uid.ExplicitVRLittleEndian, PixelData=None), "has no pixel data"),
        (cut_in_pixels(), r"is truncated: it has 957 of 960 bytes of pixels"),
        (dicom_file(Rows=25), r"has 960 bytes of pixels, fewer than its 20 x 25 pixels need"),
        (dicom_file()[: dicom_file().index(b"MONOCHROME2") + 4], "is truncated in its header"),
        (dicom_file(NumberOfFrames=3), "has 3 frames, not one"),
        (dicom_file(NumberOfFrames=b"many"), "has a NumberOfFrames that is not a number"),
        (dicom_file(PhotometricInterpretation="YBR_FULL_422"), r"is in colour \(YBR_FULL_422\)"),
        (dicom_file(PhotometricInterpretation="PALETTE COLOR"), r"is in colour \(PALETTE COLOR\)"),
        (dicom_file(PhotometricInterpretation=None), "lacks PhotometricInterpretation"),
        (dicom_file(SamplesPerPixel=3), "is in colour: it has 3 samples a pixel"),
        (dicom_file(Modality="CT"), "is of the modality 'CT', not a radiograph"),
        (dicom_file(Modality="MG"), "is of the modality 'MG', not a radiograph"),
        (dicom_file(Rows=0), "has 20 x 0 pixels"),
        (dicom_file(Rows=None), "lacks Rows"),
        (dicom_file(Rows=60_000, Columns=60_000), "has 60000 x 60000 pixels, more than the limit of 100,000,000"),
        (dicom_file(BitsAllocated=32), "has 32 bits allocated a pixel, neither 8 nor 16"),
        (dicom_file(BitsStored=17), "has 17 bits stored of 16 allocated"),
        (dicom_file(BitsStored=0), "has 0 bits stored of 16 allocated"),
        (dicom_file(HighBit=15), r"has pixels whose bits are not the lowest \(HighBit\)"),
        (dicom_file(PixelRepresentation=2), "has the PixelRepresentation 2, neither 0 nor 1"),
        (dicom_file(RescaleSlope=0, RescaleIntercept=3), "has a RescaleSlope of 0"),
        (dicom_file(RescaleSlope="1e308"), "has a RescaleSlope or RescaleIntercept beyond all numbers"),
        (dicom_file(RescaleSlope=b"nan "), "has a RescaleSlope that is not a number"),
        (dicom_file(WindowCenter=4, WindowWidth=0), "has a window of width 0, which LINEAR cannot have"),
        (dicom_file(WindowCenter=4, WindowWidth=0.5), "has a window of width 0.5, which LINEAR cannot have"),
        (
            dicom_file(WindowCenter=4, WindowWidth=-3, VOILUTFunction="SIGMOID"),
            "has a window of width -3, which SIGMOID cannot have",
        ),
        (dicom_file(WindowCenter=4, WindowWidth=3, VOILUTFunction="CUBIC"), "has the VOILUTFunction 'CUBIC', not"),
        (dicom_file(VOILUTSequence=lookup_table(0, np.arange(9), 17)), "has a LUT of 17 bits"),
        (dicom_file(VOILUTSequence=[Dataset()]), "has a LUTDescriptor that is not of three numbers"),
        (dicom_file(transfer_syntax=uid.JPEGLSLossless, frame=b"\xff\xd8\xff\xd9"), "is damaged: its frame is not JP"),
        (dicom_file(transfer_syntax=uid.JPEG2000, frame=b"\xff\xd8\xff\xd9"), "is damaged: its frame is no JPEG 2000"),
        (dicom_file(transfer_syntax=uid.RLELossless, frame=b"\2\0\0\0"), "is truncated in its compressed pixels"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[:40],
)  # fmt: skip
def test_a_file_that_is_no_grey_chest_radiograph_is_refused_with_the_reason(data, reason):
    with pytest.raises(ImageError, match=f"^{reason}"):
        decoded(data)


@pytest.mark.parametrize(
    ("elements", "doubt"),
    [
        (
            {"Modality": "OT", "BodyPartExamined": None},
            "has the modality OT, and no BodyPartExamined that names the chest",
        ),
        ({"Modality": None, "BodyPartExamined": None}, "has no Modality, and no BodyPartExamined that names the chest"),
        (
            {"sop_class": uid.SecondaryCaptureImageStorage, "BodyPartExamined": ""},
            "is a secondary capture, and no BodyPartExamined that names the chest",
        ),
        ({"BodyPartExamined": "KNEE"}, "is a radiograph of 'KNEE', not of the chest"),
        ({"BodyPartExamined": "T SPINE CHEST"}, "is a radiograph of 'T SPINE CHEST', not of the chest"),
        ({"BodyPartExamined": "CHESTABDOMEN"}, "is a radiograph of 'CHESTABDOMEN', not of the chest"),
    ],
)
def test_a_header_that_does_not_say_chest_is_a_doubt_and_the_pixels_are_read_all_the_same(header_of, elements, doubt):
    assert header_of(**elements).doubt == doubt
    np.testing.assert_array_equal(decoded(dicom_file(**elements)), decoded(dicom_file()))


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "DR"])
@pytest.mark.parametrize(
    "body_part", [None, "", "CHEST", "chest ", "THORAX", "PORT CHEST", "CHEST_PA", "TÓRAX", "Thorax ap", "LUNGS", "CXR",
     "Pecho", "BRUSTKORB", "PULMÓN"]
)  # fmt: skip
def test_the_chest_is_known_in_many_spellings(header_of, modality, body_part):
    elements = {"Modality": modality, "BodyPartExamined": body_part, "SpecificCharacterSet": "ISO_IR 100"}
    assert header_of(**elements).doubt is None


@pytest.mark.parametrize("modality", ["SC", "OT", None, "CR"])
def test_a_secondary_capture_that_says_chest_is_no_doubt(header_of, modality):
    assert header_of(Modality=modality, sop_class=uid.SecondaryCaptureImageStorage).doubt is None


def test_dimensions_are_refused_before_anything_is_decoded():
    huge = dicom_file(
        Rows=9999, Columns=9999, transfer_syntax=uid.JPEG2000, frame=b"\xff\x4f\xff\x51" + b"\0" * 60, BitsAllocated=16
    )
    with pytest.raises(ImageError, match="has 9999 x 9999 pixels, more than the limit of 1,000"):
        decoded(huge, Limits(max_pixels=1000))
    with pytest.raises(ImageError, match="has 0 x 0 pixels, and 9999 x 9999 by its header"):
        decoded(huge)
    with pytest.raises(ImageError, match=r"has [\d,]+ bytes, more than the limit of 100"):
        decoded(huge, Limits(max_bytes=100))


IDENTIFYING: dict[str, Any] = {
    "PatientName": "Marker^Name",
    "PatientBirthDate": "19711231",
    "PatientAddress": "Marker Street",
    "OtherPatientIDs": "MarkerOther",
    "AccessionNumber": "MarkerAccession",
    "InstitutionName": "Marker Hospital",
    "ReferringPhysicianName": "Marker^Doctor",
    "StudyDate": "20200229",
    "StudyDescription": "Marker study",
    "SeriesDescription": "Marker series",
    "PatientComments": "Marker comment",
}


@pytest.fixture
def header_of(tmp_path):
    def read(salt=SALT, *, keep_ids=False, **elements):
        path = tmp_path / "radiograph"
        path.write_bytes(dicom_file(**elements))
        return read_dicom_header(path, salt, keep_ids=keep_ids)

    return read


def keyed(text, prefix):
    """HMAC by its definition (RFC 2104), for keys of up to 64 bytes."""
    key = SALT.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + text.encode()).digest()
    return f"{prefix}-{hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).hexdigest()[:16]}"


def test_a_header_tells_what_a_cohort_needs_and_ids_as_pseudonyms(header_of):
    known = {"PatientID": "Doe 42", "StudyInstanceUID": "1.2.3", "PatientAge": "034Y", "PatientSex": "F"}
    header = header_of(ViewPosition="PA", **known)
    assert header.patient_id == keyed("Doe 42", "patient") == pseudonym("Doe 42", SALT)
    assert header.study_id == keyed("1.2.3", "study")
    assert header.image_id == keyed("1.2.3.4", "image")
    assert (header.age, header.sex, header.view_position) == (34, "F", "PA")
    assert (header.modality, header.body_part) == ("CR", "CHEST")
    assert (header.rows, header.columns, header.photometric_interpretation) == (24, 20, "MONOCHROME2")
    assert header.transfer_syntax == uid.ExplicitVRLittleEndian
    assert header_of(b"another salt", **known).patient_id != header.patient_id
    kept = header_of(keep_ids=True, **known)
    assert (kept.patient_id, kept.study_id) == ("Doe 42", header.study_id)


@pytest.mark.parametrize("salt", [b"x", SALT, b"k" * 64, b"longer than a block " * 9])
def test_a_pseudonym_is_keyed_and_differs_by_identifier(salt):
    assert pseudonym("é42", salt) == "patient-" + hmac.new(salt, "é42".encode(), "sha256").hexdigest()[:16]
    assert len({pseudonym(text, salt) for text in ("a", "A", "a ", "a\0", "")}) == 5


def test_an_empty_salt_is_refused():
    with pytest.raises(UserError, match="salt of pseudonyms is empty"):
        pseudonym("a", b"")


@pytest.mark.parametrize("patient_id", [None, "", " ", b"\0\0", b"  \0 "])
def test_a_patient_without_an_id_has_no_pseudonym(header_of, patient_id):
    assert header_of(PatientID=patient_id).patient_id is None
    assert header_of(PatientID=patient_id, keep_ids=True).patient_id is None


def test_padding_is_no_part_of_an_id_but_case_and_inner_spaces_are(header_of):
    def patient(patient_id):
        return header_of(PatientID=patient_id).patient_id

    assert patient(b" Ab 1  ") == patient(b"Ab 1\0") == patient(b"Ab 1") == pseudonym("Ab 1", SALT)
    assert len({patient(text) for text in (b"Ab 1", b"AB 1", b"Ab1 ", b"Ab  1 ")}) == 4


def test_an_id_is_the_same_in_every_character_set(header_of):
    for charset, codec in [("ISO_IR 100", "latin-1"), ("ISO_IR 192", "utf-8"), ("ISO_IR 101", "iso8859-2")]:
        assert header_of(PatientID="Müller7".encode(codec), SpecificCharacterSet=charset).patient_id == keyed(
            "Müller7", "patient"
        )
    assert header_of(PatientID="A7", SpecificCharacterSet=b"no such set ").patient_id == keyed("A7", "patient")


@pytest.mark.parametrize(
    ("age", "years"),
    [
        ("034Y", 34), ("000Y", 0), ("089Y", 89), ("090Y", 90), ("091Y", 90), ("150Y", 90), ("018M", 1), ("011M", 0),
        ("104W", 1), ("105W", 2), ("400D", 1), ("012D", 0), ("68", 68), ("7Y", 7), ("", None), (None, None),
        ("Y", None), ("-34Y", None), ("034X", None), ("34.5", None), ("about 30", None), ("1234Y", None),
    ],
)  # fmt: skip
def test_an_age_is_whole_years_of_at_most_90(header_of, age, years):
    assert header_of(PatientAge=age).age == years


@pytest.mark.parametrize(("sex", "told"), [("M", "M"), ("f ", "F"), ("O", "O"), ("MF", None), ("", None), (None, None)])
def test_a_sex_is_m_f_or_o(header_of, sex, told):
    assert header_of(PatientSex=sex).sex == told


def view_code(value):
    item = Dataset()
    item.CodeValue = value
    return [item]


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize(
    ("elements", "view"),
    [
        ({"ViewPosition": "LL"}, "LL"),
        ({"ViewPosition": "AP", "ViewCodeSequence": view_code("R-10214")}, "AP"),
        ({"ViewPosition": "", "ViewCodeSequence": view_code("R-10214")}, "PA"),
        ({"ViewCodeSequence": view_code("399348003")}, "AP"),
        ({"ViewCodeSequence": view_code("R-10236")}, "LL"),
        ({"ViewCodeSequence": view_code("399067008")}, "LATERAL"),
        ({"ViewCodeSequence": view_code("R-99999")}, None),
        ({"ViewCodeSequence": []}, None),
        ({"SeriesDescription": "PA view"}, None),
    ],
)
def test_the_view_is_told_by_its_position_else_by_its_code(header_of, syntax, elements, view):
    assert header_of(transfer_syntax=syntax, **elements).view_position == view


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"PatientID": b"Marker\0Id"}, "has a PatientID with control characters"),
        ({"PatientID": b"Marker\r\nId"}, "has a PatientID with control characters"),
        ({"PatientID": b"Marker\x1b[31m"}, "has a PatientID "),
        ({"PatientID": "Marker\u202eId", "SpecificCharacterSet": "ISO_IR 192"}, "has a PatientID with control"),
        ({"PatientID": b"Marker" * 2_000_000}, "has a PatientID of|has a header of more than"),
        ({"PatientID": b"Marker" * 200}, "has a PatientID of 1,200 bytes, more than the limit of 1,024"),
        ({"PatientID": b"Marker\xff\xfe", "SpecificCharacterSet": "ISO_IR 192"}, "has a PatientID that its"),
        ({"BodyPartExamined": b"CHEST\x07"}, "has a BodyPartExamined with control characters"),
        ({"Rows": b"\1\2\3\4"}, "has 2 values of Rows"),
        ({"Rows": b"\1\2\3"}, "has a Rows that is not of 16-bit integers|is truncated"),
        ({"NumberOfFrames": b"1e9"}, "has 1e.09 frames, not one"),
    ],
)  # fmt: skip
def test_hostile_values_are_refused_and_never_quoted(header_of, elements, reason, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ImageError, match=f"^({reason})") as refused:
        header_of(**elements)
    assert "Marker" not in str(refused.value) + caplog.text
    assert refused.value.__cause__ is None


def test_nothing_else_that_identifies_is_kept_or_logged(header_of, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    inner = Dataset()
    inner.PatientID = "MarkerInner"
    header = header_of(
        PatientID="MarkerId", OtherPatientIDsSequence=[inner], SpecificCharacterSet=b"Wrong ", **IDENTIFYING
    )
    for value in ("Marker", "1971", "2020"):
        assert value not in repr(header) + caplog.text
    dicom = open_dicom(BytesIO(dicom_file(PatientID="MarkerId", **IDENTIFYING)), LIMITS, ["Rows", "Modality"])
    assert {element.keyword for element in dicom.elements._dataset} == {"Rows", "Modality"}
    assert capfd.readouterr() == ("", "")


def test_reading_a_header_does_not_read_the_pixels(header_of):
    assert header_of(transfer_syntax=uid.JPEG2000, frame=b"not JPEG 2000").columns == 20


def test_a_header_is_read_from_below_the_root_only(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "outside.dcm").write_bytes(dicom_file())
    link = tmp_path / "root" / "link.dcm"
    link.symlink_to(tmp_path / "outside.dcm")
    for options in ({}, {"root": tmp_path / "root"}):
        with pytest.raises(ImageError, match="leads out of the image folder"):
            read_dicom_header(link, SALT, **options)
    assert read_dicom_header(link, SALT, root=tmp_path).rows == 24
    with pytest.raises(ImageError, match="is missing"):
        read_dicom_header(tmp_path / "gone.dcm", SALT)
    (tmp_path / "text.dcm").write_bytes(b"Doe")
    with pytest.raises(ImageError, match="is not DICOM"):
        read_dicom_header(tmp_path / "text.dcm", SALT)


@pytest.mark.real_data
@pytest.mark.skipif(not ORIGINALS.is_dir(), reason="the shared folder of real chest X-rays is absent")
def test_a_real_file_is_a_frontal_radiograph_with_dark_lungs():
    path = ORIGINALS / "c64d5667-a776-4f95-9e21-bfabafb07740.dcm"
    header = read_dicom_header(path, SALT)
    assert (header.view_position, header.age, header.sex, header.rows, header.columns) == ("AP", 68, "F", 1024, 1024)
    grey = decoded(path.read_bytes()).astype(int)
    mediastinum, right_lung, left_lung = grey[500:600, 480:560], grey[280:400, 330:440], grey[280:400, 600:700]
    assert mediastinum.mean() > 30 + max(right_lung.mean(), left_lung.mean())
