"""Shards in a cache that may be an object store: made by one machine, copied once to each of the others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cxrdist.cohort.shards import ShardError, ShardSet, prepare_shards
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


def shared_shards(cache: Store, on_note: Callable[[str], None] | None, **arguments: Any) -> ShardSet:
    """Return a cohort's shards, which others find in the cache afterwards.

    Args:
        cache: where they may be, and are put.
        on_note: told a sentence where shards that are there cannot be used.
        arguments: of `prepare_shards`.
    """

    def fetch(folder: Path) -> None:
        name = f"{folder.parent.name}/{folder.name}"
        try:
            cache.fetch_folder(name, _verify)
        except ShardError as error:
            if on_note is not None:
                on_note(f"{str(error).removesuffix('.')}: they are made again.")
            cache.remove(f"{name}/index.json")

    shards = prepare_shards(cache=cache.root, fetch=fetch, on_note=on_note, **arguments)
    cache.publish_folder(shards_name(shards))
    return shards


def _verify(folder: Path) -> None:
    ShardSet.open(folder, verify=True)
