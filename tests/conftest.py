"""What holds for all tests."""

import gc
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# A busy machine may take long over any example, and that is no fault of the code.
settings.register_profile("patient", parent=settings(), deadline=None)
settings.load_profile("patient")


def pytest_configure() -> None:
    """Make tests the same in any terminal and none.

    Commands that they start take Ctrl-C: where a shell has put the tests into the background, it is ignored. And no
    variable says how wide lines are or whether they have colours.
    """
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        os.environ.pop(name, None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Keep the modules, which stay to the end, from being looked at by every garbage collection of a test."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let them be collected at the end, as libraries that count their references expect."""
    gc.unfreeze()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread: small networks are faster so, and their last bits do not depend on the machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
