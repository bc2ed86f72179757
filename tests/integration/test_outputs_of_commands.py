"""No command replaces a file of the user's: not what it reads, nor what it did not write."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration.conftest import Command, assert_one_sentence
from tests.unit.cohort_check_examples import draw_rows, write_manifest
from tests.unit.dicom_examples import dicom_file

pytestmark = pytest.mark.usefixtures("own_folders")


def contents(folder: Path) -> dict[str, bytes]:
    """All files by their paths."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(command: Command, *arguments: str, words: list[str]) -> None:
    """Run a command that must refuse before it does anything: no file is another than before, and none is new."""
    before = contents(Path())
    result = command(*arguments)
    assert contents(Path()) == before
    assert_one_sentence(result, 2, words)


def draw_cohort(folder: Path, n: int = 8) -> None:
    """Images, and m.csv that lists them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder / "m.csv", draw_rows(folder, n))


APPLY = ["lungs", "apply", "--executor", "inline"]


def test_masks_never_come_among_images_nor_over_files_of_others(command: Command, own_folders: Path) -> None:
    draw_cohort(own_folders / "img")
    where = [*APPLY, "--cohort", "img/m.csv", "--images", "img"]
    (own_folders / "link").symlink_to("img")
    for out in ("img", "img/../img", "link"):
        refused(command, *where, "--out", out, words=["img/x00.png", "is an input", "--out"])
    (own_folders / "masks").mkdir()
    (own_folders / "masks" / "x03.png").write_bytes(b"corrected by hand")
    refused(command, *where, "--out", "masks", words=["masks/x03.png", "is not known to be its own"])


def test_each_image_has_a_mask_of_its_own_name_and_a_second_call_replaces_it(
    command: Command, own_folders: Path
) -> None:
    folder = own_folders / "img"
    paths = ["x.png", "x.jpg", "y.png", "1.2.840.10", "1.2.840.11"]
    rows = [{"image_id": f"id{n}", "path": path, "label": "a"} for n, path in enumerate(paths)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50 + number)).astype(np.uint8)
        (folder / path).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / path, format="JPEG" if path.endswith("jpg") else "PNG")
    write_manifest(folder / "m.csv", rows)
    for _ in range(2):
        code, output = command(*APPLY, "--cohort", "img/m.csv", "--images", "img", "--out", "img/masks")
        assert code == 0, output
    with (folder / "masks" / "masks.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["image_id"]: row["mask_path"] for row in table} == {
        "id0": "x.png.png",
        "id1": "x.jpg.png",
        "id2": "y.png",
        "id3": "1.2.840.10.png",
        "id4": "1.2.840.11.png",
    }
    for number, row in enumerate(table):
        with Image.open(folder / "masks" / row["mask_path"]) as mask:
            assert mask.size == (50 + number, 40)
    # Corrected by hand, a mask is the user's.
    (folder / "masks" / "y.png").write_bytes(b"corrected")
    refused(
        command,
        *[*APPLY, "--cohort", "img/m.csv", "--images", "img", "--out", "img/masks"],
        words=["y.png", "was changed since"],
    )


RECIPE = """\
name: labels
sources:
  h: {kind: dicom, labels: {by: patient_id, table: labels.csv, key: id, label: label}}
