"""A fold job that several ranks train together: the study's results, also when one of them is lost."""

import json
import os
import signal
from pathlib import Path

import pyarrow as pa
import pytest

from cxrdist.cohort.parquet import parquet_table
from tests.integration.conftest import DEADLINE, Workplace, ray_processes, wait_for

pytestmark = [pytest.mark.alone, pytest.mark.long]

TOLERANCES = {"whole-vgg16": 3e-5, "whole-resnet34": 2e-2}
"""Of probabilities after fine-tuning in fp32; batch normalisation of few images makes rounding grow."""


def test_two_ranks_give_the_results_of_one_device_though_a_follower_is_killed(workplace: Workplace) -> None:
    tuned = ["--set", "model.transfer=finetune", "--set", "variants={views: [whole], models: [vgg16, resnet34]}"]
    tuned += ["--set", "training={epochs: 5, batch_size: 8, learning_rate: 1e-5}"]
    status, output = workplace.run(*workplace.arguments(*tuned, run_dir="here"))
    assert status == 0, output

    both = [*tuned, "--set", "training.gpus_per_fold=2"]
    process = workplace.start(*workplace.arguments(*both, run_dir="there", executor="ray"))
    follower = wait_for(process, lambda: follower_in_mid_job(workplace.folder / "there"))
    os.kill(int(follower), signal.SIGKILL)
    output, _ = process.communicate(timeout=DEADLINE)

    assert process.returncode == 0, output
    assert "continues from its last checkpoint" in output
    assert "rank 0 of a fold job stopped" in output
    for run_dir, ranks in (("here", 1), ("there", 2)):
        done = [json.loads(path.read_text()) for path in workplace.folder.glob(f"{run_dir}/jobs/*/*/done.json")]
        assert [mark["ranks"] for mark in done] == [ranks] * 4
    for name, alone, together in predictions(workplace, "here", "there"):
        columns = [column for column in alone.column_names if column.startswith("p_")]
        assert together.drop(columns) == alone.drop(columns)
        assert together.schema.metadata == alone.schema.metadata, "another fingerprint: the job would be done again"
        differences = [abs(together.column(name).to_numpy() - alone.column(name).to_numpy()) for name in columns]
        assert max(difference.max() for difference in differences) <= TOLERANCES[Path(name).parts[1]], name


def predictions(workplace: Workplace, alone: str, together: str) -> list[tuple[str, pa.Table, pa.Table]]:
    """Return the name and the table of each file of predictions, of each run."""
    runs = [
        {name: data for name, data in workplace.results(run_dir).items() if name.endswith(".parquet")}
        for run_dir in (alone, together)
    ]
    assert len(runs[0]) == 4
    assert all(run.keys() == runs[0].keys() for run in runs)
    return [(name, parquet_table(runs[0][name]), parquet_table(runs[1][name])) for name in runs[0]]


def follower_in_mid_job(run_dir: Path) -> str:
    """Return the process that trains with the lane, once an epoch is over and another has begun, or nothing."""
    for progress in run_dir.glob("jobs/*/*/progress.json"):
        state = json.loads(progress.read_text())
        if 1 <= state["epoch"] < state["epochs"] - 2 and not (progress.parent / "done.json").exists():
            lead = int(state["lane"].rpartition(":")[2])
            return next((str(pid) for pid in ray_processes("RayTrainWorker") if pid != lead), "")
    return ""
