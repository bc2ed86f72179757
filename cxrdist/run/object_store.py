"""Artefacts in a bucket of S3 or Google Cloud Storage: what drivers and workers share without sharing a disk."""

import fcntl
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from cxrdist.config.location import absolute_location, is_remote, join, own_folder, parse_bucket
from cxrdist.errors import UserError
from cxrdist.run.bucket import Bucket
from cxrdist.run.store import Store, explained, whole_file

PATIENCE_SECONDS = 300.0
"""How long a store that does not answer, or answers with errors, is asked again."""

_HURRY_SECONDS = 3.0

_TRANSFERS = 16


def open_store(location: str | Path) -> Store:
    """Open a run directory.

    Args:
        location: a folder, or a URI of an object store.
    """
    text = absolute_location(location, "--run-dir")
    return (
        ObjectStore(text, user_cache(), keeps=False, patience=PATIENCE_SECONDS)
        if is_remote(text)
        else Store(Path(text))
    )


def open_cache(location: str, node_cache: str | None = None) -> Store:
    """Open a cache: artefacts of which each is the same for ever.

    Args:
        location: a folder, or a URI of an object store.
        node_cache: folder of this machine for what comes from an object store; by default the user's cache folder.
    """
    text = absolute_location(location, "execution.cache")
    if not is_remote(text):
        return Store(Path(text))
    own = user_cache() if node_cache is None else Path(node_cache)
    return ObjectStore(text, own, keeps=True, patience=PATIENCE_SECONDS)


def user_cache() -> Path:
    """Return the folder where a user's programs keep what can be made again.

    Raises:
        UserError: the account has no home folder, and the environment names none instead.
    """
    return own_folder("XDG_CACHE_HOME", ".cache") / "cxrdist"


def explained_cache(cache: Store) -> AbstractContextManager[None]:
    """Turn what the system refuses of a cache's files into one sentence."""
    if isinstance(cache, ObjectStore):
        return cache.explained("")
    return explained(f"The cache folder {str(cache.root)!r}", "set execution.cache to another folder", cache.root)


