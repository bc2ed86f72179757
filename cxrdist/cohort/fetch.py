"""Getting a public source from its home: received, verified, unpacked, and only then put in its place.

In a folder of sources:

    NAME.part      what was received so far, and NAME.part.json, which file of which server it is a part of
    NAME.archive   all of it, until it is unpacked
    NAME/          its files, and with them fetched.json: where they came from, and the archive's SHA-256
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from cxrdist.cohort.archives import ArchiveError, Limits, unpack
from cxrdist.cohort.catalogue import ByHand, Download, KaggleDataset, Source
from cxrdist.cohort.publish import publish, remove_leftovers, temporary_sibling
from cxrdist.cohort.transfer import PATIENCE, Part, Patience, Watcher, download, forget
from cxrdist.errors import CxrdistError, UserError

LOCK = "fetched.json"

_UNPACKED = 4
"""How many times the bytes of the largest archive that a source can be its files may have."""


@dataclass(frozen=True)
class Fetched:
    """What LOCK records of the files of a source."""

    name: str
    address: str
    sha256: str
    """Of the archive."""
    archive_bytes: int
    contents_sha256: str
    """Of its files, as `archives.Unpacked.sha256`: it stays the same where a server packs them anew."""
    contents_bytes: int
    files: int
    fetched: str
    """When, in UTC."""
    licence: str
    citation: str


def read_lock(folder: Path) -> Fetched | None:
    """Return what LOCK in the folder of a source records, or None where it is missing.

    Raises:
        UserError: it cannot be read.
    """
    try:
        lock = Fetched(**json.loads((folder / LOCK).read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError):
        lock = None
    if lock is None or not all(type(getattr(lock, field.name)) is field.type for field in fields(lock)):
        raise UserError(
            f"{str(folder / LOCK)!r} is not as `cxrdist cohort fetch` wrote it; restore it, or move the folder away to "
            "fetch its files without comparing them."
        )
    return lock


def find_fetched(source: Source, folder: Path, sha256: str | None = None) -> Fetched | None:
    """Return the record of the files of `source` in `folder`, or None where they are still to be fetched.

    Args:
        source: one that can be fetched.
        folder: of sources.
        sha256: of the archive that the files must come from, in lower case; by default that of the catalogue, or any.

    Raises:
        UserError: what lies in their place did not come from there, the record cannot be read, or the source is one
            that a person has to ask for.
    """
    home = _fetchable(source)
    target = folder / source.name
    lock = read_lock(target)
    if lock is None:
        if holds_files(target):
            raise UserError(
                f"{str(target)!r} is there, but was not fetched (it has no {LOCK}); move it away, or give another "
                "folder with --out."
            )
        return None
    expected = sha256 or home.sha256
    return lock if holds_files(target) and lock.address == home.address and expected in (None, lock.sha256) else None


def holds_files(folder: Path) -> bool:
    """Return whether there is anything but LOCK where the folder of a source should be."""
    with _folder_errors(folder):
        return any(child.name != LOCK for child in folder.iterdir()) if folder.is_dir() else folder.exists()


def fetch(
    source: Source, folder: Path, watch: Watcher, *, sha256: str | None = None, patience: Patience = PATIENCE
) -> Fetched:
    """Fetch a source into the folder of its name in `folder`; run again, it goes on where it was interrupted.

    An earlier copy is replaced at the very end. Where its files are there already, nothing is done. Without a SHA-256
    that is known beforehand, that of LOCK in their place is compared, which may lie there without the files.

    Args:
        source: where from.
        folder: of sources; made where it is missing.
        watch: is told how it goes.
        sha256: as in `find_fetched`.
        patience: with the server.

    Raises:
        UserError: the user can put it right; of a full disk, what was received is kept.
        CxrdistError: the server fails, or what it sends is damaged, hostile, or not what it sent before.
    """
    home = _fetchable(source)
    target, archive = folder / source.name, folder / f"{source.name}.archive"
    if isinstance(home, KaggleDataset):
        kaggle_client(home)
    with _folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            there = find_fetched(source, folder, sha256)
            if there is not None:
                return there
            remove_leftovers(folder)
            digest = _obtain(source, archive, sha256 or home.sha256, watch, patience)
            temporary = temporary_sibling(target)
            watch.say(f"unpacking {archive}")
            try:
                unpacked = unpack(archive, temporary, Limits(_UNPACKED * home.most_bytes))
                fetched = Fetched(
                    name=source.name,
                    address=home.address,
                    sha256=digest,
                    archive_bytes=archive.stat().st_size,
                    contents_sha256=unpacked.sha256,
                    contents_bytes=unpacked.bytes,
                    files=unpacked.files,
                    fetched=datetime.now(UTC).isoformat(timespec="seconds"),
                    licence=source.licence,
                    citation=source.citation,
                )
                if sha256 is None and home.sha256 is None:
                    _compare(read_lock(target), fetched, archive, watch)
                _write_lock(temporary, fetched)
                publish(temporary, target, is_same=lambda: False)
            except ArchiveError as error:
                archive.unlink()
                raise ArchiveError(
                    f"{str(error).removesuffix('.')}; it is removed, and no file of it is kept."
                ) from None
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            archive.unlink()
            forget(_part(archive))
    return fetched


def kaggle_client(home: KaggleDataset) -> str:
    """Return Kaggle's own client, as a path.

    Raises:
        UserError: it is not installed.
    """
    # It may be in this environment without that being active.
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    client = shutil.which("kaggle", path=places)
    if client is None:
        raise UserError(
            f"{home.address} is fetched by Kaggle's own client, which is not installed: `pip install kaggle`, put your "
            "token where https://www.kaggle.com/docs/api says, and run the same command again."
        )
    return client


def _fetchable(source: Source) -> Download | KaggleDataset:
    if isinstance(source.home, ByHand):
        raise UserError(
            f"{source.name} cannot be fetched by a command: get it at {source.home.homepage}; {source.home.terms}."
        )
    return source.home


def _obtain(source: Source, archive: Path, expected: str | None, watch: Watcher, patience: Patience) -> str:
    """Have all of an archive in `archive`, and return its SHA-256."""
    home, part = _fetchable(source), _part(archive)
    if archive.exists():
        begun = Part.read(part)
        if begun is not None and begun.address == home.address:
            digest = _sha256(archive, watch)
            if expected in (None, digest):
                return digest
            watch.say(f"{archive} is not the one that is expected, and is fetched again")
        archive.unlink()
    if isinstance(home, Download):
        download(home, part, watch, patience)
    else:
        _by_kaggle(home, part, watch)
    part.rename(archive)
    digest = _sha256(archive, watch)
    if expected not in (None, digest):
        raise UserError(
            f"{home.address} gave an archive with the SHA-256 {digest}, but {expected} is expected; it is not unpacked "
            f"but kept as {str(archive)!r}: correct --sha256, or run it again to fetch it once more."
        )
    return digest


def _by_kaggle(home: KaggleDataset, part: Path, watch: Watcher) -> None:
    client = kaggle_client(home)
    folder = part.with_suffix(".kaggle")
    watch.say(f"{client} fetches {home.handle}")
    command = [client, "datasets", "download", home.handle, "--path", str(folder)]
    status = subprocess.run(command, check=False).returncode  # noqa: S603 - no shell, no word from outside
    received = folder / f"{home.handle.partition('/')[2]}.zip"
    if status != 0 or not received.is_file():
        raise UserError(
            f"Kaggle's client ended with status {status} and without {str(received)!r}; what it says stands above, it "
            f"needs your token and that you accept the terms at {home.homepage}, and the same command tries again."
        )
    if received.stat().st_size > home.most_bytes:
        raise CxrdistError(f"{str(received)!r} has more than {home.most_bytes:,} bytes, which this source cannot have.")
    Part(home.address).write(part)
    received.rename(part)
    shutil.rmtree(folder)


def _compare(lock: Fetched | None, fetched: Fetched, archive: Path, watch: Watcher) -> None:
    """Refuse files that are not those that `lock` records of the same address."""
    if lock is None or lock.address != fetched.address or lock.sha256 == fetched.sha256:
        return
    if lock.contents_sha256 != fetched.contents_sha256:
        raise CxrdistError(
            f"{fetched.address} has other files than when {LOCK} was written on {lock.fetched}: the SHA-256 of the "
            f"archive is {fetched.sha256}, not {lock.sha256}; accept them with --sha256 {fetched.sha256}, or remove "
            f"{str(archive)!r} to fetch it once more."
        )
    watch.say("the archive was packed anew; its files are those that were recorded")


def _write_lock(folder: Path, fetched: Fetched) -> None:
    try:
        with (folder / LOCK).open("x", encoding="utf-8") as file:
            file.write(json.dumps(asdict(fetched), indent=2) + "\n")
    except FileExistsError:
        raise ArchiveError(f"The archive of {fetched.name} has a file {LOCK} of its own.") from None


def _sha256(file: Path, watch: Watcher) -> str:
    watch.say(f"verifying {file}")
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _part(archive: Path) -> Path:
    return archive.with_suffix(".part")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other fetches out of `folder`; the system lets go of it when the process ends, however it ends."""
    with (folder / ".fetching").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another fetch into {str(folder)!r} is under way; wait for it, or give another folder with --out."
            ) from None
        except OSError:
            # Some network file systems have no locks, and are used by one person at a time.
            pass
        yield


@contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{str(folder)!r} cannot be used ({error.strerror or error}); free space there or give another folder with "
            "--out: what was received is kept, and the same command continues."
        ) from None
