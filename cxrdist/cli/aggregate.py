"""The W&B run of a whole study: its tables, curves, cohort and splits, beside the runs of its fold jobs."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.csv

from cxrdist import __version__
from cxrdist.cli.gather import with_images
from cxrdist.config import Study
from cxrdist.report.image_panels import explained, overlay
from cxrdist.report.inference_tables import interval_table
from cxrdist.report.results import Results
from cxrdist.report.sections import Findings
from cxrdist.report.table import Table
from cxrdist.report.write import headline_tables
from cxrdist.run.context import planned_files, read_plan, read_table
from cxrdist.run.store import Store
from cxrdist.run.tracking_wandb import FOLDER, finish_wandb, start_wandb
from cxrdist.study import layout
from cxrdist.study.seeds import derive_seed

_LOGGED = f"{FOLDER}/aggregate.json"
"""Which results were logged."""
_STAGING = f"{FOLDER}/staging"
"""Contents of artifacts, until they are uploaded."""
_COHORT = ("image_id", "label", "patient_id", "group_id", "source", "view_position", "sha256")
"""Columns of a cohort that are logged."""


def log_aggregate(study: Study, store: Store, findings: Findings, say: Callable[[str], None]) -> None:
    """Log a complete study's results, where W&B is asked for and they were not logged before.

    A failure is said and does no more: the results are in the run directory.
    """
    if study.tracking.wandb == "off":
        return
    try:
        logged = {"study": read_plan(store).study, "version": __version__, "images": study.tracking.images}
        if store.read_json(_LOGGED) != logged:
            _log(study, store, findings)
            store.write_json(_LOGGED, logged)
    except Exception as error:  # noqa: BLE001 - a tracker may fail in any way, and must not stop a study
        say(f"W&B: the tables were not logged: {type(error).__name__}: {error}")


def _log(study: Study, store: Store, findings: Findings) -> None:
    fingerprint = read_plan(store).study
    run = start_wandb(
        study.tracking,
        run_id=f"{derive_seed(0, study.name, 'aggregate', fingerprint):016x}",
        name="aggregate",
        group=study.name,
        job_type="aggregate",
        facts={
            "fingerprint": fingerprint,
            **study.model_dump(mode="json", exclude={"cohort", "execution", "tracking"}),
        },
        store=store,
    )
    results = findings.results
    tables = [*headline_tables(findings), interval_table(results, findings.inferences)]
    with _staged_in(store.root / _STAGING):
        content = {**_tables(tables), "predictions": _predictions(results), **_charts(results)}
        if study.tracking.images:
            content |= _heat_maps(results if results.images else with_images(store, results)[0])
        run.log(content, step=0)
        for one in findings.inferences:
            for name, estimate in one.overall.items():
                run.summary[f"{one.variant}/{name}"] = estimate.interval.value
        for artifact in _artifacts(study, store):
            run.log_artifact(artifact)
    finish_wandb(run, store)


def _tables(tables: Sequence[Table]) -> dict[str, Any]:
    import wandb

    return {
        f"tables/{table.name}": wandb.Table(columns=[column.label for column in table.columns], data=table.shown())
        for table in tables
    }


def _predictions(results: Results) -> Any:
    """Return the out-of-fold predictions, a row for each image and variant."""
    import wandb

    classes = results.classes
    rows = [
        [image_id, variant, fold, classes[truth], classes[predicted], *probabilities, results.sources.get(image_id)]
        for variant, one in results.out_of_fold.items()
        for image_id, fold, truth, predicted, probabilities in zip(
            one.image_ids,
            one.fold.tolist(),
            one.truth.tolist(),
            one.predicted.tolist(),
            one.probabilities.tolist(),
            strict=True,
        )
    ]
    named = [f"p_{label}" for label in classes]
    return wandb.Table(columns=["image_id", "variant", "fold", "truth", "predicted", *named, "source"], data=rows)


def _charts(results: Results) -> dict[str, Any]:
    """Return each variant's ROC curves, one a class, and its confusion matrix."""
    import wandb

    labels = list(results.classes)
    charts: dict[str, Any] = {}
    for variant, one in results.out_of_fold.items():
        charts[f"roc/{variant}"] = wandb.plot.roc_curve(
            one.truth, one.probabilities, labels=labels, title=f"ROC, each class against the rest: {variant}"
        )
        charts[f"confusion/{variant}"] = wandb.plot.confusion_matrix(
            y_true=one.truth.tolist(),
            preds=one.predicted.tolist(),
            class_names=labels,
            title=f"Confusion matrix: {variant}",
        )
    return charts


def _heat_maps(results: Results) -> dict[str, Any]:
    """Return, by variant, the images that the report shows under the heat of the network that did not train on them."""
    import wandb

    shown: dict[str, Any] = {}
    for image in results.images.values():
        for variant in results.present:
            one = explained(image, variant)
            if one is not None:
                words = f"{image.image_id}: {image.label}; {one.heat.label} {one.heat.probability:.3f}"
                shown.setdefault(f"heatmaps/{variant}", []).append(
                    wandb.Image(overlay(one.seen, one.heat), caption=words)
                )
    return shown


def _artifacts(study: Study, store: Store) -> list[Any]:
    """Return the cohort, without pixels and places of files, and its division into folds."""
    import wandb

    words = "Images: ids, labels, patients and groups, sources, hashes."
    cohort = wandb.Artifact(f"{study.name}-cohort", "cohort", description=words)
    with cohort.new_file("cohort.csv", "wb") as file:
        pyarrow.csv.write_csv(read_table(store, layout.COHORT).select(_COHORT), file)
    splits = wandb.Artifact(f"{study.name}-splits", "splits", description="Image ids by fold and part.")
    with splits.new_file("folds.json", "wb") as file:
        file.write(planned_files(store).bytes(layout.FOLDS_JSON))
    return [cohort, splits]


@contextmanager
def _staged_in(folder: Path) -> Iterator[None]:
    """Let W&B keep copies of what is to be uploaded in the run directory, not in the user's home."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]
        else:
            os.environ["WANDB_DATA_DIR"] = before
