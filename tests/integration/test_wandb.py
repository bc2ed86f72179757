"""A study followed offline, read back from the files that W&B writes."""

import csv
import json
import secrets
from pathlib import Path

import numpy as np
import pytest

from cxrdist.cohort.schema import REQUIRED
from cxrdist.run.context import read_folds, read_plan, read_table
from cxrdist.run.results import collect
from cxrdist.run.store import Store
from cxrdist.study import layout
from tests.integration.conftest import STUDY, STUDY_EPOCHS, Workplace, run_here
from tests.integration.wandb_files import Run, files_of, runs_of, table

CLASSES = ["normal", "covid19", "viral_pneumonia", "bacterial_pneumonia"]
VARIANT = "whole-vgg16"
SHORT = ("--set", "variants.views=[whole]", "--set", "training.epochs=1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, phantoms: Path, shared_cache: Path) -> Workplace:
    """A study of one variant and four epochs."""
    folder = tmp_path_factory.mktemp("tracked")
    text = STUDY.format(manifest=phantoms / "manifest.csv").replace(STUDY_EPOCHS, "epochs: 4")
    (folder / "study.yaml").write_text(text.replace("[whole, segmented]", "[whole]").replace("keep_models: false", ""))
    return Workplace(folder, phantoms, shared_cache)


@pytest.fixture(scope="module")
def tracked(place: Workplace) -> Path:
    """The run directory of the study, tracked offline."""
    status, output = run_here(*place.arguments("--wandb", "offline"))
    assert status == 0, output
    assert "W&B" not in output, "something was not logged"
    return place.folder / "run"


@pytest.fixture(scope="module")
def runs(tracked: Path) -> dict[str, Run]:
    return runs_of(tracked)


def test_each_fold_job_is_a_run_of_the_study_with_a_point_an_epoch(tracked: Path, runs: dict[str, Run]) -> None:
    assert sorted(runs) == ["aggregate", f"{VARIANT}/fold-0", f"{VARIANT}/fold-1"]
    assert {(run.project, run.group, run.exit_code) for run in runs.values()} == {("cxrdist", "tiny", 0)}
    for name, run in runs.items():
        assert run.job_type == ("aggregate" if name == "aggregate" else "fold")
    rows = runs[f"{VARIANT}/fold-0"].rows
    written = (tracked / f"jobs/{VARIANT}/fold-0/history.jsonl").read_text().splitlines()
    assert [row["_step"] for row in rows] == [1, 2, 3, 4]
    assert [row["train_loss"] for row in rows] == [json.loads(line)["train_loss"] for line in written]


def test_in_an_agent_or_a_job_of_wandbs_runs_are_as_anywhere_else(
    place: Workplace, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {"SWEEP_ID": "sweep", "RUN_ID": "other", "RUN_GROUP": "other", "PROJECT": "other", "NAME": "other"}
    for name, value in {**others, "LAUNCH": "true", "JOB_TYPE": "other", "MODE": "disabled", "CONFIG": "{}"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    # In a process of its own: W&B reads its variables once.
    status, output = place.run(*place.arguments("--wandb", "offline", run_dir="in-agent"))
    assert status == 0, output
    found = runs_of(place.folder / "in-agent")
    assert {name: (run.id, run.group, run.project, run.job_type) for name, run in found.items()} == {
        name: (run.id, run.group, run.project, run.job_type) for name, run in runs.items()
    }
    assert [len(run.rows) for run in found.values() if run.job_type == "fold"] == [4, 4]


def test_runs_say_with_which_settings_and_software(runs: dict[str, Run]) -> None:
    run = runs[f"{VARIANT}/fold-1"]
    assert (run.config["variant"], run.config["fold"], run.config["seed"]) == (VARIANT, 1, 5)
    assert run.config["training"]["epochs"] == 4
    assert set(run.config["versions"]) == {"cxrdist", "python", "torch", "ray"}
    assert "git_commit" not in run.config, "the study file is under no version control"


def test_runs_say_nothing_of_the_machines_files(tracked: Path, runs: dict[str, Run]) -> None:
    assert not list(tracked.glob("wandb/*/files/wandb-metadata.json"))
    for run in runs.values():
        said = json.dumps([run.config, run.rows, run.logged, run.summary])
        assert str(tracked.parent) not in said
        assert ".png" not in said


def test_the_aggregate_run_has_every_prediction(tracked: Path, runs: dict[str, Run]) -> None:
    store = Store(tracked)
    (expected,) = collect(store, read_plan(store), CLASSES, partial=False).values()
    rows = {row["image_id"]: row for row in table(runs["aggregate"], "predictions")}
    assert list(rows) == list(expected.image_ids)
    assert [rows[one]["truth"] for one in rows] == [CLASSES[label] for label in expected.truth]
    assert [rows[one]["predicted"] for one in rows] == [CLASSES[label] for label in expected.predicted]
    assert [rows[one]["fold"] for one in rows] == expected.fold.tolist()
    probabilities = [[rows[one][f"p_{label}"] for label in CLASSES] for one in rows]
    np.testing.assert_allclose(probabilities, expected.probabilities, rtol=0, atol=1e-12)


def test_the_aggregate_run_has_the_reports_tables_with_intervals(tracked: Path, runs: dict[str, Run]) -> None:
    for name in ("summary", "intervals", "folds", f"confusion_{VARIANT}", f"by_class_{VARIANT}"):
        with (tracked / f"report/tables/{name}.csv").open(newline="") as file:
            _, *written = csv.reader(file)
        assert len(table(runs["aggregate"], f"tables/{name}")) == len(written)
    accuracy = next(row for row in table(runs["aggregate"], "tables/intervals") if row["Score"] == "Accuracy")
    assert float(accuracy["low"]) <= float(accuracy["value"]) <= float(accuracy["high"])
    assert runs["aggregate"].summary[f"{VARIANT}/accuracy"] == pytest.approx(float(accuracy["value"]), abs=1e-3)


def test_the_aggregate_run_has_a_confusion_matrix_and_a_roc_curve_of_each_class(
    tracked: Path, runs: dict[str, Run]
) -> None:
    store = Store(tracked)
    (expected,) = collect(store, read_plan(store), CLASSES, partial=False).values()
    cells = table(runs["aggregate"], f"confusion/{VARIANT}_table")
    counts = {(CLASSES.index(one["Actual"]), CLASSES.index(one["Predicted"])): one["nPredictions"] for one in cells}
    pairs = list(zip(expected.truth.tolist(), expected.predicted.tolist(), strict=True))
    assert counts == {(true, said): pairs.count((true, said)) for true in range(4) for said in range(4)}
    curves = table(runs["aggregate"], f"roc/{VARIANT}_table")
    assert {row["class"] for row in curves} == set(CLASSES)
    for label in CLASSES:
        own = [(row["fpr"], row["tpr"]) for row in curves if row["class"] == label]
        assert (own[0], own[-1]) == ((0, 0), (1, 1))


def test_cohort_and_splits_are_artifacts_without_pixels_and_paths(tracked: Path, runs: dict[str, Run]) -> None:
    artifacts = {name: kind for name, kind in runs["aggregate"].artifacts.items() if kind != "run_table"}
    assert artifacts == {"tiny-cohort": "cohort", "tiny-splits": "splits"}
    staged = [path for path in (tracked / "wandb/staging").rglob("*") if path.is_file()]
    store = Store(tracked)
    cohort = next(text for path in staged if (text := path.read_text()).startswith('"image_id","label"'))
    rows = list(csv.DictReader(cohort.splitlines()))
    kept = read_table(store, layout.COHORT).to_pylist()
    assert [row["sha256"] for row in rows] == [row["sha256"] for row in kept]
    assert not {"path", "mask_path"} & rows[0].keys()
    assert set(REQUIRED) - {"path"} <= rows[0].keys()
    splits = next(json.loads(text) for path in staged if '"folds"' in (text := path.read_text()))
    assert {key: splits[key] for key in ("counts", "folds")} == store.read_json(layout.FOLDS_JSON)
    assert read_folds(store).n_folds == 2


def test_no_pixels_are_logged_unless_asked_for(tracked: Path) -> None:
    assert not list(tracked.glob("wandb/**/*.png"))


@pytest.mark.long
def test_a_study_that_is_done_is_not_logged_again_but_with_images_where_they_are_asked_for(
    place: Workplace, tracked: Path, runs: dict[str, Run]
) -> None:
    before = files_of(tracked)
    status, output = place.run(*place.arguments("--wandb", "offline"))
    assert status == 0, output
    assert files_of(tracked) == before

    status, output = place.run(*place.arguments("--wandb", "offline", "--set", "tracking.images=true"))
    assert status == 0, output
    (added,) = files_of(tracked) - before
    pictures = list((added.parent / "files/media/images").rglob("*.png"))
    assert len(pictures) >= len(CLASSES)
    assert runs["aggregate"].id in added.name


def test_the_commit_of_the_study_file_is_logged(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.unit.test_cli_provenance import git

    git(workplace.folder, "init", "-q", "--template=")
    git(workplace.folder, "add", "study.yaml")
    git(workplace.folder, "commit", "-q", "-m", "first")
    commit = git(workplace.folder, "rev-parse", "HEAD")
    status, output = run_here(*workplace.arguments("--wandb", "offline", *SHORT))
    assert status == 0, output
    assert {run.config["git_commit"] for run in runs_of(workplace.folder / "run").values()} == {commit}


def test_no_key_is_in_the_run_directory(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    key = secrets.token_hex(20)
    monkeypatch.setenv("WANDB_API_KEY", key)
    status, output = workplace.run(*workplace.arguments("--wandb", "offline", *SHORT))
    assert status == 0, output
    assert key not in output
    holders = [p for p in workplace.folder.rglob("*") if p.is_file() and key.encode() in p.read_bytes()]
    assert holders == []


def test_a_tracker_that_fails_is_said_once_and_does_not_stop_the_study(workplace: Workplace) -> None:
    (workplace.folder / "run").mkdir()
    (workplace.folder / "run" / "wandb").write_text("in the way of W&B's folder")
    status, output = run_here(*workplace.arguments("--wandb", "online", *SHORT))
    assert status == 0, output
    assert output.count("tracking stopped") == 1
    assert output.count("the tables were not logged") == 1
    assert "report:" in output
