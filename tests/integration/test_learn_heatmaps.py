"""Heat maps: CAM and Grad-CAM against each other and plain autograd, and how much of a map lies where."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from cxrdist.learn.heatmaps import (
    Pooling,
    enlarge,
    has_cam,
    heat_maps,
    hits,
    mass_inside,
    min_max,
    peaks,
    split_at_heat_layer,
)
from cxrdist.learn.models import Classifier, build_classifier, build_head, build_trunk
from cxrdist.study.recipe import Network

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS = {"resnet34": Network("resnet34", 3, 64), "vgg16": Network("vgg16", 3, 64, vgg_hidden=32)}
MODELS = list(NETWORKS)
SIZES = {"resnet34": 2, "vgg16": 4}
CLASSES = torch.tensor([0, 2, 1])

integer_maps = arrays(np.float64, (3, 4, 5), elements=st.integers(-50, 50).map(float)).map(torch.from_numpy)
integer_masks = arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 1)).map(torch.from_numpy)


@pytest.fixture(scope="module")
def built():
    return {model: build_classifier(network, seed=1, fold=0) for model, network in NETWORKS.items()}


@pytest.fixture
def classifiers(built):
    """A network of each model in training, the same for all tests; to double precision and back loses nothing."""
    return {model: classifier.float().train().requires_grad_(True) for model, classifier in built.items()}


@pytest.fixture(scope="module")
def images():
    """Noise, each image with a bright square elsewhere."""
    noise = 0.3 * torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for number, (top, left) in enumerate([(0, 0), (25, 10), (40, 40)]):
        noise[number, :, top : top + 20, left : left + 20] += 3
    return noise


def assert_close(maps, expected, tolerance):
    """Maps agree in relation to the largest value of all."""
    scale = expected.abs().max()
    assert scale > 0
    torch.testing.assert_close(maps / scale, expected / scale, rtol=0, atol=tolerance)


def by_plain_autograd(classifier, layer, image, label):
    """Grad-CAM of one image [3, H, W] from what a hook sees, through the graph of the whole network."""
    seen = []
    hook = layer.register_forward_hook(lambda _, __, output: seen.append(output))
    logits = classifier(image.unsqueeze(0))
    hook.remove()
    (gradient,) = torch.autograd.grad(logits[0, label], seen[0])
    alpha = gradient[0].mean((1, 2))
    return torch.relu(torch.einsum("k,khw->hw", alpha, seen[0][0])).detach(), logits[0].detach()


@pytest.mark.parametrize(("dtype", "n", "tolerance"), [(torch.float32, 3, 1e-5), (torch.float64, 1, 1e-10)])
def test_grad_cam_on_the_last_block_is_the_positive_part_of_cam(classifiers, images, dtype, n, tolerance):
    classifier, batch, classes = classifiers["resnet34"].to(dtype), images[:n].to(dtype), CLASSES[:n]
    cam = heat_maps(classifier, "resnet34", batch, classes, "cam").maps
    assert (cam < 0).any()
    factors: dict[Pooling, float] = {"mean": 1 / SIZES["resnet34"] ** 2, "sum": 1}
    for pooling, factor in factors.items():
        grad_cam = heat_maps(classifier, "resnet34", batch, classes, "gradcam", pooling=pooling).maps
        assert grad_cam.dtype == dtype
        assert_close(grad_cam, factor * cam.relu(), tolerance)
        assert_close(min_max(grad_cam), min_max(cam.relu()), tolerance)


def test_the_mean_of_a_cam_is_the_logit_without_the_bias(classifiers, images):
    classifier = classifiers["resnet34"]
    result = heat_maps(classifier, "resnet34", images, CLASSES, "cam")
    expected = (result.logits - classifier.head.get_parameter("2.bias").detach())[torch.arange(3), CLASSES]
    torch.testing.assert_close(result.maps.mean((1, 2)), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_grad_cam_is_what_plain_autograd_gives_image_by_image(classifiers, images, model):
    classifier = classifiers[model]
    result = heat_maps(classifier, model, images, CLASSES, "gradcam")
    assert result.maps.shape == (3, SIZES[model], SIZES[model])
    classifier.eval()
    layer = classifier.trunk.get_submodule({"vgg16": "29", "resnet34": "7"}[model])
    alone = [by_plain_autograd(classifier, layer, *each) for each in zip(images, CLASSES.tolist(), strict=True)]
    assert_close(result.maps, torch.stack([each for each, _ in alone]), 1e-4)
    torch.testing.assert_close(result.logits, torch.stack([each for _, each in alone]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("model", "method"), [("resnet34", "cam"), ("resnet34", "gradcam"), ("vgg16", "gradcam")])
def test_a_batch_gives_each_image_the_map_that_it_gets_alone(classifiers, images, model, method):
    together = heat_maps(classifiers[model], model, images, CLASSES, method)
    alone = [
        heat_maps(classifiers[model], model, images[one : one + 1], CLASSES[one : one + 1], method) for one in range(3)
    ]
    assert_close(together.maps, torch.cat([each.maps for each in alone]), 1e-4)
    torch.testing.assert_close(together.logits, torch.cat([each.logits for each in alone]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("model", "method"), [("resnet34", "cam"), ("resnet34", "gradcam"), ("vgg16", "gradcam")])
def test_each_image_gets_the_map_of_its_own_class(classifiers, images, model, method):
    same = images[:1].expand(3, -1, -1, -1)
    maps = min_max(heat_maps(classifiers[model], model, same, torch.arange(3), method).maps)
    assert all((maps[one] - maps[other]).abs().max() > 0.1 for one, other in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize(("model", "method"), [("resnet34", "cam"), ("resnet34", "gradcam"), ("vgg16", "gradcam")])
def test_the_network_is_left_as_it_was(classifiers, images, model, method):
    classifier = classifiers[model]
    classifier.trunk.eval()
    modes = [layer.training for layer in classifier.modules()]
    state = {key: value.clone() for key, value in classifier.state_dict().items()}
    result = heat_maps(classifier, model, images, CLASSES, method)
    with pytest.raises(ValueError, match="classes must be in"):
        heat_maps(classifier, model, images, CLASSES + 1, method)
    assert [layer.training for layer in classifier.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in classifier.state_dict().items())
    assert all(each.grad is None and each.requires_grad for each in classifier.parameters())
    assert not (result.maps.requires_grad or result.logits.requires_grad)


@pytest.mark.parametrize("model", MODELS)
def test_dropout_and_the_batchs_statistics_have_no_part(classifiers, images, model):
    in_training = heat_maps(classifiers[model], model, images, CLASSES, "gradcam")
    classifiers[model].eval()
    in_evaluation = heat_maps(classifiers[model], model, images, CLASSES, "gradcam")
    assert torch.equal(in_training.maps, in_evaluation.maps)
    assert torch.equal(in_training.logits, in_evaluation.logits)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_may_be_off_at_the_caller_and_in_a_frozen_network(classifiers, images, off):
    classifier = classifiers["vgg16"]
    expected = heat_maps(classifier, "vgg16", images, CLASSES, "gradcam")
    classifier.requires_grad_(False)
    with off():
        result = heat_maps(classifier, "vgg16", images.clone(), CLASSES.clone(), "gradcam")
        assert not torch.is_grad_enabled()
    assert torch.equal(result.maps, expected.maps)


@pytest.mark.parametrize("method", ["cam", "gradcam"])
def test_maps_are_added_up_in_float32_where_the_network_computes_in_bfloat16(classifiers, images, method):
    expected = heat_maps(classifiers["resnet34"], "resnet34", images, CLASSES, method)
    with torch.autocast("cpu", torch.bfloat16):
        result = heat_maps(classifiers["resnet34"], "resnet34", images, CLASSES, method)
    assert (result.maps.dtype, result.logits.dtype) == (torch.float32, torch.float32)
    assert_close(result.maps, expected.maps, 0.1)
    assert not torch.equal(result.maps, result.maps.bfloat16().float())


def test_no_images_give_no_maps(classifiers):
    nothing = torch.empty(0, 3, 64, 64), torch.empty(0, dtype=torch.int64)
    for method in ("cam", "gradcam"):
        result = heat_maps(classifiers["resnet34"], "resnet34", *nothing, method)
        assert (result.maps.shape, result.logits.shape) == ((0, 2, 2), (0, 3))


@pytest.mark.parametrize(("model", "side"), [("vgg16", 14), ("resnet34", 7)])
def test_maps_of_the_papers_images_have_the_papers_sizes(model, side):
    with torch.device("meta"):
        before, after = split_at_heat_layer(build_trunk(model, seed=0), model)
        activations = before(torch.empty(2, 3, 224, 224))
        assert activations.shape == (2, 512, side, side)
        assert after(activations).shape == (2, 512, 7, 7)


@pytest.mark.parametrize("model", MODELS)
def test_the_two_parts_make_up_the_trunk_and_meet_after_a_relu(classifiers, images, model):
    trunk = classifiers[model].trunk.eval()
    before, after = split_at_heat_layer(trunk, model)
    with torch.no_grad():
        activations = before(images)
        assert torch.equal(after(activations), trunk(images))
    assert activations.min() == 0


def test_a_vgg16_without_its_last_max_pool_is_refused():
    with torch.device("meta"):
        trunk = build_trunk("vgg16", seed=0)
    assert isinstance(trunk, nn.Sequential)
    for wrong in (trunk[:-1], trunk[-1]):
        with pytest.raises(ValueError, match="must be a sequence that ends in a max-pool"):
            split_at_heat_layer(wrong, "vgg16")


@pytest.mark.parametrize("vgg_head", ["flatten", "average_pool"])
def test_cam_is_refused_for_heads_with_hidden_layers(classifiers, images, vgg_head):
    head = build_head(replace(NETWORKS["vgg16"], vgg_head=vgg_head), seed=1, fold=0)
    classifier = Classifier(classifiers["vgg16"].trunk, head)
    assert not has_cam(classifier.head)
    with pytest.raises(ValueError, match="CAM needs a head of global average pooling and one linear layer"):
        heat_maps(classifier, "vgg16", images, CLASSES, "cam")


def test_cam_needs_one_average_over_the_whole_image():
    assert has_cam(build_head(NETWORKS["resnet34"], seed=1, fold=0))
    layers = nn.Flatten(), nn.Linear(4, 2)
    assert has_cam(nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), *layers))
    assert not has_cam(nn.Sequential(nn.AdaptiveAvgPool2d(2), *layers))
    assert not has_cam(nn.Sequential(nn.AdaptiveMaxPool2d(1), *layers))
    assert not has_cam(nn.Sequential(*layers))


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        ([0, 1], r"classes must be \[n\] for images"),
        ([[0, 1, 2]], r"classes must be \[n\] for images"),
        ([0, 1, 3], r"classes must be in \[0, 3\)"),
        ([0, 1, -1], r"classes must be in \[0, 3\)"),
    ],
)
def test_what_is_no_class_of_an_image_is_refused(classifiers, images, classes, reason):
    for method in ("cam", "gradcam"):
        with pytest.raises(ValueError, match=reason):
            heat_maps(classifiers["resnet34"], "resnet34", images, torch.tensor(classes), method)


@settings(max_examples=25, deadline=None)
@given(integer_maps, st.floats(0.01, 100), st.floats(-100, 100))
def test_scaled_maps_reach_from_zero_to_one_whatever_their_unit_and_zero(maps, factor, shift):
    scaled = min_max(maps)
    for one, whole in zip(scaled, maps, strict=True):
        constant = bool((whole == whole[0, 0]).all())
        assert (float(one.min()), float(one.max())) == (0, 0 if constant else 1)
        # A constant map stays one only where rounding leaves it so, hence each by itself.
        again = min_max((factor * whole + shift).unsqueeze(0))[0]
        torch.testing.assert_close(again, one, rtol=0, atol=1e-9)


def test_scaling_keeps_the_order_of_a_maps_values_and_each_map_to_itself():
    maps = torch.tensor([[[1.0, 3.0], [2.0, 5.0]], [[-1.0, 0.0], [0.0, -2.0]], [[7.0, 7.0], [7.0, 7.0]]])
    expected = [[[0.0, 0.5], [0.25, 1.0]], [[0.5, 1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]
    assert min_max(maps).tolist() == expected


def test_a_map_that_is_not_finite_stays_undefined():
    assert min_max(torch.tensor([[[0.0, torch.nan]]])).isnan().all()
    assert mass_inside(torch.tensor([[[0.0, torch.nan]]]), torch.ones(1, 1, 2)).isnan().all()


def test_an_enlarged_constant_stays_constant():
    large = enlarge(torch.tensor([2.0, -3.0]).view(2, 1, 1).expand(2, 7, 7), 224)
    torch.testing.assert_close(large, torch.tensor([2.0, -3.0]).view(2, 1, 1).expand(2, 224, 224))


def test_enlarging_aligns_areas_not_corners():
    # Four pixels a position: their centres lie at -3/8, -1/8 ... 11/8 positions, cut to 0 ... 1.
    expected = [0, 0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1, 1]
    ramp = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    assert enlarge(ramp, 8)[0].tolist() == [expected] * 8
    assert enlarge(ramp.mT, 8)[0].mT.tolist() == [expected] * 8
    assert torch.equal(enlarge(ramp, 2), ramp)


def test_maps_are_not_made_smaller():
    with pytest.raises(ValueError, match="side must be at least that of the maps"):
        enlarge(torch.zeros(1, 7, 7), 6)


@settings(max_examples=25, deadline=None)
@given(integer_maps, integer_masks)
def test_the_mass_inside_is_a_share_and_what_is_left_is_outside(maps, masks):
    inside, outside = mass_inside(maps, masks), mass_inside(maps, 1 - masks)
    assert inside.dtype == torch.float64
    empty = (maps <= 0).all(2).all(1)
    assert torch.equal(inside.isnan(), empty)
    assert ((inside >= 0) & (inside <= 1) | empty).all()
    torch.testing.assert_close((inside + outside)[~empty], torch.ones(int((~empty).sum()), dtype=torch.float64))


@settings(max_examples=20, deadline=None)
@given(integer_masks)
def test_a_uniform_map_has_the_masks_share_of_the_area_inside(masks):
    share = masks.double().mean((1, 2))
    torch.testing.assert_close(mass_inside(torch.full(masks.shape, 0.3), masks), share)


def test_negative_values_have_no_mass():
    maps = torch.tensor([[[1.0, 3.0], [-8.0, 0.0]], [[-1.0, -1.0], [-1.0, 0.0]]])
    masks = torch.tensor([[[255, 0], [1, 1]]] * 2, dtype=torch.uint8)
    assert mass_inside(maps, masks).tolist() == pytest.approx([1 / 4, np.nan], nan_ok=True)
    assert mass_inside(maps, masks != 0).tolist() == pytest.approx([1 / 4, np.nan], nan_ok=True)


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"must be \[n, H, W\] alike"):
        mass_inside(torch.zeros(2, 4, 4), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="a mask for each peak, not 1 for 2"):
        hits(torch.zeros(2, 2, dtype=torch.int64), torch.zeros(1, 4, 4))


def test_the_peak_is_the_highest_value_the_first_in_reading_order():
    maps = torch.zeros(4, 3, 5)
    maps[0, 2, 3] = 1
    maps[1, 1, 4] = maps[1, 2, 0] = 2
    maps[2] = -1
    maps[2, 0, 4] = -0.5
    found = peaks(maps)
    assert found.dtype == torch.int64
    assert found.tolist() == [[2, 3], [1, 4], [0, 4], [0, 0]]
    assert peaks(maps.mT).tolist() == [[3, 2], [0, 2], [4, 0], [0, 0]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_a_peak_hits_where_it_lies_on_its_own_mask(dtype):
    masks = torch.zeros(3, 3, 5, dtype=dtype)
    masks[0, 2, 3] = masks[1, 1, 4] = 1
    found = hits(torch.tensor([[2, 3], [2, 3], [1, 4]]), masks)
    assert found.dtype == torch.bool
    assert found.tolist() == [True, False, False]
