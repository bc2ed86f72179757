import subprocess
import sys

import pytest

from cxrdist.run.background import in_background

# A command that is interrupted while a call does not return.
COMMAND = """
import atexit, sys, threading
from cxrdist.cli import cli, main
from cxrdist.run.background import in_background

@cli.command()
def wait_for_ever():
    in_background(threading.Event().wait)
    atexit.register(print, "the interpreter ends")
    print("begun")
    raise KeyboardInterrupt

sys.argv = ["cxrdist", "wait-for-ever"]
main()
"""


def test_a_call_gives_its_value_or_its_error() -> None:
    assert in_background(lambda: 7).result(10) == 7
    with pytest.raises(ZeroDivisionError):
        in_background(lambda: 1 // 0).result(10)


def test_an_interrupted_command_leaves_a_call_that_never_returns_without_ending_the_interpreter() -> None:
    ended = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 130, ended.stderr
    assert ended.stdout == "begun\n"
    assert ended.stderr.lstrip() == "Error: Interrupted; what was done is kept, and the same command continues.\n"
