"""`cxrdist cohort check` as a person calls it: statuses, what is written, Ctrl-C, Ray, and the page in a browser."""

import asyncio
import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks import cohort_check as benchmark
from cxrdist.cohort.check_write import write_lists
from cxrdist.errors import UserError
from cxrdist.outputs import RECORD
from cxrdist.report.cohort_page import render_cohort_page
from tests.integration.conftest import DEADLINE, assert_one_sentence, rows_of, write_rows
from tests.integration.test_report_browser import BROWSER, browser, look_at  # noqa: F401 - a fixture
from tests.unit.cohort_check_examples import HOSTILE, add_image, checked, draw_rows, file_of, radiograph, write_manifest

LISTS = ["duplicates.csv", "index.html", "manifest.csv", "odd_images.csv", "quarantine.csv"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def faulty(tmp_path):
    """A cohort with a copy of another label, a missing, a changed and a damaged file, and hostile names."""
    folder = tmp_path / "faulty"
    rows = draw_rows(folder, 20)
    rows.append(add_image(folder, "copy.jpg", file_of(radiograph(0), "JPEG"), label="normal", patient_id="<b>q</b>"))
    for row, name in zip(rows, HOSTILE, strict=False):
        row["source"], row["image_id"] = name.replace("\0", ""), f"{row['image_id']}{name}".replace("\0", "")
    (folder / "x04.png").unlink()
    (folder / "x05.png").write_bytes(file_of(radiograph(99)))
    (folder / "x06.png").write_bytes(b"no image")
    rows[6]["sha256"] = ""
    rows.append(rows[1] | {"path": "again.png"})
    return write_manifest(folder / "manifest.csv", rows)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != RECORD)


def check(command, manifest, images, out, *more):
    return command("cohort", "check", str(manifest), "--images", str(images), "--out", str(out), *more)


def test_a_sound_cohort_has_status_0_and_is_read_back_as_it_was(command, phantoms, tmp_path):
    status, output = check(command, phantoms / "manifest.csv", phantoms, tmp_path / "out")
    assert status == 0, output
    assert "Put right" not in output
    assert f"page: {tmp_path / 'out' / 'index.html'}" in output
    assert names_in(tmp_path / "out") == LISTS
    before = rows_of(phantoms)
    assert [row | {"group_id": ""} for row in rows_of(tmp_path / "out")] == [row | {"group_id": ""} for row in before]
    # The manifest that was written is accepted again, and nothing is left to join.
    assert check(command, tmp_path / "out" / "manifest.csv", phantoms, tmp_path / "again")[0] == 0
    assert (tmp_path / "again" / "manifest.csv").read_bytes() == (tmp_path / "out" / "manifest.csv").read_bytes()


def test_what_must_be_put_right_has_status_1_and_is_listed(command, faulty, tmp_path):
    status, output = check(command, faulty, faulty.parent, tmp_path / "out")
    assert status == 1
    lines = [line for line in output.splitlines() if line.startswith("Put right: ")]
    assert len(lines) == 6
    for words in ("1 row of the manifest", "is missing", "SHA-256 differs", "different labels", "different groups"):
        assert any(words in line for line in lines)
    assert output.splitlines()[-1].startswith("Error: 6 findings of ")
    assert "\x1b[31mred" not in output
    assert "\u202e" not in output
    with (tmp_path / "out" / "quarantine.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [(row["row"], row["problem"]) for row in listed] == [
        ("5", "missing"),
        ("6", "changed"),
        ("7", "unreadable"),
        ("22", "row"),
    ]
    with (tmp_path / "out" / "duplicates.csv").open(newline="") as file:
        (pair,) = csv.DictReader(file)
    assert (pair["path_a"], pair["path_b"], pair["same_label"]) == ("x00.png", "copy.jpg", "no")


