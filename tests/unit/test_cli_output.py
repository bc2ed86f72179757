"""Where nobody reads what is printed: work goes on, what is only there to be read ends, a full disk is a sentence."""

import io
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cxrdist.cli import output
from cxrdist.cli.output import ReaderGoneError, require_reader, survive_readers
from cxrdist.errors import UserError


@pytest.fixture
def printing(monkeypatch):
    """Makes a file descriptor the standard output, as a process has it."""
    opened = []

    def become(descriptor):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.FileIO(descriptor, "w"), write_through=True))
        monkeypatch.setattr(sys, "__stdout__", sys.stdout)
        survive_readers()
        opened.append(sys.stdout)

    yield become
    for stream in opened:
        stream.close()


def show(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def test_what_is_printed_into_a_closed_pipe_goes_nowhere_and_is_no_error(printing):
    reader, writer = os.pipe()
    printing(writer)
    show("read")
    require_reader()
    assert os.read(reader, 9) == b"read\n"
    os.close(reader)
    for _ in range(3):
        show("not read")
    with pytest.raises(ReaderGoneError):
        require_reader()


def test_a_terminal_that_was_closed_is_a_reader_that_has_gone(printing):
    reader, writer = pty.openpty()
    printing(writer)
    show("read")
    os.close(reader)
    show("not read")
    with pytest.raises(ReaderGoneError):
        require_reader()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_behind_the_output_is_named_once_and_not_the_run_directory(printing):
    printing(os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(UserError, match=r"standard output cannot be written \(No space left on device\)"):
        show("x" * 100)
    show("said already")


def test_streams_that_tests_and_notebooks_put_in_place_are_left_alone(monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr(sys, "stdout", text)
    survive_readers()
    assert sys.stdout is text
    require_reader()


COMMAND = [sys.executable, "-m", "cxrdist"]


def test_a_command_whose_reader_has_gone_ends_with_its_own_status():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run([*COMMAND, "--help"], stdout=closed, stderr=subprocess.PIPE, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_command_whose_output_cannot_be_written_says_so_with_status_2():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, "--help"], stdout=full, stderr=subprocess.PIPE, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"Error: The standard output cannot be written (No space left on device)")
    assert len(done.stderr.splitlines()) == 1


def test_two_threads_that_print_both_outlive_the_reader(printing):
    reader, writer = os.pipe()
    printing(writer)
    os.close(reader)
    failures = []

    def show_much():
        try:
            for _ in range(50):
                show("x" * 50)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=show_much) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert isinstance(sys.stdout, output._Stream)
