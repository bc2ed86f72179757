"""Every transfer syntax gives the encoded pixels; damaged frames and bombs harm neither the process nor its memory."""

import json
import struct
import subprocess
import sys
import zlib
from importlib.resources import files
from io import BytesIO
from multiprocessing import active_children
from typing import Any

import jpeg_ls  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread, uid
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.encoders.base import get_encoder

from cxrdist.cohort import dicom_frames
from cxrdist.cohort.chunks import CHUNK_IMAGES, DecodeChunk, ImageFile, decode_chunk, run_on_cores
from cxrdist.cohort.decode import Preprocessing
from cxrdist.cohort.dicom import decode_dicom, dicom_size
from cxrdist.cohort.files import LIMITS, Limits
from cxrdist.errors import CxrdistError, ImageError
from tests.unit.dicom_examples import as_signed, codes_of, dicom_file, jpeg_dct, jpeg_lossless, lookup_table

GDCM = (uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGExtended12Bit)


def by_pillow(codes, file_format, **options):
    buffer = BytesIO()
    Image.fromarray(codes).save(buffer, file_format, **options)
    return buffer.getvalue()


def jpeg_2000(codes, bits, **options):
    # Pillow's codestreams of 16 bits say so whatever the pixels use.
    return by_pillow(codes, "JPEG2000", no_jp2=True, **options)


def rle(codes, bits):
    described = {
        "rows": codes.shape[0],
        "columns": codes.shape[1],
        "bits_allocated": 8 * codes.itemsize,
        "bits_stored": 8 * codes.itemsize,
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "pixel_representation": 0,
        "photometric_interpretation": "MONOCHROME2",
    }
    return get_encoder(uid.RLELossless).encode(codes.tobytes(), encoding_plugin="pydicom", **described)


def jpeg_ls_of(codes, bits, error=0):
    return bytes(jpeg_ls.encode_array(codes, lossy_error=error))


def jpeg_lossless_sv1(codes, bits):
    return jpeg_lossless(codes, bits, predictor=1)


LOSSLESS: dict[str, Any] = {
    uid.RLELossless: rle,
    uid.JPEGLSLossless: jpeg_ls_of,
    uid.JPEG2000Lossless: jpeg_2000,
    uid.JPEG2000: jpeg_2000,
    uid.JPEGLosslessSV1: jpeg_lossless_sv1,
}


def stretched(values):
    return np.rint(255 * (values - values.min()) / np.ptp(values))


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_a_lossless_frame_gives_exactly_its_pixels(syntax, bits, signed):
    codes = codes_of((26, 19), bits)
    frame = LOSSLESS[syntax](codes, bits)
    data = dicom_file(codes, bits, transfer_syntax=syntax, frame=frame, PixelRepresentation=int(signed))
    values = as_signed(codes, bits) if signed else codes.astype(float)
    np.testing.assert_array_equal(decode_dicom(data, LIMITS), stretched(values))
    assert dicom_size(data, LIMITS) == (19, 26)


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("bits", [8, 16])
def test_every_predictor_of_lossless_jpeg_gives_exactly_its_pixels(predictor, bits):
    codes = codes_of((9, 14), bits)
    codes[3, 4:6] = 0, 2 ** (bits - 1)
    data = dicom_file(codes, bits, transfer_syntax=uid.JPEGLossless, frame=jpeg_lossless(codes, bits, predictor))
    np.testing.assert_array_equal(decode_dicom(data, LIMITS), stretched(codes.astype(float)))


