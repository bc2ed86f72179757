"""A W&B workspace of a study: panels as data, kept in the run directory and saved where there is a connection."""

from dataclasses import dataclass
from typing import Any

from cxrdist.config.models import Study
from cxrdist.run.artefacts import read_json
from cxrdist.run.store import Store
from cxrdist.run.tracking import has_key, server_url, why_silent
from cxrdist.run.tracking_wandb import FOLDER, be_ourselves
from cxrdist.study.plan import Variant

WORKSPACE = f"{FOLDER}/workspace.json"
"""The workspace as W&B stores it, with its id once it was saved there."""

_CURVES = {
    "fold/train_loss": "Training loss",
    "fold/validation_loss": "Validation loss",
    "fold/train_accuracy": "Training accuracy",
    "fold/validation_accuracy": "Validation accuracy",
}
_SCORES = {"macro_auc": "Macro AUC (pooled)", "accuracy": "Accuracy"}
_MOST_RUNS = 100


@dataclass(frozen=True)
class Saved:
    """What became of a workspace: where it is at W&B, or why it is not there."""

    url: str = ""
    reason: str = ""


def write_dashboard(study: Study, store: Store) -> Saved:
    """Write a study's workspace, and save it at W&B, in place of the one saved before, where that can be done."""
    known = read_json(store, WORKSPACE, "remove it, and another workspace is made beside the one at W&B") or {}
    be_ourselves()
    workspace = build_workspace(study)
    workspace._internal_name, workspace._internal_id = known.get("name", ""), known.get("id", "")
    saved = _save(workspace)
    store.write_json(WORKSPACE, workspace._to_model().model_dump(mode="json", by_alias=True, exclude_none=True))
    return saved


def read_dashboard(store: Store) -> Any:
    """Return the workspace that `write_dashboard` wrote, as an object of W&B's own classes."""
    from wandb_workspaces import workspaces

    return workspaces.Workspace._from_model(workspaces.internal.View.model_validate(read_json(store, WORKSPACE)))


def build_workspace(study: Study) -> Any:
    """Return the panels of a study's runs: curves of its fold jobs by variant, results, sweep, heat maps."""
    from wandb_workspaces import workspaces

    variants = [Variant(view, model).name for model in study.variants.models for view in study.variants.views]
    sections = [
        workspaces.Section(name="Fold jobs, by variant", panels=_curves(), is_open=True),
        workspaces.Section(name="Results, out of fold", panels=_results(variants), is_open=True),
    ]
    if study.sweep is not None:
        swept = list(study.sweep.space.model_dump(exclude_none=True))
        sections.append(workspaces.Section(name="Sweep", panels=_sweep(swept, study.sweep.metric), is_open=True))
    if study.tracking.images:
        sections.append(workspaces.Section(name="Heat maps", panels=_heat_maps(variants), is_open=True))
    return workspaces.Workspace(
        entity=study.tracking.entity or "",
        project=study.tracking.project,
        name=study.name,
        sections=sections,
        settings=workspaces.WorkspaceSettings(max_runs=_MOST_RUNS),
        runset_settings=workspaces.RunsetSettings(filters=workspaces.And(workspaces.Metric("Group") == study.name)),
    )


def _panels() -> Any:
    """Return the module of W&B's panels, which does not tell type checkers what it holds."""
    from wandb_workspaces.reports import v2

    return v2


def _curves() -> list[Any]:
    reports = _panels()

    return [
        reports.LinePlot(
            title=f"{title}, mean and range of folds",
            y=[key],
            title_x="Epoch",
            groupby=reports.Config("variant"),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )
        for key, title in _CURVES.items()
    ]


def _results(variants: list[str]) -> list[Any]:
    reports = _panels()

    tables = [reports.WeavePanelSummaryTable(table_name=name) for name in ("tables/summary", "tables/intervals")]
    bars = [
        reports.BarPlot(title=title, metrics=[reports.SummaryMetric(f"{one}/{key}") for one in variants])
        for key, title in _SCORES.items()
    ]
    curves = [
        reports.CustomChart(
            query={"summaryTable": {"tableKey": f"roc/{variant}_table"}},
            chart_name="wandb/area-under-curve/v0",
            chart_fields={"x": "fpr", "y": "tpr", "class": "class"},
            chart_strings={
                "title": f"ROC: {variant}",
                "x-axis-title": "1 - specificity",
                "y-axis-title": "Sensitivity",
            },
        )
        for variant in variants
    ]
    matrices = [
        reports.CustomChart(
            query={"summaryTable": {"tableKey": f"confusion/{variant}_table"}},
            chart_name="wandb/confusion_matrix/v1",
            chart_fields={"Actual": "Actual", "Predicted": "Predicted", "nPredictions": "nPredictions"},
            chart_strings={"title": f"Confusion matrix: {variant}"},
        )
        for variant in variants
    ]
    return [*tables, *bars, *curves, *matrices]


def _sweep(swept: list[str], metric: str) -> list[Any]:
    reports = _panels()

    score = f"trial/mean_{metric}"
    settings = [reports.ParallelCoordinatesPlotColumn(reports.Config(f"settings.{name}")) for name in swept]
    return [
        reports.ParallelCoordinatesPlot(
            title="Settings and scores of trials",
            columns=[*settings, reports.ParallelCoordinatesPlotColumn(reports.SummaryMetric(score))],
        ),
        reports.ParameterImportancePlot(with_respect_to=score),
        reports.LinePlot(title="Mean so far, by trial", y=["trial/mean_so_far"], title_x="Epochs of all inner folds"),
    ]


def _heat_maps(variants: list[str]) -> list[Any]:
    reports = _panels()

    return [reports.MediaBrowser(title=variant, media_keys=[f"heatmaps/{variant}"]) for variant in variants]


def _save(workspace: Any) -> Saved:
    import wandb

    if not has_key():
        return Saved(reason="there is no W&B API key here")
    reason = why_silent(server_url())
    if reason:
        return Saved(reason=reason)
    try:
        workspace.entity = workspace.entity or wandb.Api().default_entity
        workspace.save()
        return Saved(url=workspace.url)
    except Exception as error:  # noqa: BLE001 - W&B's client raises whatever its layers do
        words = f"{type(error).__name__}: {error}".splitlines()[0]
        return Saved(reason=f"{server_url()} refused it ({words})")