class ObjectStore(Store):
    """A prefix of a bucket; what is needed as a file is copied to this machine, as a whole and once.

    Requests that fail are repeated for some minutes; what does not come whole is not taken.

    Args:
        location: a URI.
        node_cache: folder of this machine for copies, which may be removed at any time while nothing runs.
        keeps: whether artefacts are the same for ever, so that a copy is as good as the original.
        patience: how long a store that does not answer is asked again, in seconds.
    """

    def __init__(self, location: str, node_cache: Path, *, keeps: bool, patience: float) -> None:
        super().__init__(node_cache / "objects" / hashlib.sha256(location.encode()).hexdigest()[:16])
        self._uri = location
        self._node_cache = node_cache
        self._keeps = keeps
        self._patience = patience
        where = parse_bucket(location, "The location")
        self._prefix = where.path
        self._bucket = Bucket(where, patience)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process makes connections of its own.
        return _reopened, (self._uri, self._node_cache, self._keeps, self._patience)

    @property
    def location(self) -> str:
        """The URI."""
        return self._uri

    def create(self) -> None:
        """Make sure that the bucket is there.

        Raises:
            UserError: it is not, or it may not be read.
            CxrdistError: the store does not answer.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        if not self._bucket.is_there():
            raise UserError(f"{self.where('')} is in a bucket that does not exist: make it, or correct its name.")

    def explained(self, remedy: str) -> AbstractContextManager[None]:
        """Turn what the system refuses of the copies on this machine into one sentence; `remedy` is for folders."""
        what = f"The folder {str(self._node_cache)!r} of copies from {self.where('')}"
        own = "execution.node_cache" if self._keeps else "XDG_CACHE_HOME"
        return explained(what, f"set {own} to another folder", self._node_cache)

    def sub(self, name: str) -> Store:
        """Return the store of what lies in a folder of this one."""
        return _reopened(join(self._uri, name), self._node_cache, self._keeps, self._patience)

    def hurried(self) -> Store:
        """Return the same store, which gives up after some seconds."""
        return _reopened(self._uri, self._node_cache, self._keeps, _HURRY_SECONDS)

    def where(self, name: str) -> str:
        """Return an artefact's URI, without options."""
        return f"{self._uri.partition('://')[0]}://{self._key(name)}".rstrip("/")

    def local(self, name: str) -> Path:
        """Return an artefact as a file on this machine, copied if need be."""
        path = self.root / name
        if self._keeps and path.is_file():
            return path
        if not self._keeps:
            path.unlink(missing_ok=True)
        with self._one_at_a_time(name):
            if not path.is_file():
                try:
                    self._download(name, path)
                except FileNotFoundError:
                    return path
        return path

    def local_files(self, names: Sequence[str]) -> list[Path]:
        """Return several artefacts as files on this machine, copied side by side if need be."""
        with ThreadPoolExecutor(_TRANSFERS) as pool:
            return list(pool.map(self.local, names))

    def exists(self, name: str) -> bool:
        """Return whether the artefact is in the store."""
        return self._bucket.exists(self._key(name))

    def names(self, folder: str) -> list[str]:
        """Return the names of all artefacts in a folder and in those beneath it, sorted."""
        return [key[len(self._prefix) + 1 :] for key in self._bucket.keys(self._key(folder))]

    def read_bytes(self, name: str) -> bytes:
        """Return an artefact's content; FileNotFoundError where there is none."""
        return self._bucket.read(self._key(name))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write an artefact as a whole."""
        self._bucket.write(self._key(name), data)

    def write_file(self, name: str, write: Callable[[Path], object]) -> None:
        """Let `write` fill a temporary file, then upload it; a cache keeps it on this machine, too."""
        with whole_file(self.root / name) as temporary:
            write(temporary)
            self._upload(temporary, name)
        if not self._keeps:
            (self.root / name).unlink(missing_ok=True)

    def adopt(self, path: Path) -> str:
        """Upload a file of this machine, unless that was done; its name is the hash of its content."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = f"files/{digest}{path.suffix}"
        if not self.exists(name):
            self._upload(path, name)
        return name

    def copy(self, name: str, to: str) -> None:
        """Give an artefact a second name, without having it pass this machine."""
        self._bucket.copy(self._key(name), self._key(to))

    def move(self, name: str, to: str) -> None:
        """Give an artefact, or a folder of artefacts, another name; all have it before any loses its own."""
        names = self.names(name) or [name]
        with ThreadPoolExecutor(_TRANSFERS) as pool:
            list(pool.map(lambda own: self.copy(own, to + own.removeprefix(name)), names))
        self.remove(*names)

    def remove(self, *names: str) -> None:
        """Remove artefacts, those that are there."""
        for name in names:
            (self.root / name).unlink(missing_ok=True)
            try:
                self._bucket.remove(self._key(name))
            except FileNotFoundError:
                continue

    def remove_leftovers(self, folder: str) -> None:
        """Do nothing: an upload that was broken off leaves no artefact."""

    def fetch_folder(self, folder: str, check: Callable[[Path], None]) -> None:
        """Copy a folder to this machine, once for all processes here."""
        target = self.root / folder
        if target.exists():
            return
        with self._one_at_a_time(folder):
            if target.exists() or not self.exists(f"{folder}/index.json"):
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetched-") as temporary:
                whole = Path(temporary) / target.name
                self._download_all({name: whole / PurePosixPath(name).name for name in self.names(folder)})
                check(whole)
                whole.rename(target)

    def publish_folder(self, folder: str) -> None:
        """Upload a folder that was written under `root`, unless it is in the store; `index.json` comes last."""
        if self.exists(f"{folder}/index.json"):
            return
        index = f"{folder}/index.json"
        self._upload_all([name for name in self._written(folder) if name != index])
        self._upload(self.root / index, index)

    def pull(self, folder: str) -> None:
        """Copy all that is in a folder to this machine."""
        self._download_all({name: self.root / name for name in self.names(folder)})

    def push(self, folder: str) -> None:
        """Upload what was written into a folder under `root`."""
        self._upload_all(self._written(folder))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{PurePosixPath(name)}" if name else self._prefix

    def _written(self, folder: str) -> list[str]:
        return sorted(p.relative_to(self.root).as_posix() for p in (self.root / folder).rglob("*") if p.is_file())

    def _upload_all(self, names: Sequence[str]) -> None:
        with ThreadPoolExecutor(_TRANSFERS) as pool:
            list(pool.map(lambda name: self._upload(self.root / name, name), names))

    def _download_all(self, targets: Mapping[str, Path]) -> None:
        with ThreadPoolExecutor(_TRANSFERS) as pool:
            list(pool.map(lambda name: self._download(name, targets[name]), targets))

    def _download(self, name: str, target: Path) -> None:
        with whole_file(target) as temporary:
            self._bucket.download(self._key(name), temporary)

    def _upload(self, path: Path, name: str) -> None:
        self._bucket.upload(path, self._key(name))

    @contextmanager
    def _one_at_a_time(self, name: str) -> Iterator[None]:
        """Let one process of this machine copy an artefact, while the others wait for it."""
        lock = self.root / ".locks" / hashlib.sha256(name.encode()).hexdigest()[:16]
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _reopened(location: str, node_cache: Path, keeps: bool, patience: float) -> ObjectStore:  # noqa: FBT001
    return ObjectStore(location, node_cache, keeps=keeps, patience=patience)
