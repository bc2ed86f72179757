"""What a network sees of an image: the views, from uint8 grey and the lung mask, on any device.

All arithmetic is of integers, so that a view has the same bytes on every device and in every batch.
"""

import torch
from torch import Tensor

from cxrdist.study.recipe import ViewName

LUNG_BOX_MARGIN = 0.05
"""Of the image's side, around the lungs in the view `lung_box`."""


def apply_view(grey: Tensor, mask: Tensor, view: ViewName) -> Tensor:
    """Return a view of images.

    Args:
        grey: uint8 [n, H, W].
        mask: uint8 [n, H, W] of 0 and 1, on the same device.
        view: `whole`: the image as it is; `segmented`: 0 outside the mask; `lungs_blanked`: 0 inside the mask;
            `lung_box`: the mask's box with a margin, stretched bilinearly to the image's size; without any pixel in
            the mask, the whole image.

    Returns:
        uint8 [n, H, W]; `grey` itself for `whole`.
    """
    if view == "whole":
        return grey
    if view == "segmented":
        return grey * mask
    if view == "lungs_blanked":
        return grey * (1 - mask)
    return _stretch(grey, lung_boxes(mask, LUNG_BOX_MARGIN))


def lung_boxes(mask: Tensor, margin: float) -> Tensor:
    """Return the box of each mask: int64 [n, 4] of top, left, bottom and right, the last two exclusive.

    Args:
        mask: uint8 [n, H, W] of 0 and 1; an empty one has the image as its box.
        margin: share of the image's sides, rounded to whole pixels, that a box has around the mask; cut at the
            image's border.
    """
    inside = mask != 0
    (top, bottom), (left, right) = (_extent(inside.any(dim), margin) for dim in (2, 1))
    return torch.stack([top, left, bottom, right], 1)


def _extent(inside: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Return the first position of bool [n, side] that belongs to the box, and the one after the last: int64 [n]."""
    side = inside.shape[1]
    at = torch.arange(side, device=inside.device)
    around = round(margin * side)
    first = torch.where(inside, at, side).amin(1) - around
    stop = torch.where(inside, at, -1).amax(1) + 1 + around
    empty = ~inside.any(1)
    return first.clamp(min=0).masked_fill(empty, 0), stop.clamp(max=side).masked_fill(empty, side)


def _stretch(grey: Tensor, boxes: Tensor) -> Tensor:
    """Return the boxes [n, 4] of uint8 [n, H, W], each enlarged to [H, W], rounded to the nearest grey."""
    count, height, width = grey.shape
    top, left, bottom, right = boxes.unbind(1)
    above, below, weight = _neighbours(top, bottom, height)
    image = torch.arange(count, device=grey.device).unsqueeze(1)
    weight = weight.unsqueeze(2)
    rows = grey[image, above] * (2 * height - weight) + grey[image, below] * weight
    before, after, weight = (each.unsqueeze(1).expand(-1, height, -1) for each in _neighbours(left, right, width))
    total = rows.gather(2, before) * (2 * width - weight) + rows.gather(2, after) * weight
    return ((total + 2 * height * width) // (4 * height * width)).to(torch.uint8)


def _neighbours(first: Tensor, stop: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two source positions between which each of `side` pixels across [first, stop) lies.

    Also the second's weight, in units of 1 / (2 side); all int64 [n, side].
    """
    first, last = first.unsqueeze(1), stop.unsqueeze(1) - 1
    # Pixel i has its centre at (i + 1/2) * length / side - 1/2 from the box's first; here times 2 side.
    at = (2 * torch.arange(side, device=first.device) + 1) * (last + 1 - first) - side
    at = at.clamp(min=0)
    lower = first + at // (2 * side)
    # What lies beyond the box is not mixed in, as in a crop that was cut before.
    return lower, torch.minimum(lower + 1, last), at % (2 * side)
