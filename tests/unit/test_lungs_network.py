"""The lung network: the layout that paper 1 states, wired as published, and random from the seed alone."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cxrdist.lungs.network import STRIDE, LungNet, build_lung_net

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network():
    return build_lung_net(7).eval()


def images(n=2, height=32, width=48, seed=0):
    return torch.randn(n, 1, height, width, generator=torch.Generator().manual_seed(seed))


def convolutions(network):
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def bytes_of(network):
    return {key: value.numpy().tobytes() for key, value in network.state_dict().items()}


def test_it_has_the_papers_22_convolutions_4_pools_and_the_published_number_of_parameters(network):
    assert len(convolutions(network)) == 22
    assert len([module for module in network.modules() if isinstance(module, nn.MaxPool2d)]) == 4
    assert sum(parameter.numel() for parameter in network.parameters()) == 5_468_897
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_one_pass_uses_each_convolution_once_each_pool_once_and_merges_4_times(network, monkeypatch):
    used, merged, join = [], [], torch.cat

    def cat(tensors, *args, **kwargs):
        merged.append([tensor.shape[1] for tensor in tensors])
        return join(tensors, *args, **kwargs)

    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.MaxPool2d))]
    hooks = [layer.register_forward_hook(lambda layer, *_: used.append(layer)) for layer in layers]
    monkeypatch.setattr(torch, "cat", cat)
    with torch.inference_mode():
        network(images())
    for hook in hooks:
        hook.remove()
    assert sorted(map(id, used)) == sorted(map(id, layers))
    assert merged == [[128, 256], [64, 256], [64, 128], [32, 64]]


def test_every_convolution_is_3x3_and_keeps_the_size(network):
    for layer in convolutions(network):
        assert (layer.kernel_size, layer.padding, layer.stride, layer.dilation, layer.groups) == (
            *((3, 3), (1, 1), (1, 1), (1, 1)),
            1,
        )
        assert layer.bias is not None


def test_channels_are_the_published_ones_from_one_to_one(network):
    layers = convolutions(network)
    assert (layers[0].in_channels, layers[-1].out_channels) == (1, 1)
    assert [layer.out_channels for layer in layers] == [
        *(32, 32, 64, 64, 64, 64, 128, 128, 256),
        *(256, 256, 256, 256, 256, 256, 128, 128, 128, 64, 64, 64, 1),
    ]


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (80, 16)])
def test_the_answer_has_the_size_of_the_image(network, size):
    with torch.inference_mode():
        assert network(images(3, *size)).shape == (3, 1, *size)


def test_a_side_that_is_no_multiple_of_16_is_refused(network):
    assert STRIDE == 16
    with torch.inference_mode(), pytest.raises(RuntimeError):
        network(images(1, 32, 40))


def plain(state, values):
    """The published network, written out step by step from its parameters in their order."""
    parameters = iter(state)

    def convolve(values, relu=True):
        weight, bias = next(parameters), next(parameters)
        values = functional.conv2d(values, weight, bias, padding=1)
        return functional.relu(values) if relu else values

    skips = []
    for _ in range(4):
        values = convolve(convolve(values))
        skips.append(values)
        values = functional.max_pool2d(values, 2)
    values = convolve(values)
    for skip in reversed(skips):
        values = values.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        values = convolve(convolve(values))
        values = convolve(torch.cat([skip, values], dim=1))
    values = convolve(values, relu=False)
    assert next(parameters, None) is None
    return values


def test_its_answer_is_that_of_the_published_network_written_out(network):
    given = images()
    kept = given.clone()
    with torch.inference_mode():
        torch.testing.assert_close(network(given), plain(network.state_dict().values(), kept), rtol=1e-4, atol=1e-5)
    assert torch.equal(given, kept)


def test_every_parameter_learns():
    network = build_lung_net(0)
    network(images(1, 32, 32)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_what_is_far_away_counts_so_that_a_lung_is_seen_as_a_whole(network):
    given = images(1, 64, 64)
    moved = given.clone()
    moved[..., :4, :4] += 5
    with torch.inference_mode():
        changed = (network(given) - network(moved)).abs()[0, 0]
    assert changed[40:, 40:].max() > 0


def test_weights_come_from_the_seed_alone():
    first, second, other = build_lung_net(3), build_lung_net(3), build_lung_net(4)
    assert bytes_of(first) == bytes_of(second)
    weights = [name for name in bytes_of(first) if name.endswith("weight")]
    assert len(weights) == 22
    assert all(bytes_of(first)[name] != bytes_of(other)[name] for name in weights)


def test_drawing_weights_leaves_every_generator_as_it_was():
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    build_lung_net(1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (str(np.random.get_state()), random.getstate()) == before[1:]


def test_random_weights_neither_blow_up_nor_die_out():
    network = build_lung_net(11)
    assert not any(layer.bias.any() for layer in convolutions(network) if layer.bias is not None)
    with torch.inference_mode():
        answer = network(images(2, 64, 64))
    assert 0.03 < answer.std() < 30
    assert 0.02 < (answer > 0).float().mean() < 0.98


def test_the_class_draws_like_any_module_and_only_the_builder_by_seed():
    torch.manual_seed(0)
    first = LungNet()
    assert bytes_of(first) != bytes_of(LungNet())
