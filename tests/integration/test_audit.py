"""The audit finds a planted shortcut and none where there is none; it does no work twice."""

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from cxrdist.cohort.phantoms import draw_phantoms
from cxrdist.cohort.schema import COHORT_SCHEMA
from cxrdist.cohort.table import Cohort
from cxrdist.config import Study
from cxrdist.errors import CxrdistError
from cxrdist.report.audit import Audit, Verdict, audit_verdicts
from cxrdist.run.audit import source_studies
from cxrdist.run.prepare import divide, open_cohort
from tests.integration.conftest import Command, Workplace, assert_one_sentence, rows_of, run_here, vouch_for, write_rows

CLASSES = ("normal", "covid19", "viral_pneumonia", "bacterial_pneumonia")

LONG_NAME = "a" * 64
"""The longest that a study may have; those of the audit's own studies are made from it."""

STUDY = """\
name: {name}
seed: 1
cohort:
  manifest: {manifest}
  classes: [normal, covid19, viral_pneumonia, bacterial_pneumonia]
preprocessing: {{size: 96}}
folds: {{k: 2}}
variants: {{views: [whole, segmented], models: [vgg16]}}
model: {{weights: {weights}, transfer: frozen, vgg_head: flatten, vgg_hidden: 256, dropout: 0.0}}
training: {{epochs: 60, batch_size: 16, learning_rate: 1e-3}}
execution: {{threads: 1, keep_models: false}}
"""


@dataclass(frozen=True)
class Audited:
    """A folder whose `run` was audited, and what was printed."""

    place: Workplace
    output: str

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.place.folder / "run"

    @property
    def found(self) -> Audit:
        """What was found."""
        return Audit.from_json(json.loads((self.run / "audit" / "audit.json").read_text()))

    def verdicts(self) -> dict[str | None, Verdict]:
        """The verdict on each class of the one model, and under None on their mean."""
        return {one.label: one for one in audit_verdicts(self.found)}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """A study without a shortcut, that was run, then audited."""
    place = place_for(tmp_path_factory.mktemp("clean"), LONG_NAME, marker=None)
    status, output = run_here(*place.arguments())
    assert status == 0, output
    assert "audit-section" not in (place.folder / "run" / "report" / "index.html").read_text()
    status, output = run_here("audit", str(place.folder / "run"))
    assert status == 0, output
    return Audited(place, output)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """A study that was never run, with a corner marker on each image of one class and no known sources."""
    place = place_for(tmp_path_factory.mktemp("marked"), "marked", marker="covid19")
    write_rows(place.images, [{**row, "source": ""} for row in rows_of(place.images)])
    arguments = place.arguments()
    status, output = run_here("audit", *arguments[1:])
    assert status == 0, output
    return Audited(place, output)


def place_for(folder: Path, name: str, marker: str | None) -> Workplace:
    images = folder / "images"
    manifest = draw_phantoms(images, patients_per_class=18, images_per_patient=(1, 1), size=64, seed=1, marker=marker)
    weights = folder / "vgg16.safetensors"
    save_file(trunk(), weights)
    (folder / "study.yaml").write_text(STUDY.format(name=name, manifest=manifest, weights=weights))
    return Workplace(folder, images, folder / "cache")


def trunk() -> dict[str, torch.Tensor]:
    """Return random weights of VGG16 that pass the first layer's 64 filters on to the end.

    Of a trunk that was never trained, the other filters tell a finding, and these a marker of a few pixels.
    """
    generator = torch.Generator().manual_seed(0)
    layers = torchvision.models.vgg16(init_weights=False).features
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    for number, layer in enumerate(convolutions):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        if number:
            passed = torch.zeros_like(layer.weight[:64])
            nn.init.dirac_(passed)
            layer.weight.data[:64] = passed
    return {f"features.{key}": value.contiguous() for key, value in layers.state_dict().items()}


@pytest.fixture
def copied(clean: Audited, tmp_path: Path) -> Audited:
    """A copy of the audited run that a test may spoil."""
    shutil.copytree(clean.place.folder, tmp_path / "copy")
    return replace(clean, place=replace(clean.place, folder=tmp_path / "copy"))


