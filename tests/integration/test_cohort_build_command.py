"""`cxrdist cohort build` as a person types it, and the way from a hospital's folder to a study as the README has it."""

import csv
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration.conftest import Command, assert_one_sentence, wait_until
from tests.unit.dicom_examples import dicom_file

README = Path(__file__).resolve().parents[2] / "data_manifests" / "README.md"

pytestmark = pytest.mark.usefixtures("own_folders")


def blocks(heading: str, language: str) -> list[str]:
    """The fenced blocks of a section of the README."""
    section = re.split(r"^## ", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(heading)]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def write_hospital(folder: Path) -> None:
    """Radiographs of twelve patients, two each, and what else lies in such a folder; lateral views among them."""
    rng = np.random.default_rng(0)
    for patient in range(12):
        for number in range(3):
            data = dicom_file(
                rng.integers(0, 4096, (80, 64)).astype(np.uint16),
                PatientID=f"SECRET{patient:03}",
                PatientName="Doe^Jane",
                SOPInstanceUID=f"1.2.{patient}.{number}",
                StudyInstanceUID=f"1.3.{patient}",
                ViewPosition=("PA", "AP", "LL")[number],
                PatientAge="045Y",
                PatientSex="F",
            )
            path = folder / f"series{patient}" / f"IM{number:04}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    (folder / "DICOMDIR").write_bytes(bytes(200))
    (folder / ".DS_Store").write_bytes(b"")


def test_a_hospitals_folder_becomes_a_study_by_the_commands_of_the_readme(command: Command, own_folders: Path) -> None:
    write_hospital(own_folders / "dicom")
    for block in blocks("A hospital's folder", "yaml"):
        name = re.match(r"# (\w+\.yaml)\n", block)
        assert name is not None
        Path(name[1]).write_text(block)
    (header,) = blocks("A hospital's folder", "csv")
    labels = [f"SECRET{patient:03},{'pneumonia' if patient % 2 else 'normal'}\n" for patient in range(12)]
    Path("labels.csv").write_text(header + "".join(labels))
    (script,) = blocks("A hospital's folder", "sh")
    lines = [shlex.split(line) for line in script.splitlines()]
    assert [line[0] for line in lines] == ["cxrdist"] * 4
    said = ""
    for line in lines:
        status, output = command(*line[1:])
        assert status == 0, output
        said += output
    assert "cohort.csv is the manifest of 24 images (normal 12, pneumonia 12) of 12 patients" in said
    assert "hospital: 1 not used (.DS_Store)" in said
    assert "2 fold jobs" in said and "report: " in said
    assert Path("runs/first-study/report/index.html").is_file()
    salt = own_folders.parent / "settings" / "cxrdist" / "salt"
    assert salt.stat().st_mode & 0o777 == 0o600
    secrets = ("SECRET", "Doe", salt.read_bytes().hex(), repr(salt.read_bytes())[2:-1])
    assert not [secret for secret in secrets if secret in said or secret in Path("cohort.csv").read_text()]
    # Again, with what is known now: the same bytes.
    status, output = command(*lines[0][1:])
    assert (status, "cohort.csv was already the manifest of" in output) == (0, True)


def test_another_salt_gives_other_pseudonyms_and_the_same_one_the_same(command: Command, own_folders: Path) -> None:
    write_hospital(own_folders / "dicom")
    Path("r.yaml").write_text("name: c\nsources:\n  h: {kind: dicom, labels: {by: folder}}\n")
    build = ["cohort", "build", "r.yaml", "--source", "h=dicom"]
    patients = []
    for more in ([], ["--out", "again.csv"], ["--salt-file", "other"], ["--keep-ids"]):
        status, output = command(*build, *more)
        assert status == 0, output
        with Path("again.csv" if "--out" in more else "c.csv").open(newline="") as file:
            patients.append({row["patient_id"] for row in csv.DictReader(file)})
    assert patients[0] == patients[1]
    assert not patients[0] & patients[2]
    assert patients[3] == {f"SECRET{patient:03}" for patient in range(12)}
    assert "It holds patient ids as the files have them" in output


TABLE = "sources: {s: {kind: table, table: t.csv, columns: {image_id: f, path: f, label: l}}}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["needs the source 's' (table)", "--source s=DIR"]),
        (["--source", "s"], ["--source is 's'", "NAME=DIR"]),
        (["--source", "s=a", "--source", "s=b"], ["names 's' twice"]),
        (["--source", "s=absent"], ["'absent' does not exist"]),
        (["--source", "s=images", "--source", "t=images"], ["--source t=...", "one of s"]),
        (["--source", "s=images", "--out", "no/such/folder.csv"], ["no/such/folder.csv", "--out"]),
    ],
)
def test_a_mistake_is_one_sentence(command: Command, own_folders: Path, arguments: list[str], words: list[str]) -> None:
    write_images(own_folders / "images", 3)
    Path("r.yaml").write_text(f"name: c\n{TABLE}")
    assert_one_sentence(command("cohort", "build", "r.yaml", *arguments), 2, words)


def test_a_cache_that_cannot_be_written_is_one_sentence(command: Command, own_folders: Path) -> None:
    write_images(own_folders / "images", 3)
    Path("r.yaml").write_text(f"name: c\n{TABLE}")
    (own_folders.parent / "caches").write_text("a file")
    result = command("cohort", "build", "r.yaml", "--source", "s=images")
    assert_one_sentence(result, 2, ["The cache folder", "XDG_CACHE_HOME"])


def write_images(folder: Path, count: int) -> None:
    """Images of noise, and their table."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    rows = ["f,l"]
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (400, 400)).astype(np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,normal")
    (folder / "t.csv").write_text("\n".join(rows) + "\n")


def test_an_interrupted_build_continues_and_gives_the_bytes_of_an_undisturbed_one(
    command: Command, own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(own_folders / "images", 70)
    Path("r.yaml").write_text(f"name: c\n{TABLE}duplicates: {{merge: true}}\n")
    build = ["cohort", "build", "r.yaml", "--source", "s=images"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cxrdist", *build], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        # The cache is opened before the images are.
        wait_until((own_folders.parent / "caches").exists, 60)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, said
    assert "Interrupted" in said and "Traceback" not in said
    assert not Path("c.csv").exists() and not list(own_folders.glob(".*"))
    status, output = command(*build)
    assert status == 0, output
    # On one core no other process is started.
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_folders.parent / "other"))
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        status, output = command(*build, "--out", "undisturbed.csv")
    finally:
        os.sched_setaffinity(0, cores)
    assert status == 0, output
    assert "looked at 70 of 70 images" in output
    assert Path("c.csv").read_bytes() == Path("undisturbed.csv").read_bytes()
