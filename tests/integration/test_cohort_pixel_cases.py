"""Files of kinds that people met: each gives the pixels that its source had, by other means, or a reason."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.pixels.processing import apply_windowing

from cxrdist.cohort.decode import Preprocessing, decode_grey, image_size
from cxrdist.cohort.files import LIMITS
from cxrdist.cohort.marking import mark_file
from cxrdist.errors import ImageError

CASES = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases" / "pix"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not CASES.is_dir(), reason="the shared folder of files that people met is absent"),
]

REFUSED = {
    "c_j2k12s_pr0": "has signed pixels in its frame, and unsigned ones by its header",
    "c_jp2box": "is damaged: its frame is no JPEG 2000 codestream",
    "d_XR": "is of the modality 'XR', not a radiograph",
    "d_frames0": "has 0 frames, not one",
    "d_highbit15": "has pixels whose bits are not the lowest",
    "d_leftaligned": "has pixels whose bits are not the lowest",
    "d_meta_no_ts": "does not tell its transfer syntax",
    "d_no_meta_no_preamble": "looks like DICOM without its first 132 bytes",
    "d_palette": "is in colour",
    "d_preamble_no_meta": "does not tell its transfer syntax",
    "d_rgb_planar0": "is in colour",
    "d_rgb_planar1": "is in colour",
    "d_win_comma": "has a WindowCenter that is not a number",
    "d_win_width0": "has a window of width 0",
    "d_win_width_neg": "has a window of width -4000",
    "fmt_BMP": "is BMP, which is not decoded",
    "fmt_GIF": "is GIF, which is not decoded",
    "fmt_JPEG2000": "is JPEG 2000, which is not decoded",
    "png_half_rows_valid_zlib": "is truncated or damaged: its data end too early, so that 288 of its 576 rows",
}
DAMAGED = (
    "c_trunc_",
    "c_trunceoi_",
    "c_zeromid_",
    "jpeg_prog_truncated",
    "jpeg_truncated",
    "jpeg_zero",
    "png_idat_short",
)
ACCEPTED_ALTHOUGH_DAMAGED = "c_zeromid_j2k12"
"""OpenJPEG gives no sign of zeros within the data of a block."""
NEGATIVES = ("d_mono1_nowin", "d_mono1_plut_inverse", "d_padding_mono1_unmarked", "d_plut_inverse", "d_slope_neg")
BY_PYDICOM = (
    "d_bitsstored_",
    "d_func",
    "d_linexact",
    "d_modlut",
    "d_mono1_win",
    "d_sigmoid",
    "d_voilut",
    "d_win_multi",
)
OF_ANOTHER_PICTURE = ("d_odd_8bit", "d_padding.", "d_signed_rescale", "d_win_outside", "jpeg_exif6")
OF_FEW_LEVELS = ("png16_12bit_white_marker", "png_alpha_all0")
LOSS = {"c_jpeg8": 4, "jpeg_": 8}
"""Of lossy files, and of files of 8 bits, by how many of 255 levels they may differ from their source of 12 bits."""


def pixels_of(path):
    data = path.read_bytes()
    width, height = image_size(data, LIMITS)
    side = max(width, height)
    square = decode_grey(data, Preprocessing(side, "pad"))
    top, left = (side - height) // 2, (side - width) // 2
    return square[top : top + height, left : left + width].astype(int)


def names(*beginnings):
    return sorted(path.name for path in CASES.glob("*") if path.name.startswith(beginnings)) if CASES.is_dir() else []


def source():
    return np.asarray(Image.open(CASES / "png16_12bit.png")) / 4095 * 255


@pytest.mark.parametrize("stem", REFUSED)
def test_what_cannot_be_decoded_is_refused_by_name(stem):
    (path,) = CASES.glob(f"{stem}.*")
    with pytest.raises(ImageError, match=f"^{REFUSED[stem]}"):
        pixels_of(path)


@pytest.mark.parametrize("name", names(*DAMAGED, "png_truncated", "webp_truncated"))
def test_what_is_damaged_is_refused(name):
    if name.startswith(ACCEPTED_ALTHOUGH_DAMAGED):
        assert pixels_of(CASES / name).any()
        return
    with pytest.raises(ImageError, match=r"^is (truncated|damaged)"):
        pixels_of(CASES / name)


def test_all_others_have_the_pixels_of_their_source():
    special = names(*REFUSED, *DAMAGED, *NEGATIVES, *BY_PYDICOM, *OF_ANOTHER_PICTURE, *OF_FEW_LEVELS)
    special += names("png_truncated", "png_inverted", "webp_truncated")
    checked = [path for path in sorted(CASES.iterdir()) if path.name not in special]
    assert len(checked) > 60
    for path in checked:
        loss = next((loss for beginning, loss in LOSS.items() if path.name.startswith(beginning)), 1)
        assert np.abs(pixels_of(path) - source()).max() <= loss, path.name
    for name in names(*NEGATIVES, "png_inverted"):
        assert np.abs(255 - pixels_of(CASES / name) - source()).max() <= 1, name


def by_table(values, item):
    """The entries of a LUT, by hand: pydicom refuses the numbers of bits that some declare."""
    data = item["LUTData"].value
    entries = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.array(data)
    return entries, entries[np.clip(values.astype(int) - item.LUTDescriptor[1], 0, len(entries) - 1)].astype(float)


@pytest.mark.parametrize("name", names(*BY_PYDICOM))
def test_luts_and_windows_give_what_pydicom_gives(name):
    dataset = dcmread(CASES / name)
    values = dataset.pixel_array.astype(float)
    if "ModalityLUTSequence" in dataset:
        _, values = by_table(values, dataset.ModalityLUTSequence[0])
    if "VOILUTSequence" in dataset:
        entries, values = by_table(values, dataset.VOILUTSequence[0])
        brightness = values / (2 ** int(entries.max()).bit_length() - 1)
    elif "WindowWidth" in dataset:
        shown = apply_windowing(np.concatenate([values.ravel(), [-1e5, 1e5]]), dataset)
        brightness = ((shown - shown[-2]) / (shown[-1] - shown[-2]))[:-2].reshape(values.shape)
    else:
        brightness = (values - values.min()) / np.ptp(values)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        brightness = 1 - brightness
    assert np.abs(pixels_of(CASES / name) - 255 * brightness).max() <= 0.51


@pytest.mark.parametrize("name", names("d_says_", "d_body_SKULL"))
def test_a_check_marks_a_file_without_a_warning_of_pydicoms(name):
    marked = mark_file((CASES / name).read_bytes(), LIMITS, "0" * 64)
    assert (marked.format, marked.bits, marked.is_doubtful) == ("DICOM", 12, name == "d_body_SKULL.dcm")


def test_orientation_odd_sides_and_padding_are_as_in_the_source():
    upright = pixels_of(CASES / "jpeg_exif6.jpg")
    assert min(np.abs(np.rot90(upright, turns) - source()).max() for turns in (1, 3)) <= 8
    odd = dcmread(CASES / "d_odd_8bit.dcm").pixel_array.astype(float)
    np.testing.assert_array_equal(pixels_of(CASES / "d_odd_8bit.dcm"), np.rint((odd - odd.min()) / np.ptp(odd) * 255))
    padded = dcmread(CASES / "d_padding.dcm")
    is_there = padded.pixel_array != padded.PixelPaddingValue
    there = padded.pixel_array[is_there].astype(float)
    pixels = pixels_of(CASES / "d_padding.dcm")
    assert not pixels[~is_there].any()
    np.testing.assert_array_equal(pixels[is_there], np.rint((there - there.min()) / np.ptp(there) * 255))
