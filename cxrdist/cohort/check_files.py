"""Looking at every image file of a checked table once, in chunks, wherever a `ChunkRunner` sends them."""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrdist.cohort.check_cache import FileFacts, Key, MarksCache, file_key
from cxrdist.cohort.check_table import CheckedTable, normal_path
from cxrdist.cohort.chunks import CHUNK_IMAGES, ChunkRunner
from cxrdist.cohort.duplicates import MarkedImages
from cxrdist.cohort.looks import Looks
from cxrdist.cohort.marking import FileFault, FileToMark, MarkChunk, MarkedFile, fault_of_hash, mark_chunk
from cxrdist.errors import CxrdistError

_WINDOW_FILES = 16_384
"""That are sent to a `ChunkRunner` at once."""
_PART_FILES = 4096
"""That are written to the cache at once."""


@dataclass(frozen=True, eq=False)
class CheckedFiles:
    """The image files of a table's n rows."""

    usable: NDArray[np.int64]
    """[m], the rows whose image can be used, ascending."""
    facts: FileFacts
    """Of those [m]."""
    marks: MarkedImages
    """Of those [m]."""
    looks: Looks
    """Of those [m]."""
    faults: Sequence[FileFault]
    """Of the other rows, ascending."""


def check_files(
    table: CheckedTable,
    cache: MarksCache,
    run_chunks: ChunkRunner,
    on_progress: Callable[[int, int], None] | None = None,
) -> CheckedFiles:
    """Read, decode and mark every file whose marks the cache does not have; what was marked is kept, whatever comes.

    Args:
        table: the rows.
        cache: of the table's folder.
        run_chunks: where files are marked.
        on_progress: called with the files done and those in all.

    Raises:
        CxrdistError: the table has changed, or `run_chunks` did not return every file once.
        OSError: the cache cannot be written.
    """
    looking = _Looking(table, cache, on_progress)
    for files in _windows(table):
        looking.mark(looking.unknown(files), run_chunks)
    return looking.result()


def _windows(table: CheckedTable) -> Iterator[list[FileToMark]]:
    files: list[FileToMark] = []
    for index, batch in table.batches():
        columns = (batch.column(name).to_pylist() for name in ("path", "sha256"))
        files += [
            FileToMark(place, normal_path(path), sha256 and sha256.lower())
            for place, path, sha256 in zip(index.tolist(), *columns, strict=True)
            if place >= 0
        ]
        while len(files) >= _WINDOW_FILES:
            yield files[:_WINDOW_FILES]
            files = files[_WINDOW_FILES:]
    if files:
        yield files


class _Looking:
    """What became of the files so far."""

    def __init__(self, table: CheckedTable, cache: MarksCache, on_progress: Callable[[int, int], None] | None) -> None:
        self._table = table
        self._cache = cache
        self._on_progress = on_progress
        self._entries = np.full(len(table), -1, dtype=np.int64)
        self._faults: list[FileFault] = []
        self._done = 0

    def unknown(self, files: Sequence[FileToMark]) -> dict[int, tuple[Key, FileToMark]]:
        """Return the files, by row, whose marks the cache does not have."""
        there: dict[int, tuple[Key, FileToMark]] = {}
        for file in files:
            try:
                status = os.stat(self._table.root / file.path)  # noqa: PTH116
            except (FileNotFoundError, NotADirectoryError):
                self._faults.append(FileFault(file.index, "missing", "is missing"))
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                self._faults.append(FileFault(file.index, "unreadable", f"cannot be read: {reason}"))
            else:
                there[file.index] = (file_key(file.path, status.st_size, status.st_mtime_ns), file)
        found = self._cache.find([key for key, _ in there.values()])
        known = [index for index, entry in zip(there, found.tolist(), strict=True) if entry >= 0]
        found = found[found >= 0]
        for index, entry, digest in zip(known, found.tolist(), self._cache.sha256(found), strict=True):
            changed = fault_of_hash(index, digest, there.pop(index)[1].sha256)
            if changed is None:
                self._entries[index] = entry
            else:
                self._faults.append(changed)
        self._advance(len(files) - len(there))
        return there

    def mark(self, files: dict[int, tuple[Key, FileToMark]], run_chunks: ChunkRunner) -> None:
        """Mark files, by row, and put their marks into the cache."""
        if not files:
            # A runner may start a cluster.
            return
        todo = [file for _, file in files.values()]
        chunks = [
            MarkChunk(self._table.root, tuple(todo[first : first + CHUNK_IMAGES]))
            for first in range(0, len(todo), CHUNK_IMAGES)
        ]
        results = run_chunks(mark_chunk, chunks)
        pending: list[tuple[int, Key, MarkedFile]] = []
        try:
            for result in results:
                self._faults += result.faults
                pending += [(index, files[index][0], file) for index, file in result.marked]
                if len(pending) >= _PART_FILES:
                    self._keep(pending)
                self._advance(len(result.marked) + len(result.faults))
        finally:
            # A pool of processes ends here, not when the traceback of an error is forgotten.
            if isinstance(results, Generator):
                results.close()
            self._keep(pending)

    def result(self) -> CheckedFiles:
        """Return what is known of all files."""
        usable = np.flatnonzero(self._entries >= 0)
        n_seen = len(usable) + len(self._faults)
        if not n_seen == self._done == len(self._table):
            raise CxrdistError(f"{n_seen:,} of {len(self._table):,} files were looked at; run the command again.")
        entries = self._entries[usable]
        faults = sorted(self._faults, key=lambda fault: fault.index)
        cache = self._cache
        return CheckedFiles(usable, cache.facts(entries), cache.marks(entries), cache.looks(entries), faults)

    def _keep(self, pending: list[tuple[int, Key, MarkedFile]]) -> None:
        if pending:
            entries = self._cache.add([(key, file) for _, key, file in pending])
            self._entries[[index for index, _, _ in pending]] = entries
            pending.clear()

    def _advance(self, count: int) -> None:
        self._done += count
        if self._on_progress is not None and count:
            self._on_progress(self._done, len(self._table))
