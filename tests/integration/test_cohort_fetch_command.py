"""`cxrdist cohort fetch` as a person has it: the terms, the question, one sentence for each failure."""

import hashlib
import io
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest

from cxrdist.cli import cli
from cxrdist.cli.cohort_fetch import fetch as fetch_click
from cxrdist.cohort import catalogue
from cxrdist.cohort.catalogue import Download, Source
from tests.integration.conftest import Command, assert_one_sentence, wait_until
from tests.integration.fetch_home import (
    ARCHIVE,
    FILES,
    ROOT,
    Answer,
    Home,
    assert_whole,
    fetched,
    home,
    no_proxy,
    size_of,
    source_at,
)

__all__ = ["home", "no_proxy"]


@pytest.fixture
def named(home: Home, monkeypatch: pytest.MonkeyPatch) -> Source:
    """The source, in the catalogue and the only one; the command is part of the command line."""
    source = source_at(home)
    monkeypatch.setattr(catalogue, "SOURCES", {"test": source})
    monkeypatch.setitem(cli.commands, "cohort", click.Group("cohort", {"fetch": fetch_click}))
    return source


def test_the_command_shows_the_terms_and_fetches(command: Command, named: Source, tmp_path: Path) -> None:
    status, output = command("cohort", "fetch", "test", "--out", str(tmp_path), "--yes")
    assert status == 0, output
    home = named.home
    assert isinstance(home, Download)
    for text in (named.title, home.address, "CC0", "Cite it.", "Nobody 2020.", "none is known beforehand", "302.0 kB"):
        assert text.replace("302.0", f"{len(ARCHIVE) / 1e3:.1f}") in output
    assert hashlib.sha256(ARCHIVE).hexdigest() in output
    assert_whole(tmp_path, FILES)
    status, output = command("cohort", "fetch", "test", "--out", str(tmp_path))
    assert (status, "already" in output) == (0, True)


def test_nobody_to_ask_is_refused(
    command: Command, named: Source, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    result = command("cohort", "fetch", "test", "--out", str(tmp_path / "new"))
    assert_one_sentence(result, 2, ["--yes", "not a terminal"])
    assert not (tmp_path / "new").exists()
    assert home.requests == []


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        (Answer(status=404), 2, ["status 404", "https://example.org/set"]),
        (Answer(status=302, location="https://evil.example/"), 2, ["evil.example", "its host"]),
        (Answer(length="9"), 1, ["damaged"]),
    ],
)
def test_a_failure_is_one_sentence(
    command: Command, named: Source, home: Home, tmp_path: Path, how: Answer, status: int, words: list[str]
) -> None:
    home.always = how
    result = command("cohort", "fetch", "test", "--out", str(tmp_path), "--yes")
    assert_one_sentence(result, status, words)


def test_no_network_is_one_sentence(
    command: Command, named: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    result = command("cohort", "fetch", "test", "--out", str(tmp_path / "new"), "--yes")
    assert_one_sentence(result, 2, ["127.0.0.1", "Name or service not known", "network"])
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(command: Command, named: Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = command("cohort", "fetch", "test", "--out", str(tmp_path / "file" / "data"), "--yes")
    assert_one_sentence(result, 2, ["file/data", "--out"])


MAIN = """
import sys
import click
from cxrdist.cli import cli, main
from cxrdist.cli.cohort_fetch import fetch
from cxrdist.cohort import catalogue
home = catalogue.Download("https://example.org", sys.argv.pop(1), frozenset({"127.0.0.1"}), 10_000_000)
catalogue.SOURCES = {"test": catalogue.Source("test", "A test", "CC0", "Cite it.", "Nobody 2020.", home)}
cli.add_command(click.Group("cohort", {"fetch": fetch}))
main()
"""


ARGUMENTS = ["cohort", "fetch", "test"]


class Terminal:
    """The command on a terminal of its own, as a person has it."""

    def __init__(self, home: Home, folder: Path) -> None:
        self.own, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, f"http://127.0.0.1:{home.port}/set.zip", *ARGUMENTS, "--out", str(folder)],
            cwd=ROOT,
            env={**os.environ, "no_proxy": "*", "TERM": "xterm", "COLUMNS": "200"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.output = ""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        while True:
            try:
                self.output += os.read(self.own, 4096).decode(errors="replace")
            except OSError:
                return

    def type(self, text: str) -> None:
        wait_until(lambda: "[y/N]" in self.output or self.process.poll() is not None, 60)
        os.write(self.own, text.encode())

    def end(self) -> tuple[int, str]:
        status = self.process.wait(60)
        self.reader.join(10)
        os.close(self.own)
        return status, self.output


def test_on_a_terminal_it_asks_and_yes_fetches(home: Home, tmp_path: Path) -> None:
    home.plan = [Answer(pause=0.005)]
    terminal = Terminal(home, tmp_path)
    terminal.type("y\n")
    status, output = terminal.end()
    assert status == 0, output
    assert "━" in output
    assert_whole(tmp_path, FILES)


def test_on_a_terminal_it_asks_and_no_fetches_nothing(home: Home, tmp_path: Path) -> None:
    terminal = Terminal(home, tmp_path / "new")
    terminal.type("\n")
    status, output = terminal.end()
    assert (status, "Nothing was fetched" in output) == (1, True)
    assert not (tmp_path / "new").exists()
    assert home.gets() == []


def test_ctrl_c_keeps_the_part_and_says_that_the_same_command_continues(home: Home, tmp_path: Path) -> None:
    home.plan = [Answer(pause=0.02)]
    terminal = Terminal(home, tmp_path)
    terminal.type("y\n")
    wait_until(lambda: size_of(tmp_path / "test.part") > 20_000, 60)
    terminal.process.send_signal(signal.SIGINT)
    status, output = terminal.end()
    assert status == 130, output
    assert "the same command continues" in output
    assert "Traceback" not in output
    done = size_of(tmp_path / "test.part")
    fetched(home, tmp_path)
    assert home.gets()[-1].range == f"bytes={done}-"
