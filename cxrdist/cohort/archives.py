"""Unpacking archives that nobody has checked: nothing leaves the folder, and nothing grows without bound."""

import gzip
import hashlib
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from cxrdist.errors import CxrdistError

_BLOCK = 65_536
"""Bytes read at a time; also the longest header of a tar archive, which its parser takes into memory whole."""
_LONGEST_DIRECTORY = 32 * 1024 * 1024
"""Bytes of the list of members of a zip archive, which its parser takes into memory whole, too."""
_LONGEST_PATH, _LONGEST_NAME = 1024, 255
"""Bytes."""
_ALWAYS_ALLOWED = 64 * 1024 * 1024
"""A small archive of text may expand by any factor up to so many bytes."""
_HEADERS, _PADDING = 2048, 1 << 20
"""Bytes of a tar archive that are not content: for each member, and in all."""

_UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    # Versions of zip that are not supported, and headers of tar without end.
    RuntimeError,
)

_TAR_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}
_ZIP_KINDS = {stat.S_IFLNK: "a symbolic link", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class ArchiveError(CxrdistError):
    """An archive that is damaged or hostile."""


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold."""

    total_bytes: int
    members: int = 200_000
    """Files and folders."""
    ratio: float = 100.0
    """Of the bytes unpacked to the archive's own; radiographs hardly shrink when they are packed."""

    def allowed(self, packed_bytes: int) -> int:
        """Return how many bytes an archive of `packed_bytes` may unpack to."""
        return min(self.total_bytes, max(_ALWAYS_ALLOWED, int(self.ratio * packed_bytes)))


@dataclass(frozen=True)
class Unpacked:
    """What came out of an archive."""

    files: int
    bytes: int
    sha256: str
    """Of what `sha256sum` prints of all files, sorted by the bytes of their paths: the same however they are packed."""


def unpack(archive: Path, folder: Path, limits: Limits) -> Unpacked:
    """Unpack a .zip, .tar or .tar.gz file into a new folder; its first bytes tell which it is.

    Owners, permissions and times are not taken over.

    Raises:
        ArchiveError: it is damaged; the path of a member is absolute, leads out of `folder`, or differs from another's
            in case alone; a member is a link, a device or encrypted; or there is more than `limits` allow. What came
            before that member is in `folder`.
        OSError: `folder` is there already, or cannot be written.
    """
    folder.mkdir(parents=True)
    try:
        with archive.open("rb") as file:
            return _unpack(file, folder, limits.members, limits.allowed(archive.stat().st_size))
    except ArchiveError as error:
        raise ArchiveError(f"The archive {str(archive)!r} is refused: {error}.") from None


def safe_path(name: str) -> PurePosixPath:
    """Return the path of a member, relative to the folder that an archive is unpacked into.

    Raises:
        ArchiveError: the path is absolute, leads out of the folder, or is none that every file system takes.
    """
    path = PurePosixPath(name)
    try:
        lengths = [len(part.encode()) for part in path.parts]
    except UnicodeEncodeError:
        raise ArchiveError(f"the name of {_shown(name)} is not valid UTF-8") from None
    if path.is_absolute() or re.match(r"[A-Za-z]:", name):
        raise ArchiveError(f"the path of {_shown(name)} is absolute")
    if ".." in path.parts:
        raise ArchiveError(f"the path of {_shown(name)} leads out of the folder")
    if re.search(r"[\\\x00-\x1f\x7f]", name):
        raise ArchiveError(f"the name of {_shown(name)} has a backslash or a control character")
    if sum(lengths) + len(lengths) > _LONGEST_PATH or max(lengths, default=0) > _LONGEST_NAME:
        raise ArchiveError(f"the name of {_shown(name)} is too long")
    return path


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    is_folder: bool
    open: Callable[[], Any]
    """A stream of its bytes."""


def _unpack(file: IO[bytes], folder: Path, most_members: int, most_bytes: int) -> Unpacked:
    paths = _Paths()
    digests: dict[bytes, bytes] = {}
    total = 0
    with _reading():
        members = _members(file, most_members, most_bytes)
    while True:
        with _reading():
            member = next(members, None)
        if member is None:
            break
        path = safe_path(member.name)
        paths.add(path, is_folder=member.is_folder)
        if len(paths) > most_members:
            raise ArchiveError(f"it has more than {most_members:,} members")
        if member.is_folder:
            (folder / path).mkdir(parents=True, exist_ok=True)
            continue
        if member.size > most_bytes - total:
            raise ArchiveError(f"with {_shown(member.name)} it would grow to more than {most_bytes:,} bytes")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        digests[str(path).encode()] = _write(member, folder / path).encode()
        total += member.size
    lines = b"".join(digests[name] + b"  " + name + b"\n" for name in sorted(digests))
    return Unpacked(len(digests), total, hashlib.sha256(lines).hexdigest())


def _write(member: _Member, target: Path) -> str:
    """Write a member to a new file and return its SHA-256."""
    digest = hashlib.sha256()
    left = member.size
    with _reading():
        stream = member.open()
    with stream, target.open("xb") as file:
        while True:
            with _reading():
                block = stream.read(_BLOCK)
            if not block:
                break
            digest.update(block)
            file.write(block)
            left -= len(block)
    if left:
        raise ArchiveError(f"{_shown(member.name)} is not as long as it should be")
    return digest.hexdigest()


class _Paths:
    """The paths seen so far; no two may be one file on a file system that ignores case or composition."""

    def __init__(self) -> None:
        self._written = {".": "."}
        """How a path is written, by what such a file system knows it by."""
        self._folders = {"."}

    def __len__(self) -> int:
        return len(self._written) - 1

    def add(self, path: PurePosixPath, *, is_folder: bool) -> None:
        for folder in (path, *path.parents) if is_folder else path.parents:
            if str(folder) not in self._folders:
                self._add(str(folder))
                self._folders.add(str(folder))
        if not is_folder:
            self._add(str(path))

    def _add(self, path: str) -> None:
        known_by = unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())
        other = self._written.get(known_by)
        if other == path:
            raise ArchiveError(f"{_shown(path)} is in it twice")
        if other is not None:
            raise ArchiveError(f"{_shown(other)} and {_shown(path)} differ in case or composition alone")
        self._written[known_by] = path


