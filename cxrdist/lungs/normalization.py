"""Batch normalisation while the lung network is trained, which becomes part of its convolutions when it is kept.

The published network has none and learns slowly. Outside training, normalisation scales and shifts each channel, as the
convolution before it can do itself (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167): what is kept is the
published network with its 5,468,897 parameters.
"""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from cxrdist.lungs.network import LungNet

_LAST = "out"
"""The convolution that gives the logits, which are not normalised."""


def with_normalization(network: LungNet, images: Tensor | None) -> nn.Module:
    """Return a copy of `network` whose hidden convolutions are each followed by batch normalisation.

    Args:
        network: to be trained; its parameters are copied.
        images: standardised, [n, 1, h, w]. For them, as one batch, the copy gives the logits that `network` gives, so
            that training goes on from what it knows. None for random weights: every channel then starts with mean 0
            and standard deviation 1 over the batch.
    """
    normalized = copy.deepcopy(network)
    for name in _hidden_convolutions(normalized):
        convolution = cast(nn.Conv2d, normalized.get_submodule(name))
        normalized.set_submodule(name, nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels)))
    if images is not None:
        _keep_answers(normalized, images)
    return normalized


@torch.no_grad()
def folded(normalized: nn.Module) -> LungNet:
    """Return the network without normalisation that gives what `normalized` gives in evaluation, but for rounding."""
    network = LungNet()
    network.out.load_state_dict(normalized.get_submodule(_LAST).state_dict())
    for name in _hidden_convolutions(network):
        pair = cast(nn.Sequential, normalized.get_submodule(name))
        trained, norm = cast(nn.Conv2d, pair[0]), cast(nn.BatchNorm2d, pair[1])
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        scale = norm.weight / torch.sqrt(variance + norm.eps)
        plain = cast(nn.Conv2d, network.get_submodule(name))
        plain.weight.copy_(trained.weight * scale[:, None, None, None])
        cast(Tensor, plain.bias).copy_((cast(Tensor, trained.bias) - mean) * scale + norm.bias)
    return network


def _hidden_convolutions(network: LungNet) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d) and name != _LAST]


@torch.no_grad()
def _keep_answers(normalized: nn.Module, images: Tensor) -> None:
    """Give each normalisation the scale and shift that undo it on `images`, and their mean and variance."""

    def undo(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        norm = cast(nn.BatchNorm2d, norm)
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        norm.weight.copy_(torch.sqrt(variance + norm.eps))
        norm.bias.copy_(mean)
        cast(Tensor, norm.running_mean).copy_(mean)
        cast(Tensor, norm.running_var).copy_(variance)

    hooks = [
        module.register_forward_pre_hook(undo) for module in normalized.modules() if isinstance(module, nn.BatchNorm2d)
    ]
    training = normalized.training
    normalized.eval()(images)
    normalized.train(training)
    for hook in hooks:
        hook.remove()
