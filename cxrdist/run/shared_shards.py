"""Shards in a cache that may be an object store: made by one machine, copied once to each of the others."""

from collections.abc import Callable
from pathlib import Path

from cxrdist.cohort.shards import ShardError, ShardSet
from cxrdist.run.store import Store


def fetched_shards(cache: Store, name: str) -> Path:
    """Return the folder of shards, copied to this machine and verified if they were not here yet.

    Raises:
        ShardError: they are damaged.
    """
    cache.fetch_folder(name, _verify)
    return cache.root / name


def shards_name(shards: ShardSet) -> str:
    """Return the name of shards in their cache."""
    return f"{shards.folder.parent.name}/{shards.folder.name}"


def shard_fetcher(cache: Store, on_note: Callable[[str], None] | None) -> Callable[[Path], None]:
    """Return what brings shards from a cache to this machine, as `prepare_shards` takes it.

    Args:
        cache: where others may have published them.
        on_note: told a sentence where what is there cannot be used.
    """

    def fetch(folder: Path) -> None:
        name = f"{folder.parent.name}/{folder.name}"
        try:
            cache.fetch_folder(name, _verify)
        except ShardError as error:
            if on_note is not None:
                on_note(f"{str(error).removesuffix('.')}: they are made again.")
            cache.remove(f"{name}/index.json")

    return fetch


def _verify(folder: Path) -> None:
    ShardSet.open(folder, verify=True)
