"""Damaged files for `benchmarks.fuzz_cohort`, each made again from its number."""

import random
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import jpeg_ls  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet
from PIL import Image
from pydicom import uid

from tests.unit.dicom_examples import codes_of, dicom_file, jpeg_dct, jpeg_lossless

ROWS = {
    "image_id": ["a", "b", "c", "d"],
    "path": ["a.png", "x/b.png", "c.png", "d.dcm"],
    "label": ["covid19", "normal", "normal", "covid19"],
    "patient_id": ["p1", "p2", "", "007"],
    "source": ["cohen", "kaggle", "kaggle", ""],
    "sha256": ["0" * 64, "", "F" * 64, ""],
    "age": ["45", "1e400", "", "old"],
}
MANIFEST = b"""table: table.csv
columns: {image_id: image_id, path: path, label: label, patient_id: patient_id}
where: {source: kaggle}
"""
RECIPE = b"""name: three_class
seed: 7
sources:
  bundle: {kind: table, table: manifest.csv, columns: {image_id: path, path: path, label: label}}
  hospital: {kind: dicom, labels: {by: patient_id, table: labels.csv, key: PatientID, label: finding}}
select:
  - {source: bundle, where: {paper2: 1}, view_position: [PA, AP], count: 3}
  - {source: hospital, label: normal, has_mask: true}
duplicates: {merge: true}
labels: {healthy: normal}
"""
RECIPE_LIKE = b"""name: again
sources:
  bundle: {kind: table, table: manifest.csv, columns: {image_id: path, path: path, label: label}}
like: other.csv
"""
TOKENS = (
    b"\0",
    b'"',
    b"\r",
    b"\n",
    b",",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"../",
    b"~nobody",
    b"/dev/zero",
    b"9" * 5000,
    b"2001-99-99",
    b"1e400",
    b"0x",
    b'"\\ud800"',
    b'"\\ud800.csv"',
    b'"\\0"',
    b"!!python/object/apply:os.abort []",
    b"!!binary x",
    b"!!int x",
    b"!!set {a, b}",
    b"&a [*a, *a]",
    b"<<: *a",
    b"? {a: b}\n: c\n",
    b"[" * 3000,
    b"{a: " * 500,
    b"- " * 3000,
    b"~",
    b"yes",
    b".nan",
    b"=1+1",
    b"\xe2\x80\xae",
    b"x" * 100_000,
)
HUGE = (0, 1, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@dataclass(frozen=True)
class Case:
    """A damaged file."""

    kind: str
    data: bytes
    seed: int


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@cache
def intact() -> dict[str, list[bytes]]:
    """Files of each kind, from which damaged ones are made."""
    grey = Image.fromarray(codes_of((40, 30), 8))
    colour = Image.merge("RGB", [Image.fromarray(codes_of((40, 30), 8, seed)) for seed in range(3)])
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = codes_of((40, 30), 12)
    small = codes_of((16, 16), 8)
    parquet = BytesIO()
    pyarrow.parquet.write_table(pa.table(ROWS), parquet)
    lines = [list(ROWS), *map(list, zip(*ROWS.values(), strict=True))]
    frames = (
        (uid.JPEGBaseline8Bit, _saved(Image.fromarray(small), "JPEG"), small, 8),
        (uid.JPEGLosslessSV1, jpeg_lossless(deep, 12), deep, 12),
        (uid.JPEGExtended12Bit, jpeg_dct(codes_of((16, 16), 12), 12), codes_of((16, 16), 12), 12),
        (uid.JPEG2000Lossless, _saved(Image.fromarray(small), "JPEG2000", no_jp2=True), small, 8),
        (uid.JPEGLSLossless, bytes(jpeg_ls.encode_array(small)), small, 8),
        (uid.RLELossless, struct.pack("<16L", 1, 64, *[0] * 14) + bytes([255, 7]) * 256, small, 8),
    )
    return {
        "jpeg": [
            _saved(grey, "JPEG"),
            _saved(colour, "JPEG", progressive=True, exif=exif),
            _saved(colour.convert("CMYK"), "JPEG"),
        ],
        "png": [
            _saved(grey, "PNG", exif=exif),
            _saved(colour.convert("RGBA"), "PNG"),
            _saved(colour.quantize(16), "PNG", transparency=0),
            _saved(Image.fromarray(deep), "PNG"),
        ],
        "webp": [
            _saved(colour, "WEBP", exif=exif),
            _saved(colour.convert("RGBA"), "WEBP", lossless=True),
            _saved(grey, "WEBP", save_all=True, append_images=[grey.rotate(90)]),
        ],
        "dicom": [
            dicom_file(deep, WindowCenter=2000, WindowWidth=800, RescaleSlope=2, RescaleIntercept=-9),
            dicom_file(small, 8, transfer_syntax=uid.ImplicitVRLittleEndian, PhotometricInterpretation="MONOCHROME1"),
            dicom_file(deep, transfer_syntax=uid.DeflatedExplicitVRLittleEndian),
            dicom_file(deep, transfer_syntax=uid.ExplicitVRBigEndian),
            *(dicom_file(codes, bits, transfer_syntax=syntax, frame=frame) for syntax, frame, codes, bits in frames),
        ],
        "csv": [("\n".join(map(",".join, lines)) + "\n").encode()],
        "parquet": [parquet.getvalue()],
        "manifest": [MANIFEST, MANIFEST.replace(b".csv", b".parquet")],
        "recipe": [RECIPE, RECIPE_LIKE],
    }


def case_of(seed: int) -> Case:
    """Return the damaged file of a number; the same for the same versions of what writes the intact ones."""
    rng = random.Random(seed)
    kind = rng.choice(list(intact()))
    data = bytearray(rng.choice(intact()[kind]))
    is_text = kind in ("csv", "manifest", "recipe")
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        rng.choice(_DAMAGES_OF_TEXT if is_text else _DAMAGES)(data, rng)
    # Behind the checksums lies the code that trusts them.
    if kind == "png" and rng.random() < 0.8:
        _repair_png(data)
    return Case(kind, bytes(data), seed)


def _place(data: bytearray, rng: random.Random) -> int:
    """Often near the beginning, where headers are."""
    return rng.randrange(min(len(data), rng.choice((64, 512, len(data)))) or 1) if data else 0


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 4, 32)) if data else 0):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _splice(data: bytearray, rng: random.Random) -> None:
    donor = rng.choice(rng.choice(list(intact().values())))
    start, place = rng.randrange(len(donor)), _place(data, rng)
    data[place : place + rng.choice((0, 8, 200))] = donor[start : start + rng.choice((4, 64, 4000))]


