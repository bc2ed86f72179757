"""Fetching from servers that break off, lie, change, stall and send elsewhere: what is put in place is whole."""

import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from cxrdist.cohort import fetch as fetching
from cxrdist.cohort import transfer
from cxrdist.cohort.archives import ArchiveError
from cxrdist.cohort.fetch import LOCK, fetch
from cxrdist.cohort.transfer import Patience
from cxrdist.errors import CxrdistError, UserError
from tests.integration.conftest import wait_until
from tests.integration.fetch_home import (
    ARCHIVE,
    FILES,
    OTHER,
    PATIENCE,
    ROOT,
    Answer,
    Home,
    Notes,
    assert_nothing,
    assert_whole,
    contents,
    fetched,
    home,
    no_proxy,
    pack,
    size_of,
    source_at,
)

__all__ = ["home", "no_proxy"]

# What goes well


def test_what_is_fetched_is_in_place_with_its_record(home: Home, tmp_path: Path) -> None:
    notes = fetched(home, tmp_path)
    record = json.loads((tmp_path / "test" / LOCK).read_text())
    assert record["address"] == f"http://127.0.0.1:{home.port}/set.zip"
    assert (record["files"], record["archive_bytes"]) == (2, len(ARCHIVE))
    assert notes.sizes[-1] == (len(ARCHIVE), len(ARCHIVE))
    assert [done for done, _ in notes.sizes] == sorted({done for done, _ in notes.sizes})
    assert len(home.requests) == 1


def test_fetching_again_asks_nobody_and_touches_nothing(home: Home, tmp_path: Path) -> None:
    fetched(home, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "test").rglob("*")}
    fetched(home, tmp_path)
    assert len(home.requests) == 1
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "test").rglob("*")} == before


def test_an_archive_whose_length_is_not_said_is_fetched(home: Home, tmp_path: Path) -> None:
    home.always = Answer(length=None)
    assert fetched(home, tmp_path).sizes[-1] == (len(ARCHIVE), None)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_permitted_host_is_followed(home: Home, tmp_path: Path, status: int) -> None:
    home.plan = [Answer(status=status, location=f"http://localhost:{home.port}/elsewhere.zip")]
    fetched(home, tmp_path, hosts=frozenset({"127.0.0.1", "localhost"}))


# Interruptions


@pytest.mark.parametrize("cut", [1, 100_000, len(ARCHIVE) - 1])
@pytest.mark.parametrize("validator", ["etag", "modified"])
def test_after_an_interruption_only_the_rest_is_sent(home: Home, tmp_path: Path, cut: int, validator: str) -> None:
    if validator == "modified":
        home.etag, home.modified = None, "Wed, 27 May 2020 23:59:00 GMT"
    home.plan = [Answer(cut=cut)]
    fetched(home, tmp_path)
    first, second = home.gets()
    assert (first.range, first.sent) == (None, cut)
    assert (second.range, second.sent) == (f"bytes={cut}-", len(ARCHIVE) - cut)
    assert second.if_range == (home.etag or home.modified)


def test_a_stalled_transfer_is_given_up_and_resumed(home: Home, tmp_path: Path) -> None:
    home.plan = [Answer(cut=50_000, stall=3.0)]
    started = time.monotonic()
    notes = fetched(home, tmp_path)
    assert time.monotonic() - started < 2.5
    assert [request.range for request in home.gets()] == [None, "bytes=50000-"]
    assert "nothing came for 0.4 s" in notes.sentences[0]


