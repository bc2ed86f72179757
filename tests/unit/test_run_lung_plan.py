"""The plan of a lung network's training: plain data there and back, and fingerprints of all that can change weights."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from cxrdist.errors import CxrdistError
from cxrdist.lungs.train import LungRecipe
from cxrdist.run.lung_plan import FINAL, LUNGS, LungPlan, MaskedSet, plan_lung_jobs, read_lung_plan
from cxrdist.run.store import Store
from cxrdist.study import layout

RECIPE = LungRecipe(epochs=7, small_epochs=3, schedule="cosine", learning_rate=1e-3, augmentation="strong")
TRAINED = MaskedSet("montgomery", "/cache/a", ("i1", "i2", "i3", "i4"), ("m", "m", "k", "k"), "hash-of-m")
OTHERS = MaskedSet("shenzhen", "/cache/b", ("s1",), ("s",), "hash-of-s")
DIVISIONS = {"fold-0": ([0, 1], [2, 3]), "fold-1": ([2, 3], [0, 1]), FINAL: ([0, 1, 2, 3], [])}
OTHER_RECIPE: dict[str, Any] = {
    "epochs": 8,
    "small_epochs": 2,
    "batch_size": 9,
    "learning_rate": 2e-3,
    "schedule": "constant",
    "augmentation": "paper",
    "normalization": "batch",
    "precision": "fp32",
}
GIVEN = {
    "sets": [TRAINED, OTHERS],
    "divisions": DIVISIONS,
    "recipe": RECIPE,
    "with_heart": ("k", "r"),
    "init": None,
    "seed": 3,
}


def jobs(**changes):
    return plan_lung_jobs(**{**GIVEN, **changes})


def fingerprints(**changes):
    return {job.key: job.fingerprint for job in jobs(**changes)}


def changed(**changes):
    """Keys of the jobs that a change makes stale."""
    before, after = fingerprints(), fingerprints(**changes)
    assert before.keys() == after.keys()
    return {key for key in before if before[key] != after[key]}


def plan(**changes):
    made = LungPlan(3, RECIPE, ("k", "r"), None, (TRAINED, OTHERS), jobs(), 30.0)
    return replace(made, **changes)


@pytest.mark.parametrize(
    "changes",
    [{}, {"init": "/weights/model.safetensors"}, {"with_heart": ()}, {"sets": (TRAINED,)}, {"recipe": LungRecipe()}],
)
def test_a_plan_written_as_json_is_read_as_the_same_plan(changes):
    written = plan(**changes)
    assert LungPlan.from_json(json.loads(json.dumps(written.to_json()))) == written


def test_a_plan_says_of_what_kind_it_is():
    assert plan().to_json()["kind"] == LUNGS == "lungs"


def test_a_plan_in_a_run_directory_is_read(tmp_path):
    store = Store(tmp_path)
    store.write_json(layout.PLAN, plan().to_json())
    assert read_lung_plan(store) == plan()


@pytest.mark.parametrize("content", [None, {}, {"kind": "lungs"}, {**plan().to_json(), "recipe": {"epoch": 3}}])
def test_a_run_directory_without_a_plan_that_can_be_read_is_one_sentence(tmp_path, content):
    store = Store(tmp_path)
    if content is not None:
        store.write_json(layout.PLAN, content)
    with pytest.raises(CxrdistError, match=r"is no plan of a lung network .*; `cxrdist lungs train` writes one\.$"):
        read_lung_plan(store)


def test_there_is_a_job_for_each_division_with_its_rows():
    made = {job.key: job for job in jobs()}
    assert list(made) == list(DIVISIONS)
    for key, (training, held_out) in DIVISIONS.items():
        assert (made[key].training, made[key].held_out) == (tuple(training), tuple(held_out))
    assert len(set(fingerprints().values())) == 3


def test_a_job_costs_as_many_images_as_it_passes():
    assert {job.key: job.cost for job in jobs()} == {"fold-0": 14, "fold-1": 14, FINAL: 28}


def test_the_same_plan_has_the_same_fingerprints():
    assert changed() == set()
    assert changed(divisions={key: tuple(map(tuple, rows)) for key, rows in DIVISIONS.items()}) == set()


def test_every_part_of_the_recipe_is_tried_below():
    assert OTHER_RECIPE.keys() == asdict(RECIPE).keys()
    assert not OTHER_RECIPE.items() & asdict(RECIPE).items()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"init": "hash-of-weights"},
        {"with_heart": ("k",)},
        {"with_heart": ()},
        *({"recipe": replace(RECIPE, **{name: value})} for name, value in OTHER_RECIPE.items()),
        {"sets": [replace(TRAINED, content="other pixels or masks"), OTHERS]},
    ],
    ids=str,
)
def test_what_changes_every_network_makes_every_job_stale(changes):
    assert changed(**changes) == set(DIVISIONS)


@pytest.mark.parametrize(
    "rows",
    [([0, 2], [2, 3]), ([1, 0], [2, 3]), ([0, 1], [2]), ([0, 1, 2], [3])],
    ids=["other", "order", "less", "more"],
)
def test_other_rows_of_a_fold_make_that_fold_stale_alone(rows):
    assert changed(divisions={**DIVISIONS, "fold-0": rows}) == {"fold-0"}


@pytest.mark.parametrize("sets", [[TRAINED], [TRAINED, replace(OTHERS, content="x")], [TRAINED, OTHERS, OTHERS]])
def test_other_test_sets_make_the_final_job_stale_alone(sets):
    assert changed(sets=sets) == {FINAL}


@pytest.mark.parametrize(
    "changes",
    [
        {"with_heart": ("r", "k")},
        {"sets": [replace(TRAINED, shards="/elsewhere", name="m"), replace(OTHERS, shards="/elsewhere")]},
    ],
    ids=["order of sources", "folder and name"],
)
def test_what_changes_no_weight_makes_nothing_stale(changes):
    assert changed(**changes) == set()
