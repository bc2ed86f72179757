"""What is printed, and what becomes of a command where nobody can read it."""

import errno
import io
import os
import stat
import sys
from typing import Any

from cxrdist.errors import UserError


class ReaderGoneError(Exception):
    """Whoever read the output has gone, and the command was only there to be read."""


class _Stream(io.TextIOWrapper):
    """A standard stream that a process can lose without ending: what is printed after that goes nowhere."""

    is_lost = False
    is_needed = True
    """Whether a full disk behind it is an error: what it holds may be the product."""

    def write(self, text: str, /) -> int:
        if text == "":
            # Click tries a stream out so, and drops what comes of it.
            return 0
        try:
            return super().write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        """Go on without the stream, or raise a UserError: a long study outlives the `head` that reads it."""
        self.is_lost = True
        gone = error.errno == errno.EPIPE or (
            error.errno == errno.EIO and stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
        )
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        # What is still held back is printed there.
        super().flush()
        if not gone and self.is_needed:
            raise UserError(
                f"The standard output cannot be written ({error.strerror}); look after where it goes, such as the disk "
                "of a log, and run again."
            ) from None


def survive_readers() -> None:
    """Let this process outlive a closed pipe or terminal; a standard output that cannot be written is a UserError."""
    for name, is_needed in (("stdout", True), ("stderr", False)):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:
            options: dict[str, Any] = {
                "encoding": stream.encoding,
                "errors": stream.errors,
                "line_buffering": stream.line_buffering,
                "write_through": stream.write_through,
            }
            replaced = _Stream(stream.detach(), **options)
            replaced.is_needed = is_needed
            setattr(sys, name, replaced)
            setattr(sys, f"__{name}__", replaced)


def require_reader() -> None:
    """Go on only while somebody reads, where a command does nothing else than print.

    Raises:
        ReaderGoneError: nobody does.
    """
    if isinstance(sys.stdout, _Stream) and sys.stdout.is_lost:
        raise ReaderGoneError
