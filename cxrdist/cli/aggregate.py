"""The W&B run of a whole study: the tables and the ROC curves, beside the runs of its fold jobs."""

from collections.abc import Callable, Sequence

from cxrdist.config import Study
from cxrdist.report.results import Results
from cxrdist.report.table import Table
from cxrdist.run.context import read_plan
from cxrdist.run.store import Store
from cxrdist.run.tracking import start_wandb
from cxrdist.study.seeds import derive_seed


def log_aggregate(
    study: Study, store: Store, results: Results, tables: Sequence[Table], say: Callable[[str], None]
) -> None:
    """Log a complete study's tables, confusion matrices and ROC curves, where W&B is asked for.

    A failure is said and does no more: the results are in the run directory.
    """
    if study.tracking.wandb == "off":
        return
    try:
        _log(study, store, results, tables)
    except Exception as error:  # noqa: BLE001 - a tracker may fail in any way, and must not stop a study
        say(f"W&B: the tables were not logged: {type(error).__name__}: {error}")


def _log(study: Study, store: Store, results: Results, tables: Sequence[Table]) -> None:
    import wandb

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
        folder=store.root,
    )
    content: dict[str, object] = {}
    for table in tables:
        titles = [column.label for column in table.columns]
        content[f"tables/{table.name}"] = wandb.Table(columns=titles, data=table.shown())
    for variant, predictions in results.out_of_fold.items():
        curves = wandb.plot.roc_curve(predictions.truth, predictions.probabilities, labels=list(results.classes))
        content[f"roc/{variant}"] = curves
        run.summary[f"{variant}/accuracy"] = float((predictions.predicted == predictions.truth).mean())
    run.log(content, step=0)
    run.finish()
