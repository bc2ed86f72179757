"""The real three-class study, smaller and shorter, followed offline and read back."""

import csv
import json
import secrets
from pathlib import Path

import pytest

from tests.integration.conftest import Workplace
from tests.integration.wandb_files import runs_of, table

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / ".." / "shared" / "cxr"
CLASSES = ["covid19", "viral_pneumonia", "normal"]
VARIANT = "whole-resnet34"
SMALLER = (
    "model.weights=none",
    "preprocessing.size=64",
    "training.epochs=4",
    "training.batch_size=32",
    "execution.executor=inline",
)
IMAGES = 781


@pytest.mark.real_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared folder of real chest X-rays is absent")
def test_wandb_has_the_whole_real_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = secrets.token_hex(20)
    monkeypatch.setenv("WANDB_API_KEY", key)
    place = Workplace(tmp_path, SHARED, tmp_path / "cache")
    run_dir = tmp_path / "run"
    settings = [text for one in (*SMALLER, f"execution.cache={place.cache}") for text in ("--set", one)]
    study = str(ROOT / "jobs" / "resnet34_three_class.yaml")
    where = ("--images", str(SHARED), "--run-dir", str(run_dir), "--wandb", "offline")
    status, output = place.run("run", study, *where, *settings)
    assert status == 0, output
    assert "W&B" not in output
    assert "tracking stopped" not in output

    runs = runs_of(run_dir)
    folds = [f"{VARIANT}/fold-{number}" for number in range(5)]
    assert sorted(runs) == ["aggregate", *folds]
    assert {run.group for run in runs.values()} == {"resnet34-three-class"}
    assert [runs[name].job_type for name in ("aggregate", *folds)] == ["aggregate", *["fold"] * 5]
    for name in folds:
        lines = (run_dir / "jobs" / name / "history.jsonl").read_text().splitlines()
        assert [row["_step"] for row in runs[name].rows] == [1, 2, 3, 4]
        assert [row["validation_loss"] for row in runs[name].rows] == [
            json.loads(line)["validation_loss"] for line in lines
        ]

    aggregate = runs["aggregate"]
    predictions = table(aggregate, "predictions")
    assert len({row["image_id"] for row in predictions}) == len(predictions) == IMAGES
    counts = {label: sum(row["truth"] == label for row in predictions) for label in CLASSES}
    assert counts == {"covid19": 240, "viral_pneumonia": 274, "normal": 267}
    cells = table(aggregate, f"confusion/{VARIANT}_table")
    assert sum(cell["nPredictions"] for cell in cells) == IMAGES
    right = sum(cell["nPredictions"] for cell in cells if cell["Actual"] == cell["Predicted"])
    assert aggregate.summary[f"{VARIANT}/accuracy"] == pytest.approx(right / IMAGES)
    assert {row["class"] for row in table(aggregate, f"roc/{VARIANT}_table")} == set(CLASSES)
    for name in ("summary", "intervals", "folds", f"confusion_{VARIANT}"):
        with (run_dir / f"report/tables/{name}.csv").open(newline="") as file:
            _, *written = csv.reader(file)
        assert len(table(aggregate, f"tables/{name}")) == len(written)
    kinds = {kind for kind in aggregate.artifacts.values() if kind != "run_table"}
    assert kinds == {"cohort", "splits"}

    assert key not in output
    assert not [path for path in run_dir.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert not list((run_dir / "wandb").rglob("*.png")), "pixels are logged where nobody asked for them"