@pytest.mark.parametrize(
    ("syntax", "bits", "encode", "tolerance"),
    [
        (uid.JPEGBaseline8Bit, 8, lambda codes: by_pillow(codes, "JPEG", quality=95), 3),
        (uid.JPEGBaseline8Bit, 8, lambda codes: jpeg_dct(codes, 8), 1),
        (uid.JPEGExtended12Bit, 8, lambda codes: jpeg_dct(codes, 8), 1),
        (uid.JPEGExtended12Bit, 12, lambda codes: jpeg_dct(codes, 12), 1),
        (uid.JPEGLSNearLossless, 8, lambda codes: jpeg_ls_of(codes, 8, error=2), 3),
        (uid.JPEGLSNearLossless, 12, lambda codes: jpeg_ls_of(codes, 12, error=8), 1),
        (uid.JPEG2000, 8, lambda codes: jpeg_2000(codes, 8, irreversible=True, quality_layers=[4]), 3),
    ],
)  # fmt: skip
def test_a_lossy_frame_gives_nearly_its_pixels(syntax, bits, encode, tolerance):
    codes = codes_of((32, 48), bits)
    data = dicom_file(
        codes, bits, transfer_syntax=syntax, frame=encode(codes), WindowCenter=2 ** (bits - 1), WindowWidth=2**bits
    )
    grey = decode_dicom(data, LIMITS).astype(int)
    # A window of all values is the identity (PS3.3 C.11.2.1.2.1, note 4).
    assert np.abs(grey - np.rint(255.0 * codes / (2**bits - 1))).max() <= tolerance


def test_8_bits_in_a_frame_may_be_16_allocated():
    codes = codes_of((16, 24), 8)
    for syntax, frame in [
        (uid.JPEGBaseline8Bit, jpeg_dct(codes, 8)),
        (uid.JPEGLosslessSV1, jpeg_lossless(codes, 8)),
        (uid.JPEGLSLossless, jpeg_ls_of(codes, 8)),
        (uid.JPEG2000Lossless, jpeg_2000(codes, 8)),
    ]:
        data = dicom_file(codes.astype(np.uint16), 8, transfer_syntax=syntax, frame=frame)
        assert np.abs(decode_dicom(data, LIMITS) - stretched(codes.astype(float))).max() <= 1


WORDS = {syntax: encode for syntax, encode in LOSSLESS.items() if syntax != uid.RLELossless}