def test_no_shortcut_is_found_where_there_is_none(clean: Audited) -> None:
    verdicts = clean.verdicts()
    assert set(verdicts) == {None, *CLASSES}
    assert not {label: one for label, one in verdicts.items() if one.shortcut in ("found", "most")}
    # The classes can be told apart, so that there was something to find.
    assert verdicts[None].shortcut == "not found"
    assert verdicts["covid19"].shortcut in ("not found", "some")
    assert "no shortcut found." in clean.output


def test_a_planted_marker_is_found_and_named(marked: Audited) -> None:
    verdict = marked.verdicts()["covid19"]
    assert verdict.shortcut in ("found", "most")
    finding = f"covid19 {100 * verdict.share:.0f} % ({verdict.shortcut})"
    assert finding in marked.output
    assert finding in (marked.run / "audit" / "report" / "index.html").read_text()


def test_networks_sources_and_files_are_all_tried(clean: Audited, marked: Audited) -> None:
    views = [("whole", "whole-vgg16"), ("segmented", "segmented-vgg16"), ("lungs_blanked", "lungs_blanked-vgg16")]
    files = [(kind, kind) for kind in ("aspect", "size", "thumbnail")]
    sources = [("source", f"source-{label}-whole-vgg16") for label in CLASSES]
    assert [(row.kind, row.name) for row in clean.found.rows] == [*views, *sources, *files]
    assert [(row.kind, row.name) for row in marked.found.rows] == [*views, *files]
    for row in clean.found.rows:
        told = ("hospital_a", "hospital_b") if row.kind == "source" else CLASSES
        assert (row.classes, row.images) == (told, 18 if row.kind == "source" else 72)
    for label in CLASSES:
        assert f"2. The source of {label} images (hospital_a, hospital_b), from whole images" in clean.output
    assert "2. The source of" not in marked.output


def test_progress_is_counted_within_each_study(clean: Audited) -> None:
    counts = [tuple(map(int, pair)) for pair in re.findall(r"\[(\d+) of (\d+) fold jobs", clean.output)]
    assert {of for _, of in counts} == {2}, "two folds of the view that the run did not have, and of each source"
    assert all(done <= of for done, of in counts)


def test_what_the_run_had_done_is_not_computed_again(clean: Audited) -> None:
    assert "4 of 6 fold jobs were done before." in clean.output
    names = [path.relative_to(clean.run) for path in clean.run.glob("jobs/*/*/*") if path.name != "progress.json"]
    assert len(names) == 4 * 4
    for name in names:
        assert (clean.run / "audit" / name).read_bytes() == (clean.run / name).read_bytes(), name


def test_the_longest_name_of_a_study_is_no_obstacle(clean: Audited) -> None:
    for folder, what in (("audit", "audit"), ("audit/source-3", "source-3")):
        (name,) = [line for line in (clean.run / folder / "study.yaml").read_text().splitlines() if "name: " in line]
        assert name.endswith(f"a-{what}")


def test_a_second_audit_trains_nothing_and_finds_the_same(command: Command, copied: Audited) -> None:
    before = {path: path.read_bytes() for path in copied.run.rglob("audit.json")}
    done = {path: path.stat().st_mtime_ns for path in copied.run.rglob("done.json")}
    code, output = command("audit", str(copied.run))
    assert code == 0, output
    assert "starting workers" not in output
    assert output.count("Nothing to train") == 5
    assert len(before) == 1
    assert {path: path.read_bytes() for path in before} == before
    assert {path: path.stat().st_mtime_ns for path in copied.run.rglob("done.json")} == done


def test_a_run_that_was_done_again_is_audited_again(command: Command, copied: Audited) -> None:
    arguments = copied.place.arguments("--set", "training.epochs=2")
    code, output = command(*arguments)
    assert code == 0, output
    assert "audit-section" in (copied.run / "report" / "index.html").read_text(), "the cohort is the same"
    code, output = command("audit", str(copied.run))
    assert code == 0, output
    assert "4 of 6 fold jobs were done before." in output, "what the run did last was trained again"


