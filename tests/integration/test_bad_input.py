"""Each mistake gets one sentence with what is wrong and what would be right, and its exit status."""

import errno
import io
import os
import resource
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.conftest import Command, Workplace, assert_one_sentence, rows_of, write_rows


@pytest.fixture
def cohort(workplace: Workplace) -> Path:
    """A copy of the phantoms that a test may spoil; the study reads its manifest."""
    images = workplace.folder / "images"
    shutil.copytree(workplace.images, images)
    text = workplace.study.read_text().replace(str(workplace.images), str(images))
    workplace.study.write_text(text)
    return images


def arguments(workplace: Workplace, cohort: Path, *more: str, run_dir: str = "run") -> list[str]:
    cache = workplace.folder / "cache"
    return [
        *("run", str(workplace.study), "--images", str(cohort), "--run-dir", str(workplace.folder / run_dir)),
        *("--executor", "inline", "--set", f"execution.cache={cache}", "--set", "training.epochs=1"),
        *("--set", "variants.views=[whole]", *more),
    ]


def test_a_typo_in_a_key_names_the_nearest(command: Command, workplace: Workplace) -> None:
    workplace.study.write_text(workplace.study.read_text().replace("epochs:", "epoch:"))
    result = command(*workplace.arguments())
    assert_one_sentence(result, 2, [f"{workplace.study}:10", "'training.epoch'", "did you mean 'epochs'"])


def test_an_unknown_label_names_the_row_and_the_classes(command: Command, workplace: Workplace, cohort: Path) -> None:
    rows = rows_of(cohort)
    rows[3]["label"] = "covid"
    write_rows(cohort, rows)
    assert_one_sentence(command(*arguments(workplace, cohort)), 2, ["'covid'", "covid19", "manifest.csv"])


def test_an_empty_class_is_named(command: Command, workplace: Workplace, cohort: Path) -> None:
    write_rows(cohort, [row for row in rows_of(cohort) if row["label"] != "covid19"])
    assert_one_sentence(command(*arguments(workplace, cohort)), 2, ["'covid19'"])


def test_one_patient_only_is_refused(command: Command, workplace: Workplace, cohort: Path) -> None:
    write_rows(cohort, [{**row, "patient_id": "same", "group_id": ""} for row in rows_of(cohort)])
    assert_one_sentence(command(*arguments(workplace, cohort)), 2, ["patient"])


def test_a_path_outside_the_root_is_refused(command: Command, workplace: Workplace, cohort: Path) -> None:
    rows = rows_of(cohort)
    rows[0]["path"] = "../secret.png"
    write_rows(cohort, rows)
    assert_one_sentence(command(*arguments(workplace, cohort)), 2, ["'../secret.png'"])


def test_a_link_out_of_the_root_is_refused(command: Command, workplace: Workplace, cohort: Path) -> None:
    rows = rows_of(cohort)
    outside = workplace.folder / "outside.png"
    shutil.move(cohort / rows[0]["path"], outside)
    (cohort / rows[0]["path"]).symlink_to(outside)
    assert_one_sentence(command(*arguments(workplace, cohort)), 2, [rows[0]["path"]])


def test_a_missing_image_folder_is_named(command: Command, workplace: Workplace) -> None:
    missing = workplace.folder / "nowhere"
    assert_one_sentence(command(*arguments(workplace, missing)), 2, [str(missing)])


def test_a_missing_study_file_is_named(command: Command, workplace: Workplace) -> None:
    assert_one_sentence(command("run", str(workplace.folder / "no.yaml")), 2, ["no.yaml"])


def test_images_must_be_given(command: Command, workplace: Workplace) -> None:
    assert_one_sentence(command("run", str(workplace.study), "--executor", "inline"), 2, ["--images"])


def test_more_folds_than_patients_is_refused(command: Command, workplace: Workplace, cohort: Path) -> None:
    result = command(*arguments(workplace, cohort, "--set", "folds.k=7"))
    assert_one_sentence(result, 2, ["'normal'", "folds.k"])


def test_a_missing_weight_file_is_named(command: Command, workplace: Workplace, cohort: Path) -> None:
    result = command(*arguments(workplace, cohort, "--set", "model.weights=nothing.pth"))
    assert_one_sentence(result, 2, ["nothing.pth", "'imagenet'"])


def test_a_view_without_masks_says_what_to_do(command: Command, workplace: Workplace, cohort: Path) -> None:
    rows = rows_of(cohort)
    rows[0]["mask_path"] = ""
    write_rows(cohort, rows)
    files = ["--set", "variants.views=[whole,segmented]", "--set", "lungs.masks=files"]
    result = command(*arguments(workplace, cohort, *files))
    assert_one_sentence(result, 2, ["lungs.missing", "'network'", rows[0]["image_id"]])


