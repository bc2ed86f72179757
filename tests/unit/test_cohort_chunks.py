"""Processes that decode, and Ctrl-C at any moment of theirs."""

import os
import signal
import subprocess
import sys

import pytest

from cxrdist.cohort.chunks import _undisturbed

INTERRUPTS_ITSELF = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('lives')"


def test_ctrl_c_waits_until_a_process_has_started():
    reached = []
    with pytest.raises(KeyboardInterrupt), _undisturbed():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(True)
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_process_is_out_of_the_reach_of_ctrl_c_from_its_first_moment():
    with _undisturbed():
        done = subprocess.run([sys.executable, "-c", INTERRUPTS_ITSELF], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("lives\n", "")
