"""Claims: convolving before doubling makes the lung network faster, for the same answer; so does its layout.

Run with `python -m benchmarks.lung_network [--threads N]`: the network against the same weights with the published
order of layers (nearest-neighbour up-sampling, then a convolution of the larger values), and against itself with the
other order of dimensions in memory, interleaved in one process.
"""

import argparse
import copy
import time
from collections.abc import Callable
from statistics import median
from typing import cast

import torch
from torch import Tensor, nn

from cxrdist.lungs.inputs import SIDE
from cxrdist.lungs.network import LungNet, build_lung_net
from cxrdist.lungs.train import lung_autocast, lung_precision, lung_training_layout

BATCH = 4
REPETITIONS = 7
_NAMES = {torch.channels_last: "channels last", torch.contiguous_format: "channels first"}


def published(network: LungNet) -> LungNet:
    """Return a copy of `network` that up-samples first, as the publication says."""
    plain = copy.deepcopy(network)
    for up in plain.up:
        first = cast(nn.Conv2d, up.first)
        layer = nn.Conv2d(first.in_channels, first.out_channels, kernel_size=3, padding=1)
        layer.load_state_dict(first.state_dict())
        up.first = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), layer)
    return plain.to(first.weight.device)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ours = build_lung_net(0).to(device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 1, SIDE, SIDE, generator=generator).to(device)
    lung = (torch.rand(BATCH, SIDE, SIDE, generator=generator) > 0.7).float().to(device)

    @torch.inference_mode()
    def masks(network: nn.Module) -> Tensor:
        with lung_autocast("auto", device):
            return cast(Tensor, network(images)[:, 0])

    def step(network: nn.Module) -> Tensor:
        with lung_autocast("auto", device):
            logits = network(images)[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), lung)
        network.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    with torch.inference_mode():
        answer = ours(images)
        difference = (answer - published(ours)(images)).abs().max().item()
    print(
        f"{device.type}, {lung_precision('auto', device)}, {threads} threads, {SIDE} x {SIDE}, batches of {BATCH}, "
        f"medians of {REPETITIONS}; logits up to {answer.abs().max().item():.1f}, which differ by at most "
        f"{difference:.1e} in fp32"
    )
    for kind, work, layout in (
        ("masks", masks, torch.channels_last),
        ("training", step, lung_training_layout(device)),
    ):
        other = torch.contiguous_format if layout is torch.channels_last else torch.channels_last
        networks = {
            "ours": in_layout(ours, layout),
            "published order": in_layout(published(ours), layout),
            _NAMES[other]: in_layout(ours, other),
        }
        for network in networks.values():
            _seconds(work, network)
        rounds = [{name: _seconds(work, one) for name, one in networks.items()} for _ in range(REPETITIONS)]
        print(f"{kind}: {BATCH / median(seconds['ours'] for seconds in rounds):.2f} images/s, {_NAMES[layout]}")
        for name in list(networks)[1:]:
            rate = BATCH / median(seconds[name] for seconds in rounds)
            ratio = median(seconds[name] / seconds["ours"] for seconds in rounds)
            print(f"    {name}: {rate:.2f} images/s, ratio {ratio:.2f}")


def in_layout(network: LungNet, layout: torch.memory_format) -> LungNet:
    """Return a copy of `network` that has its weights in `layout` and takes images in it, too."""
    copied = copy.deepcopy(network).to(memory_format=layout)
    copied.register_forward_pre_hook(lambda _, images: (images[0].contiguous(memory_format=layout),))
    return copied


def _seconds(work: Callable[[nn.Module], Tensor], network: nn.Module) -> float:
    start = time.perf_counter()
    # Reading a number waits for the device.
    work(network).sum().item()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
