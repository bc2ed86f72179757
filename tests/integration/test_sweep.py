"""A sweep finds what is good, sees no test image, and chooses the same whatever happens to it."""

import csv
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from cxrdist.cohort.phantoms import draw_phantoms
from cxrdist.cohort.table import Cohort
from cxrdist.config import load_study
from cxrdist.run import sweep_plan
from cxrdist.run.computing import Computing
from cxrdist.run.context import feature_file
from cxrdist.run.driver import run_sweep
from cxrdist.run.prepare import Prepared, prepare
from cxrdist.run.store import Store, parse_json
from cxrdist.run.sweep import Sweep
from cxrdist.run.sweep_inline import InlineSweeper
from cxrdist.run.sweep_plan import SearchImages, plan_searches, sweep_images, write_search
from cxrdist.run.trial import read_record
from cxrdist.run.trial_work import TrialRules
from cxrdist.study.folds import Folds, Part
from cxrdist.study.search import TrialRecord
from tests.integration.conftest import Command, assert_one_sentence, rows_of, write_rows

# Of the rates 1e-7, 1e-6 ... 10 and some between, 1e-3, 3e-3 and 1e-2 alone give a mean AUC above .6 in both searches.
ON_ONE_THREAD = Computing("cpu", threads=1, trial_threads=1, ranks=1, lung_precision="fp32")
GOOD_RATES = (5e-4, 5e-2)
RATES = (1e-8, 10)

STUDY = """\
name: swept
seed: 1
cohort:
  manifest: {manifest}
  classes: [normal, covid19]
preprocessing: {{size: 32}}
folds: {{k: 2}}
variants: {{models: [vgg16]}}
model: {{weights: none, transfer: frozen, vgg_hidden: 32, dropout: 0.0}}
training: {{epochs: 10, batch_size: 8}}
sweep:
  space:
    learning_rate: {{low: 1e-8, high: 10, scale: log}}
  trials: 24
execution: {{executor: inline, threads: 1, checkpoint_seconds: 0.0, keep_models: false}}
"""


class Quiet:
    """A display that notes what is said."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def say(self, text: str) -> None:
        self.events.append(text)

    def decoded(self, done: int, total: int) -> None:
        pass

    def masked(self, done: int, total: int) -> None:
        pass

    def begin(self, units: object, epochs: object) -> None:
        pass

    def event(self, event: object) -> None:
        pass

    def end(self) -> None:
        pass

    def sweeping(self, sweep: object) -> "Quiet":
        return self

    def __enter__(self):
        return self.events.append

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two classes, one of them with a bright marker: easy at a good learning rate."""
    folder = tmp_path_factory.mktemp("marked")
    images = folder / "images"
    draw_phantoms(images, patients_per_class=24, images_per_patient=(1, 3), size=64, seed=0, marker="covid19")
    write_rows(images, [row for row in rows_of(images) if row["label"] in ("normal", "covid19")], "two.csv")
    (folder / "study.yaml").write_text(STUDY.format(manifest=images / "two.csv"))
    return folder


def options(folder: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        str(folder / "study.yaml"),
        *("--images", str(folder / "images"), "--run-dir", str(run_dir), "--set", f"execution.cache={folder}/cache"),
        *more,
    ]


def records(run: Path, key: str) -> list[dict[str, Any]]:
    return [parse_json(path.read_bytes()) for path in sorted(run.glob(f"sweep/{key}/trials/*.json"))]