def truncated(path: Path) -> None:
    jpeg = io.BytesIO()
    Image.effect_noise((300, 300), 60).save(jpeg, "JPEG")
    path.write_bytes(jpeg.getvalue()[:2000])


def bomb(path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


BAD_FILES: dict[str, Callable[[Path], object]] = {
    "truncated": truncated,
    "JPEG, PNG": lambda path: path.write_text("this is text\n" * 50),
    "60000 x 60000": bomb,
    "empty": lambda path: path.write_bytes(b""),
}


def test_bad_files_are_quarantined_and_the_study_goes_on(command: Command, workplace: Workplace, cohort: Path) -> None:
    rows = rows_of(cohort)
    # One image of each class, of patients with several, so that folds stay possible.
    chosen = []
    for label in ("normal", "covid19", "viral_pneumonia", "bacterial_pneumonia"):
        own = [row for row in rows if row["label"] == label]
        patients = [row["patient_id"] for row in own]
        chosen.append(next(row for row in own if patients.count(row["patient_id"]) > 1))
    for row, spoil in zip(chosen, BAD_FILES.values(), strict=True):
        spoil(cohort / row["path"])
        row["sha256"] = ""
    write_rows(cohort, rows)

    refused = command(*arguments(workplace, cohort))
    assert_one_sentence(refused, 2, ["4 of", "cohort.max_quarantined"])

    code, output = command(*arguments(workplace, cohort, "--set", "cohort.max_quarantined=0.2"))
    assert code == 0, output
    quarantine = (workplace.folder / "run" / "quarantine.json").read_text()
    for row, reason in zip(chosen, BAD_FILES, strict=True):
        assert row["image_id"] in quarantine
        assert reason in quarantine
    page = (workplace.folder / "run" / "report" / "index.html").read_text()
    assert f"4 of {len(rows)} images are not used" in page


def test_a_run_directory_that_cannot_be_written_is_named(command: Command, workplace: Workplace, cohort: Path) -> None:
    (workplace.folder / "file").write_text("in the way")
    result = command(*arguments(workplace, cohort, run_dir="file/run"))
    assert_one_sentence(result, 2, ["file/run", "--run-dir"])


def test_a_read_only_run_directory_is_named(command: Command, workplace: Workplace, cohort: Path) -> None:
    read_only = Path("/sys/kernel/cxrdist")
    try:
        read_only.mkdir()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            pytest.skip(f"no read-only file system at hand: {error}")
    result = command(*arguments(workplace, cohort, run_dir=str(read_only)))
    assert_one_sentence(result, 2, [str(read_only), "cannot be written", "--run-dir"])


@pytest.mark.long
def test_a_full_disk_loses_nothing(workplace: Workplace, undisturbed: dict[str, bytes]) -> None:
    """A limit on the size of a file stands for a full disk: both end a write in the middle."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    pid = os.fork()
    if pid == 0:
        limit()
        status, output = workplace.run(*workplace.arguments())
        (workplace.folder / "limited.txt").write_text(output)
        os._exit(status)
    _, wait_status = os.waitpid(pid, 0)
    output = (workplace.folder / "limited.txt").read_text()
    assert os.waitstatus_to_exitcode(wait_status) == 1, output
    assert "File too large" in output
    assert "Traceback" not in output
    assert not list(workplace.folder.glob("run/**/.*.tmp"))

    status, output = workplace.run(*workplace.arguments())
    assert status == 0, output
    assert workplace.results("run") == undisturbed


def test_a_study_outlives_who_reads_its_output(workplace: Workplace, undisturbed: dict[str, bytes]) -> None:
    process = workplace.start(*workplace.arguments())
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=400) == 0
    assert workplace.results("run") == undisturbed


def test_two_drivers_do_not_share_a_run_directory(command: Command, workplace: Workplace) -> None:
    # Longer than this process may need to come so far.
    process = workplace.start(*workplace.arguments("--set", "training.epochs=100000"))
    try:
        while not list(workplace.folder.glob("run/driver/*.json")):
            assert process.poll() is None
        result = command(*workplace.arguments())
        assert_one_sentence(result, 2, [f"process {process.pid}", "--run-dir"])
    finally:
        process.kill()
        process.communicate()


def test_status_and_report_of_no_run_say_so(command: Command, workplace: Workplace) -> None:
    for name in ("status", "report"):
        assert_one_sentence(command(name, str(workplace.folder)), 2, [str(workplace.folder), "not a run directory"])
