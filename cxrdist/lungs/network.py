"""The lung network: a U-Net of 22 convolutions, 4 max-pools and 4 merges, as paper 1 describes it."""

from typing import cast

import torch
from torch import Tensor, nn

from cxrdist.study.seeds import derive_seed

DOWN = ((32, 32), (64, 64), (64, 64), (128, 128))
"""Channels of the two convolutions of each level on the way down."""
BOTTOM = 256
UP = (256, 256, 128, 64)
"""Channels of the three convolutions of each level on the way up."""
STRIDE = 2 ** len(DOWN)
"""The side of an input must be a multiple of this."""


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


class _DoublingConvolution(nn.Conv2d):
    """The convolution of what nearest-neighbour up-sampling by two would give.

    Of the nine pixels under a kernel, those that came from one pixel are equal: four products do instead of nine.
    So it is computed as a transposed convolution whose kernel holds the sums of weights that meet one pixel: the
    same numbers but for rounding, and the up-sampled values are never made.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=3, padding=1)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - its name in torch
        """Return [n, outputs, 2 h, 2 w] for [n, inputs, h, w]."""
        padded = nn.functional.pad(self.weight, (1, 1, 1, 1))
        rows = padded[:, :, 1:] + padded[:, :, :-1]
        sums = rows[:, :, :, 1:] + rows[:, :, :, :-1]
        kernel = sums.flip(2, 3).transpose(0, 1)
        return nn.functional.conv_transpose2d(input, kernel, self.bias, stride=2, padding=1)


class _Up(nn.Module):
    """Doubles the side, then merges with what the same level had on the way down."""

    def __init__(self, inputs: int, skip: int, width: int) -> None:
        super().__init__()
        self.first = _DoublingConvolution(inputs, width)
        self.second = _convolution(width, width)
        self.merged = _convolution(skip + width, width)

    def forward(self, values: Tensor, skip: Tensor) -> Tensor:
        values = self.second(self.first(values).relu_()).relu_()
        return cast(Tensor, self.merged(torch.cat([skip, values], dim=1)).relu_())


class LungNet(nn.Module):
    """The published two-dimensional lung U-Net: 5,468,897 parameters.

    `forward` takes float [n, 1, H, W] and returns logits [n, 1, H, W], positive where a pixel is lung; H and W are
    multiples of 16.
    """

    def __init__(self) -> None:
        super().__init__()
        levels, inputs = [], 1
        for first, second in DOWN:
            convolutions = _convolution(inputs, first), _convolution(first, second)
            levels.append(nn.Sequential(*(layer for c in convolutions for layer in (c, nn.ReLU(inplace=True)))))
            inputs = second
        self.down = nn.ModuleList(levels)
        self.pool = nn.ModuleList(nn.MaxPool2d(2) for _ in DOWN)
        self.bottom = nn.Sequential(_convolution(inputs, BOTTOM), nn.ReLU(inplace=True))
        inputs = BOTTOM
        ups = []
        for width, (_, skip) in zip(UP, reversed(DOWN), strict=True):
            ups.append(_Up(inputs, skip, width))
            inputs = width
        self.up = nn.ModuleList(ups)
        self.out = _convolution(inputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [n, 1, H, W]."""
        values, skips = images, []
        for level, pool in zip(self.down, self.pool, strict=True):
            values = level(values)
            skips.append(values)
            values = pool(values)
        values = self.bottom(values)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            values = up(values, skip)
        return cast(Tensor, self.out(values))


def build_lung_net(seed: int) -> LungNet:
    """Return the network with weights drawn as He et al. (2015) for ReLU, from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "lung network"))
        network = LungNet()
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
    return network
