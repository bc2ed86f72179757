"""Claims: convolving before doubling makes the lung network faster, for the same answer; so do layout and precision.

Run with `python -m benchmarks.lung_network [--threads N]`: the network against the same weights with the published
order of layers (nearest-neighbour up-sampling, then a convolution of the larger values), and against itself with the
other order of dimensions in memory, in training with batch normalisation, and, where the device has bf16 at all, in the
other precision, interleaved in one process.
"""

import argparse
import copy
import time
from collections.abc import Callable
from statistics import median
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from cxrdist.lungs.inputs import SIDE
from cxrdist.lungs.network import LungNet, build_lung_net
from cxrdist.lungs.normalization import with_normalization
from cxrdist.lungs.train import Precision, lung_autocast, lung_precision, lung_training_layout

M = TypeVar("M", bound=nn.Module)

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
    def masks(network: nn.Module, precision: Precision) -> Tensor:
        with lung_autocast(precision, device):
            return cast(Tensor, network(images)[:, 0])

    def step(network: nn.Module, precision: Precision) -> Tensor:
        with lung_autocast(precision, device):
            logits = network(images)[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), lung)
        network.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    with torch.inference_mode():
        answer = ours(images)
        difference = (answer - published(ours)(images)).abs().max().item()
    chosen: Precision = "bf16" if lung_precision("auto", device) is torch.bfloat16 else "fp32"
    print(
        f"{device.type}, {chosen}, {threads} threads, {SIDE} x {SIDE}, batches of {BATCH}, "
        f"medians of {REPETITIONS}; logits up to {answer.abs().max().item():.1f}, which differ by at most "
        f"{difference:.1e} in fp32"
    )
    for kind, work, layout in (
        ("masks", masks, torch.channels_last),
        ("training", step, lung_training_layout(device)),
    ):
        other = torch.contiguous_format if layout is torch.channels_last else torch.channels_last
        runs: dict[str, tuple[nn.Module, Precision]] = {
            "ours": (in_layout(ours, layout), chosen),
            "published order": (in_layout(published(ours), layout), chosen),
            _NAMES[other]: (in_layout(ours, other), chosen),
        }
        if kind == "training":
            runs["batch normalisation"] = (in_layout(with_normalization(ours, None).to(device), layout), chosen)
        if _has_bf16(device):
            runs["fp32" if chosen == "bf16" else "bf16"] = (runs["ours"][0], "fp32" if chosen == "bf16" else "bf16")
        for run in runs.values():
            _seconds(work, *run)
        rounds = [{name: _seconds(work, *run) for name, run in runs.items()} for _ in range(REPETITIONS)]
        print(f"{kind}: {BATCH / median(seconds['ours'] for seconds in rounds):.2f} images/s, {_NAMES[layout]}")
        for name in list(runs)[1:]:
            rate = BATCH / median(seconds[name] for seconds in rounds)
            ratio = median(seconds[name] / seconds["ours"] for seconds in rounds)
            print(f"    {name}: {rate:.2f} images/s, ratio {ratio:.2f}")


def in_layout(network: M, layout: torch.memory_format) -> M:
    """Return a copy of `network` that has its weights in `layout` and takes images in it, too."""
    copied = copy.deepcopy(network).to(memory_format=layout)
    copied.register_forward_pre_hook(lambda _, images: (images[0].contiguous(memory_format=layout),))
    return copied


def _has_bf16(device: torch.device) -> bool:
    """Return whether bf16 is in the instructions of `device`: emulated, it would be waited for."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def _seconds(work: Callable[[nn.Module, Precision], Tensor], network: nn.Module, precision: Precision) -> float:
    start = time.perf_counter()
    # Reading a number waits for the device.
    work(network, precision).sum().item()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