"""
BUILD = ["cohort", "build", "r.yaml", "--source", "h=h"]


def hospital(folder: Path) -> None:
    """Eight radiographs of as many patients, a table of their labels, and a recipe."""
    (folder / "h").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 4096, (40, 40)).astype(np.uint16)
        data = dicom_file(pixels, PatientID=f"P{number}", SOPInstanceUID=f"1.2.{number}", StudyInstanceUID="1.3")
        (folder / "h" / f"{number}.dcm").write_bytes(data)
    (folder / "labels.csv").write_text("id,label\n" + "".join(f"P{n},{'ab'[n % 2]}\n" for n in range(8)))
    (folder / "r.yaml").write_text(RECIPE)


def test_a_manifest_is_never_built_over_what_it_is_built_from(command: Command, own_folders: Path) -> None:
    hospital(own_folders)
    refused(command, *BUILD, words=["labels.csv", "is an input", "--out"])
    for out in ("r.yaml", "h/3.dcm", "h/../labels.csv"):
        refused(command, *BUILD, "--out", out, words=[out.rpartition("/")[2], "--out"])


def test_a_manifest_that_was_built_is_built_again_until_somebody_changes_it(
    command: Command, own_folders: Path
) -> None:
    hospital(own_folders)
    build = [*BUILD, "--out", "cohort.csv"]
    for label in ("a", "c"):
        (own_folders / "r.yaml").write_text(f"{RECIPE}labels: {{a: {label}}}\n")
        code, output = command(*build)
        assert (code, "cohort.csv is the manifest" in output) == (0, True), output
    built = Path("cohort.csv").read_text()
    Path("cohort.csv").write_text(built.replace(",c,", ",d,"))
    refused(command, *build, words=["cohort.csv", "was changed since"])


def test_a_manifest_without_a_record_stays_unless_it_comes_out_the_same(command: Command, own_folders: Path) -> None:
    hospital(own_folders)
    build = [*BUILD, "--out", "cohort.csv"]
    assert command(*build)[0] == 0
    built = Path("cohort.csv").read_text()
    Path(".cxrdist.json").unlink()
    Path("cohort.csv").write_text(built.replace(",a,", ",d,"))
    refused(command, *build, words=["cohort.csv", "it is not known whose"])
    Path("cohort.csv").write_text(built)
    code, output = command(*build)
    assert (code, "was already the manifest" in output) == (0, True), output


def test_a_check_does_not_rewrite_what_it_checks(command: Command, own_folders: Path) -> None:
    draw_cohort(own_folders)
    Path("m.csv").rename("manifest.csv")
    check = ["cohort", "check", "manifest.csv", "--images", "."]
    refused(command, *check, "--out", ".", words=["manifest.csv", "is an input", "--out"])
    draw_cohort(own_folders / "img")
    Path("img/m.csv").rename("manifest.csv")
    refused(
        command,
        *["cohort", "check", "manifest.csv", "--images", "img", "--out", "."],
        words=["manifest.csv", "is an input"],
    )
    Path("out").mkdir()
    Path("out/quarantine.csv").write_text("mine")
    refused(command, *check, "--out", "out", words=["out/quarantine.csv", "is not known to be its own"])
    for _ in range(2):
        assert command(*check, "--out", "checked")[0] == 0
    # What was checked is checked again, into another folder.
    again = ["cohort", "check", "checked/manifest.csv", "--images", "."]
    refused(command, *again, "--out", "checked", words=["checked/manifest.csv", "is an input"])
    assert command(*again, "--out", "again")[0] == 0


def test_a_card_that_somebody_wrote_or_changed_stays(command: Command, own_folders: Path) -> None:
    draw_cohort(own_folders)
    card = ["cohort", "card", "m.csv", "--out", "."]
    Path("card.md").write_text("mine")
    refused(command, *card, words=["card.md", "is not known to be its own", "--out"])
    Path("card.md").unlink()
    for _ in range(2):
        assert command(*card)[0] == 0
    Path("croissant.json").write_text("{}")
    refused(command, *card, words=["croissant.json", "was changed since"])


RUN_STUDY = """\
name: claimed
cohort: {{manifest: {folder}/m.csv, images: {folder}, classes: [covid19, normal]}}
preprocessing: {{size: 32}}
folds: {{k: 2}}
variants: {{views: [whole], models: [resnet34]}}
model: {{weights: none, transfer: frozen}}
training: {{epochs: 1, batch_size: 4}}
execution: {{executor: inline, threads: 1}}
"""


def test_a_run_replaces_nothing_but_what_a_run_wrote(command: Command, own_folders: Path) -> None:
    draw_cohort(own_folders / "img")
    study = RUN_STUDY.format(folder=own_folders / "img")
    Path("x").mkdir()
    Path("x/study.yaml").write_text(study)
    run = ["x/study.yaml", "--run-dir", "x"]
    for name in ("run", "sweep"):
        more = ["--set", "sweep={space: {learning_rate: {values: [1e-3, 1e-2]}}}"] if name == "sweep" else []
        refused(command, name, *run, *more, words=["x/study.yaml", "is an input", "--run-dir"])
    Path("mine.yaml").write_text(study)
    refused(command, "run", "mine.yaml", "--run-dir", "x", words=["x/study.yaml", "is not known to be its own"])
    refused(command, "run", "mine.yaml", "--run-dir", "img", words=["img", "is a folder of inputs", "--run-dir"])
    Path("y/report").mkdir(parents=True)
    Path("y/report/index.html").write_text("mine")
    refused(command, "run", "mine.yaml", "--run-dir", "y", words=["y/report", "is not known to be a run's"])
    refused(command, "lungs", "train", "--cohort", "img/m.csv", "--images", "img", "--run-dir", "img", words=["inputs"])
