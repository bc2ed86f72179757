import ast
import dataclasses
import random
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu, kills, lanes, statistics, sweep
from cxrdist.cohort.phantoms import draw_phantoms
from cxrdist.learn.sources import ImageSource
from cxrdist.stats.replicates import replicate_scores
from cxrdist.study.search import TrialRecord, TrialState

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def torch_settings():
    """Both ways of training set these for the whole process."""
    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    yield
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = deterministic


# bf16 is slow on most CPUs, and least so where nothing of the trunk is trained.
@pytest.mark.parametrize(("transfer", "precision"), [("finetune", "fp32"), ("frozen", "bf16")])
@pytest.mark.usefixtures("torch_settings")
def test_both_loops_train(transfer, precision):
    scale = dataclasses.replace(gpu.QUICK, n_training=4, n_validation=2)
    contest = gpu.Contest(gpu.Case("resnet34", transfer, 4), scale, torch.device("cpu"))
    for train in (contest.plain, contest.ours):
        assert train(precision).images_per_second > 0


def test_both_loops_see_the_same_pixels():
    images = gpu.DecodedImages(2, side=32)
    ours = ImageSource(images, None, "whole", torch.device("cpu")).batch(torch.arange(2))
    plain = torch.stack([images[row][0] for row in range(2)])
    torch.testing.assert_close(plain, ours)


def test_ratio_is_the_median_of_interleaved_pairs():
    plain = [gpu.Measure(speed, 0) for speed in (10, 20, 30)]
    ours = [gpu.Measure(speed, 0) for speed in (40, 20, 90)]
    fields = gpu.row(gpu.CASES[0], "fp32", "auto", plain, ours).split()
    assert fields[5:8] == ["20", "40", "3.00"]


def test_the_gpu_benchmark_needs_torch_torchvision_and_numpy_only():
    foreign, waiting, seen = set(), ["benchmarks.gpu"], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        path = ROOT / name.replace(".", "/")
        tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())
        for node in ast.walk(tree):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                imported = [node.module or ""]
            own = {module for module in imported if module.startswith("cxrdist")}
            parents = {".".join(module.split(".")[:depth]) for module in own for depth in (1, 2, 3)}
            waiting += parents - seen
            foreign |= {module.partition(".")[0] for module in imported} - {"cxrdist"}
    assert "cxrdist.study.recipe" in seen
    assert foreign - sys.stdlib_module_names == {"torch", "torchvision", "numpy"}


@pytest.mark.usefixtures("torch_settings")
def test_lanes_are_timed_from_what_a_study_leaves_behind(tmp_path):
    manifest = draw_phantoms(tmp_path / "phantoms", patients_per_class=6, images_per_patient=(1, 1), size=64, seed=0)
    started = time.time()
    timing = lanes.measure("inline", manifest, tmp_path / "study", started, folds=3)
    assert timing.n_lanes == 1
    assert len(timing.jobs) == 3
    assert 0 <= timing.imported <= timing.planned <= timing.joined[0] <= timing.first_epoch <= timing.ended
    assert timing.overhead_per_job > 0
    assert len(timing.overheads) == 2
    assert "3 fold jobs" in lanes.report("inline", timing)


def test_overhead_is_the_lanes_time_that_no_epoch_took():
    jobs = tuple(
        lanes.FinishedJob(lane, finished, training_seconds=2.0, other_seconds=0.5)
        for lane, finished in (("a", 13.0), ("b", 14.0), ("a", 16.0), ("b", 18.5))
    )
    timing = lanes.Timing(1, 2, (3, 3), 5, 20, fold_jobs=9.0, jobs=jobs)
    assert timing.overhead_per_job == (9.0 * 2 - 4 * 2.0) / 4
    assert timing.overheads == [1.0, 2.5]


