"""Tiny inputs for the tests of training: random images and a network of two layers."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from cxrdist.study.recipe import Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=3, batch_size=4, learning_rate=1e-2)


class Table:
    """A source of rows of a tensor."""

    def __init__(self, values):
        self.values = values

    def batch(self, rows):
        return self.values[rows]


class Images:
    """Rows of uint8 images, as shards are."""

    def __init__(self, values):
        self.values = values

    def take(self, rows):
        return self.values[rows]


def grey_images(n, side=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side), dtype=np.uint8)


def tiny_network(dropout=0.0, seed=0):
    """A convolution, batch normalisation and a head with dropout, channels last: [n, 3, 8, 8] -> [n, 3]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 8),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(8, 3),
        )
    return network.to(memory_format=torch.channels_last)


def tiny_data(n=21, seed=0):
    """Inputs float32 [n, 3, 8, 8] and labels int64 [n] of three classes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 8, 8, generator=generator), torch.arange(n) % 3


def recipe(**changed):
    return replace(RECIPE, **changed)
