"""What `cohort check`, `cohort build` and `run` make of every small input that went wrong elsewhere.

    python -m benchmarks.cases ../shared/cases
    python -m benchmarks.cases ../shared/cases --group tables

One line a file: what came out, and `right` or `WRONG` by what should come out; the exit status is 1 where anything is
wrong. A file of images is either used or put aside with a reason; where it should be named for how it looks, too, the
page of the check must name it. Nothing is written outside a temporary folder.
"""

import argparse
import contextlib
import csv
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from PIL import Image

from cxrdist.cli import main

STUDY = """\
name: case
seed: 1
cohort: {{manifest: {manifest}, classes: [{classes}], max_quarantined: 0.999}}
preprocessing: {{size: 64}}
folds: {{k: {k}}}
variants: {{views: [{view}], models: [resnet34]}}
model: {{weights: none, transfer: frozen}}
training: {{epochs: 1, batch_size: 8, learning_rate: 1e-3}}
execution: {{executor: inline, threads: 1, keep_models: false}}
"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it said."""

    status: int
    text: str

    @property
    def sentence(self) -> str:
        """What the user reads last: the error, else the last warning."""
        lines = [line for line in self.text.splitlines() if line.startswith(("Error:", "Warning:", "Put right:"))]
        return lines[-1] if lines else ""


@dataclass(frozen=True)
class Right:
    """What a command should do with an input: its exit status, and words that must be among what it says."""

    status: int
    words: tuple[str, ...] = ()

    def holds(self, outcome: Outcome) -> bool:
        """Return whether it did."""
        flat = " ".join(outcome.text.split())
        quiet = "Traceback" not in flat
        return quiet and outcome.status == self.status and all(word in flat for word in self.words)


@dataclass(frozen=True)
class Line:
    """One input, what came out, and whether it is right."""

    file: str
    command: str
    came_out: str
    right: bool


def cxrdist(*arguments: str) -> Outcome:
    """Run the command line in this process."""
    output = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["cxrdist", *arguments]),
        mock.patch.dict(os.environ, {"COLUMNS": "1000"}),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        try:
            main()
        except SystemExit as ended:
            return Outcome(int(ended.code or 0), output.getvalue())
    raise AssertionError("the command line came back without an exit status")


