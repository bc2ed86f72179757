"""Features of a frozen trunk, computed once and shared by every fold, trial and learning rate."""

from typing import cast

import torch
from torch import Tensor, nn

from cxrdist.learn.models import build_head
from cxrdist.learn.sources import Source
from cxrdist.study.recipe import Network

FEATURE_BATCH = 32
"""Fixed, so that the same rows give the same bytes whoever computes them."""


@torch.inference_mode()
def extract_features(trunk: nn.Module, source: Source, rows: Tensor, *, pooled: bool) -> Tensor:
    """Return the trunk's output for `rows`: float32 [n, channels, h, w] on the CPU, h = w = 1 where pooled.

    The trunk is frozen for good: dropout is off, and batch normalisation uses the statistics of its weights.
    """
    trunk.eval()
    parts = []
    for batch in torch.split(rows, FEATURE_BATCH):
        output = cast(Tensor, trunk(source.batch(batch)))
        if pooled:
            output = nn.functional.adaptive_avg_pool2d(output, 1)
        parts.append(output.float().contiguous().cpu())
    return torch.cat(parts)


def head_pools(network: Network) -> bool:
    """Return whether the head begins by averaging over the image, so that only the average need be kept."""
    with torch.device("meta"):
        return isinstance(build_head(network, seed=0, fold=0)[0], nn.AdaptiveAvgPool2d)
