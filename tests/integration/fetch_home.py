"""A home of an archive that breaks off, lies, changes, stalls and sends elsewhere, and what is fetched from it."""

import hashlib
import io
import random
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cxrdist.cohort.catalogue import Download, Source
from cxrdist.cohort.fetch import LOCK, fetch, read_lock
from cxrdist.cohort.transfer import Patience

PATIENCE = Patience(timeout=0.4, attempts=3, first_wait=0.0)
ROOT = Path(__file__).resolve().parents[2]


def pack(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method, compresslevel=1)
    return packed.getvalue()


FILES = {"set/a.png": random.Random(1).randbytes(300_000), "set/metadata.csv": b"a,b\n" * 500}
ARCHIVE = pack(FILES)
OTHER_FILES = {"set/a.png": random.Random(2).randbytes(300_000)}
OTHER = pack(OTHER_FILES)


@dataclass
class Answer:
    """How a server deals with one GET; by default well."""

    status: int = 0
    location: str = ""
    cut: int | None = None
    """Close the connection after so many bytes."""
    stall: float = 0.0
    """Seconds to wait after those bytes instead."""
    length: str | None = ""
    """Content-Length, instead of the true one; None for none."""
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0
    """Seconds between two pieces of 4 kB."""


@dataclass
class Request:
    method: str
    range: str | None
    if_range: str | None
    sent: int = 0


class Home:
    """A server of one archive on loopback that notes what it is asked."""

    def __init__(self) -> None:
        self.content = ARCHIVE
        self.etag: str | None = '"first"'
        self.modified: str | None = None
        self.resumes = True
        self.honest = True
        """Whether If-Range is looked at."""
        self.plan: list[Answer] = []
        self.always: Answer | None = None
        self.requests: list[Request] = []
        home = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                home.answer(self, body=False)

            def do_GET(self) -> None:
                home.answer(self, body=True)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def gets(self) -> list[Request]:
        return [request for request in self.requests if request.method == "GET"]

    def answer(self, handler: BaseHTTPRequestHandler, *, body: bool) -> None:
        seen = Request(handler.command, handler.headers["Range"], handler.headers["If-Range"])
        self.requests.append(seen)
        how = self.always or (self.plan.pop(0) if body and self.plan else Answer())
        if how.status:
            handler.send_response(how.status)
            if how.location:
                handler.send_header("Location", how.location)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        start, status, content_range = 0, 200, None
        current = not self.honest or seen.if_range in (self.etag, self.modified)
        if seen.range and self.resumes and current:
            start = int(seen.range.removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.content):
                handler.send_response(416)
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
            status, content_range = 206, f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        length = str(len(self.content) - start) if how.length == "" else how.length
        headers = {"ETag": self.etag, "Last-Modified": self.modified, "Content-Length": length}
        headers |= {"Content-Range": content_range, **how.headers}
        handler.send_response(status)
        for name, value in headers.items():
            if value is not None:
                handler.send_header(name, value)
        handler.end_headers()
        if body:
            self.send(handler, seen, self.content[start:], how)

    def send(self, handler: BaseHTTPRequestHandler, seen: Request, content: bytes, how: Answer) -> None:
        try:
            for place in range(0, len(content), 4096):
                piece = content[place : place + 4096]
                if how.cut is not None and seen.sent + len(piece) > how.cut:
                    piece = piece[: how.cut - seen.sent]
                # Counted first: who has received it all may look at once.
                seen.sent += len(piece)
                handler.wfile.write(piece)
                handler.wfile.flush()
                if how.cut is not None and seen.sent >= how.cut:
                    time.sleep(how.stall)
                    return
                time.sleep(how.pause)
        except OSError:
            pass


@pytest.fixture
def home() -> Iterator[Home]:
    """A home of its own for each test."""
    server = Home()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have clients ask the home themselves."""
    monkeypatch.setenv("no_proxy", "*")


@dataclass
class Notes:
    """What a watcher was told."""

    sentences: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int | None]] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.sentences.append(text)

    def show(self, done: int, total: int | None) -> None:
        self.sizes.append((done, total))


def source_at(home: Home, **changes: object) -> Source:
    download = Download(
        homepage="https://example.org/set",
        address=f"http://127.0.0.1:{home.port}/set.zip",
        hosts=frozenset({"127.0.0.1"}),
        most_bytes=10_000_000,
    )
    return Source("test", "A test", "CC0", "Cite it.", "Nobody 2020.", replace(download, **changes))  # type: ignore[arg-type]


def fetched(home: Home, folder: Path, *, sha256: str | None = None, **changes: object) -> Notes:
    """Fetches and checks that all is in place, and nothing else is left."""
    notes = Notes()
    record = fetch(source_at(home, **changes), folder, notes, sha256=sha256, patience=PATIENCE)
    assert_whole(folder, FILES if home.content == ARCHIVE else OTHER_FILES)
    assert record == read_lock(folder / "test")
    assert record.sha256 == hashlib.sha256(home.content).hexdigest()
    return notes


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_whole(folder: Path, files: dict[str, bytes]) -> None:
    found = contents(folder / "test")
    found.pop(LOCK)
    assert found == files
    assert {path.name for path in folder.iterdir()} == {"test", ".fetching"}


def assert_nothing(folder: Path, *kept: str) -> None:
    """Nothing is in place, and of what was received only what is named is kept."""
    assert {path.name for path in folder.iterdir()} == {".fetching", *kept}


def size_of(file: Path) -> int:
    """Return how many bytes a file has; 0 where there is none."""
    return file.stat().st_size if file.exists() else 0
