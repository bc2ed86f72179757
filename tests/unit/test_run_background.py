import os
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

# What a thread of Ray's does after its cluster was left.
LATE_CALL = """
import sys
from contextlib import suppress
from cxrdist.cli import main

sys.argv = ["cxrdist", "--version"]
with suppress(SystemExit):
    main()
import ray, ray.exceptions
try:
    ray.put(1)
except ray.exceptions.RaySystemError as error:
    print(error)
print(ray.is_initialized())
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


def test_a_late_call_to_ray_starts_no_cluster() -> None:
    # The command line itself sets it in the processes of other tests.
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ENABLE_AUTO_CONNECT"}
    code = [sys.executable, "-c", LATE_CALL]
    ended = subprocess.run(code, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "Ray has not been started yet" in ended.stdout
    assert ended.stdout.endswith("False\n")