def test_a_manifest_with_copies_joined_may_be_used_at_once(command, phantoms, tmp_path):
    rows = rows_of(phantoms)
    for row in rows:
        row["group_id"] = ""
    folder = tmp_path / "images"
    subprocess.run(["cp", "-r", str(phantoms), str(folder)], check=True)
    copied = dict(rows[0]) | {"image_id": "copy", "path": "copy.png", "patient_id": "other", "mask_path": ""}
    (folder / "copy.png").write_bytes((folder / rows[0]["path"]).read_bytes())
    write_rows(folder, [*rows, copied])
    status, output = check(command, folder / "manifest.csv", folder, tmp_path / "out")
    assert status == 1
    assert "1 pair of copies of one radiograph is in different groups or patients" in output
    assert check(command, tmp_path / "out" / "manifest.csv", folder, tmp_path / "again")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--classes", "normal,,covid19"], ["--classes is 'normal,,covid19'"]),
        (["--workers", "2", "--executor", "ray"], ["--workers is 2", "--executor local"]),
        (["--address", "host:1"], ["--address is 'host:1'", "--executor ray"]),
        (["--images", "gone"], ["image folder 'gone' does not exist", "--images"]),
    ],
    ids=["classes", "workers", "address", "images"],
)
def test_a_mistake_in_the_call_is_one_sentence(command, phantoms, tmp_path, arguments, words):
    result = check(command, phantoms / "manifest.csv", phantoms, tmp_path / "out", *arguments)
    assert_one_sentence(result, 2, words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.csv", b"image_id,path,label\na,\xff\x81,normal\n", ["unknown encoding"]),
        ("m.csv", b"image_id,path\na,b\n", ["has no column 'label'"]),
        ("m.csv", b"image_id,path,label,lable\n", ["unknown column 'lable'"]),
        ("m.csv", b"", ["no line that names its columns"]),
        ("m.parquet", b"PAR1", ["is no Parquet file"]),
        ("m.yaml", b"table: gone.csv", ["does not exist"]),
    ],
)
def test_a_manifest_that_cannot_be_read_is_one_sentence(command, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    assert_one_sentence(check(command, tmp_path / name, tmp_path, tmp_path / "out"), 2, words)


def test_a_folder_that_cannot_be_written_is_one_sentence(command, phantoms, tmp_path):
    (tmp_path / "out").write_text("a file")
    assert_one_sentence(
        command("cohort", "check", str(phantoms / "manifest.csv"), "--images", str(phantoms), "--out", "/proc/no"),
        2,
        ["'/proc/no' cannot be written", "--out"],
    )


@pytest.mark.parametrize(
    "arguments",
    [["--workers", "1"], pytest.param(["--executor", "ray"], marks=pytest.mark.alone)],
    ids=["one core", "ray"],
)
def test_where_files_are_decoded_changes_nothing(command, faulty, tmp_path, monkeypatch, arguments):
    check(command, faulty, faulty.parent, tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    status, output = check(command, faulty, faulty.parent, tmp_path / "there", *arguments)
    assert status == 1, output
    for name in LISTS:
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def test_ctrl_c_ends_it_in_order_and_it_continues(tmp_path):
    folder = tmp_path / "images"
    data = file_of(radiograph(0, 1000, 1000), "JPEG")
    rows = [add_image(folder, f"{n}.jpg", data, label=f"c{n % 2}", patient_id="p") for n in range(200)]
    manifest = write_manifest(folder / "manifest.csv", rows)

    def start():
        arguments = ["cohort", "check", str(manifest), "--images", str(folder), "--out", str(tmp_path / "out")]
        return subprocess.Popen(
            [sys.executable, "-m", "cxrdist", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    with start() as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("looked at "):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    assert "what was done is kept, and the same command continues" in rest
    assert "Traceback" not in rest
    assert 0 < marked(tmp_path / "cache") < 200
    assert not list((tmp_path / "cache").rglob("*.partial"))
    with start() as process:
        output, _ = process.communicate(timeout=DEADLINE)
    assert "looked at 200 of 200 images" in output
    # Each file was decoded once.
    assert marked(tmp_path / "cache") == 200
    assert names_in(tmp_path / "out") == LISTS


def marked(cache):
    """How many files have marks in a cache, counted as often as they were made."""
    return sum(pa.ipc.open_file(path).get_batch(0).num_rows for path in cache.rglob("*.arrow"))


def test_a_cell_of_megabytes_makes_neither_sentences_nor_the_page_long(tmp_path):
    folder = tmp_path / "images"
    rows = draw_rows(folder, 6)
    for number, name in enumerate(("patient_id", "source", "view_position", "group_id", "age", "image_id")):
        rows[number][name] = str(number) + "<" * 100_000
    rows[0]["path"], rows[1]["path"] = "gone" * 10, "long" * 30_000
    check = checked(folder, rows)
    written = write_lists(check, tmp_path / "out", 100)
    assert max(len(finding.sentence) for finding in check.findings) < 1000
    assert len(render_cohort_page(check, written)) < 200_000
    assert (tmp_path / "out" / "quarantine.csv").stat().st_size < 10_000
    rows[0]["source"] = "<" * 10_000_000
    with pytest.raises(UserError, match=r"^Line 2 of .* has a cell of more than 131,072 characters; .{,60}$"):
        checked(folder, rows)


def test_the_benchmark_finds_what_it_planted(capsys):
    benchmark.main(["--quick"])
    assert "4 of 4 planted pairs found; 2,600 files absent" in capsys.readouterr().out


@pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_the_page_opens_whole_without_complaint_or_request(command, browser, faulty, tmp_path, width):  # noqa: F811
    check(command, faulty, faulty.parent, tmp_path / "out")
    page = Path(tmp_path / "out" / "index.html")
    seen = asyncio.run(look_at(page, width, browser))
    assert seen["requests"] == [page.as_uri()]
    assert seen["complaints"] == []
    assert seen["dead links"] == 0
    assert seen["broken images"] == []
    assert seen["cut off"] == []
    assert not seen["wider than the window"]
    assert seen["height"] > 2500
