"""Heat maps, which parts of an image speak for a class, and how much of a map lies on a region such as the lungs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cxrdist.learn.models import Classifier
from cxrdist.study.recipe import ModelName

Method = Literal["cam", "gradcam"]
"""Class activation mapping (Zhou et al. 2016), or its generalisation by gradients (Selvaraju et al. 2017)."""

Pooling = Literal["mean", "sum"]
"""How Grad-CAM makes one weight of a channel's gradients: the original averages them, others add them up.

The maps differ by the factor h w, so they are the same after `min_max`.
"""

HEAT_LAYER: dict[ModelName, str] = {
    "vgg16": "last convolution after its ReLU, before the last max-pool",
    "resnet34": "last block",
}
"""The layer whose activations become a map: of 224 px, VGG16 keeps 14 x 14 positions and ResNet-34 7 x 7."""


@dataclass(frozen=True)
class HeatMaps:
    """Maps and logits of n images, on the images' device, without a graph; float32, float64 where the network is."""

    maps: Tensor
    """[n, h, w] at the layer's size and in the logit's units: CAM may be negative, Grad-CAM is not."""
    logits: Tensor
    """[n, C]."""


def split_at_heat_layer(trunk: nn.Module, model: ModelName) -> tuple[nn.Module, nn.Module]:
    """Return the parts of a trunk before and after the activations of `HEAT_LAYER`; they share its layers.

    Args:
        trunk: as `build_trunk` makes it.
        model: which trunk it is.

    Returns:
        `before`, [n, 3, H, W] -> activations [n, K, h, w], and `after`, activations -> the trunk's output.

    Raises:
        ValueError: a VGG16 does not end in a max-pool.
    """
    if model == "resnet34":
        return trunk, nn.Identity()
    if not isinstance(trunk, nn.Sequential) or not isinstance(trunk[-1], nn.MaxPool2d):
        raise ValueError("a trunk of VGG16 must be a sequence that ends in a max-pool")
    return trunk[:-1], trunk[-1]


def has_cam(head: nn.Module) -> bool:
    """Return whether a head averages over the image and is one linear layer from there, which CAM needs."""
    return _linear_after_average(head) is not None


def heat_maps(
    classifier: Classifier,
    model: ModelName,
    images: Tensor,
    classes: Tensor,
    method: Method,
    *,
    pooling: Pooling = "mean",
) -> HeatMaps:
    """Return the map of one class for each image.

    CAM is sum_k w_kc A_k of the trunk's output A and the last layer's weights w: its mean over positions is the
    logit without the bias (Zhou et al. 2016, "Learning Deep Features for Discriminative Localization", eq. 2).
    Grad-CAM is ReLU(sum_k alpha_k A_k) at `HEAT_LAYER`, where alpha_k pools the gradient of the class's logit with
    respect to A_k (Selvaraju et al. 2017, "Grad-CAM", eqs. 1 and 2). All images share one forward and one backward
    pass, without dropout and with stored batch statistics. The network is left as it was, its modes included, and
    no parameter gets a gradient; the caller may have switched gradients off.

    Args:
        classifier: on the images' device.
        model: its trunk.
        images: [n, 3, H, W], normalised, as `ImageSource` gives them.
        classes: int64 [n], the class that each map is of.
        method: CAM, for heads that `has_cam` accepts, or Grad-CAM, for all.
        pooling: of Grad-CAM's gradients; CAM has none.

    Raises:
        ValueError: CAM of a head that has none; `classes` is not [n] or not in [0, C).
    """
    linear = _linear_after_average(classifier.head) if method == "cam" else None
    if method == "cam" and linear is None:
        raise ValueError("CAM needs a head of global average pooling and one linear layer; Grad-CAM does without")
    if classes.shape != images.shape[:1]:
        raise ValueError(f"classes must be [n] for images [n, ...], not {[*classes.shape]} for {[*images.shape]}")
    before, after = split_at_heat_layer(classifier.trunk, model)
    with torch.inference_mode(mode=False), torch.no_grad(), _evaluating(classifier):
        # Nothing before this layer is differentiated.
        activations = before(images)
        if linear is not None:
            activations = after(activations)
            logits = classifier.head(activations)
            maps = _weighted_sum(linear.weight[_checked(classes, logits)], activations)
            return HeatMaps(maps, _widened(logits))
        with torch.enable_grad():
            logits = classifier.head(after(activations.requires_grad_()))
            chosen = nn.functional.one_hot(_checked(classes, logits), logits.shape[1]).to(logits.dtype)
            (gradients,) = torch.autograd.grad(logits, activations, chosen)
        gradients = _widened(gradients)
        weights = gradients.mean((2, 3)) if pooling == "mean" else gradients.sum((2, 3))
        return HeatMaps(_weighted_sum(weights, activations.detach()).relu(), _widened(logits.detach()))


