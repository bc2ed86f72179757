"""Networks: the papers' sizes, torchvision's outputs, and weights drawn from the seed alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.transforms.v2 import functional

from cxrdist.learn.features import FEATURE_BATCH, extract_features, head_pools
from cxrdist.learn.memory import ADAM_COPIES, FLOAT_BYTES, training_bytes
from cxrdist.learn.models import (
    Classifier,
    build_classifier,
    build_head,
    build_trunk,
    count_parameters,
    feature_shape,
)
from cxrdist.learn.sources import (
    IMAGENET_MEAN,
    IMAGENET_SD,
    FeatureRows,
    FeatureSource,
    ImageSource,
    MappedFeatureSource,
)
from cxrdist.learn.train import predict
from cxrdist.study.plan import FEATURE_CHUNK
from cxrdist.study.recipe import Network
from tests.unit.learn_examples import CPU, Images, Table, grey_images, recipe, tiny_network

pytestmark = pytest.mark.usefixtures("one_thread")

RESNET = Network("resnet34", 3, 32)
VGG = Network("vgg16", 4, 224)
SMALL_VGG = Network("vgg16", 3, 32, vgg_hidden=8)


@pytest.fixture(scope="module")
def trunks():
    return {model: build_trunk(model, seed=1).eval() for model in ("resnet34", "vgg16")}


def images(n, side=32):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def equal_weights(first, second):
    ours, theirs = first.state_dict(), second.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_numbers_of_parameters_are_the_papers():
    conv, head = 14_714_688, 151_058_244 - 14_714_688
    assert count_parameters(VGG).total == 151_058_244
    assert count_parameters(replace(VGG, transfer="frozen")).trained == head
    assert count_parameters(VGG).trained - head == conv
    assert count_parameters(replace(VGG, vgg_head="average_pool")).total == 50_394_948
    stock, old_head, new_head = 21_797_672, 512 * 1000 + 1000, 512 * 3 + 3
    assert count_parameters(RESNET).total == stock - old_head + new_head
    assert count_parameters(replace(RESNET, transfer="frozen")).trained == new_head


def test_parameters_are_counted_without_being_made(monkeypatch):
    made = []
    monkeypatch.setattr(nn.init, "kaiming_normal_", lambda weight, **_: made.append(weight.device.type))
    count_parameters(VGG)
    assert set(made) == {"meta"}


def test_trunks_give_what_torchvisions_networks_give_before_their_heads(trunks):
    with torch.device("meta"):
        features = torchvision.models.vgg16(weights=None, init_weights=False).features.eval()
        resnet = torchvision.models.resnet34(weights=None).eval()
    features.load_state_dict(trunks["vgg16"].state_dict(), assign=True)
    names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    state = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    for key, value in trunks["resnet34"].state_dict().items():
        number, _, rest = key.partition(".")
        state[f"{names[int(number)]}.{rest}"] = value
    resnet.load_state_dict(state, assign=True)
    last_block = []
    resnet.layer4.register_forward_hook(lambda _, __, output: last_block.append(output))
    batch = images(2)
    with torch.inference_mode():
        resnet(batch)
        torch.testing.assert_close(trunks["resnet34"](batch), last_block[0])
        torch.testing.assert_close(trunks["vgg16"](batch), features(batch))


@pytest.mark.parametrize(
    "network", [RESNET, SMALL_VGG, replace(SMALL_VGG, image_size=64)], ids=["resnet", "vgg", "vgg-64"]
)
def test_shapes_are_those_that_heads_expect(network, trunks):
    with torch.inference_mode():
        output = trunks[network.model](images(2, network.image_size))
        assert output.shape[1:] == feature_shape(network)
        assert build_head(network, 1, 0)(output).shape == (2, 3)


@pytest.mark.parametrize("network", [RESNET, SMALL_VGG], ids=["resnet", "vgg"])
def test_random_weights_come_from_the_seed_alone_and_leave_torchs_generator_as_it_was(network, trunks):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = build_classifier(network, seed=1, fold=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert equal_weights(first.trunk, trunks[network.model])
    assert not equal_weights(first.trunk, build_trunk(network.model, seed=2))
    torch.manual_seed(12)
    assert equal_weights(first.head, build_head(network, seed=1, fold=0))
    assert not equal_weights(first.head, build_head(network, seed=1, fold=1))
    assert not equal_weights(first.head, build_head(network, seed=2, fold=0))


def test_random_filters_of_vgg_are_drawn_as_torchvision_draws_them(trunks):
    for layer in trunks["vgg16"]:
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * 9
            assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
            assert layer.bias is not None
            assert not layer.bias.any()


@pytest.mark.parametrize(("head", "flat"), [("flatten", 512 * 49), ("average_pool", 512)])
def test_vggs_head_is_three_hidden_layers_with_dropout(head, flat):
    with torch.device("meta"):
        layers = build_head(replace(VGG, vgg_head=head, dropout=0.3), 1, 0)
    linear = [(layer.in_features, layer.out_features) for layer in layers if isinstance(layer, nn.Linear)]
    assert linear == [(flat, 4096), (4096, 4096), (4096, 4096), (4096, 4)]
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == [0.3] * 3
    assert head_pools(replace(VGG, vgg_head=head)) == (head == "average_pool")


def normalised(grey):
    three = torch.from_numpy(grey).unsqueeze(1).expand(-1, 3, -1, -1)
    scaled = functional.to_dtype(three, torch.float32, scale=True)
    return functional.normalize(scaled, list(IMAGENET_MEAN), list(IMAGENET_SD))


def test_images_are_normalised_as_torchvision_does():
    grey = grey_images(5)
    batch = ImageSource(Images(grey), None, "whole", CPU).batch(torch.tensor([4, 0, 0]))
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(batch, normalised(grey[[4, 0, 0]]), rtol=1e-5, atol=1e-6)
    weights = torchvision.models.ResNet34_Weights.IMAGENET1K_V1.transforms()
    assert (tuple(weights.mean), tuple(weights.std)) == (IMAGENET_MEAN, IMAGENET_SD)


def test_the_segmented_view_is_black_outside_the_mask_before_normalisation():
    grey = grey_images(4)
    mask = (grey_images(4, seed=1) > 99).astype(np.uint8)
    batch = ImageSource(Images(grey), Images(mask), "segmented", CPU).batch(torch.tensor([2, 1]))
    torch.testing.assert_close(batch, normalised((grey * mask)[[2, 1]]), rtol=1e-5, atol=1e-6)
    whole = ImageSource(Images(grey), Images(mask), "whole", CPU).batch(torch.tensor([2, 1]))
    torch.testing.assert_close(whole, normalised(grey[[2, 1]]), rtol=1e-5, atol=1e-6)


def test_a_view_that_needs_masks_is_refused_without_them():
    with pytest.raises(ValueError, match="view 'segmented' needs masks"):
        ImageSource(Images(grey_images(1)), None, "segmented", CPU)


def test_rows_kept_on_the_device_give_the_same_batches_and_no_others():
    grey = grey_images(9)
    mask = (grey_images(9, seed=1) > 99).astype(np.uint8)
    source, resident = (ImageSource(Images(grey), Images(mask), "segmented", CPU) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cxrdist.learn.sources.RESIDENT_BLOCK", 3)
        resident.make_resident(np.array([1, 3, 4, 7]))
    for rows in ([7, 1], [3, 3, 4, 1]):
        assert torch.equal(resident.batch(torch.tensor(rows)), source.batch(torch.tensor(rows)))
    for rows in ([1, 2], [8]):
        with pytest.raises(IndexError):
            resident.batch(torch.tensor(rows))


def test_features_are_the_trunks_output_however_rows_are_shared_out(trunks):
    source = ImageSource(Images(grey_images(2 * FEATURE_BATCH + 5)), None, "whole", CPU)
    rows = torch.arange(2 * FEATURE_BATCH + 5)
    trunk = nn.Sequential(*tiny_network()[:3], nn.MaxPool2d(8))
    whole = extract_features(trunk.train(), source, rows, pooled=False)
    with torch.inference_mode():
        torch.testing.assert_close(whole, trunk.eval()(source.batch(rows)))
    parts = [extract_features(trunk, source, part, pooled=False) for part in torch.split(rows, FEATURE_BATCH)]
    assert torch.equal(torch.cat(parts), whole)
    pooled = extract_features(trunk, source, rows, pooled=True)
    torch.testing.assert_close(pooled, whole.mean((2, 3), keepdim=True))
    assert (whole.dtype, whole.device.type, whole.is_contiguous()) == (torch.float32, "cpu", True)


@pytest.mark.parametrize("model", ["vgg16", "resnet34"])
def test_features_are_the_same_bytes_for_any_number_of_threads(model, trunks):
    """Studies with other numbers of threads take them from one cache."""
    rows = torch.arange(FEATURE_BATCH + 3)
    source = ImageSource(Images(grey_images(len(rows))), None, "whole", CPU)
    trunk = trunks[model].to(memory_format=torch.channels_last)
    found = []
    for threads in (2, 3, 5, 1):
        torch.set_num_threads(threads)
        found.append(extract_features(trunk, source, rows, pooled=True))
    assert all(torch.equal(one, found[0]) for one in found)


def test_units_of_features_end_where_batches_end():
    assert FEATURE_CHUNK % FEATURE_BATCH == 0


@pytest.mark.parametrize(
    "network", [RESNET, SMALL_VGG, replace(SMALL_VGG, vgg_head="average_pool")], ids=["resnet", "vgg", "vgg-pooled"]
)
def test_a_head_on_frozen_features_predicts_what_the_whole_network_does(network, trunks):
    head = build_head(network, seed=1, fold=0)
    source = ImageSource(Images(grey_images(6)), None, "whole", CPU)
    rows = torch.arange(6)
    features = extract_features(trunks[network.model], source, rows, pooled=head_pools(network))
    by_head = predict(head, FeatureSource(features, CPU), rows, recipe(), CPU)
    whole = predict(Classifier(trunks[network.model], head), source, rows, recipe(), CPU)
    torch.testing.assert_close(by_head, whole, rtol=1e-4, atol=1e-6)


def test_features_are_taken_by_row():
    features = torch.randn(5, 2, 1, 1)
    assert torch.equal(FeatureSource(features, CPU).batch(torch.tensor([3, 3, 0])), features[[3, 3, 0]])
    assert torch.equal(Table(features).batch(torch.tensor([1])), features[1:2])


def test_features_that_are_not_held_in_memory_give_the_same_batches():
    features = torch.randn(7, 6)
    parts = [part.numpy() for part in features.split([3, 1, 3])]
    mapped = MappedFeatureSource(FeatureRows(parts), (3, 2, 1), CPU)
    held = FeatureSource(features.view(-1, 3, 2, 1), CPU)
    for rows in ([6, 0, 3, 3], [2], []):
        index = torch.tensor(rows, dtype=torch.int64)
        assert torch.equal(mapped.batch(index), held.batch(index))
    some = FeatureRows(parts, np.array([5, 1, 3]))
    assert torch.equal(torch.from_numpy(some.take(np.array([2, 0]))), features[[3, 5]])
    assert (len(some), some.nbytes) == (3, 3 * 6 * 4)


def test_a_frozen_network_needs_its_weights_and_the_heads_gradients_and_moments():
    count = count_parameters(replace(RESNET, transfer="frozen"))
    expected = FLOAT_BYTES * (count.total - count.trained + ADAM_COPIES * count.trained)
    assert training_bytes(replace(RESNET, transfer="frozen"), 16) == expected


def test_memory_grows_with_every_image_of_a_batch_by_the_same():
    one, two, four = (training_bytes(SMALL_VGG, n) for n in (1, 2, 4))
    assert one > FLOAT_BYTES * ADAM_COPIES * count_parameters(SMALL_VGG).total
    assert four - two == 2 * (two - one)
    # 13 convolutions at 32 to 2 pixels a side, five max-pools, and the head; ReLU and flattening reuse their input.
    convolutions = 2 * 64 * 32**2 + 2 * 128 * 16**2 + 3 * 256 * 8**2 + 3 * 512 * 4**2 + 3 * 512 * 2**2
    pools = 64 * 16**2 + 128 * 8**2 + 256 * 4**2 + 512 * 2**2 + 512
    head = 512 + 3 * 8 + 3 * 8 + 3
    assert two - one == FLOAT_BYTES * (convolutions + pools + head)
