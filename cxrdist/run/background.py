"""Calls that may never return, each in a thread that nobody has to wait for."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_calls: list[Future[Any]] = []


def in_background(function: Callable[[], T]) -> Future[T]:
    """Call a function in a thread of its own, which does not keep the process alive."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
            future.set_exception(error)

    _calls.append(future)
    threading.Thread(target=work, daemon=True).start()
    return future


def leave_behind() -> None:
    """Have the process end by `os._exit`, since what a library does at the end may never return."""
    _calls.append(Future())


def is_left_behind() -> bool:
    """Return whether a call has not returned, or something else is to be left.

    Its thread may want the interpreter while that ends, which aborts the process: `os._exit` is the way to leave it.
    """
    return not all(call.done() for call in _calls)
