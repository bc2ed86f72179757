"""How much memory training takes, estimated without training."""

import os

import torch
from torch import Tensor, nn

from cxrdist.learn.models import build_classifier, count_parameters
from cxrdist.study.recipe import Network

FLOAT_BYTES = 4
ADAM_COPIES = 4
"""Of each trained weight: itself, its gradient and Adam's two moments."""


def training_bytes(network: Network, batch_size: int) -> int:
    """Estimate the bytes of weights, optimiser and activations in training, in fp32.

    An estimate: libraries' workspaces come on top (some hundred MB on a GPU), and bf16 halves the activations.
    """
    count = count_parameters(network)
    weights = FLOAT_BYTES * (count.total + (ADAM_COPIES - 1) * count.trained)
    if network.transfer == "frozen":
        return weights
    return weights + FLOAT_BYTES * batch_size * _activation_values(network)


def has_room(size: int, device: torch.device) -> bool:
    """Return whether so many bytes may stay in a device's memory: half of what is free of a GPU, an eighth of a host's.

    A host's memory is shared by its lanes, and its page cache maps the same files anyway.
    """
    if device.type == "cuda":
        return size <= torch.cuda.mem_get_info(device)[0] // 2
    return size <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8


def _activation_values(network: Network) -> int:
    """Count the values that the layers put out for one image, which a backward pass keeps."""
    with torch.device("meta"):
        classifier = build_classifier(network, seed=0, fold=0).eval()
        image = torch.empty(1, 3, network.image_size, network.image_size)
    values = 0

    def count(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal values
        values += output.numel()

    for module in classifier.modules():
        if not list(module.children()) and not getattr(module, "inplace", False):
            module.register_forward_hook(count)
    classifier(image)
    return values
