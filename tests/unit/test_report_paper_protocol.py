"""Where a run differs from its paper, and what the paper leaves open."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from cxrdist.config import load_study
from cxrdist.report import inference
from cxrdist.report.masks import MaskSummary
from cxrdist.report.paper_protocol import differences, open_points
from cxrdist.report.papers import PAPER_1, PAPER_2
from tests.unit.paper_examples import IMAGES, as_of_the_paper, four_class, points, three_class

JOBS = Path(__file__).resolve().parents[2] / "jobs"
BASE = ("folds.protocol=holdout_75_25", "folds.group_by=image")


@cache
def study(name, *settings):
    return load_study(JOBS / f"{name}.yaml", settings=settings)


def test_the_papers_own_job_file_differs_from_paper_1_in_folds_validation_and_grouping_alone():
    results = as_of_the_paper(four_class(n_folds=5, missing=["a"] * 4), IMAGES, config=study("vgg16_four_class"))
    assert differences(results, PAPER_1) == [
        "The paper's table 1 is of one test part of about 25 % of the images, although it names five-fold "
        "cross-validation; here the test parts of 5 folds hold every image once.",
        "The paper divides its images into 75 % for training and 25 % for testing, and does not say on which ones its "
        "validation loss is computed; here 15 % of the patients left for training are the validation part.",
        "The paper names no grouping of images by patient; here all images of one known patient, or of one group where "
        "the manifest names groups, are in the same part of a fold.",
    ]
    assert open_points(results, PAPER_1) == [
        "The paper does not say which layers are trained; here the convolutional layers are kept as they start and the "
        "head alone is trained.",
        "The paper does not give its rate of dropout; here it is 0.5.",
    ]


def test_paper_2s_division_in_batches_differs_in_the_missing_folds_alone():
    settings = ("folds.protocol=holdout_batches", "folds.group_by=image")
    results = as_of_the_paper(three_class(), PAPER_2.protocol.images, config=study("resnet34_three_class", *settings))
    assert differences(results, PAPER_2) == [
        "The paper gives its overall accuracy for a test part of ten random batches of 16 images, beside its five "
        "folds; here there is one split in random batches of 16 images, 60/20/20 %, and no folds."
    ]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("training.epochs=20", "The paper trains for 50 epochs; this run for 20."),
        ("training.batch_size=16", "The paper's batches are of 32 images; this run's of 16."),
        ("training.learning_rate=1e-4", "The paper's learning rate is 0.001; this run's is 0.0001."),
        ("training.weight_decay=0.01", "The paper names no weight decay; this run's is 0.01."),
        (
            "training.selection=best_validation_loss",
            "The paper names no choice among its epochs; this run tests the network of the epoch with the lowest "
            "validation loss.",
        ),
        ("model.weights=none", "The paper's network starts from ImageNet weights; this run's from random ones."),
        (
            "model.weights=somewhere",
            "The paper's network starts from ImageNet weights; this run's from those in files of its own, of which the "
            "study file does not say what they were trained on.",
        ),
        (
            "model.vgg_head=average_pool",
            "The paper's fully connected layers follow the last max-pool, as VGG16's do; in this run the features are "
            "averaged over the image first.",
        ),
        ("model.vgg_hidden=512", "The paper's fully connected layers have 4096 nodes each; this run's have 512."),
        ("model.dropout=0.0", "The paper has dropout; this run has none."),
        ("preprocessing.size=256", "The paper's images have 224 x 224 pixels; this run's have 256 x 256."),
        (
            "preprocessing.resize=pad",
            "The paper resizes images as they are; this run pads them to a square with black first.",
        ),
        (
            "preprocessing.equalize=clahe",
            "The paper names no equalisation of contrast; this run has contrast-limited adaptive equalisation (CLAHE).",
        ),
        (
            "folds.group_by=patient",
            "The paper names no grouping of images by patient; here all images of one known patient are in the same "
            "part of a fold.",
        ),
    ],
)
def test_each_setting_that_differs_adds_one_sentence_with_both_values(setting, sentence):
    name = "vgg16_four_class"
    alike = differences(as_of_the_paper(four_class(), IMAGES, config=study(name, *BASE)), PAPER_1)
    changed = differences(as_of_the_paper(four_class(), IMAGES, config=study(name, *BASE, setting)), PAPER_1)
    assert len(alike) == 1
    assert "15 % of the images left for training" in alike[0]
    assert sentence in changed
    assert len(changed) == 2


def test_settings_of_a_head_that_is_not_trained_are_not_listed():
    own = replace(four_class().out_of_fold["whole-vgg16"], variant="whole-resnet34")
    results = as_of_the_paper(
        four_class(variants=(own.variant,), out_of_fold={own.variant: own}),
        IMAGES,
        config=study(
            "vgg16_four_class", *BASE, "model.dropout=0.0", "model.vgg_hidden=16", "variants.models=[resnet34]"
        ),
    )
    found = differences(results, PAPER_1)
    assert found[0] == "The paper's network is VGG16; this run has none of it."
    assert len(found) == 2
    assert not any("dropout" in one for one in open_points(results, PAPER_1))


def test_classes_with_other_numbers_of_images_are_listed():
    images = IMAGES | {"covid19": 454}
    found = differences(as_of_the_paper(four_class(), images), PAPER_1)
    assert found == ["The paper has 455 images of covid19; this run has 454."]


def test_masks_of_the_built_in_network_are_a_difference_and_those_of_other_weights_are_not_judged():
    masks = MaskSummary("the lung network, weights builtin", "whole", {}, [], [])
    name = "vgg16_four_class"
    alike = as_of_the_paper(four_class(), IMAGES, config=study(name, *BASE))
    assert differences(replace(alike, masks=masks), PAPER_1)[-1] == (
        "The paper's lung masks are of a network trained on the Montgomery set; this run's are from the lung network, "
        "weights builtin."
    )
    config = study(name, *BASE, "lungs.weights=mine.safetensors")
    assert len(differences(replace(alike, masks=masks, config=config), PAPER_1)) == 1


def test_a_run_whose_settings_are_unknown_says_so(monkeypatch):
    monkeypatch.setattr(inference, "RESAMPLES", 20)
    listed = points(as_of_the_paper(four_class(), IMAGES))
    assert listed["Where this run's protocol differs"] == (
        "The settings of this run are not known here and are not compared.",
    )
    assert "What the paper leaves open" not in listed
