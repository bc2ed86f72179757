"""Training one network on several devices, each with its part of every batch, to the results of one device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cxrdist.learn.ranks import Ranks

Network = Callable[[Tensor, int], Tensor]
"""Takes the input of this rank's part of a batch and the size of the whole batch, returns logits of the part."""


@contextmanager
def shared(model: nn.Module, ranks: Ranks) -> Iterator[Network]:
    """Give what computes the logits of a rank's part; `backward` averages the gradients over the ranks.

    While the context lasts, layers of `model` that look at the whole batch (`BatchNorm2d`) or draw for it (`Dropout`)
    do so for all parts of it; their parameters and buffers, and the names of these, stay what they are.
    """
    if ranks.group is None:
        yield lambda part, _: model(part)
        return
    batch = _Batch(ranks)
    replaced = [(parent, name, layer, _for_whole_batch(layer, batch)) for parent, name, layer in _layers(model)]
    for parent, name, _, new in replaced:
        setattr(parent, name, new)
    # Buckets hold the gradients themselves, in their parameters' memory layout. Buffers are the same in all ranks.
    network = DistributedDataParallel(
        model, process_group=ranks.group, forward_sync_buffers=False, gradient_as_bucket_view=True
    )

    def forward(part: Tensor, n: int) -> Tensor:
        batch.n = n
        logits: Tensor = network(part)
        return logits

    try:
        yield forward
    finally:
        for parent, name, layer, new in replaced:
            setattr(parent, name, layer.train(new.training))


@dataclass
class _Batch:
    """The batch that is in work."""

    ranks: Ranks
    n: int = 0
    """Its size, of all parts together."""


def _layers(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    return [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, (nn.BatchNorm2d, nn.Dropout))
    ]


def _for_whole_batch(layer: nn.Module, batch: _Batch) -> nn.Module:
    if isinstance(layer, nn.Dropout):
        return WholeDropout(layer.p, batch)
    assert isinstance(layer, nn.BatchNorm2d)
    on_gpu = layer.running_mean is not None and layer.running_mean.device.type == "cuda"
    whole: nn.BatchNorm2d | GpuBatchNorm
    if on_gpu:
        whole = GpuBatchNorm(layer.num_features, layer.eps, layer.momentum, process_group=batch.ranks.group)
    else:
        whole = WholeBatchNorm(layer.num_features, layer.eps, layer.momentum)
        whole.ranks = batch.ranks
    whole.weight, whole.bias = layer.weight, layer.bias
    for name, buffer in layer.named_buffers():
        setattr(whole, name, buffer)
    return whole


class WholeDropout(nn.Dropout):
    """Drops of a part what one device, with the same state of its generator, drops of the whole batch."""

    def __init__(self, p: float, batch: _Batch) -> None:
        super().__init__(p)
        self._batch = batch

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [n of the part, ...] with values dropped, and the others scaled."""
        if not self.training:
            return inputs
        whole = nn.functional.dropout(inputs.new_ones(self._batch.n, *inputs.shape[1:]), self.p)
        return inputs * self._batch.ranks.part(whole)


class GpuBatchNorm(nn.SyncBatchNorm):
    """Torch's own, but for empty parts."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return the normalised part [n, C, H, W]."""
        # Of an empty input torch exchanges statistics in the input's type, of others in fp32.
        return super().forward(input if len(input) else input.float())


class WholeBatchNorm(nn.BatchNorm2d):
    """Batch normalisation by the statistics of the whole batch, for devices that `SyncBatchNorm` does not take."""

    ranks: Ranks

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return the normalised part [n, C, H, W]."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            mean, variance, count = _statistics(input, self.ranks)
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        output: Tensor = _Normalise.apply(input, self.weight, self.bias, mean, variance, count, self.eps, self.ranks)
        return output


def _statistics(part: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean and the variance of each channel over all parts, float32 [C], and the number of values."""
    channels = part.shape[1]
    count = part.numel() // channels
    moments = part.new_zeros(3, channels, dtype=torch.float64)
    if count:
        variance, mean = torch.var_mean(_precise(part), (0, 2, 3), correction=0)
        moments[0] = mean.double() * count
        # In fp64, so that nothing is lost where the mean is larger than the deviation.
        moments[1] = (variance.double() + mean.double().square()) * count
        moments[2] = count
    total, squares, counts = ranks.sum(moments)
    mean = total / counts
    variance = (squares / counts - mean.square()).clamp(min=0)
    precise = _precise(part).dtype
    return mean.to(precise), variance.to(precise), counts[0].to(precise)


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


class _Normalise(torch.autograd.Function):
    """Subtract the mean and divide by the deviation of the whole batch, which depend on all of its parts."""

    @staticmethod
    def forward(
        context: Any,
        part: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
        ranks: Ranks,
    ) -> Tensor:
        context.save_for_backward(part, weight, mean, (variance + eps).rsqrt(), count)
        context.ranks = ranks
        return nn.functional.batch_norm(part, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        part, weight, mean, scale, count = context.saved_tensors
        mean, scale, factor = (each[:, None, None] for each in (mean, scale, weight * scale))
        normal, gradient = (_precise(part) - mean) * scale, _precise(gradient)
        of_bias, of_weight = gradient.sum((0, 2, 3)), (gradient * normal).sum((0, 2, 3))
        through_mean, through_scale = context.ranks.sum(torch.stack([of_bias, of_weight])) / count
        of_part = factor * (gradient - through_mean[:, None, None] - normal * through_scale[:, None, None])
        return of_part.to(part.dtype), of_weight, of_bias, None, None, None, None, None
