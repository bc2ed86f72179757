"""Marks of image files that were made before, on disk: a file is decoded once, whatever is interrupted."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxrdist.cohort.decode import DECODER_VERSION
from cxrdist.cohort.duplicates import MarkedImages
from cxrdist.cohort.looks import THUMB, Looks
from cxrdist.cohort.marking import FileFormat, MarkedFile
from cxrdist.cohort.perceptual import SIDE
from cxrdist.cohort.publish import temporary_sibling
from cxrdist.study.fingerprint import Json, fingerprint

FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)
FORMAT_VERSION = 3
"""Of the files, and of what the marks and looks of an image are."""
_KEY_BYTES = 16
_NAME_DIGITS = 32
_ROWS_AT_ONCE = 4096

_SHARES, _LEVELS = ("mean", "sd", "black", "white", "common"), ("value", "low", "high")
"""Of `Look`."""

_SCHEMA = pa.schema(
    [
        ("key", pa.binary(_KEY_BYTES)),
        ("sha256", pa.binary(32)),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bits", pa.int16()),
        ("format", pa.int8()),
        ("is_doubtful", pa.int8()),
        ("pixel_hash", pa.binary(32)),
        ("phash", pa.uint64()),
        ("dhash", pa.uint64()),
        ("structure", pa.binary(SIDE * SIDE)),
        *((name, pa.float32()) for name in _SHARES),
        *((name, pa.uint8()) for name in _LEVELS),
        ("thumb", pa.binary(THUMB * THUMB)),
    ]
)

Key = bytes
Entries = NDArray[np.int64]


def file_key(path: str, size: int, mtime_ns: int) -> Key:
    """Return what tells a file's state, of `size` bytes and changed last at `mtime_ns`, from every other."""
    return hashlib.blake2b(f"{path}\0{size}\0{mtime_ns}".encode(), digest_size=_KEY_BYTES).digest()


@dataclass(frozen=True, eq=False)
class FileFacts:
    """What was seen of m image files, by column."""

    width: NDArray[np.int32]
    """[m]"""
    height: NDArray[np.int32]
    """[m]"""
    bits: NDArray[np.int16]
    """[m], of a sample."""
    format: NDArray[np.int8]
    """[m], index into FORMATS."""
    is_doubtful: NDArray[np.int8]
    """[m], 1 where a DICOM header says that this may be no radiograph of the chest, else 0."""


