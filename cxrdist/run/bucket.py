"""Requests to a bucket of S3 or Google Cloud Storage, repeated while it does not answer as it should."""

import functools
import logging
import os
import random
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from cxrdist.config.location import BucketLocation
from cxrdist.errors import CxrdistError, UserError

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 15.0
_CONNECT_SECONDS = 10.0
_STALLED_SECONDS = 30.0
"""A transfer in which nothing moves for so long is begun anew."""
_SILENT_SECONDS = 10.0
"""Until it is said that a store does not answer."""
_BLOCK = 8 * 2**20

_END = 150

_REFUSALS = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "INVALID_SIGNATURE",
    "SIGNATURE_DOES_NOT_MATCH",
    "NO_SUCH_BUCKET",
    "Permission denied",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
)
"""In a message: what asking again does not change."""

T = TypeVar("T")

_LOG = logging.getLogger(__name__)


class Bucket:
    """A bucket's objects, by bucket and key; what does not come or arrive whole counts as failed.

    Args:
        location: the bucket, how it is reached, and a prefix for error messages.
        patience: how long a store that does not answer, or answers with errors, is asked again, in seconds.

    Every method raises
        FileNotFoundError: there is no such object.
        UserError: the store refuses.
        CxrdistError: it did not answer for long.
    """

    def __init__(self, location: BucketLocation, patience: float) -> None:
        self._place = f"{location.scheme}://{location.path}"
        self._patience = patience
        self._files = _file_system(location)
        self._told = False

    def is_there(self) -> bool:
        """Return whether the bucket itself exists."""
        name = self._place.partition("://")[2].partition("/")[0]
        return bool(self._ask(lambda: self._files.get_file_info(name)).type is not pafs.FileType.NotFound)

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        return bool(self._ask(lambda: self._files.get_file_info(key)).type is pafs.FileType.File)

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of all objects in a folder and in those beneath it, sorted."""
        selector = pafs.FileSelector(prefix, recursive=True, allow_not_found=True)
        found = self._ask(lambda: self._files.get_file_info(selector))
        return sorted(info.path for info in found if info.type is pafs.FileType.File)

    def read(self, key: str) -> bytes:
        """Return an object's content."""

        def read() -> bytes:
            with self._files.open_input_file(key) as file:
                content: bytes = file.read()
                if len(content) != file.size():
                    raise OSError(f"{len(content)} of {file.size()} bytes of {key} came")
            return content

        return self._ask(read)

    def write(self, key: str, data: bytes | pa.Buffer) -> None:
        """Write an object as a whole."""

        def write() -> None:
            # In one call, which nothing interrupts: whatever ends the stream would publish what it holds.
            with self._files.open_output_stream(key) as sink:
                sink.write(data)

        self._ask(write)

    def copy(self, key: str, to: str) -> None:
        """Give an object's content to another key; the store does it by itself."""
        self._ask(lambda: self._files.copy_file(key, to))

    def remove(self, key: str) -> None:
        """Remove an object."""
        self._ask(lambda: self._files.delete_file(key))

    def download(self, key: str, target: Path) -> None:
        """Write an object's content into a file."""

        def copy() -> None:
            with self._files.open_input_file(key) as source, target.open("wb") as sink:
                left = source.size()
                while left and (block := source.read(min(left, _BLOCK))):
                    sink.write(block)
                    left -= len(block)
            if left:
                raise OSError(f"{left} bytes of {key} did not come")

        self._ask(copy)

    def upload(self, path: Path, key: str) -> None:
        """Write a file's content as an object."""
        self.write(key, pa.memory_map(str(path)).read_buffer() if path.stat().st_size else b"")

    def _ask(self, request: Callable[[], T]) -> T:
        started = time.monotonic()
        end = started + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                return request()
            except FileNotFoundError:
                raise
            except OSError as error:
                if error.errno is not None:
                    # This machine's disk, not the store.
                    raise
                said = str(error).splitlines()[0]
                reason = _short(said)
                if any(word in said for word in _REFUSALS):
                    raise UserError(
                        f"{self._place} refuses ({reason}); check the bucket's name and this machine's credentials."
                    ) from None
                if not self._told and time.monotonic() - started > _SILENT_SECONDS:
                    _LOG.warning("%s does not answer (%s); it is asked again.", self._place, reason)
                    self._told = True
                if time.monotonic() + pause > end:
                    raise CxrdistError(
                        f"{self._place} has not answered for {self._patience:.0f} s ({reason}); what was done is kept, "
                        "and the same command continues."
                    ) from error
            # Not all lanes at once.
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - no secret
            pause = min(2 * pause, _LONGEST_PAUSE)


def _short(text: str) -> str:
    """Return both ends of a long text: what was asked, and what came of it."""
    return text if len(text) <= 2 * _END else f"{text[:_END]} ... {text[-_END:]}"


@functools.cache
def _region(bucket: str) -> str | None:
    """Return where a bucket of Amazon's lies; None where that cannot be found out, and the environment says it."""
    try:
        return str(pafs.resolve_s3_region(bucket))
    except OSError:
        return None


def _file_system(bucket: BucketLocation) -> pafs.FileSystem:
    options = dict(bucket.options)
    common = {
        "anonymous": options.get("anonymous") == "true",
        "endpoint_override": options.get("endpoint_override"),
        "scheme": options.get("scheme", "https"),
    }
    if bucket.scheme == "gs":
        return pafs.GcsFileSystem(**common, retry_time_limit=timedelta(seconds=_STALLED_SECONDS))
    region = options.get("region")
    if region is None and not common["endpoint_override"] and not os.environ.get("AWS_REGION"):
        region = _region(bucket.path.partition("/")[0])
    return pafs.S3FileSystem(
        **common,
        region=region,
        # Small files in one request instead of three.
        allow_delayed_open=True,
        # Its threads would hold a file that an error or Ctrl-C has left.
        background_writes=False,
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_STALLED_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=3),
    )