def _members(file: IO[bytes], most_members: int, most_bytes: int) -> Iterator[_Member]:
    start = file.read(4)
    file.seek(0)
    if start in (b"PK\x03\x04", b"PK\x05\x06"):
        return _members_of_zip(file, most_members)
    if start.startswith(b"\x1f\x8b"):
        file = cast(IO[bytes], gzip.GzipFile(fileobj=file))
    return _members_of_tar(file, most_bytes + _HEADERS * most_members + _PADDING)


def _members_of_zip(file: IO[bytes], most_members: int) -> Iterator[_Member]:
    with zipfile.ZipFile(cast(IO[bytes], _Guarded(file, _LONGEST_DIRECTORY))) as archive:
        if len(archive.filelist) > most_members:
            raise ArchiveError(f"it has more than {most_members:,} members")
        for info in archive.filelist:
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArchiveError(f"{_shown(info.filename)} is {_ZIP_KINDS.get(kind, 'of a special kind')}")
            if info.flag_bits & 1:
                raise ArchiveError(f"{_shown(info.filename)} is encrypted")
            # Other methods expand a whole block at once, whatever comes out of it.
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ArchiveError(f"{_shown(info.filename)} is packed by a method that is not supported")
            # `filename` ends at a null byte, which must not go unseen.
            yield _Member(info.orig_filename, info.file_size, info.is_dir(), partial(archive.open, info))


def _members_of_tar(file: IO[bytes], most_bytes: int) -> Iterator[_Member]:
    guarded = _Bounded(file, _BLOCK, most_bytes)
    with tarfile.open(fileobj=cast(IO[bytes], guarded), mode="r:") as archive:
        for info in archive:
            if not (info.isreg() or info.isdir()) or info.issparse():
                raise ArchiveError(f"{_shown(info.name)} is {_TAR_KINDS.get(info.type, 'of a special kind')}")
            yield _Member(info.name, info.size, info.isdir(), partial(archive.extractfile, info))
    # The parser takes a damaged header for the end of the archive.
    if guarded.last != bytes(tarfile.BLOCKSIZE):
        raise ArchiveError("it is damaged (it has no end)")
    # The checksum of gzip comes last.
    while guarded.read(_BLOCK):
        pass


class _Guarded:
    """A file of which a parser cannot take too much into memory at once."""

    def __init__(self, file: IO[bytes], most_at_once: int) -> None:
        self._file = file
        self._most = most_at_once
        self.last = b""
        """What was read last."""

    def read(self, size: int = -1) -> bytes:
        if size > self._most:
            raise ArchiveError(f"one of its headers is longer than {self._most:,} bytes")
        self.last = self._file.read(size if size >= 0 else self._most)
        return self.last

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


class _Bounded(_Guarded):
    """A file of which no more than a certain part is ever read, padding and what follows the archive included."""

    def __init__(self, file: IO[bytes], most_at_once: int, most_bytes: int) -> None:
        super().__init__(file, most_at_once)
        self._most_bytes = most_bytes

    def read(self, size: int = -1) -> bytes:
        if self.tell() > self._most_bytes:
            raise ArchiveError(f"it would grow to more than {self._most_bytes:,} bytes")
        return super().read(size)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ArchiveError(f"it is damaged ({ascii(reason)[1:-1][:200]})") from None


def _shown(name: str) -> str:
    """As it is printed: a name can hold anything."""
    return f"the member {name[:200]!a}"
