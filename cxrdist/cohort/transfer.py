"""One file from one address: encrypted, from the hosts that are named alone, and resumed where it was cut off.

Beside the file that is received lies what says which file of which server it is a part of, so that two states of a
file are never joined.
"""

import http.client
import json
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from cxrdist import __version__
from cxrdist.cohort.catalogue import Download
from cxrdist.errors import CxrdistError, UserError

_BLOCK = 1 << 18
_WORTH = 1 << 20
"""Bytes; a failure after so many new ones is the first of a new series."""
_LONGEST_WAIT = 60.0
_MAY_PASS = (408, 425, 429, *range(500, 600))


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for."""

    timeout: float = 30.0
    """Seconds until it answers, and between two pieces of the file."""
    attempts: int = 5
    """In a row without progress."""
    first_wait: float = 1.0
    """Seconds before the second attempt; doubled for each further one."""


PATIENCE = Patience()


class Watcher(Protocol):
    """Who is told how it goes."""

    def say(self, text: str) -> None:
        """Take a sentence."""

    def show(self, done: int, total: int | None) -> None:
        """Take how many bytes there are now, of how many, where that is known."""


@dataclass(frozen=True)
class Part:
    """Which file of which server was begun."""

    address: str
    etag: str | None = None
    modified: str | None = None
    size: int | None = None
    """In bytes, of the whole file."""

    @property
    def validator(self) -> str | None:
        """What a server can tell by that its file is still the same (RFC 9110, section 13.1.5)."""
        strong = self.etag is not None and not self.etag.startswith("W/")
        validator = self.etag if strong else self.modified
        # A header that was folded over lines could not be sent back.
        return validator if validator and validator.isascii() and validator.isprintable() else None

    @classmethod
    def read(cls, file: Path) -> "Part | None":
        """Return what lies beside `file`, or None where nothing usable does."""
        try:
            part = cls(**json.loads(_beside(file).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        texts = all(isinstance(text, str | None) for text in (part.address, part.etag, part.modified))
        return part if texts and isinstance(part.size, int | None) else None

    def write(self, file: Path) -> None:
        """Lay this beside `file`."""
        _beside(file).write_text(json.dumps(asdict(self)), encoding="utf-8")


def forget(file: Path) -> None:
    """Remove a file that was begun, and what lies beside it."""
    file.unlink(missing_ok=True)
    _beside(file).unlink(missing_ok=True)


def remote_size(home: Download, patience: Patience = PATIENCE) -> int | None:
    """Ask for the number of bytes at an address; None where the server does not say.

    Raises:
        UserError: it cannot be reached, or redirects to where nothing may be read from.
    """
    try:
        with _open(home, "HEAD", {}, patience) as answer:
            return _number(answer.headers.get("Content-Length"))
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except _PassingError as error:
        raise UserError(f"{_host(home)} cannot be reached ({error}); check the network, and run it again.") from None


def download(home: Download, file: Path, watch: Watcher, patience: Patience = PATIENCE) -> None:
    """Receive all of `home` into `file`, from where an earlier call was cut off.

    Raises:
        UserError: the address is gone or refused, it may not be read, or there is too little room.
        CxrdistError: the server fails again and again, or sends what cannot be the file.
        OSError: `file` cannot be written; what was received is kept.
    """
    failures = 0
    while True:
        before = _length(file)
        try:
            return _receive(home, file, watch, patience)
        except _PassingError as error:
            failures = 1 if _length(file) - before >= _WORTH else failures + 1
            if failures >= patience.attempts:
                raise CxrdistError(
                    f"{_host(home)} failed {failures} times in a row ({error}); {_length(file):,} bytes are kept, and "
                    "the same command continues."
                ) from None
            wait = min(_LONGEST_WAIT, patience.first_wait * 2 ** (failures - 1))
            watch.say(f"{_host(home)}: {error}; trying again in {wait:.0f} s")
            time.sleep(wait)


class _PassingError(Exception):
    """A failure that may pass; the message is the reason."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, home: Download) -> None:
        self._home = home

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        refusal = self._home.refusal(newurl)
        if refusal is not None:
            raise self._refused(newurl, refusal)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None:
            request.method = req.get_method()
        return request

    def http_error_302(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except UserError:
            fp.close()
            raise
        except ValueError:
            fp.close()
            raise self._refused(str(headers.get("Location")), "it is not an address") from None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def _refused(self, url: str, reason: str) -> UserError:
        return UserError(
            f"{self._home.address} redirects to {url[:300]!r}, which is not followed: {reason}; look at "
            f"{self._home.homepage} whether the source has moved."
        )


def _open(home: Download, method: str, headers: Mapping[str, str], patience: Patience) -> Any:
    refusal = home.refusal(home.address)
    if refusal is not None:
        raise UserError(f"{home.address} is not read: {refusal}.")
    # A packed answer would have another length and another hash.
    headers = {"User-Agent": f"cxrdist/{__version__}", "Accept-Encoding": "identity", **headers}
    request = urllib.request.Request(home.address, headers=headers, method=method)  # noqa: S310 - checked above
    try:
        return urllib.request.build_opener(_Redirects(home)).open(request, timeout=patience.timeout)
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise UserError(
                f"{_host(home)} cannot prove that it is {_host(home)} ({cause.verify_message}); check the clock, the "
                "network, and the certificates of this machine."
            ) from None
        raise _PassingError(_reason(cause, patience)) from None


def _receive(home: Download, file: Path, watch: Watcher, patience: Patience) -> None:
    part = Part.read(file)
    if part is None or part.address != home.address or part.validator is None:
        part = None
    done = _length(file) if part is not None else 0
    if part is not None and 0 < done == part.size:
        return
    try:
        wanted = {"Range": f"bytes={done}-", "If-Range": str(part.validator)} if part is not None and done else {}
        answer = _open(home, "GET", wanted, patience)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and wanted:
            forget(file)
            raise _PassingError("the file there is shorter than what was received") from None
        raise _refused(home, error.code) from None
    with answer:
        if answer.status == 206 and part is not None:
            total = _check_rest(answer, part, done, file)
        else:
            if done:
                watch.say(f"{_host(home)} sends the file from its start: it cannot resume, or has another file now")
            done, total = 0, _number(answer.headers.get("Content-Length"))
            _check_whole(home, answer, total)
        _check_room(file, total, done)
        with file.open("ab" if done else "wb") as out:
            if not done:
                Part(home.address, answer.headers.get("ETag"), answer.headers.get("Last-Modified"), total).write(file)
            for block in _blocks(answer, None if total is None else total - done, patience):
                out.write(block)
                out.flush()
                done += len(block)
                if done > home.most_bytes:
                    forget(file)
                    raise CxrdistError(_too_much(home))
                watch.show(done, total)
    if total is not None and done < total:
        raise _PassingError(f"the transfer ended after {done:,} of {total:,} bytes")


def _check_rest(answer: Any, part: Part, done: int, file: Path) -> int | None:
    """Return how long the whole file is, of whose rest this is the answer."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    total = _number(found[2]) if found else None
    same = all(
        now is None or then is None or now == then
        for now, then in (
            (answer.headers.get("ETag"), part.etag),
            (answer.headers.get("Last-Modified"), part.modified),
            (total, part.size),
        )
    )
    if not found or int(found[1]) != done or not same:
        forget(file)
        raise _PassingError("the answer is not the rest of the file that was begun")
    return total if total is not None else part.size


def _check_whole(home: Download, answer: Any, total: int | None) -> None:
    if answer.status != 200:
        raise _PassingError(f"it answers with status {answer.status}")
    if answer.headers.get_content_type() == "text/html":
        raise UserError(
            f"{home.address} is a web page now, not an archive; look at {home.homepage} whether the source has moved."
        )
    if total is not None and home.size is not None and total != home.size:
        raise CxrdistError(
            f"{home.address} has {total:,} bytes now, but should have {home.size:,}: it is not the file that is known."
        )
    if total is not None and total > home.most_bytes:
        raise CxrdistError(_too_much(home))


def _too_much(home: Download) -> str:
    return f"{home.address} has more than {home.most_bytes:,} bytes, which this source cannot have; it is refused."


def _check_room(file: Path, total: int | None, done: int) -> None:
    free = shutil.disk_usage(file.parent).free
    if total is not None and total - done > free:
        raise UserError(
            f"{str(file.parent)!r} has room for {free:,} bytes, but {total - done:,} are to come; free space there, or "
            "give another folder with --out."
        )


def _blocks(answer: Any, left: int | None, patience: Patience) -> Iterator[bytes]:
    while left is None or left > 0:
        try:
            block = answer.read1(_BLOCK if left is None else min(_BLOCK, left))
        except (OSError, http.client.HTTPException) as error:
            raise _PassingError(_reason(error, patience)) from None
        if not block:
            return
        if left is not None:
            left -= len(block)
        yield block


def _refused(home: Download, status: int) -> Exception:
    if status in _MAY_PASS:
        return _PassingError(f"it answers with status {status}")
    if status in (404, 410):
        return UserError(
            f"{home.address} is not there (status {status}); look at {home.homepage} whether it has moved."
        )
    return UserError(f"{home.address} is not given (status {status}); look at {home.homepage} for what is asked for.")


def _reason(error: object, patience: Patience) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came for {patience.timeout:g} s"
    if isinstance(error, socket.gaierror):
        return f"its address is not found: {error.strerror}"
    if isinstance(error, http.client.IncompleteRead):
        return "the transfer ended too early"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _host(home: Download) -> str:
    return str(urlsplit(home.address).hostname)


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")