class Place:
    """A temporary folder that commands write into, a new one of its own each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0

    def new(self) -> Path:
        """Return a path that is not there yet."""
        self._count += 1
        return self.folder / f"{self._count:04d}"

    def check(self, manifest: Path, images: Path, *more: str) -> tuple[Outcome, Path]:
        """Run `cohort check`, and return what came out and where its page is."""
        out = self.new()
        return cxrdist("cohort", "check", str(manifest), "--images", str(images), "--out", str(out), *more), out

    def run(
        self, manifest: Path, images: Path, classes: Sequence[str], *more: str, view: str = "whole", k: int = 3
    ) -> tuple[Outcome, Path]:
        """Run a small study, and return what came out and its run directory."""
        study, out = self.new().with_suffix(".yaml"), self.new()
        quoted = ", ".join(json.dumps(name) for name in classes)
        study.write_text(STUDY.format(manifest=json.dumps(str(manifest)), classes=quoted, view=view, k=k))
        outcome = cxrdist("run", str(study), "--images", str(images), "--run-dir", str(out), *more)
        plan = out / "plan.json"
        doubts = json.loads(plan.read_text())["doubts"] if plan.is_file() else []
        return Outcome(outcome.status, "\n".join([outcome.text, *(f"Warning: {doubt}" for doubt in doubts)])), out


Pair = tuple[Right, Right]
"""What `cohort check` and what `run` should do."""

GOOD: Pair = (Right(0), Right(0))
"""A table that is read as it is meant."""


def both(*words: str) -> Pair:
    """Refused by either command."""
    return Right(1, words), Right(2, words)


def unread(*words: str) -> Pair:
    """A table that neither command can read."""
    return Right(2, words), Right(2, words)


def warned(*words: str) -> Pair:
    """Accepted, and said to be doubtful by either command."""
    return Right(0, words), Right(0, words)


TABLES: dict[str, Pair] = {
    "a.parquet": GOOD,
    "abs.csv": both("absolute"),
    "b.parquet": warned("patient id"),
    "b2.parquet": warned("patient id"),
    "b3.parquet": (Right(0, ("more than one class",)), Right(0)),
    "base.csv": GOOD,
    "blankrows.csv": GOOD,
    "bom.csv": GOOD,
    "bs.csv": both("x00.png"),
    "c.parquet": (Right(0, ("tells the class",)), Right(0)),
    "c2.parquet": GOOD,
    "caseext.csv": both("x00.png"),
    "cf.csv": (Right(0, ("more than one class",)), Right(0)),
    "copy.csv": (Right(1, ("1 pair of copies",)), Right(0)),
    "cp1252.csv": warned("Windows-1252"),
    "cr.csv": GOOD,
    "crlf.csv": GOOD,
    "d.parquet": warned("patient id"),
    "d2.parquet": warned("patient id"),
    "d3.parquet": warned("patient id"),
    "dom.csv": warned("covid"),
    "dup.csv": both("listed twice"),
    "dup1.csv": both("listed twice", "rows 1 and 25"),
    "dup2.csv": both("listed twice", "rows 1 and 2"),
    "dup3.csv": GOOD,
    "dupi.csv": both("leads out"),
    "dupp.csv": both("listed twice", "rows 1 and 25"),
    "e.parquet": GOOD,
    "f.parquet": GOOD,
    "few.csv": (Right(0, ("covid",)), Right(2, ("covid",))),
    "g.parquet": GOOD,
    "h.parquet": unread("label"),
    "hdrcase.csv": unread("image_id"),
    "hdrsp.csv": GOOD,
    "i.parquet": GOOD,
    "idx.csv": GOOD,
    "labcase.csv": (Right(0, ("'Normal'", "'normal'")), Right(2, ("'Normal'",))),
    "labnan.csv": both("label"),
    "labsp.csv": GOOD,
    "ls.csv": GOOD,
    "nan1.csv": warned("patient id"),
    "nfd.csv": (Right(1, ("müller.png",)), Right(0, ("x00 is missing",))),
    "noext.csv": both("x00.png"),
    "odd.csv": GOOD,
    "pg.csv": warned("patient id"),
    "pidmost.csv": warned("covid"),
    "pidvar.csv": warned("007"),
    "ps.csv": (Right(0, ("1.2E+11",)), Right(0)),
    "pu.csv": (Right(1, ("1 patient",)), Right(2, ("normal",))),
    "rare.csv": warned("covid"),
    "semicolon.csv": GOOD,
    "sep.csv": GOOD,
    "sex.csv": (Right(0, ("sex",)), Right(0)),
    "sgk.csv": (Right(0, ("more than one class",)), Right(2)),
    "sl.csv": both("missing"),
    "ssing.csv": GOOD,
    "tab.csv": GOOD,
    "trail.csv": GOOD,
    "utf16.csv": GOOD,
    "x.csv": GOOD,
    "xl.csv": GOOD,
    "yn.csv": GOOD,
}
CLASSES: dict[str, tuple[str, ...]] = {
    "f.parquet": ("0", "1"),
    "g.parquet": ("true", "false"),
    "h.parquet": ("a", "b"),
    "ls.csv": ("../x", "a/b, c"),
    "sgk.csv": ("b", "c", "n"),
    "yn.csv": ("yes", "no"),
}
"""Where they are not normal and covid."""

USED = ""
"""Of an image file: it is decoded."""

PIXELS: dict[str, str] = {
    "c_jp2box.dcm": "JPEG 2000",
    "c_j2k12s_pr0.dcm": "signed",
    "c_j2k14_stored12.dcm": USED,
    "c_trunc_j2k12.dcm": "damaged",
    **dict.fromkeys(("c_trunc_jls12.dcm", "c_trunc_jpeg8.dcm", "c_trunc_lj12.dcm"), "truncated"),
    "c_trunceoi_j2k12.dcm": "damaged",
    "c_trunceoi_jls12.dcm": "damaged",
    "c_trunceoi_jpeg8.dcm": "is truncated",
    "c_trunceoi_lj12.dcm": "truncated",
    "c_zeromid_j2k12.dcm": "damaged",
    "c_zeromid_jls12.dcm": "damaged",
    "c_zeromid_jpeg8.dcm": "damaged",
    "c_zeromid_lj12.dcm": "damaged",
    "d_XR.dcm": "modality",
    "d_frames0.dcm": "0 frames",
    "d_highbit15.dcm": "HighBit",
    "d_leftaligned.dcm": "HighBit",
    "d_meta_no_ts.dcm": "transfer syntax",
    "d_no_meta_no_preamble.dcm": "without its first 132 bytes",
    "d_palette.dcm": "in colour",
    "d_preamble_no_meta.dcm": "transfer syntax",
    "d_rgb_planar0.dcm": "in colour",
    "d_rgb_planar1.dcm": "in colour",
    "d_win_comma.dcm": "not a number",
    "d_win_width0.dcm": "width 0",
    "d_win_width_neg.dcm": "width -4000",
    "fmt_BMP.png": "BMP",
    "fmt_GIF.png": "GIF",
    "fmt_JPEG2000.png": "JPEG 2000",
    "gif_as_png.png": "GIF",
    **dict.fromkeys(("jpeg_prog_truncated.jpg", "jpeg_truncated.jpg", "jpeg_zero_tail.jpg"), "is truncated"),
    "jpeg_truncated_eoi.jpg": "is truncated",
    "trunc_eoi.jpg": "is truncated",
    "png_idat_short_valid_crc.png": "is truncated",
    "png_half_rows_valid_zlib.png": "is truncated",
    "png_truncated.png": "is truncated",
    "webp_truncated.webp": "damaged",
}
"""Part of the reason for which a file is put aside; those that are not named are used."""

NAMED = frozenset(
    {
        *("alpha0.png", "black.png", "d_win_outside.dcm", "grey16_marker.png", "png16_12bit_white_marker.png"),
        *("png_alpha_all0.png", "white.png", "win_outside.dcm"),
    }
)
"""Images that are decoded, and that `cohort check` must list for how they look."""

MASKS: dict[str, str] = {
    "m_16_allone_bg255.png": USED,
    "m_black.png": "no pixel",
    "m_white.png": "one value everywhere",
    "m_other_aspect.png": "aspect ratio",
    "m_transposed.png": "aspect ratio",
    "m_jpeg01.jpg": USED,
}
"""What is said of a mask file; those that are not named mark the same lungs, 31 % of the image."""


def tables(place: Place, cases: Path) -> Iterator[Line]:
    """Try the tables of images."""
    for file in sorted((cases / "tab").glob("*.[cp][sa][vr]*")):
        right = TABLES[file.name]
        images = file.parent if file.name == "bs.csv" else file.parent / "img"
        checked, _ = place.check(file, images)
        ran, _ = place.run(file, images, CLASSES.get(file.name, ("normal", "covid")))
        for command, outcome, wanted in (("check", checked, right[0]), ("run", ran, right[1])):
            yield Line(f"tab/{file.name}", command, f"{outcome.status} {outcome.sentence}", wanted.holds(outcome))


def pixels(place: Place, cases: Path) -> Iterator[Line]:
    """Try the image files: both commands put the same ones aside, for the same reasons."""
    for folder in ("pix", "flat"):
        files = sorted(path.name for path in (cases / folder).iterdir() if path.suffix != ".csv")
        manifest = place.new().with_suffix(".csv")
        _write_manifest(manifest, [(name, "ab"[number % 2]) for number, name in enumerate(files)])
        checked, page = place.check(manifest, cases / folder)
        reasons = {row["path"]: row["reason"] for row in _rows(page / "quarantine.csv")}
        _, run_dir = place.run(manifest, cases / folder, ("a", "b"))
        left_out = json.loads((run_dir / "quarantine.json").read_text())["images"]
        by_run = {one["path"]: one["reason"] for one in left_out}
        for name in files:
            wanted = PIXELS.get(name, USED)
            for command, found in (("check", reasons.get(name, USED)), ("run", by_run.get(name, USED))):
                right = wanted in found if wanted else not found
                yield Line(f"{folder}/{name}", command, f"put aside: {found}" if found else "used", right)
            if name in NAMED:
                said = [row["reason"] for row in _rows(page / "odd_images.csv") if row["path"] == name]
                yield Line(f"{folder}/{name}", "check", said[0] if said else "not named", bool(said))
        if folder == "pix":
            named = Right(1, ("name another part of the body than the chest",))
            yield Line("pix/d_body_*", "check", f"{checked.status} {checked.sentence}", named.holds(checked))


def polarity(place: Place, cases: Path) -> Iterator[Line]:
    """Try a cohort in which one class alone is stored as negatives."""
    checked, _ = place.check(cases / "polar" / "m.csv", cases / "polar")
    wanted = Right(0, ("negative",))
    yield Line("polar/", "check", f"{checked.status} {checked.sentence}", wanted.holds(checked))


def masks(place: Place, cases: Path) -> Iterator[Line]:
    """Try each mask file as the mask of all images of a small cohort."""
    folder = place.new()
    folder.mkdir()
    source = sorted((cases / "polar").glob("*.png"))
    for number, path in enumerate(source):
        with Image.open(path) as image:
            image.convert("L").resize((256, 259)).save(folder / f"{number}.png")
    for file in sorted((cases / "masks").iterdir()):
        (folder / f"mask_{file.name}").write_bytes(file.read_bytes())
        manifest = folder / f"{file.name}.csv"
        rows = [(f"{number}.png", "ab"[number % 2]) for number in range(len(source))]
        _write_manifest(manifest, rows, mask=f"mask_{file.name}")
        more = ("--set", "lungs.masks=files")
        ran, run_dir = place.run(manifest, folder, ("a", "b"), *more, view="segmented", k=2)
        wanted = MASKS.get(file.name, USED)
        if ran.status == 0:
            (source_masks,) = json.loads((run_dir / "masks.json").read_text())["sources"].values()
            area = source_masks["area"]
            yield Line(f"masks/{file.name}", "run", f"0 lungs {area:.1%}", not wanted and abs(area - 0.31) < 0.02)
        else:
            yield Line(f"masks/{file.name}", "run", f"{ran.status} {ran.sentence}", bool(wanted) and wanted in ran.text)


GROUPS: dict[str, Callable[[Place, Path], Iterator[Line]]] = {
    "tables": tables,
    "pixels": pixels,
    "polarity": polarity,
    "masks": masks,
}


def _write_manifest(manifest: Path, rows: Sequence[tuple[str, str]], mask: str | None = None) -> None:
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "path", "label", "patient_id", *(["mask_path"] if mask else [])])
        for number, (path, label) in enumerate(rows):
            writer.writerow([path, path, label, f"P{number}", *([mask] if mask else [])])


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def try_all(cases: Path, groups: Sequence[str]) -> Iterator[Line]:
    """Try the groups one after another."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"XDG_CACHE_HOME": f"{folder}/cache"}):
        place = Place(Path(folder))
        for name in groups:
            yield from GROUPS[name](place, cases.resolve())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--group", action="append", choices=GROUPS)
    given = parser.parse_args()
    wrong = 0
    for line in try_all(given.cases, given.group or list(GROUPS)):
        wrong += not line.right
        print(f"{'right' if line.right else 'WRONG'}  {line.file}  {line.command}  {line.came_out}", flush=True)
    sys.exit(1 if wrong else 0)