@pytest.fixture(scope="module")
def swept(marked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of the whole study, its sweep included."""
    from tests.integration.conftest import run_here

    run = tmp_path_factory.mktemp("swept") / "run"
    status, output = run_here("run", *options(marked, run))
    assert status == 0, output
    assert "sweep: 2 searches, 48 trials in all" in output
    return run


def test_a_sweep_finds_a_good_rate_where_most_fail(swept: Path) -> None:
    for fold in (0, 1):
        choice = json.loads((swept / f"sweep/whole-vgg16/fold-{fold}/choice.json").read_text())
        ((key, rate),) = choice["settings"]
        assert key == "learning_rate"
        assert GOOD_RATES[0] <= rate <= GOOD_RATES[1], choice
    good, every = (math.log(high / low) for low, high in (GOOD_RATES, RATES))
    assert good / every < 1 / 4, "the space should be one where most rates fail"


def test_each_fold_is_trained_with_what_its_own_search_chose(swept: Path) -> None:
    jobs = json.loads((swept / "plan.json").read_text())["jobs"]
    for fold, job in enumerate(jobs):
        choice = json.loads((swept / f"sweep/whole-vgg16/fold-{fold}/choice.json").read_text())
        assert job["settings"] == choice["settings"]
        done = json.loads((swept / f"jobs/whole-vgg16/fold-{fold}/done.json").read_text())
        assert done["fingerprint"] == job["fingerprint"]
    assert jobs[0]["settings"] != jobs[1]["settings"]


def test_bad_trials_stop_after_a_part_of_a_fold_and_good_ones_do_all(swept: Path) -> None:
    for fold in (0, 1):
        own = records(swept, f"whole-vgg16/fold-{fold}")
        stopped = [record for record in own if record["state"] == "stopped"]
        assert len(stopped) >= 8
        assert min(record["work"] for record in stopped) <= 0.4
        for record in own:
            assert (record["state"] == "complete") == (record["work"] == 3 and len(record["fold_scores"]) == 3)


def test_the_report_shows_the_sweep(swept: Path) -> None:
    page = (swept / "report/index.html").read_text()
    assert "Sweep" in page
    with (swept / "report/tables/sweep_best.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    choices = [json.loads((swept / f"sweep/whole-vgg16/fold-{fold}/choice.json").read_text()) for fold in (0, 1)]
    shown = [float(next(value for key, value in row.items() if "learning" in key.lower())) for row in rows]
    assert shown == pytest.approx([choice["settings"][0][1] for choice in choices], rel=1e-2)


def test_running_again_searches_nothing(command: Command, marked: Path, swept: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in swept.glob("sweep/*/*/trials/*.json")}
    status, output = command("run", *options(marked, swept))
    assert status == 0, output
    assert "sweep:" not in output
    assert "Nothing to train" in output
    assert {path: path.stat().st_mtime_ns for path in swept.glob("sweep/*/*/trials/*.json")} == before


def test_more_trials_go_on_from_those_that_are_done(marked: Path, swept: Path, tmp_path: Path) -> None:
    from tests.integration.conftest import run_here

    run = tmp_path / "run"
    for trials in (5, 8):
        status, output = run_here("sweep", *options(marked, run, "--set", f"sweep.trials={trials}"))
        assert status == 0, output
    assert "16 trials in all, 10 of them done before" in output
    for fold in (0, 1):
        few, all_trials = records(run, f"whole-vgg16/fold-{fold}"), records(swept, f"whole-vgg16/fold-{fold}")
        assert len(few) == 8
        for ours, theirs in zip(few, all_trials, strict=False):
            assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


def prepared_study(marked: Path, run: Path, *settings: str) -> tuple[Prepared, Store]:
    study = load_study(
        marked / "study.yaml",
        settings=["sweep.trials=6", *settings],
        overrides={"cohort.images": str(marked / "images"), "execution.cache": f"{run}/cache"},
    )
    store = Store(run)
    run.mkdir()
    run_sweep(study, store, Quiet())
    cpu = torch.device("cpu")
    return prepare(study, store, device=lambda: cpu, computing=lambda: ON_ONE_THREAD), store


def poisoned(prepared: Prepared, fold: int) -> Cohort:
    """Return the cohort with every label of a test part exchanged for the other class."""
    table = prepared.cohort.table
    tested = prepared.folds.parts[fold] == Part.TEST
    other = {"normal": "covid19", "covid19": "normal"}
    labels = [
        other[label] if hidden else label
        for label, hidden in zip(table.column("label").to_pylist(), tested, strict=True)
    ]
    index = table.schema.get_field_index("label")
    return Cohort(table.set_column(index, "label", pa.array(labels)), prepared.cohort.root, prepared.cohort.classes)


def blind_features(prepared: Prepared, fold: int) -> None:
    """Make what a test part looks like not a number: whoever reads it shows it."""
    tested = np.flatnonzero(prepared.folds.parts[fold] == Part.TEST)
    for unit in prepared.plan.features:
        path = Path(prepared.plan.cache) / feature_file(unit)
        with pa.memory_map(str(path)) as file:
            values = pa.ipc.open_file(file).read_all().column("features").combine_chunks().to_numpy_ndarray().copy()
        values[tested[(tested >= unit.start) & (tested < unit.stop)] - unit.start] = np.nan
        table = pa.table({"features": pa.FixedShapeTensorArray.from_numpy_ndarray(values)})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)


def trials_of(prepared: Prepared, cohort: Cohort, store: Store, fold: int) -> list[TrialRecord]:
    """Do the search of one outer fold on a cohort, divided as before."""
    study, plan = prepared.study, prepared.plan
    images = {fold: sweep_images(study, cohort, prepared.folds)[fold]}
    (search,) = plan_searches(study, cohort, prepared.folds.n_folds, plan, images)
    write_search(store, search, images[fold])
    sweep = Sweep(store, [search])
    InlineSweeper().run(sweep, TrialRules.of(study, None), ON_ONE_THREAD)
    found = [read_record(store, search.key, search.fingerprint, number) for number in range(search.trials)]
    return [record for record in found if record is not None]


def timeless(found: Sequence[TrialRecord]) -> list[tuple[object, ...]]:
    return [(one.settings, one.state, one.fold_scores, one.rung_scores) for one in found]


def leaking(cut):
    """Return a way of cutting that lets the outer test part in, among the images that are trained on."""

    def cut_nothing(study, sweep, cohort, folds: Folds, fold: int) -> SearchImages:
        kept = cut(study, sweep, cohort, folds, fold)
        rows = np.arange(len(cohort))
        parts = np.full((sweep.folds, len(cohort)), Part.TRAINING, dtype=np.int8)
        parts[:, kept.rows] = kept.folds.parts
        return SearchImages(rows, cohort.labels, Folds(cohort.image_ids, parts))

    return cut_nothing


@pytest.mark.parametrize("fold", [0, 1])
def test_no_trial_depends_on_labels_or_pixels_of_the_outer_test_part(marked: Path, tmp_path: Path, fold: int) -> None:
    prepared, store = prepared_study(marked, tmp_path / "run")
    honest = trials_of(prepared, prepared.cohort, store, fold)
    blind_features(prepared, fold)
    blinded = trials_of(prepared, poisoned(prepared, fold), Store(tmp_path / "run"), fold)
    assert len(honest) == 6
    assert timeless(blinded) == timeless(honest)
    for name in ("search.json", "images.arrow"):
        held = store.read_bytes(f"sweep/whole-vgg16/fold-{fold}/{name}")
        tested = prepared.folds.test_ids()[fold]
        assert not any(image_id.encode() in held for image_id in tested)


def test_a_planted_leak_shows(marked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, store = prepared_study(marked, tmp_path / "run")
    monkeypatch.setattr(sweep_plan, "cut_images", leaking(sweep_plan.cut_images))
    honest = trials_of(prepared, prepared.cohort, store, 0)
    with_poison = trials_of(prepared, poisoned(prepared, 0), store, 0)
    assert timeless(with_poison) != timeless(honest)


def test_no_patient_is_in_two_inner_folds(marked: Path, tmp_path: Path) -> None:
    prepared, _ = prepared_study(marked, tmp_path / "run")
    group_of = dict(zip(prepared.cohort.image_ids, prepared.cohort.groups("group").tolist(), strict=True))
    for fold, images in prepared.search_images.items():
        ids = np.array([group_of[image_id] for image_id in images.folds.image_ids])
        assert not set(ids) & {group_of[image_id] for image_id in prepared.folds.test_ids()[fold]}
        for inner in range(images.folds.n_folds):
            training, held_out = (set(ids[images.folds.rows(inner, part)]) for part in (Part.TRAINING, Part.TEST))
            assert not training & held_out


def test_a_shared_search_chooses_once_and_the_report_says_what_that_means(
    command: Command, marked: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    status, output = command("run", *options(marked, run, "--set", "sweep.nesting=shared", "--set", "sweep.trials=4"))
    assert status == 0, output
    assert [path.parent.name for path in run.glob("sweep/*/*/choice.json")] == ["shared"]
    jobs = json.loads((run / "plan.json").read_text())["jobs"]
    assert jobs[0]["settings"] == jobs[1]["settings"] != []
    page = re.sub(r"\s+", " ", (run / "report/index.html").read_text())
    assert page.count("selection on reported folds") >= 2
    assert "selection on reported folds" in output or "warning" in page.lower()


def test_diverged_trials_are_reported_and_never_chosen(command: Command, marked: Path, tmp_path: Path) -> None:
    # At this rate the activations of thirteen layers that are all trained overflow within steps.
    settings = {
        "sweep.space": "{learning_rate: {values: [10.0, 1e-4]}}",
        "sweep.folds": "2",
        "sweep.nesting": "shared",
        "model.transfer": "finetune",
        "training.epochs": "2",
    }
    changed = [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
    status, output = command("sweep", *options(marked, tmp_path / "run", *changed))
    assert status == 0, output
    diverged, complete = records(tmp_path / "run", "whole-vgg16/shared")
    assert diverged["state"] == "diverged"
    assert "not a finite number" in str(diverged["reason"])
    assert "trial 0  diverged" in output
    assert complete["state"] == "complete"
    choice = json.loads((tmp_path / "run/sweep/whole-vgg16/shared/choice.json").read_text())
    assert choice["number"] == 1


def test_where_all_trials_diverge_the_command_says_so(command: Command, marked: Path, tmp_path: Path) -> None:
    trunk = torchvision.models.vgg16(init_weights=False).features.state_dict()
    trunk["0.weight"][0] = float("nan")
    weights = tmp_path / "vgg16.safetensors"
    save_file({f"features.{key}": value for key, value in trunk.items()}, weights)
    changed = ("--set", f"model.weights={weights}", "--set", "sweep.trials=2")
    result = command("sweep", *options(marked, tmp_path / "run", *changed))
    assert_one_sentence(result, 1, ["All 2 trials of whole-vgg16/fold-0 diverged", "sweep.space"])


def test_time_that_runs_out_leaves_a_choice_from_what_was_done(command: Command, marked: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    late = ("--set", "sweep.minutes=0.05", "--set", "sweep.trials=4000")
    status, output = command("sweep", *options(marked, run, *late))
    assert status == 0, output
    done = [len(records(run, f"whole-vgg16/fold-{fold}")) for fold in (0, 1)]
    assert all(0 < one < 4000 for one in done)
    status, output = command("sweep", *options(marked, run, *late))
    assert status == 0
    assert "sweep:" not in output, "the same time is over"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["sweep.space={batch_size: {values: [8, 1024]}}"], ["sweep.space.batch_size", "1024", "fold 0"]),
        (["sweep.folds=20"], ["sweep.folds is 20", "'normal'", "patients"]),
        (["sweep.space={}"], ["sweep.space", "empty"]),
        (["sweep.space={learning_rate: {low: -1, high: 1}}"], ["learning_rate.low is -1", "greater than 0"]),
        (["sweep.space={learning_rat: {low: 1e-5, high: 1}}"], ["learning_rat", "did you mean 'learning_rate'"]),
    ],
)
def test_an_impossible_sweep_is_refused_in_one_sentence(
    command: Command, marked: Path, tmp_path: Path, settings: list[str], words: list[str]
) -> None:
    changed = [text for setting in settings for text in ("--set", setting)]
    for name in ("plan", "sweep"):
        arguments = options(marked, tmp_path / "run", *changed)
        if name == "plan":
            del arguments[3:5]
        assert_one_sentence(command(name, *arguments), 2, words)


def test_a_study_without_a_sweep_says_how_to_give_one(command: Command, marked: Path, tmp_path: Path) -> None:
    study = marked / "plain.yaml"
    text = (marked / "study.yaml").read_text()
    study.write_text(re.sub(r"sweep:\n.*?execution", "execution", text, flags=re.S))
    arguments = options(marked, tmp_path / "run")
    arguments[0] = str(study)
    assert_one_sentence(command("sweep", *arguments), 2, ["no `sweep`", "space"])


def test_a_plan_says_what_a_sweep_would_do(command: Command, marked: Path) -> None:
    status, output = command("plan", str(marked / "study.yaml"), "--images", str(marked / "images"))
    assert status == 0, output
    assert "sweep of learning_rate: 2 searches x 24 trials x 3 inner folds" in output
