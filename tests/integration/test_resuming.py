"""What is done stays done, what is stale is done again, and what is missing is said."""

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from cxrdist.machine import usable_cores
from cxrdist.outputs import RECORD
from tests.integration.conftest import (
    STUDY,
    STUDY_EPOCHS,
    THREADS,
    Command,
    Workplace,
    assert_one_sentence,
    rewrite,
    run_here,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, phantoms: Path, shared_cache: Path) -> Workplace:
    """A finished study."""
    folder = tmp_path_factory.mktemp("finished")
    text = STUDY.format(manifest=phantoms / "manifest.csv").replace(STUDY_EPOCHS, "epochs: 4").replace(THREADS, "")
    (folder / "study.yaml").write_text(text)
    place = Workplace(folder, phantoms, shared_cache)
    status, output = run_here(*place.arguments())
    assert status == 0, output
    return place


@pytest.fixture
def copied(finished: Workplace, tmp_path: Path) -> Workplace:
    """A copy of the finished study that a test may spoil."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Workplace(tmp_path / "copy", finished.images, finished.cache)


def test_a_second_run_trains_nothing_and_says_so(command: Command, copied: Workplace) -> None:
    arguments = copied.arguments()
    command(*arguments)
    written = [*copied.folder.glob("run/jobs/*/*/done.json"), *copied.folder.glob("run/report/**/*.*")]
    before = {path: path.stat().st_mtime_ns for path in written}
    code, output = command(*arguments)
    assert code == 0, output
    assert "Nothing to train: all 4 fold jobs" in output
    assert {path: path.stat().st_mtime_ns for path in written} == before


def test_a_report_is_made_again_from_predictions_alone(command: Command, copied: Workplace) -> None:
    before = copied.results("run")
    shutil.rmtree(copied.folder / "run" / "report")
    code, output = command("report", str(copied.folder / "run"))
    assert code == 0, output
    assert copied.results("run") == before


def test_status_shows_done_and_stale_jobs(command: Command, copied: Workplace) -> None:
    code, output = command("status", str(copied.folder / "run"))
    assert code == 0
    assert output.count(" done ") == 4
    first, *others = json.loads((copied.folder / "run" / "plan.json").read_text())["jobs"]
    rewrite(copied.folder / "run", "plan.json", jobs=[{**first, "fingerprint": "0" * 64}, *others])
    code, output = command("status", str(copied.folder / "run"))
    assert output.count(" done ") == 3
    assert output.count(" stale ") == 1


def test_another_learning_rate_makes_every_job_stale(command: Command, copied: Workplace) -> None:
    code, output = command(*copied.arguments("--set", "training.learning_rate=2e-3"))
    assert code == 0, output
    assert "done before" not in output


def test_a_view_that_is_taken_away_leaves_the_others_done_and_nothing_in_the_report(
    command: Command, copied: Workplace
) -> None:
    report = copied.folder / "run" / "report"
    (report / "tables" / "segmented_of_my_own.csv").write_text("kept\n")
    assert [*report.glob("tables/confusion_*segmented*.csv")]
    code, output = command(*copied.arguments("--set", "variants.views=[whole]"))
    assert code == 0, output
    assert "all 2 fold jobs" in output
    assert [path.name for path in report.rglob("*segmented*")] == ["segmented_of_my_own.csv"]
    assert [*report.glob("tables/confusion_*whole*.csv")]


def test_a_dry_run_says_what_becomes_of_results_and_changes_nothing_then_a_run_does_it(
    command: Command, copied: Workplace
) -> None:
    run = copied.folder / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    changed = copied.arguments("--set", "variants.views=[whole]", "--set", "training.learning_rate=2e-3")
    said = [
        "2 fold jobs (whole-vgg16/fold-0, whole-vgg16/fold-1) of another plan",
        "2 fold jobs (segmented-vgg16/fold-0, segmented-vgg16/fold-1) that it no longer has",
        "0 of 2 fold jobs are kept",
    ]
    code, output = command(*changed, "--dry-run")
    assert code == 0, output
    output = " ".join(output.split())
    assert all(words in output for words in [*said, "2 of 2 fold jobs would be done. Nothing was changed."])
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    code, output = command(*changed)
    assert code == 0, output
    assert all(words in " ".join(output.split()) for words in said)
    # Whoever reads the fold jobs' predictions counts every image once; what was done is whole, elsewhere.
    tested = [name for path in run.glob("jobs/*/*/predictions.parquet") for name in ids_of(path)]
    assert len(tested) == len(set(tested)) > 0
    aside = {path.relative_to(run / "set_aside" / "1"): path.read_bytes() for path in run.glob("set_aside/1/**/*.*")}
    # Records of what was written are of the folders themselves, and stay.
    for path, content in [(path, content) for path, content in before.items() if path.name != RECORD]:
        assert aside[path.relative_to(run)] == content
    code, output = command("report", str(run / "set_aside" / "1"))
    assert code == 0, output


def ids_of(predictions: Path) -> list[str]:
    """The images of a file of predictions."""
    ids: list[str] = pq.read_table(predictions).column("image_id").to_pylist()
    return ids


def test_a_study_that_becomes_again_what_it_was_trains_nothing(command: Command, copied: Workplace) -> None:
    before = copied.results("run")
    fewer = copied.arguments("--set", "variants.views=[whole]")
    assert "of 2 fold jobs are kept" in command(*fewer)[1]
    code, output = command(*copied.arguments())
    assert code == 0, output
    assert "come back: jobs/segmented-vgg16/fold-0" in output
    assert "all 4 fold jobs" in output
    assert copied.results("run") == before


@pytest.mark.parametrize(("setting", "words"), [("name=another", "of the study 'tiny'"), ("", "another cohort")])
def test_another_study_in_a_run_directory_with_results_is_refused(
    command: Command, copied: Workplace, setting: str, words: str
) -> None:
    before = copied.results("run")
    if setting:
        result = command(*copied.arguments("--set", setting))
    else:
        manifest = copied.folder / "manifest.csv"
        rows = (copied.images / "manifest.csv").read_text().splitlines()
        manifest.write_text("\n".join(rows[:-1]))
        result = command(*copied.arguments("--set", f"cohort.manifest={manifest}"))
    assert_one_sentence(result, 2, [words, "--run-dir"])
    assert copied.results("run") == before


def test_damaged_predictions_are_made_again(command: Command, copied: Workplace) -> None:
    before = copied.results("run")
    victim = next(copied.folder.glob("run/jobs/*/fold-1/predictions.parquet"))
    victim.write_bytes(victim.read_bytes()[:-10])
    code, output = command(*copied.arguments())
    assert code == 0, output
    assert "3 of 4 fold jobs were done before" in output
    assert copied.results("run") == before


def lose_a_job(place: Workplace) -> None:
    shutil.rmtree(next(place.folder.glob("run/jobs/*/fold-1")))


def test_a_job_that_is_left_is_done_with_the_threads_of_the_plan_on_fewer_cores_too(
    command: Command, copied: Workplace
) -> None:
    before = copied.results("run")
    lose_a_job(copied)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(cores)])
    try:
        code, output = command(*copied.arguments())
    finally:
        os.sched_setaffinity(0, cores)
    assert code == 0, output
    assert "3 of 4 fold jobs were done before" in output
    assert "Note:" not in output
    marks = [json.loads(path.read_text()) for path in copied.folder.glob("run/jobs/*/*/done.json")]
    assert {mark["machine"]["threads"] for mark in marks} == {len(cores)}
    assert {mark["machine"]["cores"] for mark in marks} == {1, len(cores)}
    assert copied.results("run") == before


def test_features_that_are_not_in_the_cache_any_more_change_nothing(command: Command, copied: Workplace) -> None:
    before = copied.results("run")
    lose_a_job(copied)
    code, output = command(*copied.arguments("--set", f"execution.cache={copied.folder / 'empty'}"))
    assert code == 0, output
    assert copied.results("run") == before


def test_other_threads_that_are_asked_for_are_named_on_the_console_and_in_the_report(
    command: Command, copied: Workplace
) -> None:
    lose_a_job(copied)
    threads = usable_cores() + 1
    code, output = command(*copied.arguments("--set", f"execution.threads={threads}"))
    assert code == 0, output
    words = "fold jobs were computed with different numbers of threads, which can change their numbers"
    assert words in " ".join(output.split())
    assert f"{threads}: what is left" in " ".join(output.split())
    assert words in (copied.folder / "run" / "report" / "index.html").read_text()
    # From now on that is the plan.
    assert json.loads((copied.folder / "run" / "plan.json").read_text())["computing"]["threads"] == threads


def test_what_was_planned_for_a_gpu_is_done_on_the_cpu_only_where_that_is_asked_for(
    command: Command, copied: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    computing = json.loads((copied.folder / "run" / "plan.json").read_text())["computing"]
    rewrite(copied.folder / "run", "plan.json", computing={**computing, "device": "cuda"})
    lose_a_job(copied)
    assert_one_sentence(command(*copied.arguments()), 2, ["computes on a GPU", "--set execution.device=cpu"])
    code, output = command(*copied.arguments("--set", "execution.device=cpu"))
    assert code == 0, output


@pytest.mark.alone
def test_one_job_that_is_left_on_ray_is_done_with_the_threads_of_the_others(
    workplace: Workplace, undisturbed: dict[str, bytes]
) -> None:
    """Alone it would have all cores, and other bytes."""
    workplace.study.write_text(workplace.study.read_text().replace(THREADS, ""))
    code, output = run_here(*workplace.arguments("--set", "execution.threads=1"))
    assert code == 0, output
    lose_a_job(workplace)
    code, output = workplace.run(*workplace.arguments(executor="ray"))
    assert code == 0, output
    assert "3 of 4 fold jobs were done before" in output
    assert workplace.results("run") == undisturbed


def test_tables_of_an_incomplete_study_are_refused_unless_asked_for(command: Command, copied: Workplace) -> None:
    next(copied.folder.glob("run/jobs/*/fold-1/done.json")).unlink()
    code, output = command("report", str(copied.folder / "run"))
    assert code == 1
    assert "1 of 4 fold jobs have no predictions" in output
    code, output = command("report", str(copied.folder / "run"), "--partial")
    assert code == 0, output
    assert "Incomplete study: 1 of 4 fold jobs have no predictions" in output


def test_predictions_of_another_cohort_are_refused(command: Command, copied: Workplace) -> None:
    rewrite(copied.folder / "run", "plan.json", cohort="f" * 64)
    code, output = command("report", str(copied.folder / "run"))
    assert code == 1
    assert "were made on cohort" in output


def test_a_diverged_job_is_reported_and_not_repeated(command: Command, copied: Workplace) -> None:
    trunk = torchvision.models.vgg16(init_weights=False).features.state_dict()
    trunk["0.weight"][0] = float("nan")
    weights = copied.folder / "vgg16.safetensors"
    save_file({f"features.{key}": value for key, value in trunk.items()}, weights)
    arguments = copied.arguments("--set", f"model.weights={weights}", "--set", "variants.views=[whole]")
    code, output = command(*arguments)
    assert code == 1
    assert "diverged: the loss was not a finite number" in output
    code, status = command("status", str(copied.folder / "run"))
    assert " diverged " in status
    code, output = command(*arguments)
    assert code == 1
    assert "starting workers" not in output


def test_a_cache_of_another_version_is_rebuilt(command: Command, copied: Workplace) -> None:
    cache = copied.folder / "cache"
    shutil.copytree(copied.cache / "shards", cache / "shards")
    for index in cache.glob("shards/*/index.json"):
        index.write_text(json.dumps({**json.loads(index.read_text()), "version": 0}))
    before = copied.results("run")
    code, output = command(*copied.arguments("--set", f"execution.cache={cache}"))
    assert code == 0, output
    assert "they are made again" in output
    assert copied.results("run") == before
