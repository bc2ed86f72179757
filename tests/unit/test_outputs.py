import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.errors import UserError
from cxrdist.outputs import RECORD, Outputs, read_record


def write(folder: Path, names: dict[str, str], **more) -> None:
    """What a command does: ask first, then write."""
    outputs = Outputs(folder, names, option="--out", **more)
    with outputs.writing():
        for name, text in names.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


def refused(folder: Path, *names: str, **more) -> str:
    before = contents(folder)
    with pytest.raises(UserError) as error:
        Outputs(folder, names, option="--out", **more)
    assert contents(folder) == before
    assert "--out" in str(error.value)
    return str(error.value)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_written_before_is_replaced(tmp_path):
    for text in ("one", "two", "three"):
        write(tmp_path / "out", {"a.csv": text, "b/c.png": text})
        assert (tmp_path / "out/b/c.png").read_text() == text


def test_a_file_of_the_users_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "a.csv").write_text("mine")
    assert "'a.csv'" in refused(tmp_path, "b.csv", "a.csv").replace(f"{tmp_path}/", "")
    assert not (tmp_path / RECORD).exists()


@pytest.mark.parametrize("same_size", [True, False])
def test_a_file_that_was_changed_since_is_the_users(tmp_path, same_size):
    write(tmp_path, {"a.csv": "ours", "b.csv": "ours"})
    (tmp_path / "a.csv").write_text("mine" if same_size else "mine, and longer")
    os.utime(tmp_path / "a.csv", ns=(1, 1))
    assert "was changed since" in refused(tmp_path, "a.csv")
    write(tmp_path, {"b.csv": "again"})


def test_a_folder_that_was_copied_is_still_ours(tmp_path):
    write(tmp_path / "first", {"a.csv": "ours"})
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    os.utime(tmp_path / "second" / "a.csv", ns=(1, 1))
    write(tmp_path / "second", {"a.csv": "again"})


def test_a_command_that_was_killed_half_way_goes_on(tmp_path):
    outputs = Outputs(tmp_path, ["a.csv", "b.csv"], option="--out")
    # As a killed process leaves it: nothing after the writing of one.
    killed = outputs.writing()
    killed.__enter__()
    (tmp_path / "a.csv").write_text("half")
    assert read_record(tmp_path) == {"a.csv": None, "b.csv": None}
    write(tmp_path, {"a.csv": "whole", "b.csv": "whole"})


def test_a_file_that_failed_to_be_written_is_not_claimed(tmp_path):
    with suppress(ZeroDivisionError), Outputs(tmp_path, ["a.csv", "b.csv"], option="--out").writing():
        (tmp_path / "a.csv").write_text("ours")
        raise ZeroDivisionError
    (tmp_path / "b.csv").write_text("mine")
    assert "b.csv" in refused(tmp_path, "a.csv", "b.csv")


def test_what_others_of_its_commands_wrote_stays_recorded(tmp_path):
    write(tmp_path, {"a.csv": "ours"})
    write(tmp_path, {"b.csv": "ours"})
    assert set(read_record(tmp_path) or {}) == {"a.csv", "b.csv"}


UNREADABLE = ["", "{", "[]", '{"files": 7}', '{"files": {"a.csv": 7}}', '{"files": {"a.csv": [1]}}']


@pytest.mark.parametrize("text", UNREADABLE)
def test_without_a_record_that_can_be_read_every_file_is_the_users(tmp_path, text):
    write(tmp_path, {"a.csv": "ours"})
    (tmp_path / RECORD).write_text(text)
    assert "is not known to be its own" in refused(tmp_path, "a.csv")


def spelled_plainly(place: Path, table: Path) -> Path:
    return place


def through_a_folder(place: Path, table: Path) -> Path:
    (place / "sub").mkdir()
    return place / "sub" / ".."


def through_a_link(place: Path, table: Path) -> Path:
    (place.parent / "link").symlink_to(place)
    return place.parent / "link"


def by_a_hard_link(place: Path, table: Path) -> Path:
    other = place.parent / "other"
    other.mkdir()
    (other / table.name).hardlink_to(table)
    return other


def by_a_link_to_the_file(place: Path, table: Path) -> Path:
    other = place.parent / "other"
    other.mkdir()
    (other / table.name).symlink_to(table)
    return other


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(
    "spelled", [spelled_plainly, through_a_folder, through_a_link, by_a_hard_link, by_a_link_to_the_file]
)
def test_an_input_is_refused_however_it_is_called_and_whoever_wrote_it(tmp_path, spelled, recorded):
    place = tmp_path / "place"
    place.mkdir()
    table = place / "m.csv"
    if recorded:
        write(place, {"m.csv": "ours"})
    else:
        table.write_text("mine")
    assert "is an input of the command" in refused(spelled(place, table), "m.csv", "n.csv", inputs=[table])


def test_the_place_of_an_input_that_is_missing_is_refused_too(tmp_path):
    assert "is an input" in refused(tmp_path, "a/x.png", inputs=[tmp_path / "a" / "x.png"])


def test_nothing_is_written_among_the_inputs(tmp_path):
    images = tmp_path / "images"
    (images / "a").mkdir(parents=True)
    (images / "a" / "x.jpg").write_text("mine")
    more = {"inputs": [images / "a" / "x.jpg", images / "b" / "y.jpg"], "trees": [images]}
    for folder, name in ((images, "m.csv"), (images, "a/m.csv"), (images / "a", "m.csv"), (tmp_path, "images/m.csv")):
        assert "inputs" in refused(folder, name, **more)
    # Where an input should be.
    assert "lies among the inputs" in refused(images / "b", "m.csv", **more)
    for folder in (images / "masks", tmp_path):
        for text in ("one", "two"):
            write(folder, {"m.csv": text}, **more)
    (images / "masks" / "theirs.png").write_text("mine")
    assert "lies among the inputs" in refused(images / "masks", "m.csv", **more)


def test_a_file_where_a_folder_is_needed_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "is no folder" in refused(tmp_path / "file" / "sub", "a.csv")
    assert "is no folder" in refused(tmp_path, "file/a.csv")


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["ours", "mine", "remove"]), max_size=6))
def test_whatever_happened_before_no_file_of_the_users_is_lost(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("outputs")
    held = None
    for number, step in enumerate([*steps, "ours"]):
        match step:
            case "mine":
                held = f"mine {number}"
                (folder / "a").write_text(held)
            case "remove":
                held = None
                (folder / "a").unlink(missing_ok=True)
            case _:
                with suppress(UserError):
                    write(folder, {"a": f"ours {number}"})
                    assert held is None
        assert held is None or (folder / "a").read_text() == held
