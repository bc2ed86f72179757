"""The ranks of a lane: the first one leads, and the others do what it says."""

from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed as dist

from cxrdist.learn.ranks import ALONE, Ranks

PATIENCE = timedelta(minutes=10)
"""How long ranks wait for one another: longer than the lead takes to write a checkpoint to a slow store."""

KEY_BYTES = 1024

_WAIT, _BEGIN, _END = range(3)


class Orders:
    """What the lead tells the others; where there are none, nothing is sent.

    Args:
        ranks: of the lane, in a group of Gloo.
    """

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self._ranks = ranks

    @property
    def have_followers(self) -> bool:
        """Whether anybody waits for them."""
        return self._ranks.size > 1

    def wait(self) -> None:
        """Say that there is no unit now: silence would be taken for death."""
        self._exchange(_WAIT)

    def begin(self, key: str) -> None:
        """Say which unit is next."""
        self._exchange(_BEGIN, key)

    def end(self) -> None:
        """Say that all is over."""
        self._exchange(_END)

    def take(self) -> str | None:
        """Return the key of the next unit once there is one, None when all is over."""
        order, key = _WAIT, ""
        while order == _WAIT:
            order, key = self._exchange()
        return key if order == _BEGIN else None

    def _exchange(self, order: int = _WAIT, key: str = "") -> tuple[int, str]:
        # Plain bytes of a fixed number: nothing is unpickled.
        message = bytes([order]) + key.encode()
        if len(message) > KEY_BYTES:
            raise ValueError(f"the key {key!r} has more than {KEY_BYTES - 1} bytes")
        buffer = torch.frombuffer(bytearray(message.ljust(KEY_BYTES, b"\0")), dtype=torch.uint8)
        if self._ranks.group is not None:
            dist.broadcast(buffer, group=self._ranks.group, group_src=0)
        received = buffer.numpy().tobytes()
        return received[0], received[1:].rstrip(b"\0").decode()


@dataclass(frozen=True)
class Crew:
    """A rank's place in its lane."""

    ranks: Ranks
    """For computing: NCCL on GPUs, else Gloo."""
    orders: Orders


def join_crew(size: int, device: torch.device) -> Crew | None:
    """Divide the ranks of the default process group into lanes of `size` neighbours, and return this one's.

    Train numbers its workers machine by machine, so that neighbours mostly are on one. None for a rank that is left
    over: where a cluster grows or shrinks, Train starts as many workers as there is room for, not a multiple of `size`.
    """
    if size == 1:
        return Crew(ALONE, Orders())
    mine = None
    # All ranks make the groups of all lanes, in one order: torch numbers groups by how many a process has made.
    for first in range(0, dist.get_world_size() - size + 1, size):
        talking = _group(first, size, "gloo")
        computing = _group(first, size, "nccl") if device.type == "cuda" else talking
        if talking is not None and computing is not None:
            mine = Crew(computing, Orders(talking))
    return mine


def _group(first: int, size: int, backend: str) -> Ranks | None:
    members = list(range(first, first + size))
    group = dist.new_group(members, timeout=PATIENCE, backend=backend)
    return Ranks(group) if dist.get_rank() in members and isinstance(group, dist.ProcessGroup) else None