def test_statistics_and_plain_ways_give_equal_numbers_and_are_timed(capsys):
    statistics.main(["--quick"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert "one thread" in head
    ratios = [float(line.rpartition("ratio ")[2]) for line in lines]
    # All pairs are quicker where there are few: only the loop over resamples is slow at any size.
    assert len(ratios) == 3
    assert ratios[0] > 10


def test_statistics_that_differ_from_the_plain_ones_are_refused():
    data = statistics.predictions(statistics.QUICK)
    plain = statistics.plain_bootstrap(data, 2, np.random.default_rng(1))
    ours, others = (
        replicate_scores(data.truth, data.probabilities, data.patient, rng=np.random.default_rng(seed), resamples=2)
        for seed in (1, 2)
    )
    statistics.check_equal(ours, plain)
    with pytest.raises(AssertionError):
        statistics.check_equal(others, plain)


def test_plain_time_is_scaled_to_the_work_that_ours_did():
    assert statistics.Comparison(ours=[1.0, 2.0, 4.0], plain=[3.0, 2.0, 8.0]).ratio(plain_per_ours=10) == 20


@pytest.mark.usefixtures("torch_settings")
def test_a_sweep_and_a_plain_search_come_to_the_same_scores_and_are_timed(tmp_path):
    scale = sweep.QUICK
    images = tmp_path / "phantoms"
    manifest = draw_phantoms(
        images, patients_per_class=scale.images_per_class, images_per_patient=(1, 1), size=64, seed=0
    )
    sweep.write_subset(manifest, images, tmp_path / "subset.csv", scale.images_per_class)
    study = sweep.study_of(tmp_path / "subset.csv", images, tmp_path / "cache", "inline", scale)
    prepared = sweep.prepare_here(study, tmp_path / "run")
    timing = sweep.measure(study, tmp_path / "run")
    plain = sweep.plain_search(prepared, sweep.to_do_plainly(timing.records, scale.plain_trials))
    assert sweep.largest_difference(timing.records, plain) < 1e-3
    assert len(timing.records) == len(plain) == scale.trials
    # Of 30 images a fifth is the outer fold's test part.
    assert sweep.passes_per_trial(prepared) == 24 * 3 * scale.epochs
    assert 0 < timing.features < timing.first_trial < timing.first_trial + timing.all_trials < timing.seconds
    assert timing.ending > 0
    assert timing.overhead > 0
    assert "inline, 1 process: 3 trials in" in sweep.report("inline", timing, plain, 1)
    assert "plain: 3 of 3 trials in" in sweep.report_plain(plain, 3, 1, 0.0)
    others = [dataclasses.replace(one, score=one.score + 0.1) for one in plain]
    with pytest.raises(AssertionError, match=r"differ by up to 0\.1"):
        sweep.largest_difference(timing.records, others)


def test_a_trials_overhead_is_what_processes_did_besides_epochs_and_few_plain_trials_stand_for_all():
    records = tuple(TrialRecord(n, (), TrialState.COMPLETE, (0.5,), seconds=1.5) for n in range(4))
    timing = sweep.SweepTiming(
        seconds=20, features=5, first_trial=10, all_trials=4, ending=6, processes=2, records=records
    )
    assert timing.overhead == (4 * 2 - 4 * 1.5) / 4
    plain = [sweep.PlainTrial(n, 0.5, seconds) for n, seconds in enumerate((20, 40))]
    assert "4 trials in 20.0 s, 200 images/s, ratio 6.0" in sweep.report("inline", timing, plain, passes=1000)
    assert "2 of 4 trials in 60.0 s, so 4 in 120 s; 33.3 images/s" in sweep.report_plain(plain, 4, 1000, 0.0)


@pytest.mark.alone
def test_kills_at_random_moments_change_nothing_and_leave_nothing(tmp_path):
    counts = kills.campaign(tmp_path, "inline", 2, 1, kills.QUICK_EPOCHS)
    assert len(counts.kills) == 2
    assert counts.holds, kills.report("inline", counts)
    assert "inline: 2 kills in" in kills.report("inline", counts)


@pytest.mark.alone
def test_where_rays_gcs_is_killed_while_it_starts_the_command_says_so_or_starts_another(tmp_path):
    """Ray itself waits a minute in the main thread, then ends the process without a word of ours."""
    kill = kills.kill_at(kills.prepare(tmp_path, "ray"), "run", "GCS", 0, random.Random(0))
    assert kill is not None
    assert (kill.left, kill.traceback) == (0, False)
    lost = "The Ray cluster was lost (its gcs_server ended); what was done is kept"
    assert kill.status == 0 if not kill.error else kill.status == 1 and lost in kill.error


def test_what_a_kill_left_differing_or_told_of_by_a_traceback_is_counted():
    one = kills.Kill("ray", "lane", 1.0, 0, 2.0, 3.0, 0, "", traceback=False)
    assert kills.Counts([one], 1).holds
    assert not kills.Counts([dataclasses.replace(one, left=1)], 1).holds
    assert not kills.Counts([dataclasses.replace(one, traceback=True)], 1).holds
    assert not kills.Counts([one], 1, differing=1).holds
    silent = kills.report("ray", kills.Counts([one, dataclasses.replace(one, status=1)], 1))
    assert "badly without a sentence: 1" in silent
