"""`cxrdist compare`: studies of the same cohort side by side."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import pyarrow as pa

from cxrdist.cli.commands import existing_run, require_study
from cxrdist.cli.gather import gather
from cxrdist.cli.location import shown
from cxrdist.config.location import is_remote, is_same_place
from cxrdist.errors import IncompleteStudyError, UserError, first_few
from cxrdist.outputs import Outputs
from cxrdist.report.compared_studies import ComparedStudy, study_labels
from cxrdist.report.render import render_text
from cxrdist.report.results import Results
from cxrdist.report.side_by_side import SideBySide, side_by_side_sections
from cxrdist.report.write import PAGE, write_sections
from cxrdist.run.context import Plan, read_folds, read_plan, read_study, read_table
from cxrdist.run.store import Store, explained
from cxrdist.study import layout

_ONLY = "only studies of the same images with the same classes can be compared."


@dataclass(frozen=True)
class _Run:
    given: str
    """As it was named on the command line."""
    store: Store
    plan: Plan
    name: str
    classes: Sequence[str]


def compare_command(run_dirs: Sequence[str], out: Path) -> None:
    """Compare the studies of run directories; write a page, tables and figures into `out`.

    Raises:
        UserError: these are not two or more runs of one cohort.
        IncompleteStudyError: fold jobs of one are missing.
    """
    runs = _open(run_dirs, out)
    if out.is_dir():
        # Of a place that cannot be written, the tables are printed before that is said.
        Outputs(out, [PAGE], option="--out")
    for run in runs[1:]:
        _require_same_cohort(runs[0], run)
    labels = study_labels([run.name for run in runs], [folder_name(run.store) for run in runs])
    found = SideBySide.of(
        [
            ComparedStudy(
                label=label,
                folder=_seen_from(out, run.store),
                fingerprint=run.plan.study,
                weights={model: network.weights_hash for model, network in run.plan.networks.items()},
                folds=read_folds(run.store),
                results=_results(run),
            )
            for label, run in zip(labels, runs, strict=True)
        ]
    )
    for sentence in (*found.results.warnings, *found.headline()):
        click.echo(sentence)
    click.echo()
    for table in (found.summary(), found.pairs()):
        if table is not None:
            click.echo(render_text(table))
    with explained(f"The folder {out}", "choose another with --out", out):
        *_, page = write_sections(found.results, side_by_side_sections(found), out.resolve(), extent=found.extent)
    click.echo(f"report: {shown(page)}")


def folder_name(store: Store) -> str:
    """Return what a run directory is called by itself: the last part of its place."""
    return store.where("").rpartition("/")[2]


def _seen_from(out: Path, store: Store) -> str:
    if is_remote(store.location):
        return store.where("")
    return Path(os.path.relpath(store.root, out.resolve())).as_posix()


def _open(run_dirs: Sequence[str], out: Path) -> list[_Run]:
    if len(run_dirs) < 2:
        raise UserError("Only one run directory is given; comparing needs two or more.")
    runs: list[_Run] = []
    for given in run_dirs:
        store = existing_run(given)
        require_study(store)
        for run in runs:
            if is_same_place(store.location, run.store.location):
                twice = (
                    f"{given} is given twice" if given == run.given else f"{run.given} and {given} are the same place"
                )
                raise UserError(f"{twice}; comparing needs different run directories.")
        if any(folder.resolve().is_relative_to(store.root) for folder in (out, out / "tables", out / "figures")):
            raise UserError(f"{out} lies in the run directory {given}; choose another folder with --out.")
        study = read_study(store)
        runs.append(_Run(given, store, read_plan(store), study.name, study.cohort.classes))
    return runs


def _results(run: _Run) -> Results:
    try:
        return gather(run.store, partial=False)
    except IncompleteStudyError as error:
        raise IncompleteStudyError(f"{run.given}: {error}") from None


def _require_same_cohort(first: _Run, other: _Run) -> None:
    """Refuse studies whose images, classes, patients or sources differ.

    Raises:
        UserError: they do; it says in what.
    """
    if list(first.classes) != list(other.classes):
        said = [f"{run.given} has the classes {', '.join(run.classes)}" for run in (first, other)]
        if sorted(first.classes) == sorted(other.classes):
            raise UserError(f"{said[0]} and {said[1]}: the same in another order; cohort.classes must be in one order.")
        raise UserError(f"{said[0]} and {said[1]}; {_ONLY}")
    if first.plan.cohort != other.plan.cohort:
        tables = [read_table(run.store, layout.COHORT) for run in (first, other)]
        raise UserError(f"{_difference(first.given, other.given, *tables)}; {_ONLY}")


def _difference(first: str, other: str, table: pa.Table, other_table: pa.Table) -> str:
    """Say how two cohorts of the same classes differ."""
    ids, other_ids = (one.column("image_id").to_pylist() for one in (table, other_table))
    missing = [
        f"{len(lacking):,} of {whose} are not in {where}, such as {lacking[0]}"
        for whose, where, own, others in ((first, other, ids, other_ids), (other, first, other_ids, ids))
        if (lacking := sorted(set(own) - set(others)))
    ]
    if missing:
        return f"{first} has {len(ids):,} images and {other} {len(other_ids):,}: {' and '.join(missing)}"
    labels, other_labels = (one.column("label").to_pylist() for one in (table, other_table))
    relabelled = [row for row in zip(ids, labels, other_labels, strict=True) if row[1] != row[2]]
    if relabelled:
        image_id, label, other_label = relabelled[0]
        images = f"{len(relabelled):,} image{'s' if len(relabelled) > 1 else ''}"
        return (
            f"{first} and {other} differ in the class of {images}, such as {image_id}, which is "
            f"{label} in the one and {other_label} in the other"
        )
    columns = [name for name in table.column_names if not table.column(name).equals(other_table.column(name))]
    return f"{first} and {other} have the same images, but their manifests differ in {first_few(columns)}"
