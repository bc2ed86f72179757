"""What can change a number is planned once, kept by whoever resumes, and named where it differs."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxrdist.config.models import ExecutionConfig
from cxrdist.errors import UserError
from cxrdist.run.computing import (
    COMPUTING,
    Computing,
    device_of,
    differences,
    expected_facts,
    machine_facts,
    read_computing,
    settle,
)
from cxrdist.run.lung_plan import LungPlan
from cxrdist.run.store import Store
from cxrdist.study import layout

PLANNED = Computing("cpu", threads=3, trial_threads=1, ranks=1, lung_precision="bf16")
COMPUTINGS = st.builds(
    Computing,
    st.sampled_from(["cpu", "cuda"]),
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(1, 8),
    st.sampled_from(["fp32", "bf16"]),
)


def undecidable() -> Computing:
    raise AssertionError("nothing is to be decided here")


@given(COMPUTINGS)
def test_a_plan_keeps_it(tmp_path_factory, computing):
    store = Store(tmp_path_factory.mktemp("run"))
    assert read_computing(store) is None
    store.write_json(layout.PLAN, {COMPUTING: computing.to_json()})
    assert read_computing(store) == computing


@pytest.mark.parametrize("there", [{}, {COMPUTING: None}, {COMPUTING: {"threads": 3}}, {COMPUTING: []}])
def test_a_plan_of_an_earlier_version_says_nothing_of_it(tmp_path, there):
    store = Store(tmp_path)
    store.write_json(layout.PLAN, there)
    assert read_computing(store) is None
    assert settle(None, ExecutionConfig(), 1, lambda: PLANNED) == PLANNED


@given(COMPUTINGS)
def test_who_resumes_with_the_default_settings_computes_as_planned(planned):
    assert settle(planned, ExecutionConfig(), planned.ranks, undecidable) == planned


@pytest.mark.parametrize(
    ("asked", "ranks", "changed"),
    [
        ({"threads": 3}, 1, {"trial_threads": 3}),
        ({"threads": 2}, 1, {"threads": 2, "trial_threads": 2}),
        ({"device": "gpu"}, 1, {"device": "cuda"}),
        ({"device": "cpu"}, 1, {}),
        ({}, 2, {"ranks": 2}),
    ],
)
def test_only_what_is_asked_for_changes_the_plan(asked, ranks, changed):
    now = settle(PLANNED, ExecutionConfig.model_validate(asked), ranks, lambda: PLANNED)
    assert now == dataclasses.replace(PLANNED, **changed)


def test_more_than_there_is_is_refused_where_it_is_asked_for():
    def decide() -> Computing:
        raise UserError("execution.threads is 9, but the cluster has 2 CPU cores.")

    with pytest.raises(UserError, match="threads is 9"):
        settle(PLANNED, ExecutionConfig(threads=9), 1, decide)


def test_a_plan_for_gpus_is_not_done_on_the_cpu_without_a_word(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(PLANNED) == torch.device("cpu")
    with pytest.raises(UserError, match=r"execution\.device=cpu"):
        device_of(dataclasses.replace(PLANNED, device="cuda"))


def mark(*, ranks: int = 1, **machine: Any) -> dict[str, Any]:
    facts = {"host": "a", "device": "CPU", "cpu": "one", "threads": 2, "torch": "2", "cores": 4, "precision": "fp32"}
    return {"ranks": ranks, "machine": facts | machine}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (mark(threads=1), ["numbers of threads", "1: f-1", "2: f-0 and", "f-2"]),
        (mark(cpu="two"), ["CPUs", "one: ", "two: f-1"]),
        (mark(torch="3"), ["versions of torch", "3: f-1"]),
        (mark(precision="bf16"), ["precisions", "bf16: f-1"]),
        (mark(ranks=2), ["numbers of ranks", "2: f-1"]),
        (mark(device="NVIDIA X"), ["devices", "CPU: ", "GPU: f-1"]),
        (mark() | {"before": [mark(threads=7)["machine"]]}, ["numbers of threads", "7, then 2: f-1"]),
        (mark() | {"features": [{"device": "CPU", "cpu": "old"}]}, ["CPUs", "old, then one: f-1"]),
    ],
)
def test_what_differs_between_fold_jobs_is_named_with_them(other, words):
    (sentence,) = differences({"f-0": mark(), "f-1": other, "f-2": mark(), "f-3": mark(), "f-4": mark()})
    for word in words[:2]:
        assert word in sentence


def test_what_changes_no_number_is_not_named():
    assert differences({"a": mark(), "b": mark(host="b", cores=2)}) == []
    on_gpu: dict[str, Any] = {"device": "NVIDIA X", "precision": "bf16"}
    assert differences({"a": mark(**on_gpu), "b": mark(**on_gpu, threads=1, cpu="two")}) == []
    # Of an earlier version, or of another that keeps more.
    assert differences({"a": mark(), "b": {"machine": {"device": "CPU", "threads": 2}}, "c": {}}) == []


def test_two_kinds_of_gpu_are_named():
    (sentence,) = differences({"a": mark(device="NVIDIA X"), "b": mark(device="NVIDIA Y")})
    assert "different GPUs" in sentence


@given(COMPUTINGS, st.booleans())
def test_what_is_left_differs_from_what_is_done_by_what_was_planned_otherwise(computing, is_here):
    here = machine_facts(torch.device("cpu")) | {"threads": computing.threads}
    if computing.device == "cpu":
        done = {"ranks": computing.ranks, "machine": here}
        assert differences({"a": done, "left": expected_facts(computing, is_here=is_here)}) == []
        more = dataclasses.replace(computing, threads=computing.threads + 1)
        (sentence,) = differences({"a": done, "left": expected_facts(more, is_here=is_here)})
        assert f"{more.threads}: left" in sentence


def test_the_lung_network_is_trained_in_the_precision_that_was_planned():
    from cxrdist.lungs.train import LungRecipe

    def plan(recipe: LungRecipe) -> LungPlan:
        made = LungPlan(3, recipe, (), None, (), (), 30.0, PLANNED)
        return LungPlan.from_json(json.loads(json.dumps(made.to_json())))

    assert plan(LungRecipe()).computed_recipe.precision == "bf16"
    assert plan(LungRecipe(precision="fp32")).computed_recipe.precision == "fp32"
    assert plan(LungRecipe()).recipe == LungRecipe()
