"""Batch normalisation in training: what is kept is the published network, and gives what was trained."""

import copy

import pytest
import torch
from torch import nn

from cxrdist.lungs.network import LungNet, build_lung_net
from cxrdist.lungs.normalization import folded, with_normalization

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network():
    return build_lung_net(7)


def images(n=4, side=32, seed=0):
    return torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(seed))


def norms(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@torch.no_grad()
def with_a_past(normalized):
    """Statistics, scales and shifts such as training leaves them, of either sign."""
    generator = torch.Generator().manual_seed(3)
    for norm in norms(normalized):
        for values, least, span in (
            (norm.running_mean, -0.5, 1.0),
            (norm.running_var, 0.3, 2.0),
            (norm.weight, -0.5, 2.0),
            (norm.bias, -0.5, 1.0),
        ):
            values.copy_(least + span * torch.rand(values.shape, generator=generator))
    return normalized


def test_what_is_kept_gives_what_was_trained(network):
    normalized = with_a_past(with_normalization(network, None)).eval()
    with torch.inference_mode():
        expected, actual = normalized(images()), folded(normalized).eval()(images())
    assert expected.std() > 0.01
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_what_is_kept_is_the_published_network(network):
    kept = folded(with_normalization(network, None))
    assert sum(parameter.numel() for parameter in kept.parameters()) == 5_468_897
    assert list(kept.state_dict()) == list(LungNet().state_dict())


def test_all_convolutions_but_the_last_are_normalised(network):
    assert len(norms(with_normalization(network, None))) == 21


def test_the_network_itself_is_left_as_it_was(network):
    before = copy.deepcopy(network.state_dict())
    normalized = with_normalization(network, images())
    with torch.no_grad():
        for parameter in normalized.parameters():
            parameter.zero_()
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_a_known_network_gives_the_same_answers_with_normalisation(network, training):
    known = folded(with_a_past(with_normalization(network, None)))
    normalized = with_normalization(known, images()).train(training)
    with torch.inference_mode():
        expected, actual = known(images()), normalized(images())
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_channels_of_random_weights_start_with_mean_0_and_deviation_1(network):
    normalized, seen = with_normalization(network, None), []
    for norm in norms(normalized):
        norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output.clone()))
    normalized.train()(images())
    assert len(seen) == 21
    for output in seen:
        mean, sd = output.mean(dim=(0, 2, 3)), output.std(dim=(0, 2, 3), correction=0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-4)
        # The smallest variances are not far above what is added to them.
        torch.testing.assert_close(sd, torch.ones_like(sd), rtol=0.02, atol=0)


def test_the_network_learns_faster_with_it(network):
    bright = (images(seed=1) > 0).float()
    losses = []
    for learner in (copy.deepcopy(network), with_normalization(network, None)):
        optimizer = torch.optim.Adam(learner.train().parameters(), lr=1e-3)
        for _ in range(12):
            loss = nn.functional.binary_cross_entropy_with_logits(learner(images(seed=1)), bright)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    plain, normalized = losses
    assert normalized < 0.8 * plain
