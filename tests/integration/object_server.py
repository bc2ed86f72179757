"""An S3 server on loopback, behind a relay that counts requests and can be told to fail them."""

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow.fs as pafs
import pytest

from tests.integration.conftest import free_ports

BUCKET = "studies"
START_SECONDS = 60.0
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}

Fault = Callable[["Request"], str]
"""What becomes of a request: `refused` (503), `cut` (half of it), `late`, `silent`, or nothing for no fault."""

LATE_SECONDS = 0.3
SILENT_SECONDS = 60.0


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    method: str
    key: str
    """Bucket and key, with the query."""


@dataclass
class ObjectServer:
    """A server with one bucket."""

    relay: int
    """Port of the relay."""
    fault: Fault = lambda _: ""
    requests: list[Request] = field(default_factory=list)
    faults: list[tuple[Request, str]] = field(default_factory=list)
    carried: Counter[str] = field(default_factory=Counter)
    """Bytes of objects that were `read` and `written`."""

    def location(self, prefix: str) -> str:
        """Return the URI of a prefix, by way of the relay."""
        return f"s3://{BUCKET}/{prefix}?endpoint_override=127.0.0.1:{self.relay}&scheme=http"

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """Fail some requests while the context lasts."""
        self.fault = fault
        try:
            yield
        finally:
            self.fault = lambda _: ""


@contextmanager
def object_server() -> Iterator[ObjectServer]:
    """Run a server; while it runs, the environment holds credentials for it."""
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in CREDENTIALS.items():
                patch.setenv(name, value)
            _make_bucket(port)
            relay = ThreadingHTTPServer(("127.0.0.1", 0), _Relay)
            relay.daemon_threads = True
            server = ObjectServer(relay.server_port)
            relay.server, relay.target = server, port  # type: ignore[attr-defined]
            threading.Thread(target=relay.serve_forever, daemon=True).start()
            yield server
            relay.shutdown()
            relay.server_close()
    finally:
        process.kill()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    """A server for the tests of a module."""
    with object_server() as running:
        yield running


def _make_bucket(port: int) -> None:
    started = time.monotonic()
    while True:
        try:
            files = pafs.S3FileSystem(endpoint_override=f"127.0.0.1:{port}", scheme="http", allow_bucket_creation=True)
            files.create_dir(BUCKET)
        except OSError:
            if time.monotonic() - started > START_SECONDS:
                raise
            time.sleep(0.2)
        else:
            return


class _Relay(BaseHTTPRequestHandler):
    """Passes requests on to the server, as it is told to."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that the class gives it
        """Say nothing."""

    def handle_one_request(self) -> None:
        """Take a broken connection for its end: clients are killed."""
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def _pass_on(self) -> None:
        server: ObjectServer = self.server.server  # type: ignore[attr-defined]
        request = Request(self.command, self.path.lstrip("/"))
        server.requests.append(request)
        fault = server.fault(request)
        if fault:
            server.faults.append((request, fault))
        body = self._body()
        server.carried["written"] += len(body)
        if fault == "silent":
            time.sleep(SILENT_SECONDS)
        if fault == "late":
            time.sleep(LATE_SECONDS)
        if fault in ("refused", "silent"):
            self._answer(503, [], b"")
            return
        there = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=60)  # type: ignore[attr-defined]
        dropped = ("connection", "content-length", "expect", "transfer-encoding")
        sent = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        there.request(self.command, self.path, body=body, headers=sent)
        answer = there.getresponse()
        content = answer.read()
        headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in ("connection", "transfer-encoding")]
        there.close()
        server.carried["read"] += len(content)
        self._answer(answer.status, headers, content, cut=fault == "cut")

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            continue
        return body

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        names = {name.lower() for name, _ in headers}
        for name, value in headers:
            self.send_header(name, value)
        if "content-length" not in names:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815
