"""Reading a run directory: what is missing, or not as it was written, is one sentence for whoever asked."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

import pyarrow as pa

from cxrdist.cohort.parquet import parquet_table
from cxrdist.errors import UserError
from cxrdist.run.store import Store, parse_json

AGAIN = "start the run again, which makes it anew"
"""What helps where a file of a run is damaged."""

_SEAL = b"content_sha256"
"""Key of an Arrow file's metadata: hash of all the rest."""


class DamagedError(UserError):
    """A file of a run directory or a cache that is missing, or not as it was written."""


@contextmanager
def whole(where: str, remedy: str) -> Iterator[None]:
    """Turn what goes wrong while a file is read, or understood, into one sentence for the user.

    Args:
        where: the file, for people.
        remedy: what helps, as the end of a sentence.

    Raises:
        DamagedError: the file is missing, or not what it should be.
        UserError: it cannot be read.
    """
    try:
        yield
    except UserError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedError(f"{where} is missing; {remedy}.") from None
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"does not hold what it should ({type(error).__name__}: {error})"
        raise DamagedError(f"{where} {what}; {remedy}.") from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        words = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise DamagedError(f"{where} is damaged ({words}); {remedy}.") from None
    except ValueError as error:
        raise DamagedError(f"{where} {error}; {remedy}.") from None
    except OSError as error:
        # Arrow says so of what is no Arrow file, too, without a number.
        if error.errno is None:
            raise DamagedError(f"{where} is damaged ({str(error).rstrip('.')}); {remedy}.") from None
        raise UserError(f"{where} cannot be read ({error.strerror}).") from None


def read_json(store: Store, name: str, remedy: str = AGAIN) -> dict[str, Any] | None:
    """Return a JSON artefact, or None where there is none.

    Raises:
        DamagedError: it is not what was written.
    """
    try:
        with whole(store.where(name), remedy):
            return parse_json(store.read_bytes(name))
    except DamagedError:
        if store.exists(name):
            raise
        return None


@dataclass(frozen=True)
class Checked:
    """Reads artefacts that another one, written after them, holds the hashes of.

    All methods raise DamagedError where an artefact is missing, is not what was written, or cannot be understood.
    """

    store: Store
    hashes: Mapping[str, str]
    """SHA-256 by the artefact's name in its folder; what is not among them is taken as it is."""
    kept_in: str
    """The artefact that holds the hashes."""
    remedy: str = AGAIN

    def knows(self, name: str) -> bool:
        """Return whether the artefact's hash was noted, so that it must be there."""
        return _short(name) in self.hashes

    def bytes(self, name: str) -> bytes:
        """Return an artefact's content."""
        with self.whole(name):
            data = self.store.read_bytes(name)
            self._compare(name, hashlib.sha256(data).hexdigest())
            return data

    def check_file(self, name: str, path: Path) -> None:
        """Compare the artefact's copy on this machine with what was written."""
        with self.whole(name):
            self._compare(name, file_hash(path))

    def arrow(self, name: str) -> pa.Table:
        """Return an Arrow IPC file."""
        data = self.bytes(name)
        with self.whole(name):
            table = pa.ipc.open_file(data).read_all()
            if not self.knows(name):
                # What nobody vouches for may point beyond its own end.
                table.validate(full=True)
            return table

    def parquet(self, name: str) -> pa.Table:
        """Return a Parquet file."""
        data = self.bytes(name)
        with self.whole(name):
            return parquet_table(data)

    def json(self, name: str) -> dict[str, Any]:
        """Return a JSON object."""
        data = self.bytes(name)
        with self.whole(name):
            return parse_json(data)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Return JSON objects, one a line."""
        data = self.bytes(name)
        with self.whole(name):
            try:
                values = [json.loads(line) for line in data.decode().splitlines()]
            except ValueError:
                raise ValueError("is not whole lines of JSON") from None
            if not all(isinstance(value, dict) for value in values):
                raise ValueError("holds lines that are no JSON objects")
            return values

    def text(self, name: str) -> str:
        """Return a text."""
        data = self.bytes(name)
        with self.whole(name):
            return data.decode()

    @contextmanager
    def whole(self, name: str) -> Iterator[None]:
        """Turn what goes wrong while the artefact is understood into one sentence."""
        with whole(self.store.where(name), self.remedy):
            yield

    def _compare(self, name: str, found: str) -> None:
        if self.hashes.get(_short(name), found) != found:
            raise ValueError(f"is damaged or was changed (its SHA-256 is not the one in {self.kept_in})")


@dataclass
class Noted:
    """Writes artefacts and notes their hashes, by the name in their folder, for the artefact that is written last."""

    store: Store
    hashes: dict[str, str] = field(default_factory=dict)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write an artefact as a whole."""
        self.store.write_bytes(name, data)
        self.hashes[_short(name)] = hashlib.sha256(data).hexdigest()

    def write_file(self, name: str, write: Callable[[Path], object]) -> None:
        """Let `write` fill a file, which then becomes the artefact."""

        def hashed(path: Path) -> None:
            write(path)
            self.hashes[_short(name)] = file_hash(path)

        self.store.write_file(name, hashed)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def table_bytes(table: pa.Table) -> bytes:
    """Return a table as an Arrow IPC file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return cast("bytes", sink.getvalue().to_pybytes())


def write_arrow(store: Store, name: str, table: pa.Table) -> None:
    """Write an Arrow IPC file that can be memory-mapped, with a hash of its content in its metadata."""
    metadata = {**(table.schema.metadata or {}), _SEAL: _content_hash(table)}
    sealed = table.replace_schema_metadata(metadata)

    def write(path: Path) -> None:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, sealed.schema) as writer:
            writer.write_table(sealed)

    store.write_file(name, write)


def map_arrow(path: Path, remedy: str, *, where: str | None = None, verify: bool = True) -> pa.Table:
    """Map what `write_arrow` wrote; what has no hash, as other versions wrote it, is taken as it is.

    Args:
        path: the file.
        remedy: what helps where it is damaged, as the end of a sentence.
        where: what it is a copy of, for people; None where it is the artefact itself.
        verify: whether the content is hashed and compared (about 1 GB/s).

    Raises:
        DamagedError: it is missing, or not what was written.
    """
    with whole(where or str(path), remedy):
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        noted = (table.schema.metadata or {}).get(_SEAL)
        if verify and noted is not None and noted != _content_hash(table):
            raise ValueError("is damaged or was changed (its content is not what its own hash is of)")
        return table


class _Hashing:
    """A file that keeps nothing but the hash of what is written."""

    closed = False

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def _content_hash(table: pa.Table) -> bytes:
    """Return the hash of a table: the same for what was written and what is read."""
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != _SEAL}
    plain = table.replace_schema_metadata(metadata or None)
    sink = _Hashing()
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), plain.schema) as writer:
        writer.write_table(plain)
    return sink.digest.hexdigest().encode()


def _short(name: str) -> str:
    return PurePosixPath(name).name