def test_a_server_that_never_answers_is_given_up(home: Home, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/set.zip"
        with pytest.raises(CxrdistError, match=r"failed 3 times in a row \(nothing came for 0.4 s\)"):
            fetch(source_at(home, address=address), tmp_path, Notes(), patience=PATIENCE)
    assert_nothing(tmp_path)


def test_transfers_that_break_off_again_and_again_end_and_the_next_call_goes_on(home: Home, tmp_path: Path) -> None:
    home.plan = [Answer(cut=10_000)] * 3
    with pytest.raises(CxrdistError, match="30,000 bytes are kept, and the same command continues"):
        fetched(home, tmp_path)
    assert_nothing(tmp_path, "test.part", "test.part.json")
    fetched(home, tmp_path)
    assert home.gets()[-1].range == "bytes=30000-"


def test_progress_between_failures_gives_new_patience(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_WORTH", 20_000)
    home.plan = [Answer(cut=20_000)] * 6
    fetched(home, tmp_path)
    assert len(home.gets()) == 7


def test_waits_double_up_to_a_minute(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    home.always = Answer(status=500)
    with pytest.raises(CxrdistError, match="status 500"):
        fetch(source_at(home), tmp_path, Notes(), patience=Patience(attempts=9))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_failure_of_the_server_is_waited_out(home: Home, tmp_path: Path, status: int) -> None:
    home.plan = [Answer(status=status), Answer(status=status)]
    notes = fetched(home, tmp_path)
    assert f"127.0.0.1: it answers with status {status}; trying again in 0 s" in notes.sentences


def test_a_server_that_cannot_resume_sends_all_again(home: Home, tmp_path: Path) -> None:
    home.resumes = False
    home.plan = [Answer(cut=50_000)]
    notes = fetched(home, tmp_path)
    assert [request.sent for request in home.gets()] == [50_000, len(ARCHIVE)]
    assert any("from its start" in sentence for sentence in notes.sentences)


@pytest.mark.parametrize("etag", [None, 'W/"weak"', '"caf\xe9"'])
def test_what_cannot_be_told_from_another_file_is_not_resumed(home: Home, tmp_path: Path, etag: str | None) -> None:
    home.etag = etag
    home.plan = [Answer(cut=50_000)]
    fetched(home, tmp_path)
    assert [request.range for request in home.gets()] == [None, None]


def change(home: Home) -> None:
    home.content, home.etag, home.modified = OTHER, '"second"', None


@pytest.mark.parametrize("honest", [True, False], ids=["If-Range", "without If-Range"])
def test_two_states_of_a_file_are_never_joined(home: Home, tmp_path: Path, honest: bool) -> None:  # noqa: FBT001
    home.plan = [Answer(cut=50_000)] * 3
    with pytest.raises(CxrdistError):
        fetched(home, tmp_path)
    change(home)
    home.honest = honest
    fetched(home, tmp_path)
    assert home.gets()[3].range == "bytes=150000-"
    assert home.gets()[-1].sent == len(OTHER)


def test_a_rest_of_another_length_is_not_joined(home: Home, tmp_path: Path) -> None:
    home.plan = [Answer(cut=50_000), Answer(headers={"Content-Range": f"bytes 50000-50001/{len(ARCHIVE) + 1}"})]
    fetched(home, tmp_path)
    assert home.gets()[-1].range is None


def test_a_rest_from_another_place_is_not_joined(home: Home, tmp_path: Path) -> None:
    headers = {"Content-Range": f"bytes 0-{len(ARCHIVE) - 1}/{len(ARCHIVE)}"}
    home.plan = [Answer(cut=50_000), Answer(headers=headers)]
    fetched(home, tmp_path)
    assert home.gets()[-1].range is None


def test_a_part_that_is_longer_than_the_file_is_fetched_again(home: Home, tmp_path: Path) -> None:
    home.plan = [Answer(cut=50_000)] * 3
    with pytest.raises(CxrdistError):
        fetched(home, tmp_path)
    with (tmp_path / "test.part").open("ab") as part:
        part.write(bytes(len(ARCHIVE)))
    fetched(home, tmp_path)


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"address": 5}', b'{"address": "x", "more": 1}', b"\xff\0"])
def test_a_damaged_note_of_what_was_begun_starts_again(home: Home, tmp_path: Path, record: bytes) -> None:
    (tmp_path / "test.part").write_bytes(bytes(1000))
    (tmp_path / "test.part.json").write_bytes(record)
    fetched(home, tmp_path)
    assert home.gets()[0].range is None


def test_a_part_from_another_address_is_not_continued(home: Home, tmp_path: Path) -> None:
    home.plan = [Answer(cut=50_000)] * 3
    with pytest.raises(CxrdistError):
        fetched(home, tmp_path, address=f"http://127.0.0.1:{home.port}/older.zip")
    fetched(home, tmp_path)
    assert home.gets()[-1].range is None


SCRIPT = """
import sys
from pathlib import Path
from cxrdist.cohort.catalogue import Download, Source
from cxrdist.cohort.fetch import fetch

class Silent:
    def say(self, text): print(text, flush=True)
    def show(self, done, total): pass

home = Download("https://example.org", sys.argv[1], frozenset({"127.0.0.1"}), 10_000_000)
fetch(Source("test", "A test", "CC0", "Cite it.", "Nobody 2020.", home), Path(sys.argv[2]), Silent())
"""


def start(home: Home, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, f"http://127.0.0.1:{home.port}/set.zip", str(folder)],
        cwd=ROOT,
        env={**os.environ, "no_proxy": "*"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_a_killed_process_is_continued(home: Home, tmp_path: Path) -> None:
    home.plan = [Answer(pause=0.02)]
    part = tmp_path / "test.part"
    with start(home, tmp_path) as process:
        wait_until(lambda: size_of(part) > 20_000, 60)
        process.kill()
    done = size_of(part)
    assert 20_000 < done < len(ARCHIVE)
    fetched(home, tmp_path)
    assert home.gets()[-1].range == f"bytes={done}-"
    assert home.gets()[-1].sent == len(ARCHIVE) - done


def test_two_processes_do_not_fetch_into_one_folder(home: Home, tmp_path: Path) -> None:
    home.plan = [Answer(pause=0.02)]
    with start(home, tmp_path) as process:
        wait_until(lambda: size_of(tmp_path / "test.part") > 0, 60)
        with pytest.raises(UserError, match="Another fetch"):
            fetched(home, tmp_path)
        process.kill()


def test_interrupted_while_unpacking_it_is_not_received_again(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(archive: Path, folder: Path, *_: object) -> None:
        folder.mkdir()
        (folder / "half").write_bytes(b"1")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "unpack", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetched(home, tmp_path)
    assert_nothing(tmp_path, "test.archive", "test.part.json")
    fetched(home, tmp_path)
    assert len(home.gets()) == 1


def test_what_a_killed_process_was_unpacking_is_removed(home: Home, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    leftover = tmp_path / f".{socket.gethostname()}.{ended.pid}.00000000.partial"
    leftover.mkdir()
    (leftover / "half").write_bytes(b"1")
    fetched(home, tmp_path)


# Lies


@pytest.mark.parametrize("length", ["9", str(len(ARCHIVE) - 1)])
def test_a_length_that_is_too_short_is_not_taken_for_the_archive(home: Home, tmp_path: Path, length: str) -> None:
    home.always = Answer(length=length)
    with pytest.raises(ArchiveError, match="damaged"):
        fetched(home, tmp_path)
    assert_nothing(tmp_path, "test.part.json")


def test_a_length_that_is_too_long_ends_after_some_attempts(home: Home, tmp_path: Path) -> None:
    home.resumes = False
    home.always = Answer(length=str(len(ARCHIVE) + 1))
    with pytest.raises(CxrdistError, match=f"ended after {len(ARCHIVE):,} of {len(ARCHIVE) + 1:,} bytes"):
        fetched(home, tmp_path)
    assert len(home.gets()) == 3


@pytest.mark.parametrize("length", ["-5", "many", "1e3", "9" * 30])
def test_a_length_that_is_no_number_is_not_believed(home: Home, tmp_path: Path, length: str) -> None:
    home.always = Answer(length=length)
    fetched(home, tmp_path)


@pytest.mark.parametrize("length", ["", None], ids=["said", "not said"])
def test_more_than_the_source_can_have_is_refused(home: Home, tmp_path: Path, length: str | None) -> None:
    home.always = Answer(length=length)
    notes = Notes()
    with pytest.raises(CxrdistError, match="more than 100,000 bytes"):
        fetch(source_at(home, most_bytes=100_000), tmp_path, notes, patience=PATIENCE)
    assert_nothing(tmp_path)
    assert max((done for done, _ in notes.sizes), default=0) <= (0 if length == "" else 100_000)


def test_a_size_other_than_the_known_one_is_refused(home: Home, tmp_path: Path) -> None:
    with pytest.raises(CxrdistError, match=f"should have {len(ARCHIVE) + 1:,}"):
        fetched(home, tmp_path, size=len(ARCHIVE) + 1)


def test_a_web_page_in_the_archives_place_is_said(home: Home, tmp_path: Path) -> None:
    home.always = Answer(headers={"Content-Type": "text/html; charset=utf-8"})
    with pytest.raises(UserError, match=r"is a web page now.* https://example.org/set"):
        fetched(home, tmp_path)


@pytest.mark.parametrize("known", ["catalogue", "option"])
def test_a_file_of_another_hash_is_never_unpacked(home: Home, tmp_path: Path, known: str) -> None:
    wrong = "0" * 64
    changes = {"sha256": wrong} if known == "option" else {}
    with pytest.raises(UserError, match=wrong) as refused:
        fetch(
            source_at(home, sha256=None if known == "option" else wrong),
            tmp_path,
            Notes(),
            patience=PATIENCE,
            **changes,
        )
    assert hashlib.sha256(ARCHIVE).hexdigest() in str(refused.value)
    assert_nothing(tmp_path, "test.archive", "test.part.json")


def test_after_a_wrong_hash_was_given_the_right_one_needs_no_new_transfer(home: Home, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="correct --sha256"):
        fetched(home, tmp_path, sha256="0" * 64)
    fetched(home, tmp_path, sha256=hashlib.sha256(ARCHIVE).hexdigest())
    assert len(home.gets()) == 1


def test_an_archive_of_another_hash_that_was_kept_is_fetched_again(home: Home, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        fetched(home, tmp_path, sha256=hashlib.sha256(OTHER).hexdigest())
    change(home)
    fetched(home, tmp_path, sha256=hashlib.sha256(OTHER).hexdigest())


@pytest.mark.parametrize(
    "content",
    [
        pack({"good": b"1", "../../evil": b"2"}),
        pack({"good": b"1", "Good": b"2"}),
        pack({"bomb": bytes(70_000_000)}),
        ARCHIVE[:-30],
        pack({LOCK: b"{}"}),
    ],
    ids=["path", "case", "bomb", "damaged", "record"],
)
def test_nothing_of_a_hostile_archive_is_kept(home: Home, tmp_path: Path, content: bytes) -> None:
    home.content = content
    with pytest.raises(ArchiveError, match="it is removed, and no file of it is kept"):
        fetched(home, tmp_path)
    assert_nothing(tmp_path, "test.part.json")
    assert not list(tmp_path.parent.rglob("evil"))
    home.content = ARCHIVE
    fetched(home, tmp_path)


# Records


def keep_the_record_alone(folder: Path) -> None:
    shutil.rmtree(folder / "test" / "set")


def test_a_later_fetch_is_compared_with_the_record(home: Home, tmp_path: Path) -> None:
    fetched(home, tmp_path)
    keep_the_record_alone(tmp_path)
    record = (tmp_path / "test" / LOCK).read_bytes()
    change(home)
    with pytest.raises(CxrdistError, match="other files than when") as refused:
        fetched(home, tmp_path)
    assert f"--sha256 {hashlib.sha256(OTHER).hexdigest()}" in str(refused.value)
    assert contents(tmp_path / "test") == {LOCK: record}
    fetched(home, tmp_path, sha256=hashlib.sha256(OTHER).hexdigest())


def test_the_same_files_packed_anew_are_accepted(home: Home, tmp_path: Path) -> None:
    fetched(home, tmp_path)
    keep_the_record_alone(tmp_path)
    home.content = pack(FILES, zipfile.ZIP_STORED)
    notes = Notes()
    record = fetch(source_at(home), tmp_path, notes, patience=PATIENCE)
    assert record.sha256 == hashlib.sha256(home.content).hexdigest()
    assert_whole(tmp_path, FILES)
    assert any("packed anew" in sentence for sentence in notes.sentences)


def test_a_copy_from_another_address_is_replaced_at_the_very_end(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = f"http://127.0.0.1:{home.port}/older.zip"
    fetched(home, tmp_path, address=old)
    before = contents(tmp_path / "test")
    change(home)
    for fault in (Answer(status=404), Answer(headers={"Content-Type": "text/html"}), Answer(cut=1000)):
        home.plan = [fault] * 3
        with pytest.raises(CxrdistError):
            fetched(home, tmp_path)
        assert contents(tmp_path / "test") == before
    home.content = pack({"../evil": b"1"})
    with pytest.raises(CxrdistError):
        fetched(home, tmp_path)
    assert contents(tmp_path / "test") == before
    change(home)
    fetched(home, tmp_path)


def test_files_that_were_not_fetched_are_never_replaced(home: Home, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="was not fetched"):
        fetched(home, tmp_path)
    assert contents(tmp_path / "test") == {"mine.txt": b"mine"}
    assert home.requests == []


# Refusals of addresses


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://localhost:{port}/set.zip", "its host is not one of 127.0.0.1"),
        ("https://evil.example/set.zip", "its host is not one of 127.0.0.1"),
        ("http://evil.example/set.zip", "it is not encrypted"),
        ("ftp://127.0.0.1/set.zip", "it is not encrypted"),
        ("http://127.0.0.1@evil.example/", "it is not a plain address"),
        ("https://127.0.0.1\\@evil.example/", "it is not a plain address"),
        ("https://[", "it is not an address"),
    ],
)
def test_a_redirect_elsewhere_is_refused(home: Home, tmp_path: Path, location: str, reason: str) -> None:
    home.plan = [Answer(status=302, location=location.format(port=home.port))]
    with pytest.raises(UserError, match=reason):
        fetched(home, tmp_path)
    assert len(home.requests) == 1


@pytest.mark.parametrize("location", ["file:///etc/passwd", "data:text/plain,1", "", "/set.zip"])
def test_a_redirect_to_a_file_or_in_a_circle_is_refused(home: Home, tmp_path: Path, location: str) -> None:
    home.plan = [Answer(status=302, location=location)] * 20
    with pytest.raises(UserError, match=r"is not given \(status 302\)|redirects to"):
        fetched(home, tmp_path)
    assert_nothing(tmp_path)


@pytest.mark.parametrize("status", [404, 410, 401, 403, 451])
def test_an_address_that_is_gone_or_refused_is_one_sentence(home: Home, tmp_path: Path, status: int) -> None:
    home.plan = [Answer(status=status)]
    with pytest.raises(UserError, match=f"status {status}.*https://example.org/set"):
        fetched(home, tmp_path)
    assert len(home.requests) == 1


# Disks


def test_too_little_room_is_said_before_anything_is_received(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    with pytest.raises(UserError, match="room for 1,000 bytes"):
        fetched(home, tmp_path)
    assert_nothing(tmp_path)


def test_a_disk_that_fills_up_keeps_what_was_received(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Notes, done: int, total: int | None) -> None:
        if done > 100_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Notes, "show", full)
        with pytest.raises(UserError, match=r"No space left on device.*the same command continues"):
            fetched(home, tmp_path)
    kept = size_of(tmp_path / "test.part")
    assert kept > 100_000
    fetched(home, tmp_path)
    assert home.gets()[-1].range == f"bytes={kept}-"
