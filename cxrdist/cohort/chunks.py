"""Decoding in chunks of images, in this process, in a pool of processes, or wherever a `ChunkRunner` sends them."""

import hashlib
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cxrdist.cohort.decode import Limits, Preprocessing, decode_image, decode_mask, read_image_file
from cxrdist.errors import CxrdistError, ImageError
from cxrdist.machine import usable_cores

CHUNK_IMAGES = 64


@dataclass(frozen=True)
class Quarantined:
    """An image that cannot be used."""

    image_id: str
    path: str
    reason: str


@dataclass(frozen=True)
class ImageFile:
    """What decoding needs of a cohort's row."""

    image_id: str
    path: str
    mask_path: str | None
    sha256: str | None


@dataclass(frozen=True)
class DecodeChunk:
    """Images to decode together; picklable."""

    index: int
    root: Path
    files: tuple[ImageFile, ...]
    preprocessing: Preprocessing
    with_masks: bool
    limits: Limits

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True)
class DecodedChunk:
    """What became of a chunk; picklable."""

    index: int
    image_ids: tuple[str, ...]
    pixels: NDArray[np.uint8]
    """[n, size, size]."""
    masks: NDArray[np.uint8] | None
    """[n, size, size] of 0 and 1, all 0 where there is no mask; None where masks were not asked for."""
    has_mask: NDArray[np.bool_]
    """[n]."""
    failures: tuple[Quarantined, ...]


class Chunk(Protocol):
    """Images to be worked on together; picklable."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...


C = TypeVar("C", bound=Chunk)
R = TypeVar("R")


class ChunkRunner(Protocol):
    """Applies a module-level function to every chunk; results may come in any order."""

    def __call__(self, function: Callable[[C], R], chunks: Sequence[C]) -> Iterator[R]:
        """Return the results."""
        ...


DecodeRunner = Callable[[Callable[[DecodeChunk], DecodedChunk], Sequence[DecodeChunk]], Iterator[DecodedChunk]]
"""What decoding needs of a `ChunkRunner`."""


def decode_chunk(chunk: DecodeChunk) -> DecodedChunk:
    """Decode the chunk's files; a file that cannot be used is a failure with the reason, never an exception."""
    decoded, failures = [], []
    for file in chunk.files:
        try:
            decoded.append((file.image_id, *_decode(file, chunk)))
        except ImageError as error:
            failures.append(Quarantined(file.image_id, file.path, str(error)))
    shape = (len(decoded), chunk.preprocessing.size, chunk.preprocessing.size)
    pixels = np.empty(shape, dtype=np.uint8)
    masks = np.zeros(shape, dtype=np.uint8) if chunk.with_masks else None
    for row, (_, image, mask) in enumerate(decoded):
        pixels[row] = image
        if masks is not None and mask is not None:
            masks[row] = mask
    has_mask = np.array([mask is not None for _, _, mask in decoded], dtype=np.bool_)
    return DecodedChunk(chunk.index, tuple(i for i, _, _ in decoded), pixels, masks, has_mask, tuple(failures))


def _decode(file: ImageFile, chunk: DecodeChunk) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    data = read_image_file(chunk.root, file.path, chunk.limits)
    if file.sha256 is not None:
        digest = hashlib.sha256(data).hexdigest()
        if digest != file.sha256:
            raise ImageError(f"has sha256 {digest[:12]}..., the manifest says {file.sha256[:12]}...")
    image, size = decode_image(data, chunk.preprocessing, chunk.limits)
    if not chunk.with_masks or file.mask_path is None:
        return image, None
    try:
        mask_data = read_image_file(chunk.root, file.mask_path, chunk.limits)
        return image, decode_mask(mask_data, chunk.preprocessing, chunk.limits, size)
    except ImageError as error:
        raise ImageError(f"mask: {error}") from None


def run_on_cores(function: Callable[[C], R], chunks: Sequence[C], *, few: int = CHUNK_IMAGES) -> Iterator[R]:
    """Apply `function` in one process a core; with one core, or fewer images than `few`, all is done in this process.

    Raises:
        CxrdistError: a process died, mostly killed by the system for want of memory.
    """
    count = min(usable_cores(), len(chunks))
    if count <= 1 or sum(map(len, chunks)) < few:
        yield from map(function, chunks)
        return
    # Not a pool of concurrent.futures: one waits forever when a process dies while others are being started. And
    # not forked: a forked process inherits the locks of threads that it does not have.
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, BaseProcess] = {}
    queue = iter(chunks)
    try:
        for chunk in islice(queue, count):
            connection, theirs = context.Pipe()
            process: BaseProcess = context.Process(target=_serve, args=(function, theirs), daemon=True)
            with _undisturbed():
                process.start()
            theirs.close()
            workers[connection] = process
            connection.send(chunk)
        for _ in chunks:
            connection = _first(wait(workers))
            result: R = connection.recv()
            for chunk in islice(queue, 1):
                connection.send(chunk)
            yield result
    except (EOFError, OSError):
        raise CxrdistError(
            f"One of {count} processes died, perhaps for want of memory; run the command again."
        ) from None
    finally:
        for connection, process in workers.items():
            connection.close()
            process.kill()
            process.join()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep Ctrl-C from a process that is being started, and from this one until it has: else both tell it at length."""
    held: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):
                handlers[number] = signal.signal(number, lambda number, _: held.append(number))
    # What is held back here is so in the new process, too, and stays so.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for caught in held:
            signal.raise_signal(caught)


def _first(ready: Sequence[object]) -> Connection:
    connection = ready[0]
    assert isinstance(connection, Connection)
    return connection


def _serve(function: Callable[[Any], object], connection: Connection) -> None:
    """Work on what comes until the parent closes the connection, or is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with suppress(EOFError, OSError):
        while True:
            connection.send(function(connection.recv()))
