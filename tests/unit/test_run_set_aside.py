"""A run directory holds what its plan holds: the rest is set aside, whole, and comes back; another study is refused."""

import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.cohort.schema import COHORT_SCHEMA
from cxrdist.cohort.table import Cohort
from cxrdist.config.document import dump_document
from cxrdist.config.models import Study
from cxrdist.errors import UserError
from cxrdist.run.artefacts import table_bytes
from cxrdist.run.results import Job
from cxrdist.run.set_aside import (
    describe_misfits,
    find_misfits,
    free_place,
    require_lungs,
    require_same_cohort,
    require_same_study,
    set_aside,
)
from cxrdist.run.store import Store

CLASSES = ("a", "b")

Plans = st.dictionaries(
    st.sampled_from([f"{view}-vgg16/fold-{fold}" for view in ("whole", "segmented") for fold in range(3)]),
    st.sampled_from(["one", "two"]),
    min_size=1,
)
"""Fingerprints by fold job."""


@dataclass(frozen=True)
class FoldJob:
    key: str
    fingerprint: str


def jobs_of(plan: dict[str, str]) -> list[Job]:
    return [FoldJob(key, fingerprint) for key, fingerprint in plan.items()]


def do(store: Store, plan: dict[str, str]) -> None:
    """Plan, set aside what does not belong to it, and do what is not done."""
    jobs = jobs_of(plan)
    set_aside(store, find_misfits(store, jobs), free_place(store))
    store.write_json("plan.json", plan)
    for job in jobs:
        folder = f"jobs/{job.key}"
        if not store.exists(f"{folder}/done.json"):
            store.write_bytes(f"{folder}/predictions.parquet", f"{job.key} {job.fingerprint}".encode())
            store.write_json(f"{folder}/done.json", {"fingerprint": job.fingerprint})
    for variant in {key.partition("/")[0] for key in plan}:
        for name in (f"{variant}.arrow", f"images/an-id.{variant}.true.png"):
            store.write_bytes(f"heatmaps/{name}", json.dumps(plan).encode())


def predictions(store: Store, folder: str = "") -> Counter[str]:
    names = [name for name in store.names(folder) if name.endswith(".parquet")]
    return Counter(store.read_bytes(name).decode() for name in names)


@settings(max_examples=15)
@given(st.lists(Plans, min_size=2, max_size=3))
def test_whoever_reads_the_fold_jobs_reads_the_plans_and_nothing_that_was_done_is_lost_or_done_twice(plans):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        ever = set()
        for plan in plans:
            do(store, plan)
            of_plan = {f"{key} {fingerprint}" for key, fingerprint in plan.items()}
            ever |= of_plan
            assert predictions(store, "jobs") == Counter(of_plan)
            assert predictions(store) == Counter(ever)


@settings(max_examples=15)
@given(Plans, Plans)
def test_what_is_set_aside_lies_with_the_plan_that_it_was_made_by_and_with_its_heat_maps(before, after):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        do(store, before)
        do(store, after)
        for name in store.names("set_aside"):
            if name.endswith("done.json"):
                _, number, _, variant, fold, _ = name.split("/")
                plan = store.read_json(f"set_aside/{number}/plan.json")
                assert plan == before
                assert store.read_json(name) == {"fingerprint": before[f"{variant}/{fold}"]}
                assert store.exists(f"set_aside/{number}/heatmaps/{variant}.arrow")
                assert store.exists(f"set_aside/{number}/heatmaps/images/an-id.{variant}.true.png")
        for name in store.names("heatmaps"):
            assert json.loads(store.read_bytes(name)) == after, "a heat map of networks that are gone"


def test_what_becomes_of_results_is_said_with_counts_and_names(tmp_path):
    store = Store(tmp_path)
    plan = {f"whole-vgg16/fold-{fold}": "one" for fold in range(4)}
    do(store, plan)
    assert describe_misfits(find_misfits(store, jobs_of(plan)), 4, "there") == []
    changed = plan | {"whole-vgg16/fold-0": "two"}
    del changed["whole-vgg16/fold-3"]
    said = " ".join(describe_misfits(find_misfits(store, jobs_of(changed)), 3, "there"))
    assert "1 fold job (whole-vgg16/fold-0) of another plan" in said
    assert "1 fold job (whole-vgg16/fold-3) that it no longer has" in said
    assert "set aside in there" in said
    do(store, changed)
    said = " ".join(describe_misfits(find_misfits(store, jobs_of(plan)), 4, "there"))
    assert "come back: jobs/whole-vgg16/fold-0, jobs/whole-vgg16/fold-3" in said