def test_the_report_of_the_run_shows_its_audit(command: Command, copied: Audited) -> None:
    code, output = command("report", str(copied.run))
    assert code == 0, output
    page = (copied.run / "report" / "index.html").read_text()
    assert 'id="audit-section">Shortcuts</h2>' in page
    assert "no shortcut found." in page
    for name in ("audit", "audit_by_class"):
        assert (copied.run / "report" / "tables" / f"{name}.csv").exists()


def test_an_audit_of_another_cohort_is_not_shown(command: Command, copied: Audited, marked: Audited) -> None:
    shutil.copy2(marked.run / "audit" / "audit.json", copied.run / "audit" / "audit.json")
    code, output = command("report", str(copied.run))
    assert code == 0, output
    assert "audit-section" not in (copied.run / "report" / "index.html").read_text()


def test_sources_of_few_and_uneven_patients_get_folds_that_can_be_made(tmp_path: Path) -> None:
    # In two folds, the patient with most images would be tested alone, and none of the source be left to train on.
    images = {("x", "a"): (8, 1, 1, 1), ("x", "b"): (1, 1, 1, 1), ("x", "rare"): (1, 1, 1), ("y", "a"): (1, 1, 1, 1)}
    rows = []
    for (label, source), counts in images.items():
        for patient, count in enumerate(counts):
            for number in range(count):
                name = f"{label}-{source}{patient}-{number}"
                (tmp_path / f"{name}.png").touch()
                known = {"image_id": name, "path": f"{name}.png", "label": label, "source": source}
                rows.append(dict.fromkeys(COHORT_SCHEMA.names) | known | {"patient_id": f"{label}{source}{patient}"})
    table = pa.Table.from_pylist(rows, COHORT_SCHEMA).sort_by("image_id")
    config = {"manifest": "unused.csv", "images": str(tmp_path), "classes": ["x", "y"]}
    study = Study.model_validate({"name": "s", "cohort": config, "folds": {"k": 2}})

    studies = source_studies(study, Cohort(table, tmp_path, ("x", "y")), tmp_path)

    assert {label: (one.cohort.classes, one.folds.k) for label, one in studies.items()} == {"x": (["a", "b"], 3)}
    folds = divide(open_cohort(studies["x"]), studies["x"])
    assert (folds.n_folds, len(folds.image_ids)) == (3, 15)


def test_what_cannot_be_audited_gets_one_sentence(command: Command, tmp_path: Path) -> None:
    assert_one_sentence(command("audit", str(tmp_path / "nowhere")), 2, [str(tmp_path / "nowhere")])
    assert_one_sentence(command("audit", str(tmp_path)), 2, [str(tmp_path), "neither a study file nor a run"])


@pytest.mark.parametrize(
    "option",
    [
        ("--set", "training.epochs=2"),
        ("--images", "images"),
        ("--run-dir", "other"),
    ],
    ids=lambda option: str(option[0]),
)
def test_options_that_change_a_run_are_refused(command: Command, clean: Audited, option: tuple[str, str]) -> None:
    assert_one_sentence(command("audit", str(clean.run), *option), 2, [str(clean.run), "need the study file"])


@pytest.mark.parametrize("named", [None, "10.0.0.2:6379"])
def test_the_cluster_that_is_joined_is_the_one_named_now(
    command: Command, clean: Audited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    text = (clean.run / "study.yaml").read_text()
    assert "address: null" in text
    (tmp_path / "study.yaml").write_text(text.replace("address: null", "address: 10.0.0.1:6379"))
    shutil.copy(clean.run / "plan.json", tmp_path)
    vouch_for(tmp_path, "study.yaml")
    begun: list[Study] = []

    def begin(study: Study, *_: object) -> None:
        begun.append(study)
        raise CxrdistError("Enough was seen.")

    monkeypatch.setattr("cxrdist.cli.audit.run_to_end", begin)
    options = ["--address", named] if named else []
    status, output = command("audit", str(tmp_path), *options, "--executor", "ray", "--workers", "3")
    assert (status, "Enough was seen." in output) == (1, True), output
    execution = begun[0].execution
    assert (execution.address, execution.executor, execution.workers) == (named, "ray", 3)
