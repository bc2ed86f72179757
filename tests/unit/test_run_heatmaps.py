"""What is explained and how, and the names of what comes of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrdist.errors import UserError
from cxrdist.run.heatmaps import Target, mask_in_view, method_of, of_images
from cxrdist.study.layout import HeatFiles, safe_name
from cxrdist.study.outoffold import OutOfFold
from cxrdist.study.plan import Variant
from cxrdist.study.recipe import Network

CLASSES = ("normal", "covid19", "true")
PREDICTIONS = OutOfFold(
    "whole-resnet34",
    ["a", "b", "c"],
    np.array([0, 1, 2]),
    np.array([[0.1, 0.7, 0.2], [0.2, 0.3, 0.5], [0.8, 0.1, 0.1]]),
    np.array([0, 1, 0]),
)


@pytest.mark.parametrize(
    ("word", "expected"), [("predicted", [1, 2, 0]), ("true", [0, 1, 2]), ("covid19", [1, 1, 1]), ("normal", [0] * 3)]
)
def test_a_word_says_which_class_of_each_image_is_explained(word, expected):
    assert Target.find(word, CLASSES).of(PREDICTIONS).tolist() == expected


def test_a_word_that_means_nothing_is_answered_with_those_that_do():
    with pytest.raises(UserError, match=r"'normall'.*predicted, true, normal.*did you mean 'normal'"):
        Target.find("normall", CLASSES)


def test_only_a_global_average_and_one_layer_have_cam_and_it_is_taken_there():
    resnet, vgg = Variant("whole", "resnet34"), Variant("whole", "vgg16")
    networks = {
        "resnet": Network("resnet34", 3, 64),
        "flat": Network("vgg16", 3, 64, vgg_hidden=8),
        "pooled": Network("vgg16", 3, 64, vgg_hidden=8, vgg_head="average_pool"),
    }
    assert method_of(resnet, networks["resnet"], "auto") == "cam"
    assert method_of(resnet, networks["resnet"], "gradcam") == "gradcam"
    for name in ("flat", "pooled"):
        assert method_of(vgg, networks[name], "auto") == "gradcam"
        with pytest.raises(UserError, match=r"whole-vgg16 has none.*gradcam, or auto"):
            method_of(vgg, networks[name], "cam")


def test_predictions_of_some_images_are_in_their_order_without_those_that_have_none():
    some = of_images(PREDICTIONS, ["c", "nobody", "a"])
    assert list(some.image_ids) == ["c", "a"]
    assert some.truth.tolist() == [2, 0]
    assert some.fold.tolist() == [0, 0]
    assert some.predicted.tolist() == [0, 1]
    assert list(of_images(PREDICTIONS, ["nobody"]).image_ids) == []


def test_a_mask_is_stretched_with_the_lungs_box_and_else_stays():
    mask = np.zeros((1, 40, 40), np.uint8)
    mask[0, 10:30, 12:18] = mask[0, 10:30, 22:28] = 1
    for view in ("whole", "segmented", "lungs_blanked"):
        assert (mask_in_view(mask, view) == mask).all()
    box = mask_in_view(mask, "lung_box")
    assert set(np.unique(box)) == {0, 1}
    # The box is 20 x 16 pixels and 2 more on each side.
    assert box.mean() == pytest.approx(mask.sum() / (24 * 20), abs=0.02)


@given(st.text(min_size=1, max_size=200))
def test_any_id_gives_the_name_of_one_file_in_the_folder(image_id):
    name = safe_name(image_id)
    assert len(name) <= 90
    assert not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


@given(st.text(alphabet="a/._ é-", min_size=1, max_size=6), st.text(alphabet="a/._ é-", min_size=1, max_size=6))
def test_different_ids_have_different_names(one, other):
    assert (safe_name(one) == safe_name(other)) == (one == other)


def test_files_of_the_predicted_class_have_the_plain_name():
    assert HeatFiles("whole-vgg16").maps == "heatmaps/whole-vgg16.arrow"
    assert HeatFiles("whole-vgg16", Target.find("true", ()).name).maps == "heatmaps/whole-vgg16.true.arrow"
    assert HeatFiles("whole-vgg16", "class-1").image("p-1", "png") == "heatmaps/images/p-1.whole-vgg16.class-1.png"
