"""Other programs, asked a question: their answer, or one sentence."""

import re
import subprocess
from collections.abc import Mapping

from cxrdist.errors import CxrdistError, UserError

_ANSWER_SECONDS = 120.0
_LINES = 2
_PREFIX = re.compile(r"^(error|fatal): ")
_JOURNAL = re.compile(r"[EIW]\d{4} \d\d:")


class RefusedError(UserError):
    """A program ended with an error; the message is what it said."""


def ask(program: str, *arguments: str, needs: str, text: str = "", environment: Mapping[str, str] | None = None) -> str:
    """Run a program to its end, and return what it printed.

    Args:
        program: its name, looked for on the PATH.
        *arguments: handed over as they are.
        needs: what to do where the program is not installed, for people.
        text: given to it to read.
        environment: of the program; by default this process's own.

    Raises:
        UserError: the program is not there.
        RefusedError: it ended with an error.
        CxrdistError: it does not end.
    """
    try:
        done = subprocess.run(  # noqa: S603 - no shell: the arguments are handed over one by one
            [program, *arguments],
            input=text.encode(),
            env=environment,
            capture_output=True,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise UserError(f"The program {program!r} is not on the PATH; {needs}.") from None
    except subprocess.TimeoutExpired:
        raise CxrdistError(f"{program} has not answered for {_ANSWER_SECONDS:.0f} s.") from None
    if done.returncode:
        raise RefusedError(f"{program} refused: {_reason(program, done.stderr.decode(errors='replace'))}")
    return done.stdout.decode(errors="replace")


def _reason(program: str, text: str) -> str:
    """Return the last words of a program that failed, without its own name and its journal's lines."""
    lines = [_PREFIX.sub("", line.strip().removeprefix(f"{program}: ")) for line in text.splitlines()]
    said = "; ".join([line.rstrip(".") for line in lines if line and not _JOURNAL.match(line)][-_LINES:])
    return f"{said or 'no reason is given'}{'' if said.endswith('?') else '.'}"
