"""Seeds, fingerprints and the plan: what can change a number changes its name, and nothing else does."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.study.fingerprint import fingerprint
from cxrdist.study.folds import Folds, Part
from cxrdist.study.plan import (
    FEATURE_CHUNK,
    Variant,
    features_fingerprint,
    image_passes,
    make_variants,
    plan_feature_jobs,
    plan_fold_jobs,
)
from cxrdist.study.recipe import Network, Recipe
from cxrdist.study.seeds import derive_seed

FEW = settings(max_examples=50, deadline=None)
NAMES = st.lists(st.text(max_size=4) | st.integers(0, 20), max_size=4)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)

VARIANT = Variant("whole", "resnet34")
NETWORK = Network("resnet34", 3, 64)
RECIPE = Recipe(epochs=2, batch_size=8, learning_rate=1e-3)
OTHER_RECIPE: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 9,
    "learning_rate": 2e-3,
    "weight_decay": 0.1,
    "precision": "fp32",
    "selection": "best_validation_loss",
}
OTHER_NETWORK: dict[str, Any] = {
    "model": "vgg16",
    "n_classes": 4,
    "image_size": 32,
    "transfer": "frozen",
    "weights_hash": "0" * 64,
    "vgg_head": "average_pool",
    "vgg_hidden": 8,
    "dropout": 0.1,
}
PARTS = np.array([[0, 0, 0, 1, 2, 2], [2, 2, 0, 1, 0, 0]], dtype=np.int8)
FOLDS = Folds([f"i{row}" for row in range(6)], PARTS)


def plan(variant=VARIANT, network=NETWORK, recipe=RECIPE, folds=FOLDS, cohort="c", pixels="p", seed=1):
    return plan_fold_jobs(variant, network, recipe, folds, cohort=cohort, pixels=pixels, seed=seed)


@given(st.integers(0, 2**63 - 1), NAMES, NAMES)
@FEW
def test_a_seed_is_a_function_of_its_names_and_another_for_others(seed, names, others):
    derived = derive_seed(seed, *names)
    assert 0 <= derived < 2**63
    assert derived == derive_seed(seed, *names)
    assert (derived == derive_seed(seed, *others)) == (names == others)
    assert derived != derive_seed(seed + 1, *names)


def test_seeds_stay_what_they_were():
    assert derive_seed(7, "order", 0, 1) == 6118573428541624780
    assert derive_seed(0) == 7520536977032167579


def test_names_of_seeds_do_not_run_together():
    derived = [
        derive_seed(1, *names) for names in (("a", "b"), ("ab",), ("a,b",), ("a", "b", ""), (1,), ("1",), (1, 1), (11,))
    ]
    assert len(set(derived)) == len(derived)


def test_fingerprints_stay_what_they_were():
    value: dict[str, Any] = {"seed": 1, "class": "é", "rates": [1e-3, 0.5], "none": None, "yes": True}
    assert fingerprint(value) == "48a8d303d30105c89dccbc1c6eef1dd3c30d353075a97407ba724c2e33973983"


@given(PLAIN, PLAIN)
@FEW
def test_fingerprints_are_equal_where_and_only_where_inputs_are(first, second):
    assert (fingerprint(first) == fingerprint(second)) == (canonical(first) == canonical(second))


def canonical(value):
    """The value with its types, as something that compares."""
    if isinstance(value, dict):
        return ("dict", sorted((key, canonical(inner)) for key, inner in value.items()))
    return ("list", [canonical(inner) for inner in value]) if isinstance(value, list) else (type(value).__name__, value)


def test_the_order_of_keys_is_nothing_and_the_order_of_items_is_something():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert fingerprint(1) != fingerprint(1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_has_no_fingerprint(value):
    with pytest.raises(ValueError, match="JSON compliant"):
        fingerprint({"a": [value]})


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 2},
        {"cohort": "other"},
        {"pixels": "other"},
        {"variant": Variant("segmented", "resnet34")},
        *({"recipe": replace(RECIPE, **{key: value})} for key, value in OTHER_RECIPE.items()),
        *({"network": replace(NETWORK, **{key: value})} for key, value in OTHER_NETWORK.items()),
    ],
    ids=str,
)
def test_what_can_change_a_number_changes_the_fingerprint_of_every_fold(changed):
    before, after = plan(), plan(**changed)
    assert not {job.fingerprint for job in before} & {job.fingerprint for job in after}


def test_every_key_of_recipe_and_network_is_tried_above():
    assert set(OTHER_RECIPE) == {field.name for field in fields(Recipe)}
    assert set(OTHER_NETWORK) == {field.name for field in fields(Network)}


def test_a_job_goes_stale_by_its_own_folds_parts_alone():
    parts = PARTS.copy()
    parts[1, 2], parts[1, 3] = Part.VALIDATION, Part.TRAINING
    before, after = plan(), plan(folds=replace(FOLDS, parts=parts))
    assert before[0].fingerprint == after[0].fingerprint
    assert before[1].fingerprint != after[1].fingerprint


def test_two_folds_with_the_same_parts_are_two_jobs():
    jobs = plan(folds=replace(FOLDS, parts=PARTS[[0, 0]]))
    assert jobs[0].fingerprint != jobs[1].fingerprint
    assert [job.key for job in jobs] == ["whole-resnet34/fold-0", "whole-resnet34/fold-1"]


def test_variants_are_every_view_with_every_model_and_more_of_them_change_no_job():
    variants = make_variants(["whole", "segmented"], ["vgg16", "resnet34"])
    assert [v.name for v in variants] == ["whole-vgg16", "whole-resnet34", "segmented-vgg16", "segmented-resnet34"]
    few = {v.name: plan(variant=v) for v in variants[:1]}
    assert {v.name: plan(variant=v) for v in variants}["whole-vgg16"] == few["whole-vgg16"]


@given(st.sampled_from(["vgg16", "resnet34"]), st.sampled_from(["frozen", "finetune"]), st.integers(1, 50))
@FEW
def test_costs_are_positive_and_grow_with_the_epochs(model, transfer, epochs):
    network = Network(model, 3, 64, transfer=transfer)
    shorter, longer = (plan(network=network, recipe=replace(RECIPE, epochs=n))[0].cost for n in (epochs, epochs + 1))
    assert 0 < shorter < longer


def test_the_steps_of_a_small_head_count_so_that_the_time_left_is_not_zero_before_they_are_done():
    network = Network("resnet34", 3, 224, transfer="frozen")
    many, few = (plan(network=network, recipe=replace(RECIPE, batch_size=size))[0].cost for size in (1, 4))
    assert many > 2 * few


def test_longer_jobs_cost_more():
    cost = {
        (model, transfer): plan(network=Network(model, 3, 224, transfer=transfer))[0].cost
        for model in ("vgg16", "resnet34")
        for transfer in ("frozen", "finetune")
    }
    assert cost["vgg16", "finetune"] > cost["resnet34", "finetune"]
    assert cost["resnet34", "finetune"] > cost["vgg16", "frozen"] > cost["resnet34", "frozen"]
    sizes = [plan(network=replace(NETWORK, image_size=size))[0].cost for size in (32, 64, 224)]
    assert sizes == sorted(sizes)


def test_a_job_passes_training_and_validation_each_epoch_and_the_test_part_once():
    assert image_passes(FOLDS, RECIPE, 0) == 2 * (3 + 1) + 2


@given(st.integers(1, 2000))
@FEW
def test_feature_units_hold_every_image_once(n_images):
    units = plan_feature_jobs(VARIANT, NETWORK, "f", n_images)
    assert [row for unit in units for row in range(unit.start, unit.stop)] == list(range(n_images))
    assert all(0 < unit.stop - unit.start <= FEATURE_CHUNK and unit.cost > 0 for unit in units)
    assert len({unit.key for unit in units}) == len(units)


def test_features_go_stale_by_weights_pixels_view_and_device_and_by_nothing_of_head_or_folds():
    def name(variant=VARIANT, network=NETWORK, **changed):
        arguments: dict[str, Any] = {"pixels": "p", "pooled": True, "seed": 1, "device": "cpu"} | changed
        return features_fingerprint(variant, network, **arguments)

    given_weights = replace(NETWORK, weights_hash="0" * 64)
    names = [
        name(),
        name(variant=Variant("segmented", "resnet34")),
        name(network=given_weights),
        name(network=replace(NETWORK, model="vgg16")),
        name(pixels="other"),
        name(pooled=False),
        name(seed=2),
        name(device="cuda"),
    ]
    assert len(set(names)) == len(names)
    assert name(network=replace(NETWORK, n_classes=9, dropout=0.1, vgg_hidden=8)) == name()
    assert name(network=given_weights, seed=2) == name(network=given_weights)
