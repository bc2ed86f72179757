"""What the commands about lung masks do."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from cxrdist.config.models import ExecutionConfig
from cxrdist.errors import CxrdistError, UserError
from cxrdist.lungs.train import LungRecipe
from cxrdist.outputs import Outputs, read_record
from cxrdist.report.lungs import SetScores, lung_folds_table, lung_sets_table
from cxrdist.report.masks import SourceMasks, mask_counts_table
from cxrdist.report.render import render_csv, render_latex, render_markdown, render_text
from cxrdist.report.table import Table
from cxrdist.run.claim import claim_run
from cxrdist.run.display import ConsoleDisplay
from cxrdist.run.lung_apply import TABLE, apply_lungs
from cxrdist.run.lung_driver import LungTraining, train_lungs
from cxrdist.run.lung_plan import FINAL, LUNGS
from cxrdist.run.lung_results import joined, read_lung_scores
from cxrdist.run.store import Store
from cxrdist.study import layout
from cxrdist.study.layout import JobFiles

_TRAINING = ("manifest", "images", "tests", "folds", "final", "hold_out", "per_source", "with_heart", "init", "seed")


def train_command(run_dir: Path, **options: Any) -> None:
    """Train the lung network and print its tables.

    Raises:
        CxrdistError: jobs failed or diverged; the others are done and kept.
    """
    if options["folds"] == 1:
        raise UserError("--folds is 1, but should be 0 for none, or at least 2: a fold is tested by another's network.")
    if options["small_epochs"] >= options["epochs"]:
        raise UserError(
            f"--small-epochs is {options['small_epochs']}, but should be less than --epochs ({options['epochs']}): the "
            "last epochs see whole images."
        )
    if not options["final"]:
        if not options["folds"]:
            raise UserError("--no-final with --folds 0 leaves no network to train; give one of them up.")
        for name, given in (("--test", options["tests"]), ("--hold-out", options["hold_out"])):
            if given:
                raise UserError(f"{name} is about the final network, but --no-final was given; leave out one of them.")
    training = LungTraining(
        **{key: options[key] for key in _TRAINING},
        recipe=LungRecipe(**{field.name: options[field.name] for field in fields(LungRecipe)}),
        execution=_execution(options).model_copy(update={"checkpoint_seconds": options["checkpoint_seconds"]}),
    )
    store = Store(run_dir.resolve())
    manifests = [options["manifest"], *options["tests"]]
    claim_run(store, LUNGS, manifests, [options["images"]])
    summary = train_lungs(training, store, ConsoleDisplay(Console()))
    if summary.unfinished:
        lines = "\n".join(f"  {key}  {o.state}: {o.reason}" for key, o in summary.unfinished.items())
        raise CxrdistError(
            f"{len(summary.unfinished)} of {len(summary.plan.jobs)} networks were not trained:\n{lines}\n"
            "Run again to try the failed ones once more."
        )
    scores = read_lung_scores(store, summary.plan)
    tables = []
    folds = {
        int(job.key.removeprefix("fold-")): joined([one for one in scores if one.key == job.key])
        for job in summary.plan.jobs
        if job.key != FINAL
    }
    if folds:
        tables.append(lung_folds_table(folds))
    final = [SetScores(s.tested_on, s.source, s.everywhere, s.decided) for s in scores if s.key == FINAL]
    if final:
        tables.append(lung_sets_table(final))
    _write(store, tables)
    for table in tables:
        click.echo(render_text(table))
    if options["final"]:
        click.echo(f"network: {store.local(JobFiles(FINAL).model)}")


def _write(store: Store, tables: Sequence[Table]) -> None:
    files = {
        f"tables/{table.name}.{ending}": render(table).encode()
        for table in tables
        for ending, render in (("csv", render_csv), ("md", render_markdown), ("tex", render_latex))
    }
    folder = store.root / layout.REPORT
    # Earlier versions kept no record.
    known = files if read_record(folder) is None else {}
    with Outputs(folder, files, option="--run-dir", known=known).writing():
        for name, content in files.items():
            store.write_bytes(f"{layout.REPORT}/{name}", content)


def apply_command(out: Path, **options: Any) -> None:
    """Make the masks of a cohort and print how many are implausible."""
    made = apply_lungs(
        options["manifest"],
        options["images"],
        out.resolve(),
        options["weights"],
        _execution(options),
        ConsoleDisplay(Console()),
    )
    sources = {}
    for source in sorted({one.source for one in made}):
        own = [one.quality for one in made if one.source == source]
        sources[source] = SourceMasks(
            images=len(own),
            implausible=sum(bool(quality.faults) for quality in own),
            area=sum(quality.area for quality in own) / len(own),
        )
    click.echo(render_text(mask_counts_table(sources, f"From the lung network, weights {options['weights']}.")))
    click.echo(f"masks: {out / TABLE}")


def _execution(options: Mapping[str, Any]) -> ExecutionConfig:
    return ExecutionConfig(
        executor=options["executor"],
        workers=options["workers"] or "auto",
        cache=None if options["cache"] is None else str(options["cache"].resolve()),
    )
