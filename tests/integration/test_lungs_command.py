"""Training the lung network: every image tested once, in as many goes as it takes, to the same bytes."""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cxrdist.cohort.phantoms import draw_phantoms
from cxrdist.stats.overlap import Overlaps
from tests.integration.conftest import (
    DEADLINE,
    STUDY,
    Command,
    Workplace,
    assert_one_sentence,
    rows_of,
    run_here,
    wait_for,
    write_rows,
)

OTHERS = "viral_pneumonia-0001"
"""The patient, with two images, whom the final network is tested on."""

LEFT_OUT = ("covid19-0001", "bacterial_pneumonia-0001")
"""Of the hospital that has more: an image costs seconds of training."""

# The number of threads can change the last bits. The command line leaves it to the executor: all cores, or a share.
ONE_THREAD = """
import functools
from cxrdist.cli import lung_commands, main
lung_commands.ExecutionConfig = functools.partial(lung_commands.ExecutionConfig, threads=1)
main()
"""


@dataclass(frozen=True)
class Training:
    """A run directory of the lung network, and what was printed."""

    folder: Path
    images: Path
    output: str = ""

    def arguments(self, *more: str, executor: str = "inline", others: bool = True) -> list[str]:
        """Arguments of `cxrdist lungs train`; the final network is tested on others' images, unless told not to."""
        where = ["--cohort", str(self.images / "training.csv"), "--images", str(self.images)]
        # From the built-in weights, so that scores are of masks that are not empty.
        recipe = ["--epochs", "2", "--small-epochs", "1", "--batch-size", "4", "--learning-rate", "1e-5"]
        start = ["--folds", "2", "--init", "builtin", "--normalization", "batch"]
        if others:
            start += ["--test", str(self.images / "others.csv")]
        kept = ["--cache", str(self.folder / "cache"), "--run-dir", str(self.folder / "run")]
        return ["lungs", "train", *where, *recipe, *start, *kept, "--executor", executor, *more]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command line, with one thread for each network, in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", ONE_THREAD, *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::ResourceWarning"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> str:
        """Run the command line to its good end; return what it printed."""
        with self.start(*arguments) as process:
            output, _ = process.communicate(timeout=400)
        assert process.returncode == 0, output
        return output

    def results(self) -> dict[str, bytes]:
        """Read all weights and scores: what must not depend on how they were made."""
        jobs = self.folder / "run" / "jobs"
        files = [*jobs.glob("*/model.safetensors"), *jobs.glob("*/predictions.parquet")]
        return {str(path.relative_to(jobs)): path.read_bytes() for path in sorted(files)}

    def done(self) -> dict[Path, int]:
        """Return when each job was done."""
        return {path: path.stat().st_mtime_ns for path in self.folder.glob("run/jobs/*/done.json")}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of five patients of two hospitals to train on, and two of another patient."""
    folder = tmp_path_factory.mktemp("lungs") / "images"
    draw_phantoms(folder, patients_per_class=2, images_per_patient=(1, 2), size=64, seed=7)
    rows = rows_of(folder)
    others = [row for row in rows if row["patient_id"] == OTHERS]
    training = [row for row in rows if row not in others and row["patient_id"] not in LEFT_OUT]
    assert (len(training), len({row["patient_id"] for row in training}), len(others)) == (6, 5, 2)
    write_rows(folder, training, "training.csv")
    write_rows(folder, others, "others.csv")
    write_rows(folder, [{**row, "mask_path": ""} for row in training], "bare.csv")
    write_rows(folder, [{**row, "mask_path": row["path"]} for row in training], "pictures.csv")
    for row in training:
        with Image.open(folder / row["mask_path"]) as mask:
            mask.paste(0, (32, 0, 64, 64))
            mask.save(folder / row["mask_path"].replace(".png", "-half.png"))
    halves = [{**row, "mask_path": row["mask_path"].replace(".png", "-half.png")} for row in training]
    write_rows(folder, halves, "halves.csv")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Training:
    """A training without disturbance."""
    training = Training(tmp_path_factory.mktemp("trained"), images)
    return Training(training.folder, images, training.run(*training.arguments()))


@pytest.fixture
def copied(trained: Training, tmp_path: Path) -> Training:
    """A copy of the training that a test may spoil."""
    shutil.copytree(trained.folder, tmp_path / "copy")
    return Training(tmp_path / "copy", trained.images)


@pytest.mark.parametrize("name", ["plan.json", "jobs/fold-0/done.json", "jobs/fold-0/predictions.parquet"])
def test_a_damaged_file_of_a_training_is_named_by_its_status(copied: Training, name: str) -> None:
    path = copied.folder / "run" / name
    path.write_bytes(path.read_bytes()[:-9])
    assert_one_sentence(run_here("status", str(copied.folder / "run")), 2, [str(path), "start the run again"])


def test_folds_and_the_final_network_are_shown_beside_the_paper(trained: Training) -> None:
    folds, final = trained.output.split("Lung network, by fold")[1].split("Final lung network")
    assert folds.count("\nfold ") == 2
    assert ["paper", "1", "0.9560", "0.9720"] in [line.split() for line in folds.splitlines()]
    assert [line.split()[:3] for line in final.splitlines() if line.startswith("others")] == [
        ["others", "hospital_b", "2"]
    ]
    assert f"network: {trained.folder / 'run' / 'jobs' / 'final' / 'model.safetensors'}" in final
    tables = trained.folder / "run" / "report" / "tables"
    assert {path.name for path in tables.iterdir()} == {
        f"{name}.{ending}" for name in ("lung_folds", "lung_sets") for ending in ("csv", "md", "tex")
    }


def test_every_image_is_tested_once_by_a_network_that_never_saw_its_patient(trained: Training) -> None:
    run = trained.folder / "run"
    plan = json.loads((run / "plan.json").read_text())
    patient_of = {row["image_id"]: row["patient_id"] for row in rows_of(trained.images)}
    used, others = plan["sets"]
    tested: list[str] = []
    for job in plan["jobs"]:
        scores = pq.read_table(run / "jobs" / job["key"] / "predictions.parquet").to_pydict()
        seen = {patient_of[used["image_ids"][row]] for row in job["training"]}
        assert not seen & {patient_of[image_id] for image_id in scores["image_id"]}
        if job["key"] == "final":
            assert (scores["tested_on"], scores["image_id"]) == (["others"] * 2, others["image_ids"])
            assert len(job["training"]) == len(used["image_ids"])
        else:
            assert set(scores["tested_on"]) == {"held out"}
            assert len(job["training"]) + len(scores["image_id"]) == len(used["image_ids"])
            tested += scores["image_id"]
    assert sorted(tested) == sorted(used["image_ids"])
    kept = [image_id for image_id, patient in patient_of.items() if patient not in LEFT_OUT]
    assert sorted(tested + others["image_ids"]) == sorted(kept)


def test_the_table_is_computed_from_the_scores(trained: Training) -> None:
    run = trained.folder / "run"
    parts = [pq.read_table(path) for path in sorted(run.glob("jobs/fold-*/predictions.parquet"))]
    overlaps = Overlaps.join(
        [Overlaps(*(part[name].to_numpy() for name in ("intersection", "predicted", "truth"))) for part in parts]
    )
    assert 0 < overlaps.pooled_iou < 1, "masks that are empty or perfect say nothing"
    with (run / "report" / "tables" / "lung_folds.csv").open(newline="") as file:
        (every,) = [row for row in csv.reader(file) if row[0] == "all images"]
    shown = [float(value) for value in every[2:]]
    assert shown == pytest.approx(
        [overlaps.iou.mean(), overlaps.pooled_iou, overlaps.dice.mean(), overlaps.pooled_dice], abs=5e-5
    )


def test_a_second_run_trains_nothing_and_shows_the_same(command: Command, copied: Training, trained: Training) -> None:
    before, done = copied.results(), copied.done()
    code, output = command(*copied.arguments())
    assert code == 0, output
    assert output == trained.output[trained.output.index("Lung network, by fold") :].replace(
        str(trained.folder), str(copied.folder)
    )
    assert copied.results() == before
    assert copied.done() == done


def test_status_shows_every_network(command: Command, trained: Training) -> None:
    code, output = command("status", str(trained.folder / "run"))
    assert code == 0, output
    for key in ("fold-0", "fold-1", "final"):
        assert [key, "done", "2/2"] in [line.split()[:3] for line in output.splitlines()]


@pytest.mark.parametrize("name", ["report", "audit"])
def test_a_training_is_no_study(command: Command, trained: Training, name: str) -> None:
    run = trained.folder / "run"
    assert_one_sentence(command(name, str(run)), 2, [str(run), "lung network", "cxrdist status"])


def test_a_killed_training_continues_from_its_last_epoch_to_the_same_bytes(copied: Training, trained: Training) -> None:
    fold = copied.folder / "run" / "jobs" / "fold-1"
    shutil.rmtree(fold)
    done = copied.done()
    arguments = copied.arguments("--checkpoint-seconds", "0")
    process = copied.start(*arguments)
    # The first epoch is of half the side, the second of the whole.
    first = wait_for(process, lambda: text_of(fold / "history.jsonl"))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=DEADLINE)
    assert first.count("\n") == 1
    assert not (fold / "model.safetensors").exists()

    output = copied.run(*arguments)

    assert copied.results() == trained.results()
    assert "epoch 2/2" in output
    assert "epoch 1/2" not in output, "an epoch that was done was done again"
    assert (fold / "history.jsonl").read_text().startswith(first)
    assert not (fold / "checkpoint.safetensors").exists()
    assert {path: copied.done()[path] for path in done} == done, "what was done was done again"


def test_another_recipe_is_trained_again_and_fewer_folds_are_not(command: Command, copied: Training) -> None:
    before, done = copied.results(), copied.done()
    code, output = command(*copied.arguments("--folds", "0"))
    assert code == 0, output
    assert "Lung network, by fold" not in output
    # What the plan no longer has is set aside, and comes back with it.
    assert copied.done() == {path: when for path, when in done.items() if path.parent.name == "final"}
    assert command(*copied.arguments())[0] == 0
    assert copied.done() == done

    code, output = command(*copied.arguments("--folds", "0", "--normalization", "none"))
    assert code == 0, output
    after = copied.results()
    assert {name for name in after if after[name] != before[name]} == {
        "final/model.safetensors",
        "final/predictions.parquet",
    }


def test_folds_alone_are_those_of_a_training_with_the_final_network(
    command: Command, copied: Training, trained: Training
) -> None:
    run = copied.folder / "run"
    shutil.rmtree(run / "jobs" / "final")
    done = copied.done()
    code, output = command(*copied.arguments("--no-final", others=False))
    assert code == 0, output
    # Nothing else: neither scores of the final network, nor where it would be.
    first, end = (trained.output.index(title) for title in ("Lung network, by fold", "Final lung network"))
    assert output == trained.output[first:end]
    assert {path.name for path in (run / "jobs").iterdir()} == {"fold-0", "fold-1"}
    assert copied.done() == done, "what was done was done again"
    assert [job["key"] for job in json.loads((run / "plan.json").read_text())["jobs"]] == ["fold-0", "fold-1"]


@pytest.mark.long
@pytest.mark.alone
def test_ray_gives_the_same_bytes_as_inline(trained: Training, tmp_path: Path) -> None:
    # A cache of its own, so that images are decoded in Ray's tasks too.
    there = Training(tmp_path, trained.images)
    there.run(*there.arguments("--workers", "2", executor="ray"))
    assert len(trained.results()) == 6
    assert there.results() == trained.results()
    marks = [json.loads(path.read_text()) for path in there.folder.glob("run/jobs/*/done.json")]
    assert {mark["machine"]["threads"] for mark in marks} == {1}
    assert len({mark["lane"] for mark in marks}) == 2, "two workers, but not both of them worked"


def test_held_out_patients_test_the_final_network(command: Command, images: Path, tmp_path: Path) -> None:
    training = Training(tmp_path, images)
    few = ["--folds", "0", "--hold-out", "0.5", "--per-source", "3", "--epochs", "1", "--small-epochs", "0"]
    code, output = command(*training.arguments(*few))
    assert code == 0, output
    assert output.count("\nheld out") == 2, "a line for each of two hospitals"
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    patient_of = {row["image_id"]: row["patient_id"] for row in rows_of(images)}
    (job,), used = plan["jobs"], plan["sets"][0]
    assert sorted(used["sources"]) == ["hospital_a"] * 3 + ["hospital_b"] * 3
    patients = [patient_of[image_id] for image_id in used["image_ids"]]
    assert sorted([*job["training"], *job["held_out"]]) == list(range(6))
    assert not {patients[row] for row in job["training"]} & {patients[row] for row in job["held_out"]}


def test_a_study_makes_its_masks_with_the_trained_network(
    command: Command, trained: Training, phantoms: Path, tmp_path: Path
) -> None:
    rows = [{**row, "mask_path": ""} for row in rows_of(phantoms) if row["label"] in ("normal", "covid19")]
    manifest = tmp_path / "two.csv"
    write_rows(tmp_path, rows, manifest.name)
    text = STUDY.format(manifest=manifest).replace(", viral_pneumonia, bacterial_pneumonia", "")
    (tmp_path / "study.yaml").write_text(text)
    model = trained.folder / "run" / "jobs" / "final" / "model.safetensors"
    place = Workplace(tmp_path, phantoms, tmp_path / "cache")
    settings = ("variants.views=[segmented]", "training.epochs=1", f"lungs.weights={model}")
    code, output = command(*place.arguments(*(word for one in settings for word in ("--set", one))))
    assert code == 0, output
    assert f"made {len(rows)} of {len(rows)} lung masks" in output
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert digest[:12] in json.loads((tmp_path / "run" / "masks.json").read_text())["origin"]
    assert list((tmp_path / "cache" / "lungs").glob(f"{digest[:32]}-*/*.arrow"))


def test_masks_are_written_as_files_and_none_is_computed_twice(
    command: Command, trained: Training, tmp_path: Path
) -> None:
    model = trained.folder / "run" / "jobs" / "final" / "model.safetensors"
    where = ["--cohort", str(trained.images / "others.csv"), "--images", str(trained.images)]
    kept = ["--cache", str(tmp_path / "cache"), "--executor", "inline", "--weights", str(model)]
    code, output = command("lungs", "apply", *where, *kept, "--out", str(tmp_path / "first"))
    assert code == 0, output
    assert "made 2 of 2 lung masks" in output
    with (tmp_path / "first" / "masks.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["image_id"] for row in table] == [f"{OTHERS}-00", f"{OTHERS}-01"]
    for row in table:
        mask = np.asarray(Image.open(tmp_path / "first" / row["mask_path"]))
        assert mask.shape == (64, 64)
        assert set(np.unique(mask)) <= {0, 255}

    code, output = command("lungs", "apply", *where, *kept, "--out", str(tmp_path / "second"))
    assert code == 0, output
    assert "lung masks\n" not in output.replace("Lung masks", "")
    files = [path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("[!.]*.*")]
    assert len(files) == 3
    for name in files:
        assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--folds", "1"], ["--folds is 1", "at least 2"]),
        (["--small-epochs", "2"], ["--small-epochs is 2", "--epochs (2)"]),
        (["--with-heart", "hospital_c"], ["--with-heart is 'hospital_c'", "hospital_a, hospital_b"]),
        (["--cohort", "IMAGES/bare.csv"], ["bare.csv", "mask_path"]),
        (["--cohort", "IMAGES/none.csv"], ["none.csv"]),
        (["--cohort", "IMAGES/pictures.csv"], ["None of the 6 training images can be used", "mask: has ", " values ("]),
        (["--cohort", "IMAGES/halves.csv"], ["6 of 6 masks of the training images are implausible", "mask_path"]),
        (["--folds", "4"], ["4 parts", "--folds", "hospital_b"]),
        (["--folds", "0", "--hold-out", "0.2"], ["5 parts", "--hold-out", "hospital_a"]),
        (["--init", "IMAGES/none.safetensors"], ["--init is", "none.safetensors", "'builtin'"]),
        (["--test", "IMAGES/others.csv"], ["'others'", "--test"]),
    ],
    ids=[
        *("one-fold", "small", "heart", "no-masks", "no-manifest", "pictures-as-masks", "half-masks"),
        *("few", "few-held-out", "no-weights", "same-name"),
    ],
)
def test_a_mistake_gets_one_sentence(
    command: Command, images: Path, tmp_path: Path, more: list[str], words: list[str]
) -> None:
    arguments = Training(tmp_path, images).arguments(*(word.replace("IMAGES", str(images)) for word in more))
    assert_one_sentence(command(*arguments), 2, words)
    assert not (tmp_path / "run" / "jobs").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--folds", "0"], ["--no-final", "--folds 0"]),
        (["--test", "IMAGES/others.csv"], ["--test", "--no-final"]),
        (["--hold-out", "0.2"], ["--hold-out", "--no-final"]),
    ],
    ids=["no-folds", "test", "hold-out"],
)
def test_folds_alone_with_what_needs_the_final_network_get_one_sentence(
    command: Command, images: Path, tmp_path: Path, more: list[str], words: list[str]
) -> None:
    given = [word.replace("IMAGES", str(images)) for word in more]
    arguments = Training(tmp_path, images).arguments("--no-final", *given, others=False)
    assert_one_sentence(command(*arguments), 2, words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"no weights", b""], ids=["text", "empty"])
def test_weights_of_something_else_get_one_sentence(
    command: Command, images: Path, tmp_path: Path, content: bytes
) -> None:
    weights = tmp_path / "other.safetensors"
    weights.write_bytes(content)
    result = command(*Training(tmp_path, images).arguments("--init", str(weights)))
    assert_one_sentence(result, 2, [str(weights)])


def text_of(path: Path) -> str:
    """Return the content of a file, nothing where there is none yet."""
    return path.read_text() if path.exists() else ""
