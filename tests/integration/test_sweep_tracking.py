"""W&B follows a sweep: one run a trial, with what the trial's record says; read back from W&B's own files."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cxrdist.cohort.phantoms import draw_phantoms
from cxrdist.config.models import TrackingConfig
from cxrdist.run.store import Store, parse_json
from cxrdist.run.tracking_wandb import WandbTracker, run_facts, start_wandb
from tests.integration.conftest import Command, Workplace, rows_of, run_here, write_rows
from tests.integration.wandb_files import Run, files_of, read_run, runs_of

EPOCHS = 4
FOLDS = 2
TRIALS = 10

# Most of these rates are too small or too large to learn anything, so that trials stop early.
STUDY = f"""\
name: followed
seed: 1
cohort:
  manifest: {{manifest}}
  classes: [normal, covid19]
preprocessing: {{{{size: 32}}}}
folds: {{{{k: 2}}}}
variants: {{{{models: [vgg16]}}}}
model: {{{{weights: none, transfer: frozen, vgg_hidden: 32, dropout: 0.0}}}}
training: {{{{epochs: {EPOCHS}, batch_size: 8}}}}
sweep:
  space:
    learning_rate: {{{{low: 1e-8, high: 10, scale: log}}}}
  trials: {TRIALS}
  folds: {FOLDS}
  concurrency: 2
tracking: {{{{wandb: offline}}}}
execution: {{{{threads: 1, checkpoint_seconds: 0.0, keep_models: false}}}}
"""


def trials_of(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Read the trials' records by the names that their runs should have."""
    found = {}
    for path in run_dir.glob("sweep/*/*/trials/[0-9]*.json"):
        record = parse_json(path.read_bytes())
        found[f"{'/'.join(path.parts[-4:-2])}/trial-{record['number']:03d}"] = record
    return found


def inner_folds_begun(record: dict[str, Any]) -> int:
    return math.ceil(float(record["work"]))


def timeless(trials: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {**record, "seconds": 0} for name, record in trials.items()}


@pytest.fixture(scope="module", autouse=True)
def _no_process_of_wandb_is_left() -> Iterator[None]:
    yield
    import wandb

    wandb.teardown()


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two classes, one of them with a bright marker."""
    folder = tmp_path_factory.mktemp("marked")
    images = folder / "images"
    draw_phantoms(images, patients_per_class=16, images_per_patient=(1, 2), size=64, seed=0, marker="covid19")
    write_rows(images, [row for row in rows_of(images) if row["label"] in ("normal", "covid19")], "two.csv")
    (folder / "study.yaml").write_text(STUDY.format(manifest=images / "two.csv"))
    return folder


def sweep(folder: Path, run_dir: Path, *settings: str, executor: str = "inline") -> list[str]:
    """Arguments of `cxrdist sweep`."""
    where = ("--images", str(folder / "images"), "--run-dir", str(run_dir), "--executor", executor)
    changed = [text for setting in (f"execution.cache={folder}/cache", *settings) for text in ("--set", setting)]
    return ["sweep", str(folder / "study.yaml"), *where, *changed]


@pytest.fixture(scope="module")
def followed(marked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a sweep that was followed."""
    run_dir = tmp_path_factory.mktemp("followed") / "run"
    status, output = run_here(*sweep(marked, run_dir))
    assert status == 0, output
    assert "tracking stopped" not in output
    return run_dir


@pytest.fixture(scope="module")
def runs(followed: Path) -> dict[str, Run]:
    return runs_of(followed)


@pytest.fixture(scope="module")
def trials(followed: Path) -> dict[str, dict[str, Any]]:
    return trials_of(followed)


def test_each_trial_is_one_run_of_the_studys_group_and_there_are_no_others(
    runs: dict[str, Run], trials: dict[str, dict[str, Any]]
) -> None:
    assert len(trials) == 2 * TRIALS
    assert {record["state"] for record in trials.values()} == {"complete", "stopped"}
    assert sorted(runs) == sorted(trials)
    assert {(run.group, run.job_type) for run in runs.values()} == {("followed", "trial")}