class MarksCache:
    """The marks of files below one folder, in Arrow files that are written whole and never changed.

    Each entry is of a path, size and modification time, and knows the SHA-256 that the file had; it has a number.
    Several processes may add to the same folder.
    """

    def __init__(self, cache: Path, root: Path, on_note: Callable[[str], None] | None = None) -> None:
        """Open what is there; a damaged part is removed.

        Args:
            cache: folder for everything that can be made again.
            root: the image folder, resolved.
            on_note: called with a sentence where a part is damaged.

        Raises:
            OSError: the cache cannot be read or written.
        """
        known: Json = {"version": FORMAT_VERSION, "decoder": DECODER_VERSION, "root": os.fsencode(root).hex()}
        self._folder = cache / "marks" / fingerprint(known)
        self._parts: list[Path] = []
        self._starts = [0]
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self._folder.glob("*.arrow")):
            if _digest(path) == path.stem:
                self._append(path)
                continue
            path.unlink(missing_ok=True)
            if on_note is not None:
                on_note(f"The marks in {str(path)!r} are damaged: they are made again.")
        keys = self._column("key", np.arange(self._starts[-1]))
        self._keys = np.ascontiguousarray(keys).view(f"S{_KEY_BYTES}").ravel()
        self._order = np.argsort(self._keys, kind="stable")

    def find(self, keys: Sequence[Key]) -> Entries:
        """Return the entry of each key [m], -1 where it was not there when the cache was opened."""
        wanted = np.array(keys, dtype=f"S{_KEY_BYTES}")
        place = np.searchsorted(self._keys, wanted, sorter=self._order)
        entries = np.append(self._order, -1)[place]
        known = np.append(self._keys, b"")[entries] == wanted
        return np.where(known, entries, -1).astype(np.int64)

    def sha256(self, entries: Entries) -> list[str]:
        """Return the SHA-256 that the files of these entries [m] had."""
        return [row.tobytes().hex() for row in self._column("sha256", entries)]

    def add(self, files: Sequence[tuple[Key, MarkedFile]]) -> range:
        """Write a part, and return the entries of its files.

        Raises:
            OSError: the cache cannot be written.
        """
        temporary = temporary_sibling(self._folder / "part")
        try:
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
                writer.write_batch(_batch_of(files))
            path = self._folder / f"{_digest(temporary)}.arrow"
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self._append(path)
        return range(self._starts[-2], self._starts[-1])

    def facts(self, entries: Entries) -> FileFacts:
        """Return what was seen of the files of these entries [m]."""
        names = ("width", "height", "bits", "format", "is_doubtful")
        return FileFacts(*(self._column(name, entries) for name in names))

    def looks(self, entries: Entries) -> Looks:
        """Return what the images of these entries [m] look like."""
        thumbs = self._column("thumb", entries).reshape(len(entries), THUMB, THUMB)
        return Looks(*[*(self._column(name, entries) for name in (*_SHARES, *_LEVELS)), thumbs])

    def marks(self, entries: Entries) -> MarkedImages:
        """Return the marks of the files of these entries [m]; structures are mapped from a file without a name."""
        digits = np.array([f"{byte:02x}" for byte in range(256)], dtype="S2")
        hashes = np.ascontiguousarray(digits[self._column("pixel_hash", entries)]).view("S64").ravel()
        return MarkedImages(
            hashes, self._column("phash", entries), self._column("dhash", entries), self._structures(entries)
        )

    def _structures(self, entries: Entries) -> NDArray[np.int8]:
        shape = (len(entries), SIDE, SIDE)
        if not len(entries):
            return np.empty(shape, dtype=np.int8)
        with tempfile.TemporaryFile(dir=self._folder) as file:
            for first in range(0, len(entries), _ROWS_AT_ONCE):
                file.write(self._column("structure", entries[first : first + _ROWS_AT_ONCE]).data)
            file.flush()
            return np.memmap(file, dtype=np.int8, mode="r", shape=shape)

    def _append(self, path: Path) -> None:
        self._parts.append(path)
        self._starts.append(self._starts[-1] + _mapped(path).num_rows)

    def _column(self, name: str, entries: Entries) -> NDArray[Any]:
        """Return a column's values of `entries` [m], as bytes [m, width] where they are binary."""
        empty = _values(_batch_of([]), name)
        values = np.empty((len(entries), *empty.shape[1:]), dtype=empty.dtype)
        order = np.argsort(entries, kind="stable")
        bounds = np.searchsorted(entries[order], self._starts)
        for path, start, first, end in zip(self._parts, self._starts, bounds, bounds[1:], strict=False):
            places = order[first:end]
            if len(places):
                values[places] = _values(_mapped(path), name)[entries[places] - start]
        return values


def _mapped(path: Path) -> pa.RecordBatch:
    # Not kept: pages that were read count as this process's memory for as long as they are mapped.
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def _values(batch: pa.RecordBatch, name: str) -> NDArray[Any]:
    column = batch.column(name)
    if not pa.types.is_fixed_size_binary(column.type):
        return np.asarray(column.to_numpy())
    width = column.type.byte_width
    data = np.frombuffer(column.buffers()[1], dtype=np.uint8, count=width * len(column), offset=width * column.offset)
    return data.reshape(len(column), width)


def _batch_of(files: Sequence[tuple[Key, MarkedFile]]) -> pa.RecordBatch:
    rows = [
        (
            key,
            bytes.fromhex(file.sha256),
            file.width,
            file.height,
            file.bits,
            FORMATS.index(file.format),
            int(file.is_doubtful),
            bytes.fromhex(file.marks.pixel_hash),
            file.marks.phash,
            file.marks.dhash,
            file.marks.structure.tobytes(),
            *file.look[:-1],
            file.look.thumb.tobytes(),
        )
        for key, file in files
    ]
    columns = zip(*rows, strict=True) if rows else [()] * len(_SCHEMA)
    return pa.record_batch([pa.array(list(c), f.type) for c, f in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_NAME_DIGITS]
