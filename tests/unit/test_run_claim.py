from pathlib import Path

import pytest

from cxrdist.config import Study, load_study
from cxrdist.errors import UserError
from cxrdist.run.claim import claim_run, claim_study, study_bytes
from cxrdist.run.lung_plan import LUNGS
from cxrdist.run.store import Store
from cxrdist.study import layout

STUDY = "name: s\ncohort: {{manifest: m.csv, images: {images}, classes: [a, b]}}\n"


@pytest.fixture
def study(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "mine.yaml").write_text(STUDY.format(images=tmp_path / "images"))
    return load_study(tmp_path / "mine.yaml")


def changed(study: Study, seed: int) -> Study:
    return study.model_copy(update={"seed": seed})


def run(store: Store, study: Study, *, killed: bool = False, noted: bool = True) -> None:
    """What of a run matters here; one that is killed has a study file and no plan of it."""
    claim_study(store, study)
    store.write_bytes(layout.STUDY, study_bytes(study))
    if not killed:
        store.write_json(layout.PLAN, {"jobs": []})
    if not noted:
        store.remove(".cxrdist.json")


def refused(store: Store, study: Study, *inputs: Path) -> str:
    before = {name: store.read_bytes(name) for name in store.names("")}
    with pytest.raises(UserError) as error:
        claim_study(store, study, inputs)
    assert {name: store.read_bytes(name) for name in store.names("")} == before
    return str(error.value)


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_goes_on_with_this_study_and_with_another_one(tmp_path, study, killed):
    store = Store(tmp_path / "run")
    for seed in (1, 2, 2, 3):
        run(store, changed(study, seed), killed=killed)
    # Killed before the study file was written, too.
    claim_study(store, changed(study, 4))
    claim_study(store, changed(study, 5))
    # The resolved study is a study file as well.
    claim_study(store, changed(study, 3), [tmp_path / "run" / layout.STUDY])


@pytest.mark.parametrize("killed", [False, True])
def test_a_study_file_that_was_changed_since_is_the_users(tmp_path, study, killed):
    store = Store(tmp_path / "run")
    run(store, study, killed=killed)
    store.write_bytes(layout.STUDY, b"name: mine\n")
    assert "is not as `cxrdist` wrote it" in refused(store, study)
    assert "is not as `cxrdist` wrote it" in refused(store, study, tmp_path / "run" / layout.STUDY)


def test_of_an_earlier_version_the_study_file_is_the_users_where_it_is_what_the_user_gives(tmp_path, study):
    store = Store(tmp_path / "run")
    run(store, study, noted=False)
    assert "is not as `cxrdist` wrote it" in refused(store, study, tmp_path / "run" / layout.STUDY)
    claim_study(store, study, [tmp_path / "mine.yaml"])


@pytest.mark.parametrize(
    "name", [layout.STUDY, layout.PLAN, layout.COHORT, layout.MASKS, "report/index.html", "jobs/x"]
)
def test_a_folder_with_a_file_that_a_run_writes_is_no_run_directory(tmp_path, study, name):
    store = Store(tmp_path / "run")
    store.write_bytes(name, b"mine")
    assert "is not known to be" in refused(store, study)


@pytest.mark.parametrize("name", ["notes.md", "submitted/job/study.yaml", "audit/plan.json", "mine.yaml"])
def test_other_files_are_no_harm(tmp_path, study, name):
    store = Store(tmp_path / "run")
    store.write_bytes(name, b"mine")
    claim_study(store, study, [tmp_path / "run" / name])


def test_the_folder_of_the_images_is_no_run_directory_and_one_beside_them_is(tmp_path, study):
    (tmp_path / "images" / "series").mkdir()
    (tmp_path / "images" / "series" / "1.2.840.3").write_bytes(b"DICM")
    assert "is a folder of inputs" in refused(Store(tmp_path / "images"), study)
    assert "among the inputs" in refused(Store(tmp_path / "images" / "series"), study)
    claim_study(Store(tmp_path / "images" / "runs" / "1"), study)
    claim_study(Store(tmp_path), study)


def test_a_study_and_the_training_of_a_lung_network_do_not_replace_each_other(tmp_path, study):
    store = Store(tmp_path / "run")
    run(store, study)
    with pytest.raises(UserError, match="holds a study"):
        claim_run(store, LUNGS, [], [])
    store = Store(tmp_path / "lungs")
    claim_run(store, LUNGS, [], [])
    store.write_json(layout.PLAN, {"kind": LUNGS, "jobs": []})
    claim_run(store, LUNGS, [], [])
    assert "holds the training of a lung network" in refused(store, study)


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"files": {}}', '{"run": "study"'])
def test_a_record_that_is_no_claim_of_a_run_makes_nothing_replaceable(tmp_path, study, record):
    store = Store(tmp_path / "run")
    store.write_bytes(layout.STUDY, b"mine")
    store.write_bytes(".cxrdist.json", record.encode())
    assert "is not known to be its own" in refused(store, study)