def min_max(maps: Tensor) -> Tensor:
    """Return each map [n, h, w] scaled to [0, 1]; a constant map, which says nothing, becomes all zeros."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return ((maps - low) / (high - low)).masked_fill(high == low, 0)


def enlarge(maps: Tensor, side: int) -> Tensor:
    """Return maps [n, h, w] enlarged bilinearly to [n, side, side], pixel areas aligned, as images are resized.

    Raises:
        ValueError: `side` is smaller than a map.
    """
    if side < max(maps.shape[1:]):
        raise ValueError(f"side must be at least that of the maps {[*maps.shape]}, not {side}")
    pixels = nn.functional.interpolate(maps.unsqueeze(1), (side, side), mode="bilinear", align_corners=False)
    return pixels.squeeze(1)


def mass_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the share of each map's mass that lies on the mask: float64 [n].

    Negative values, which speak against the class, have no mass. So a map must not be shifted before: `min_max` of a
    CAM gives mass to what had none.

    Args:
        maps: [n, H, W], as large as the image that the network saw.
        masks: uint8 or bool [n, H, W], not 0 inside.

    Returns:
        From 0 to 1; NaN where a map has no mass.

    Raises:
        ValueError: the shapes differ.
    """
    if maps.shape != masks.shape:
        raise ValueError(f"maps and masks must be [n, H, W] alike, not {[*maps.shape]} and {[*masks.shape]}")
    mass = maps.double().clamp(min=0)
    return (mass * (masks != 0)).sum((1, 2)) / mass.sum((1, 2))


def peaks(maps: Tensor) -> Tensor:
    """Return row and column of the highest value of each map [n, H, W], the first in reading order: int64 [n, 2].

    A constant map has no peak, but is given (0, 0): leave it out before.
    """
    place = maps.flatten(1).argmax(1)
    return torch.stack([place // maps.shape[2], place % maps.shape[2]], 1)


def hits(peaks: Tensor, masks: Tensor) -> Tensor:
    """Return whether each peak lies on its mask: bool [n].

    The mean over images is the accuracy of the pointing game (Zhang et al. 2018, "Top-Down Neural Attention by
    Excitation Backprop"), here without a tolerance around the object.

    Args:
        peaks: int64 [n, 2] of rows and columns.
        masks: bool or uint8 [n, H, W], not 0 inside, as large as the maps that the peaks are of.

    Raises:
        ValueError: there are not as many masks as peaks.
    """
    if len(peaks) != len(masks):
        raise ValueError(f"there must be a mask for each peak, not {len(masks)} for {len(peaks)}")
    return masks[torch.arange(len(masks), device=masks.device), peaks[:, 0], peaks[:, 1]] != 0


def _linear_after_average(head: nn.Module) -> nn.Linear | None:
    """Return the linear layer of a head that is nothing but a global average and that layer, else None."""
    match list(head.children()):
        case [nn.AdaptiveAvgPool2d(output_size=1 | (1, 1)), nn.Flatten(), nn.Linear() as linear]:
            return linear
    return None


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Switch every layer to evaluation and each back to its own mode: a frozen trunk's differs from its head's."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def _checked(classes: Tensor, logits: Tensor) -> Tensor:
    """Return the classes on the logits' device; ValueError where one is no class."""
    classes, count = classes.to(logits.device), logits.shape[1]
    if bool(((classes < 0) | (classes >= count)).any()):
        raise ValueError(f"classes must be in [0, {count}), not {sorted(set(classes.tolist()))}")
    return classes


def _weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """Return sum_k of weights [n, K] times activations [n, K, h, w]: [n, h, w] of the wider type.

    Written out, since autocast would compute an `einsum` in bfloat16.
    """
    return (weights[:, :, None, None] * activations).sum(1)


def _widened(values: Tensor) -> Tensor:
    """Return values that autocast left in bfloat16 as float32, others as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
