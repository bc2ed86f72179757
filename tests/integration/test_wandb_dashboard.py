"""`cxrdist dashboard`: a workspace that W&B's own classes read, saved where a stand-in for the server answers."""

import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from cxrdist.run.dashboard import WORKSPACE, read_dashboard
from cxrdist.run.store import Store
from tests.integration.conftest import Command, assert_one_sentence
from tests.integration.wandb_server import ENTITY, stand_in

# W&B's own package uses what pydantic will drop.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

STUDY = """\
name: shown
cohort: {manifest: manifest.csv, classes: [normal, covid19]}
variants: {views: [whole, segmented], models: [resnet34]}
tracking: {project: lungs}
"""
SWEEP = "sweep: {space: {learning_rate: {low: 1e-4, high: 1e-2, scale: log}, batch_size: {values: [8, 16]}}}\n"
VARIANTS = ("whole-resnet34", "segmented-resnet34")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a study file, where nobody is logged in."""
    (tmp_path / "study.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def sections_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the panels by section, as W&B's own classes read and write them again."""
    workspace = read_dashboard(Store(folder / "runs/shown"))
    return {
        section.name: [panel._to_model().model_dump(by_alias=True) for panel in section.panels]
        for section in workspace.sections
    }


def test_without_a_key_the_file_is_written_and_that_is_said(folder: Path, command: Command) -> None:
    status, output = command("dashboard", "study.yaml")
    assert status == 0, output
    assert f"workspace: runs/shown/{WORKSPACE}" in output
    assert "Not saved at W&B: there is no W&B API key here" in output
    workspace = read_dashboard(Store(folder / "runs/shown"))
    assert (workspace.project, workspace.name) == ("lungs", "shown")
    assert workspace.runset_settings.filters == "Metric(\"Group\") == 'shown'"


def test_panels_show_curves_by_variant_and_the_results_of_each_variant(folder: Path, command: Command) -> None:
    status, output = command("dashboard", "study.yaml")
    assert status == 0, output
    sections = sections_of(folder)
    assert list(sections) == ["Fold jobs, by variant", "Results, out of fold"]
    curves = sections["Fold jobs, by variant"]
    assert [panel["config"]["metrics"] for panel in curves] == [
        ["fold/train_loss"],
        ["fold/validation_loss"],
        ["fold/train_accuracy"],
        ["fold/validation_accuracy"],
    ]
    assert {panel["config"]["groupBy"] for panel in curves} == {"variant.value"}
    said = json.dumps(sections["Results, out of fold"])
    assert "tables/summary" in said
    assert "tables/intervals" in said
    for variant in VARIANTS:
        for logged in (f"roc/{variant}_table", f"confusion/{variant}_table", f"{variant}/macro_auc"):
            assert logged in said, f"{logged} has no panel"


def test_a_sweep_and_heat_maps_have_panels_where_a_study_has_them(folder: Path, command: Command) -> None:
    (folder / "study.yaml").write_text(STUDY.replace("{project: lungs}", "{project: lungs, images: true}") + SWEEP)
    status, output = command("dashboard", "study.yaml")
    assert status == 0, output
    sections = sections_of(folder)
    said = json.dumps(sections["Sweep"])
    for logged in (
        "settings.value.learning_rate",
        "settings.value.batch_size",
        "trial/mean_val_auc",
        "trial/mean_so_far",
    ):
        assert logged in said, f"{logged} has no panel"
    keys = [panel["config"]["mediaKeys"] for panel in sections["Heat maps"]]
    assert keys == [[f"heatmaps/{variant}"] for variant in VARIANTS]


def test_a_workspace_arrives_at_a_server_and_is_replaced_there_the_next_time(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", secrets.token_hex(20))
    with stand_in("answers") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        for _ in range(2):
            status, output = command("dashboard", "study.yaml")
            assert status == 0, output
            assert f"saved: {server.url}/{ENTITY}/lungs?nw=" in output
    (view,) = server.views.values()
    assert (view["entityName"], view["projectName"], view["displayName"]) == (ENTITY, "lungs", "shown")
    sent = [section["name"] for section in json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]]
    assert sent == list(sections_of(folder))
    assert read_dashboard(Store(folder / "runs/shown"))._internal_id in server.views


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [("hangs", "does not answer"), ("fails", "answers with status 500"), ("refuses", "refused it")],
)
def test_a_server_that_does_not_take_it_is_one_sentence_and_the_file_is_there(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch, behaviour: Any, words: str
) -> None:
    key = secrets.token_hex(20)
    monkeypatch.setenv("WANDB_API_KEY", key)
    with stand_in(behaviour) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        status, output = command("dashboard", "study.yaml")
    assert status == 0, output
    assert [line for line in output.splitlines() if line.startswith("Not saved at W&B: ") and words in line]
    assert "Traceback" not in output
    assert key not in output
    assert sections_of(folder)


def test_neither_a_study_file_nor_a_run_is_refused(folder: Path, command: Command) -> None:
    (folder / "empty").mkdir()
    assert_one_sentence(command("dashboard", "empty"), 2, ["empty is not a run directory"])
    assert_one_sentence(command("dashboard", "none.yaml"), 2, ["none.yaml"])