@pytest.mark.parametrize("syntax", WORDS, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("stored", [10, 12, 15])
def test_a_frame_of_more_bits_than_those_stored_keeps_all_that_its_pixels_need(syntax, signed, stored):
    codes = codes_of((26, 19), 16)
    data = dicom_file(codes, stored, transfer_syntax=syntax, frame=WORDS[syntax](codes, 16), PixelRepresentation=signed)
    np.testing.assert_array_equal(
        decode_dicom(data, LIMITS), stretched(as_signed(codes, 16) if signed else codes.astype(float))
    )


@pytest.mark.parametrize("syntax", WORDS, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("extended", [False, True])
def test_signed_pixels_of_12_bits_are_the_same_whether_a_frame_of_16_repeats_the_sign(syntax, extended):
    values = as_signed(codes_of((26, 19), 12), 12)
    codes = (values % (2**16 if extended else 2**12)).astype(np.uint16)
    frame = WORDS[syntax](codes, 16)
    data = dicom_file(codes, 12, transfer_syntax=syntax, frame=frame, PixelRepresentation=1)
    np.testing.assert_array_equal(decode_dicom(data, LIMITS), stretched(values))


@pytest.mark.parametrize("stored", [8, 9, 12, 16])
@pytest.mark.parametrize("syntax", [*WORDS, uid.JPEGBaseline8Bit], ids=lambda syntax: syntax.name)
def test_a_frame_of_8_bits_is_read_whatever_the_bits_stored(syntax, stored):
    codes = codes_of((24, 16), 8)
    frame = jpeg_dct(codes, 8) if syntax == uid.JPEGBaseline8Bit else WORDS[syntax](codes, 8)
    plain, wide = (
        decode_dicom(
            dicom_file(codes.astype(dtype), bits, transfer_syntax=syntax, frame=frame, WindowCenter=90, WindowWidth=99),
            LIMITS,
        )
        for dtype, bits in ((np.uint8, 8), (np.uint16, stored))
    )
    np.testing.assert_array_equal(wide, plain)


def test_a_frame_that_contradicts_its_header_about_signs_is_refused():
    folder = files("pydicom") / "data" / "test_files"
    compressed = dcmread(str(folder / "MR_small_jp2klossless.dcm"))
    frame = get_frame(compressed.PixelData, 0, number_of_frames=1)
    data = dicom_file(codes_of((64, 64), 16), 16, transfer_syntax=uid.JPEG2000Lossless, frame=frame)
    with pytest.raises(ImageError, match=r"^has signed pixels in its frame, and unsigned ones by its header"):
        decode_dicom(data, LIMITS)
    codes = codes_of((24, 16), 12)
    for half, refused in ((codes, True), (codes // 2, False)):
        frame = jpeg_lossless(half, 12)
        data = dicom_file(half, 16, transfer_syntax=uid.JPEGLosslessSV1, frame=frame, PixelRepresentation=1)
        if refused:
            with pytest.raises(ImageError, match=r"^has a frame of 12 bits a pixel, and signed pixels of 16 bits"):
                decode_dicom(data, LIMITS)
        else:
            np.testing.assert_array_equal(decode_dicom(data, LIMITS), stretched(half.astype(float)))


@pytest.mark.parametrize("has_bot", [False, True])
def test_a_frame_may_lie_in_several_fragments(has_bot):
    codes = codes_of((26, 19), 12)
    pieces = encapsulate([jpeg_ls_of(codes, 12)], fragments_per_frame=5, has_bot=has_bot)
    data = dicom_file(codes, transfer_syntax=uid.JPEGLSLossless, PixelData=pieces)
    np.testing.assert_array_equal(decode_dicom(data, LIMITS), stretched(codes.astype(float)))


CODES = codes_of((24, 16), 12)
EIGHT = codes_of((24, 16), 8)
FRAMES = {
    uid.RLELossless: rle(CODES, 12),
    uid.JPEGLSLossless: jpeg_ls_of(CODES, 12),
    uid.JPEG2000: jpeg_2000(CODES, 12),
    uid.JPEGLosslessSV1: jpeg_lossless(CODES, 12),
    uid.JPEGExtended12Bit: jpeg_dct(CODES, 12),
}
COLOUR = np.stack([EIGHT, EIGHT[::-1], EIGHT[:, ::-1]], axis=-1)


@pytest.mark.parametrize("syntax", FRAMES, ids=lambda syntax: syntax.name)
def test_a_truncated_frame_is_refused(syntax):
    for kept in (1, 30, len(FRAMES[syntax]) // 2, len(FRAMES[syntax]) - 40):
        data = dicom_file(CODES, transfer_syntax=syntax, frame=FRAMES[syntax][:kept])
        with pytest.raises(ImageError, match=r"^is (truncated|damaged)"):
            decode_dicom(data, LIMITS)


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, *GDCM], ids=lambda syntax: syntax.name)
def test_pixels_that_are_missing_are_not_invented(syntax):
    frame = {**FRAMES, uid.JPEGLossless: jpeg_lossless(CODES, 12, 7)}[syntax]
    for cut, reason in [(frame[:-60], "is truncated in its"), (frame[:-60] + frame[-2:], "is (truncated|damaged)")]:
        with pytest.raises(ImageError, match=f"^{reason}"):
            decode_dicom(dicom_file(CODES, transfer_syntax=syntax, frame=cut), LIMITS)


def test_bytes_that_a_lossless_frame_has_too_many_are_damage():
    frame = jpeg_lossless_sv1(CODES, 12)
    for extra, refused in ((2, False), (300, True)):
        data = dicom_file(CODES, transfer_syntax=uid.JPEGLosslessSV1, frame=frame[:-2] + b"\0" * extra + frame[-2:])
        if refused:
            with pytest.raises(ImageError, match=r"^is truncated or damaged within its compressed pixels"):
                decode_dicom(data, LIMITS)
        else:
            np.testing.assert_array_equal(decode_dicom(data, LIMITS), stretched(CODES.astype(float)))


def test_pixels_may_be_signed_within_jpeg_2000():
    folder = files("pydicom") / "data" / "test_files"
    native, compressed = (dcmread(str(folder / name)) for name in ("MR_small.dcm", "MR_small_jp2klossless.dcm"))
    frame = get_frame(compressed.PixelData, 0, number_of_frames=1)
    assert frame[42] & 0x80
    data = dicom_file(
        native.pixel_array.view(np.uint16),
        16,
        transfer_syntax=uid.JPEG2000Lossless,
        frame=frame,
        PixelRepresentation=1,
        WindowCenter=1000.5,
        WindowWidth=2001,
    )
    # The window goes from 0 to 2000.
    reference = np.rint(255 * np.clip((native.pixel_array - 1000) / 2000 + 0.5, 0, 1))
    np.testing.assert_array_equal(decode_dicom(data, LIMITS), reference)


def test_a_file_that_ends_within_its_frame_is_truncated():
    data = dicom_file(CODES, transfer_syntax=uid.JPEGLSLossless, frame=FRAMES[uid.JPEGLSLossless])
    for cut in (4, 9, 30):
        with pytest.raises(ImageError, match="is truncated: its compressed pixels have no end"):
            decode_dicom(data[:-cut], LIMITS)


@pytest.mark.parametrize("syntax", FRAMES, ids=lambda syntax: syntax.name)
def test_a_frame_of_another_size_than_the_headers_is_refused_before_it_is_decoded(syntax, monkeypatch):
    monkeypatch.setattr(dicom_frames, "_by_pydicom", None)
    monkeypatch.setattr(dicom_frames, "_by_gdcm", None)
    reason = "truncated" if syntax == uid.RLELossless else "has 16 x 24 pixels, and 16 x 240 by its header"
    data = dicom_file(CODES, transfer_syntax=syntax, frame=FRAMES[syntax], Rows=240)
    with pytest.raises(ImageError, match=reason):
        decode_dicom(data, LIMITS)


@pytest.mark.parametrize(
    ("syntax", "frame", "reason"),
    [
        (uid.JPEGBaseline8Bit, by_pillow(COLOUR, "JPEG"), "is in colour: its frame has 3 components"),
        (uid.JPEG2000, jpeg_2000(COLOUR, 8), "is in colour: its frame has 3 components"),
        (uid.JPEG2000, by_pillow(EIGHT, "JPEG2000"), "is damaged: its frame is no JPEG 2000 codestream"),
        (uid.JPEGBaseline8Bit, by_pillow(EIGHT, "JPEG", progressive=True), "is damaged: its frame is not JPEG of the"),
        (uid.JPEGLossless, by_pillow(EIGHT, "JPEG"), "is damaged: its frame is not JPEG of the kind"),
        (uid.JPEGLSLossless, jpeg_lossless(EIGHT, 8), "is damaged: its frame is not JPEG of the kind"),
        (uid.JPEGLossless, jpeg_lossless(CODES, 12), "has a frame of 12 bits a pixel where 8 are allocated"),
        (uid.RLELossless, rle(CODES, 12), "is damaged: it has 2 RLE segments, not 1"),
    ],
)  # fmt: skip
def test_a_frame_of_another_kind_is_refused(syntax, frame, reason):
    with pytest.raises(ImageError, match=f"^{reason}"):
        decode_dicom(dicom_file(EIGHT, 8, transfer_syntax=syntax, frame=frame), LIMITS)


def test_damage_in_a_lossless_frame_is_refused_in_silence(capfd):
    frame = bytearray(FRAMES[uid.JPEGLosslessSV1])
    outcomes: set[object] = set()
    for at in range(2, 60, 4):
        frame[at] ^= 0x7F
        data = dicom_file(CODES, transfer_syntax=uid.JPEGLosslessSV1, frame=bytes(frame))
        frame[at] ^= 0x7F
        try:
            outcomes.add(decode_dicom(data, LIMITS).shape)
        except ImageError as error:
            outcomes.add(str(error))
    assert "is damaged: GDCM cannot decode it" in outcomes
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("script", "error", "reason"),
    [
        ("import ctypes; ctypes.string_at(0)", ImageError, "GDCM cannot decode it"),
        ("import os; os.abort()", ImageError, "GDCM cannot decode it"),
        ("import sys; sys.stdout.write('x' * 767)", ImageError, "GDCM cannot decode it"),
        ("import sys; sys.stdout.write('x' * 768); sys.exit(1)", ImageError, "GDCM cannot decode it"),
        ("import time; time.sleep(60)", ImageError, "GDCM does not decode it in 1 s"),
        ("import os; os.kill(os.getpid(), 9)", CxrdistError, "GDCM was killed, perhaps for want of memory"),
    ],
    ids=["segfault", "abort", "too short", "failure", "hangs", "killed"],
)  # fmt: skip
def test_whatever_becomes_of_gdcms_process_this_one_goes_on(script, error, reason, tmp_path, monkeypatch):
    (tmp_path / "gdcm_frame.py").write_text(script)
    monkeypatch.setattr(dicom_frames, "_GDCM_SCRIPT", tmp_path / "gdcm_frame.py")
    monkeypatch.setattr(dicom_frames, "_GDCM_SECONDS", 1)
    data = dicom_file(CODES, transfer_syntax=uid.JPEGLosslessSV1, frame=FRAMES[uid.JPEGLosslessSV1])
    with pytest.raises(error, match=reason):
        decode_dicom(data, LIMITS)


def test_gdcms_process_has_no_more_memory_than_it_needs(monkeypatch):
    data = dicom_file(CODES, transfer_syntax=uid.JPEGLosslessSV1, frame=FRAMES[uid.JPEGLosslessSV1])
    assert decode_dicom(data, LIMITS).any()
    monkeypatch.setattr(dicom_frames, "_GDCM_BYTES", 10_000_000)
    with pytest.raises(ImageError, match="GDCM cannot decode it"):
        decode_dicom(data, LIMITS)


def test_decoding_in_a_pool_of_processes_gives_the_same(tmp_path):
    native = dicom_file(CODES)
    for number in range(CHUNK_IMAGES):
        (tmp_path / f"{number}.dcm").write_bytes(native)
    for name, syntax in (("lossless", uid.JPEGLosslessSV1), ("extended", uid.JPEGExtended12Bit)):
        (tmp_path / f"{name}.dcm").write_bytes(dicom_file(CODES, transfer_syntax=syntax, frame=FRAMES[syntax]))
    (tmp_path / "damaged.dcm").write_bytes(
        dicom_file(CODES, transfer_syntax=uid.JPEGLosslessSV1, frame=FRAMES[uid.JPEGLosslessSV1][:200])
    )
    names = [*map(str, range(CHUNK_IMAGES)), "lossless", "extended", "damaged"]
    files = [ImageFile(name, f"{name}.dcm", None, None) for name in names]
    chunks = [
        DecodeChunk(index, tmp_path, tuple(files[index::2]), Preprocessing(16), with_masks=False, limits=LIMITS)
        for index in (0, 1)
    ]
    decoded = sorted(run_on_cores(decode_chunk, chunks), key=lambda chunk: chunk.index)
    pixels = {name: image for chunk in decoded for name, image in zip(chunk.image_ids, chunk.pixels, strict=True)}
    assert [bad.image_id for chunk in decoded for bad in chunk.failures] == ["damaged"]
    np.testing.assert_array_equal(pixels["lossless"], pixels["0"])
    assert np.abs(pixels["extended"].astype(int) - pixels["0"]).max() <= 1
    assert not active_children()


def element(group, number, vr, value, length=None):
    return struct.pack("<HH2sHL", group, number, vr, 0, len(value) if length is None else length) + value


def with_elements(elements, before=(0x0018, 0x0015)):
    data = dicom_file()
    at = data.index(struct.pack("<HH", *before))
    return data[:at] + elements + data[at:]


ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)


def endless_sequence(depth):
    return (element(0x0009, 0x1001, b"SQ", b"", 0xFFFFFFFF) + ITEM) * depth


def deflated_zeros(millions):
    head = dicom_file(transfer_syntax=uid.DeflatedExplicitVRLittleEndian)
    end_of_meta = 144 + struct.unpack("<L", head[140:144])[0]
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = deflater.compress(bytes(1_000_000)) + deflater.flush(zlib.Z_FULL_FLUSH)
    return head[:end_of_meta] + block * millions + deflater.flush()


def different_elements(count):
    return b"".join(element(9 + 2 * (at >> 16), at & 0xFFFF, b"UT", b"") for at in range(count))


def bombs():
    """Files with the beginnings of the reasons for which they are refused."""
    return {
        "deep": (with_elements(endless_sequence(20_000)), "is damaged"),
        "deep and asked for": (
            with_elements(element(0x0028, 0x3010, b"SQ", ITEM + endless_sequence(9_000)), before=(0x7FE0, 0x0010)),
            "is damaged",
        ),
        "many elements": (
            with_elements(endless_sequence(1) + different_elements(600_000)),
            "has a header of more than 4,194,304 bytes",
        ),
        "inflates": (deflated_zeros(3_000), "inflates to more bytes than the limit of 268,435,456"),
        "RLE": (
            dicom_file(
                transfer_syntax=uid.RLELossless,
                frame=struct.pack("<3L", 2, 64, 16_000_064) + bytes(52) + b"\x81a" * 16_000_000,
            ),
            "ok",
        ),
        "fragments": (
            dicom_file(transfer_syntax=uid.JPEG2000, PixelData=struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 4_000_000),
            "has more than 65,536 fragments",
        ),
        "a length that is a lie": (
            with_elements(element(0x0009, 0x1001, b"UT", b"", 0xFFFFFFF0)), "is truncated in its header"
        ),
        "a character set that is a lie": (
            with_elements(element(0x0008, 0x0005, b"UT", b"", 0xFFFFFFF0)), "is damaged"
        ),
        "a body part that is a lie": (
            with_elements(element(0x0018, 0x0015, b"UT", b"", 0xFFFFFFF0)), "lacks PhotometricInterpretation"
        ),
        "pixels that are a lie": (dicom_file(Rows=9_000, Columns=9_000), "has 960 bytes of pixels, fewer than"),
        "a tile a pixel": (
            dicom_file(
                transfer_syntax=uid.JPEG2000,
                Rows=9_000,
                Columns=9_000,
                frame=struct.pack(">LHH8LH3B", 0xFF4FFF51, 41, 0, 9_000, 9_000, 0, 0, 1, 1, 0, 0, 1, 7, 1, 1),
            ),
            "is damaged",
        ),
}  # fmt: skip


IN_LITTLE_MEMORY = """
import json, resource, sys, time
from pathlib import Path
from cxrdist.cohort.dicom import decode_dicom
from cxrdist.cohort.dicom_header import read_dicom_header
from cxrdist.cohort.files import LIMITS
from cxrdist.errors import ImageError

used = int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmSize" in line).split()[1])
limit = used * 1024 + 900 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
outcomes = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    started = time.perf_counter()
    try:
        decode_dicom(path.read_bytes(), LIMITS)
        outcome = "ok"
    except ImageError as error:
        outcome = str(error)
    try:
        read_dicom_header(path, b"salt")
    except ImageError:
        pass
    outcomes[path.name] = outcome, time.perf_counter() - started
print(json.dumps(outcomes))
"""


def test_a_bomb_is_refused_soon_and_in_little_memory(tmp_path):
    made = bombs()
    for name, (data, _) in made.items():
        (tmp_path / name).write_bytes(data)
    process = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr[-2000:]
    outcomes = json.loads(process.stdout)
    for name, (_, reason) in made.items():
        outcome, seconds = outcomes[name]
        assert outcome.startswith(reason), (name, outcome)
        assert seconds < 60, name


SMALL = codes_of((16, 8), 12)
IN_PROCESS = [
    dicom_file(SMALL, WindowCenter=[2000, 1], WindowWidth=[3000, 5], RescaleSlope=1.5, RescaleIntercept=-3),
    dicom_file(SMALL, transfer_syntax=uid.ImplicitVRLittleEndian, PixelPaddingValue=3),
    dicom_file(codes_of((16, 8), 8), 8, transfer_syntax=uid.ExplicitVRBigEndian),
    dicom_file(SMALL, transfer_syntax=uid.DeflatedExplicitVRLittleEndian),
    dicom_file(SMALL, VOILUTSequence=lookup_table(0, np.arange(64) * 64, 12)),
    dicom_file(SMALL, ModalityLUTSequence=lookup_table(0, np.arange(64), 16), PixelRepresentation=1),
    dicom_file(codes_of((16, 8), 8), 8, transfer_syntax=uid.JPEGBaseline8Bit, frame=jpeg_dct(codes_of((16, 8), 8), 8)),
    dicom_file(SMALL, transfer_syntax=uid.JPEG2000, frame=jpeg_2000(SMALL, 12)),
    dicom_file(SMALL, transfer_syntax=uid.JPEGLSLossless, frame=jpeg_ls_of(SMALL, 12)),
    dicom_file(SMALL, transfer_syntax=uid.RLELossless, frame=rle(SMALL, 12)),
]
FRAMES_OF_SMALL = {
    uid.JPEGLossless: jpeg_lossless(SMALL, 12, 4),
    uid.JPEGExtended12Bit: jpeg_dct(SMALL, 12),
    uid.JPEGLSLossless: jpeg_ls_of(SMALL, 12),
    uid.JPEG2000Lossless: jpeg_2000(SMALL, 12),
}


@st.composite
def damaged(draw, data, first, last):
    """The data with some bytes between two places changed, left out or added."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(first, len(changed) - last))
        changed[start : start + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(changed)


@st.composite
def damaged_files(draw):
    data = draw(st.sampled_from(IN_PROCESS))
    changed = draw(damaged(data, draw(st.sampled_from([132, len(data) - 200])), 4))
    return changed[: draw(st.just(len(changed)) | st.integers(132, len(changed)))]


@st.composite
def damaged_frames(draw):
    """Damage that only the decoders see."""
    syntax = draw(st.sampled_from(sorted(FRAMES_OF_SMALL)))
    frame = draw(damaged(FRAMES_OF_SMALL[syntax], 2, 4))
    return dicom_file(SMALL, transfer_syntax=syntax, frame=frame)


def decodes_or_is_refused(data):
    limits = Limits(max_bytes=100_000, max_pixels=10_000)
    for decode in (decode_dicom, dicom_size):
        try:
            result = decode(data, limits)
        except ImageError as error:
            assert str(error)
            assert len(str(error)) < 200
        else:
            assert isinstance(result, tuple) or (
                result.dtype == np.uint8 and result.ndim == 2 and result.size <= 10_000
            )


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=damaged_files() | st.binary(max_size=200).map(lambda content: bytes(128) + b"DICM" + content))
@example(data=bytes(128) + b"DICM")
def test_whatever_a_file_holds_it_decodes_or_is_refused(data):
    decodes_or_is_refused(data)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=damaged_frames())
def test_whatever_a_frame_holds_it_decodes_or_is_refused(data):
    decodes_or_is_refused(data)