def _huge(data: bytearray, rng: random.Random) -> None:
    place, form = _place(data, rng), rng.choice(("<H", ">H", "<L", ">L", "B"))
    value = rng.choice(HUGE) & (2 ** (8 * struct.calcsize(form)) - 1)
    data[place : place + struct.calcsize(form)] = struct.pack(form, value)


def _repeat(data: bytearray, rng: random.Random) -> None:
    place = _place(data, rng)
    data[place:place] = data[place : place + rng.choice((1, 16, 300))] * rng.choice((1, 50))


def _cut(data: bytearray, rng: random.Random) -> None:
    place = _place(data, rng)
    del data[place : place + rng.choice((1, 4, 50))]


def _token(data: bytearray, rng: random.Random) -> None:
    # Where a word stands, a token is more often read as a value.
    words = [match.span() for match in re.finditer(rb"[\w.]+", bytes(data))]
    start, end = rng.choice(words) if words and rng.random() < 0.7 else (_place(data, rng),) * 2
    data[start:end] = rng.choice(TOKENS)


_DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip,
    _truncate,
    _splice,
    _huge,
    _huge,
    _repeat,
    _cut,
)
_DAMAGES_OF_TEXT = (_flip, _truncate, _splice, _repeat, _cut, _token, _token, _token)


def _repair_png(data: bytearray) -> None:
    """Give each chunk the checksum that its bytes have."""
    place = 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4])
        if end + 4 > len(data):
            return
        data[end : end + 4] = struct.pack(">L", zlib.crc32(data[place + 4 : end]))
        place = end + 4
