"""The processes that train one network together."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True)
class Ranks:
    """The processes that train one network together, as one of them sees them; by default it is alone."""

    group: dist.ProcessGroup | None = None
    """NCCL where each has a GPU, else Gloo; it holds these processes and no others."""

    @property
    def size(self) -> int:
        """How many there are."""
        return 1 if self.group is None else self.group.size()

    @property
    def rank(self) -> int:
        """Which of them this process is, from 0."""
        return 0 if self.group is None else self.group.rank()

    def part(self, batch: Tensor) -> Tensor:
        """Return this rank's part of a batch [n, ...]: contiguous, in the order of ranks, empty where n is small."""
        return torch.tensor_split(batch, self.size)[self.rank]

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over the ranks in place, to the same bytes in all of them, and return it."""
        if self.group is not None:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def agree(self, value: int, device: torch.device) -> bool:
        """Return whether all ranks gave the same value."""
        bounds = torch.tensor([value, -value], device=device)
        if self.group is not None:
            dist.all_reduce(bounds, dist.ReduceOp.MAX, group=self.group)
        return int(bounds.sum()) == 0


ALONE = Ranks()
"""One process that trains by itself."""
