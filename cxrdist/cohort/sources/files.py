"""The image files of sources: each opened once, whatever is interrupted, and told by its bytes and its pixels."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrdist.cohort.check_cache import Key, MarksCache, file_key
from cxrdist.cohort.chunks import CHUNK_IMAGES, run_on_cores
from cxrdist.cohort.decode import read_lungs
from cxrdist.cohort.duplicates import MarkedImages
from cxrdist.cohort.files import LIMITS, read_image_file
from cxrdist.cohort.marking import FileToMark, MarkChunk, MarkedFile, fault_of_hash, mark_chunk
from cxrdist.cohort.sources.listing import Progress
from cxrdist.errors import ImageError, UserError, first_few

_KEPT_AT_ONCE = 1024
"""Files whose marks are written to the cache at once."""
_JOINED = "joinedMask"


class ImageFiles:
    """Files below one folder, by paths relative to it."""

    def __init__(self, root: Path, cache: MarksCache) -> None:
        """Know of what `cache` knows.

        Args:
            root: resolved.
            cache: of files below `root`.
        """
        self._root = root
        self._cache = cache
        self._entries: dict[str, int] = {}
        self._sha256: dict[str, str] = {}
        self._faults: dict[str, str] = {}

    def open(self, files: Sequence[tuple[str, str | None]], on_progress: Progress | None = None) -> None:
        """Decode and mark files that were not opened before; what was marked is kept in the cache, whatever comes.

        Args:
            files: path, and the SHA-256 that the file must have.
            on_progress: called now and then.

        Raises:
            OSError: the cache cannot be written.
        """
        new = {path: expected for path, expected in files if path not in self._entries and path not in self._faults}
        keys = dict(zip(new, (_key(self._root, path) for path in new), strict=True))
        self._look_up(new, keys)
        todo = [FileToMark(n, path, new[path]) for n, path in enumerate(p for p in new if not self._is_open(p))]
        chunks = [MarkChunk(self._root, tuple(todo[n : n + CHUNK_IMAGES])) for n in range(0, len(todo), CHUNK_IMAGES)]
        pending: list[tuple[str, MarkedFile]] = []
        done = 0
        try:
            for result in run_on_cores(mark_chunk, chunks):
                pending += [(todo[index].path, file) for index, file in result.marked]
                self._faults |= {todo[fault.index].path: fault.reason for fault in result.faults}
                done += len(result.marked) + len(result.faults)
                if len(pending) >= _KEPT_AT_ONCE:
                    self._keep(pending, keys)
                if on_progress is not None:
                    on_progress(done, len(todo))
        finally:
            self._keep(pending, keys)

    def fault(self, path: str) -> str | None:
        """Why a file that was opened cannot be used, in words that follow its name; None where it can."""
        return self._faults.get(path)

    def sha256(self, path: str) -> str | None:
        """Return the SHA-256 of a file, opened or not; None where it cannot be read."""
        if path not in self._sha256:
            try:
                self._sha256[path] = hashlib.sha256(read_image_file(self._root, path)).hexdigest()
            except ImageError:
                return None
        return self._sha256[path]

    def marks(self, paths: Sequence[str]) -> MarkedImages:
        """Return the marks of files that were opened and can be used, in the order given."""
        return self._cache.marks(np.array([self._entries[path] for path in paths], dtype=np.int64))

    def _is_open(self, path: str) -> bool:
        return path in self._entries or path in self._faults

    def _look_up(self, new: Mapping[str, str | None], keys: Mapping[str, Key]) -> None:
        entries = self._cache.find([keys[path] for path in new])
        known = [(path, int(entry)) for path, entry in zip(new, entries, strict=True) if entry >= 0]
        for (path, entry), digest in zip(known, self._cache.sha256(entries[entries >= 0]), strict=True):
            changed = fault_of_hash(0, digest, new[path])
            if changed is None:
                self._entries[path], self._sha256[path] = entry, digest
            else:
                self._faults[path] = changed.reason

    def _keep(self, pending: list[tuple[str, MarkedFile]], keys: Mapping[str, Key]) -> None:
        if pending:
            entries = self._cache.add([(keys[path], file) for path, file in pending])
            for (path, file), entry in zip(pending, entries, strict=True):
                self._entries[path], self._sha256[path] = entry, file.sha256
            pending.clear()


def join_masks(root: Path, masks: Sequence[str]) -> str:
    """Return the path of the mask that is white wherever one of `masks` is, written beside their folders.

    One that is there already is taken if it marks the same pixels; a file that does not is never replaced.

    Raises:
        ImageError: a mask cannot be read, or they differ in size.
        UserError: the joined one cannot be written, or something else lies there.
    """
    first = PurePosixPath(masks[0])
    joined = str(first.parent.parent / _JOINED / first.name)
    target = root / joined
    data = [read_image_file(root, path) for path in masks]
    lungs = [read_lungs(each, LIMITS) for each in data]
    if len({one.shape for one in lungs}) > 1:
        raise ImageError("has lung masks of several sizes")
    lung = np.logical_or.reduce(lungs)
    if os.path.lexists(target):
        if not _shows(root, joined, lung):
            raise UserError(
                f"{str(target)!r} is there, but is not what {first_few(masks)} are together, as `cohort build` joins "
                "them; move it away if it is not needed, or restore it."
            )
        return joined
    both = np.where(lung, np.uint8(255), np.uint8(0))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(both).save(temporary, format="PNG")
        temporary.replace(target)
    except OSError as error:
        raise UserError(
            f"The lung mask {str(target)!r}, joined from those of both lungs, cannot be written "
            f"({error.strerror or error}); copy the source to a folder that can be written."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return joined


def _shows(root: Path, mask: str, lung: NDArray[np.bool_]) -> bool:
    """Return whether a mask file marks these pixels [H, W]."""
    try:
        return np.array_equal(read_lungs(read_image_file(root, mask), LIMITS), lung)
    except ImageError:
        return False


def _key(root: Path, path: str) -> Key:
    try:
        status = os.stat(root / path)  # noqa: PTH116
    except (OSError, ValueError):
        return file_key(path, -1, -1)
    return file_key(path, status.st_size, status.st_mtime_ns)