def test_a_run_says_of_which_variant_and_fold_it_is_and_with_which_settings(
    followed: Path, runs: dict[str, Run], trials: dict[str, dict[str, Any]]
) -> None:
    for name, run in runs.items():
        variant, fold, number = name.split("/")
        assert run.config == {
            "variant": variant,
            "fold": int(fold.removeprefix("fold-")),
            "search": f"{variant}/{fold}",
            "trial": int(number.removeprefix("trial-")),
            "settings": dict(trials[name]["settings"]),
            **run_facts(Store(followed)),
        }


def test_what_is_logged_after_each_epoch_is_what_the_record_says(
    runs: dict[str, Run], trials: dict[str, dict[str, Any]]
) -> None:
    for name, run in runs.items():
        record = trials[name]
        steps = round(record["work"] * EPOCHS)
        assert [row["_step"] for row in run.rows] == list(range(1, steps + 1))
        places = [(row["inner_fold"], row["epoch"]) for row in run.rows]
        assert places == [(step // EPOCHS, step % EPOCHS + 1) for step in range(steps)]
        # A trial that stops after the last epoch of an inner fold stops in that inner fold.
        whole = FOLDS if record["state"] == "complete" else inner_folds_begun(record) - 1
        assert [row["val_auc"] for row in run.rows[EPOCHS - 1 :: EPOCHS]][:whole] == record["fold_scores"]
        done: list[float] = []
        for row in run.rows:
            scores = [*done, row["val_auc"]]
            assert row["mean_so_far"] == pytest.approx(sum(scores) / len(scores), abs=1e-12)
            done = scores if row["epoch"] == EPOCHS else done
        # Trials may stop after .3 and .9 inner folds: after the second epoch, and after the fourth.
        reached = [run.rows[step - 1]["mean_so_far"] for step in (2, 4) if step <= steps]
        assert reached == record["rung_scores"]
        assert sum(row["seconds"] for row in run.rows) == pytest.approx(record["seconds"], abs=1e-3)
        assert all(row["train_loss"] > 0 and row["validation_loss"] > 0 for row in run.rows)


def test_the_summary_holds_how_a_trial_ended_and_its_score(
    runs: dict[str, Run], trials: dict[str, dict[str, Any]]
) -> None:
    for name, run in runs.items():
        record = trials[name]
        assert run.exit_code == 0
        assert run.summary["state"] == record["state"]
        assert run.summary["inner_folds_done"] == record["work"]
        if record["state"] == "complete":
            mean = sum(record["fold_scores"]) / FOLDS
            assert run.summary["mean_val_auc"] == pytest.approx(mean, abs=1e-12)
        else:
            assert "mean_val_auc" not in run.summary


def test_following_changes_no_trial(command: Command, marked: Path, followed: Path, tmp_path: Path) -> None:
    status, output = command(*sweep(marked, tmp_path / "run", "tracking.wandb=off"))
    assert status == 0, output
    assert not (tmp_path / "run" / "wandb").exists()
    assert timeless(trials_of(tmp_path / "run")) == timeless(trials_of(followed))


def test_a_resumed_sweep_makes_runs_of_new_trials_alone(command: Command, marked: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    held: list[dict[Path, int]] = []
    for n_trials in (2, 5, 5):
        status, output = command(*sweep(marked, run_dir, f"sweep.trials={n_trials}"))
        assert status == 0, output
        assert len(runs_of(run_dir)) == 2 * n_trials
        held.append({path: path.stat().st_size for path in files_of(run_dir)})
    assert held[0].items() <= held[1].items(), "a run of a trial that was over was continued"
    assert held[1] == held[2]


def test_inner_folds_may_be_runs_of_their_own(
    command: Command, marked: Path, trials: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    status, output = command(*sweep(marked, run_dir, "tracking.trial_runs=inner_fold"))
    assert status == 0, output
    runs = runs_of(run_dir)
    begun = {name: inner_folds_begun(record) for name, record in trials.items()}
    assert min(begun.values()) < FOLDS
    assert sorted(runs) == sorted(f"{name}/inner-{fold}" for name, n in begun.items() for fold in range(n))
    for name, run in runs.items():
        trial, _, number = name.rpartition("/inner-")
        record, fold = trials[trial], int(number)
        is_last = fold == begun[trial] - 1
        assert (run.group, run.job_type, run.exit_code) == ("followed", "trial", 0)
        assert (run.config["inner_fold"], run.config["settings"]) == (fold, dict(record["settings"]))
        epochs = round(record["work"] * EPOCHS) - EPOCHS * fold if is_last else EPOCHS
        assert [row["_step"] for row in run.rows] == list(range(1, epochs + 1))
        for score in record["fold_scores"][fold : fold + 1]:
            assert run.rows[-1]["val_auc"] == run.summary["val_auc"] == score
        assert run.summary.get("state") == (record["state"] if is_last else None)


# At this rate the activations of thirteen layers that are all trained overflow within steps.
DIVERGING = (
    "sweep.space={learning_rate: {values: [10.0, 1e-4]}}",
    "sweep.nesting=shared",
    "model.transfer=finetune",
    "training.epochs=2",
)


@pytest.mark.parametrize(("trial_runs", "end"), [("trial", ""), ("inner_fold", "/inner-0")])
def test_a_diverged_trial_has_a_run_that_says_so(
    command: Command, marked: Path, tmp_path: Path, trial_runs: str, end: str
) -> None:
    run_dir = tmp_path / "run"
    status, output = command(*sweep(marked, run_dir, *DIVERGING, f"tracking.trial_runs={trial_runs}"))
    assert status == 0, output
    trials, runs = trials_of(run_dir), runs_of(run_dir)
    name = "whole-vgg16/shared/trial-000"
    assert trials[name]["state"] == "diverged"
    assert trials[name]["fold_scores"] == []
    assert len([each for each in runs if each.startswith(name)]) == 1
    run = runs[name + end]
    assert run.summary["state"] == "diverged"
    assert run.exit_code == 1
    assert run.config["fold"] == 0
    assert {each.exit_code for each in runs.values() if not each.name.startswith(name)} == {0}


def test_a_tracker_that_fails_does_not_stop_a_sweep(
    command: Command, marked: Path, followed: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "wandb").write_text("in the way of W&B's folder")
    status, output = command(*sweep(marked, run_dir, "sweep.trials=2"))
    assert status == 0, output
    assert "tracking stopped" in output
    some = timeless(trials_of(run_dir))
    assert len(some) == 4
    assert some.items() <= timeless(trials_of(followed)).items()


def test_another_attempt_repeats_no_step(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = start_wandb(
        TrackingConfig(wandb="offline"),
        run_id="a1",
        name="n",
        group="g",
        job_type="trial",
        facts={},
        store=Store(tmp_path),
    )
    tracker = WandbTracker(run, Store(tmp_path))
    for step in (1, 2, 1, 2, 3):
        tracker.log(step, {"epoch": step})
    tracker.finish(failed=False)
    (path,) = files_of(tmp_path)
    assert [(row["_step"], row["epoch"]) for row in read_run(path).rows] == [(1, 1), (2, 2), (3, 3)]
    assert "WARNING" not in "".join(capfd.readouterr()), "W&B warns of steps that go back"


@pytest.mark.long
@pytest.mark.alone
def test_trials_on_ray_are_followed_too(marked: Path, tmp_path: Path) -> None:
    place = Workplace(tmp_path, marked / "images", marked / "cache")
    run_dir = tmp_path / "run"
    status, output = place.run(*sweep(marked, run_dir, "sweep.trials=4", "sweep.nesting=shared", executor="ray"))
    assert status == 0, output
    assert "tracking stopped" not in output
    runs, trials = runs_of(run_dir), trials_of(run_dir)
    assert len(runs) == 4
    assert sorted(runs) == sorted(trials)
    for name, run in runs.items():
        assert (run.group, run.job_type) == ("followed", "trial")
        assert [row["val_auc"] for row in run.rows][EPOCHS - 1 :: EPOCHS] == trials[name]["fold_scores"]
        assert run.summary["state"] == trials[name]["state"]
    assert not re.search(r"wandb: ", output)
