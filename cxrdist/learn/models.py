"""The papers' networks: a convolutional trunk of torchvision's and a new head."""

from dataclasses import dataclass
from typing import cast

import torch
import torchvision
from torch import Tensor, nn

from cxrdist.study.recipe import ModelName, Network
from cxrdist.study.seeds import derive_seed

TRUNK_STRIDE = 32
"""Both trunks reduce the image's side by this factor."""

TRUNK_CHANNELS = {"vgg16": 512, "resnet34": 512}


class Classifier(nn.Module):
    """A trunk and a head; `forward` takes [n, 3, H, W] and returns logits [n, classes]."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [n, classes]."""
        return cast(Tensor, self.head(self.trunk(images)))


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters: all, and those that are trained."""

    total: int
    trained: int


def build_trunk(model: ModelName, seed: int) -> nn.Module:
    """Return the convolutional part with random weights: [n, 3, H, W] -> [n, 512, H/32, W/32].

    VGG16 ends after its last max-pool, ResNet-34 after its last block. Weights are drawn as torchvision draws
    them, from the study's seed and the model's name alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "trunk", model))
        if model == "resnet34":
            resnet = torchvision.models.resnet34(weights=None)
            return nn.Sequential(
                *(getattr(resnet, name) for name in ("conv1", "bn1", "relu", "maxpool")),
                *(getattr(resnet, f"layer{index}") for index in range(1, 5)),
            )
        # Not built in full: its classifier's 124 million weights are not wanted.
        with torch.device("meta"):
            features = torchvision.models.vgg16(weights=None, init_weights=False).features
        trunk: nn.Sequential = features.to_empty(device=torch.get_default_device())
        for layer in trunk:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        return trunk


def build_head(network: Network, seed: int, fold: int) -> nn.Sequential:
    """Return the new layers that follow the trunk, drawn from the study's seed, the model's name and the fold."""
    channels = TRUNK_CHANNELS[network.model]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "head", network.model, fold))
        if network.model == "resnet34":
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, network.n_classes))
        layers: list[nn.Module] = []
        if network.vgg_head == "average_pool":
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            width = channels
        else:
            layers += [nn.Flatten()]
            width = channels * (network.image_size // TRUNK_STRIDE) ** 2
        for _ in range(3):
            layers += [nn.Linear(width, network.vgg_hidden), nn.ReLU(inplace=True), nn.Dropout(network.dropout)]
            width = network.vgg_hidden
        return nn.Sequential(*layers, nn.Linear(width, network.n_classes))


def build_classifier(network: Network, seed: int, fold: int) -> Classifier:
    """Return the whole network with random weights; see `cxrdist.learn.weights` for given ones."""
    return Classifier(build_trunk(network.model, seed), build_head(network, seed, fold))


def feature_shape(network: Network) -> tuple[int, int, int]:
    """Return the shape [channels, height, width] of the trunk's output for one image."""
    side = network.image_size // TRUNK_STRIDE
    return TRUNK_CHANNELS[network.model], side, side


def count_parameters(network: Network) -> ParameterCount:
    """Count the parameters without making them."""
    with torch.device("meta"):
        classifier = build_classifier(network, seed=0, fold=0)
    total = sum(p.numel() for p in classifier.parameters())
    head = sum(p.numel() for p in classifier.head.parameters())
    return ParameterCount(total, head if network.transfer == "frozen" else total)