def test_fold_jobs_without_a_mark_of_their_own_go_with_their_variant_and_else_stay(tmp_path):
    store = Store(tmp_path)
    for key in ("whole-vgg16/fold-0", "segmented-vgg16/fold-0"):
        store.write_bytes(f"jobs/{key}/predictions.parquet", b"of an unknown study")
    misfits = find_misfits(store, jobs_of({"whole-vgg16/fold-0": "one"}))
    assert (misfits.stale, misfits.gone) == ([], ["segmented-vgg16/fold-0"])


def test_the_report_goes_with_what_it_is_of_and_what_others_put_there_stays(tmp_path):
    store = Store(tmp_path)
    do(store, {"whole-vgg16/fold-0": "one"})
    for name in ("report/tables/summary.csv", "report/mine.csv"):
        store.write_bytes(name, b"numbers")
    store.write_json("report/made_from.json", {"files": ["report/tables/summary.csv"]})
    do(store, {"whole-vgg16/fold-0": "two"})
    assert store.names("report") == ["report/mine.csv"]
    assert store.names("set_aside/1/report") == [
        f"set_aside/1/report/{n}" for n in ("made_from.json", "tables/summary.csv")
    ]


def study(name: str) -> Study:
    return Study.model_validate({"name": name, "cohort": {"manifest": "m.csv", "classes": list(CLASSES)}})


def cohort(ids: str, **changes: list[str]) -> Cohort:
    columns = {name: pa.nulls(len(ids), COHORT_SCHEMA.field(name).type) for name in COHORT_SCHEMA.names}
    columns |= {"image_id": pa.array(list(ids)), "label": pa.array([CLASSES[i % 2] for i in range(len(ids))])}
    columns |= {name: pa.array(values, COHORT_SCHEMA.field(name).type) for name, values in changes.items()}
    return Cohort(pa.table(columns, COHORT_SCHEMA), Path("/images"), CLASSES)


@pytest.fixture
def store(tmp_path):
    """A run directory with a result on the images b and c; a could not be used."""
    store = Store(tmp_path)
    store.write_bytes("study.yaml", dump_document(study("first").model_dump(mode="json")).encode())
    store.write_json("plan.json", {"study": "x"})
    store.write_bytes("cohort.arrow", table_bytes(cohort("abc").table.slice(1)))
    store.write_json("quarantine.json", {"images": [{"image_id": "a", "path": "a.png", "reason": "is damaged"}]})
    store.write_json("jobs/whole-vgg16/fold-0/done.json", {"fingerprint": "one"})
    return store


def test_results_of_a_study_of_another_name_are_refused_by_name(store):
    require_same_study(store, study("first"))
    with pytest.raises(UserError, match=r"holds results of the study 'first', not of 'second'.*--run-dir"):
        require_same_study(store, study("second"))


def test_a_run_directory_without_results_takes_any_study(store):
    store.remove("jobs/whole-vgg16/fold-0/done.json")
    require_same_study(store, study("second"))
    require_same_cohort(store, cohort("xyz"))


def test_images_that_could_not_be_used_are_no_other_cohort_when_they_can(store):
    require_same_cohort(store, cohort("abc"))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (cohort("ab"), "does not list c"),
        (cohort("abcd"), "lists d, too"),
        (cohort("abc", patient_id=["p", "q", "r"]), "changed in patient_id"),
    ],
)
def test_results_on_other_images_are_refused_with_what_differs(store, other, words):
    with pytest.raises(UserError, match=rf"{words}.*another cohort.*--run-dir"):
        require_same_cohort(store, other)


def test_a_study_and_the_lung_networks_training_do_not_share_a_run_directory(store, tmp_path):
    with pytest.raises(UserError, match="holds a study"):
        require_lungs(store)
    other = Store(tmp_path / "other")
    require_lungs(other)
    other.write_json("plan.json", {"kind": "lungs"})
    require_lungs(other)
    with pytest.raises(UserError, match="holds the training of a lung network"):
        require_same_study(other, study("first"))
