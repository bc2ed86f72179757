"""`cxrdist audit`: how much of what a study's networks tell, they can tell without the lungs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from cxrdist.cli.commands import place, require_study, run_store, run_to_end, write_report_of
from cxrdist.cli.gather import gather
from cxrdist.config import Study, load_study
from cxrdist.config.location import absolute_location, is_remote
from cxrdist.errors import UserError
from cxrdist.report.audit import Audit, AuditRow, Interval, Kind, audit_findings
from cxrdist.report.audit_tables import audit_by_class_table, audit_table
from cxrdist.report.render import render_text
from cxrdist.report.sections import Findings
from cxrdist.run.audit import adopt_jobs, audit_study, linear_probes, source_studies
from cxrdist.run.claim import claim_study
from cxrdist.run.context import read_cohort, read_plan, read_study
from cxrdist.run.display import ConsoleDisplay
from cxrdist.run.object_store import open_store
from cxrdist.run.prepare import open_cohort
from cxrdist.run.results import collect
from cxrdist.run.set_aside import make_room_for_cohort, require_same_study
from cxrdist.run.store import Store
from cxrdist.stats.resampling import bootstrap_auc
from cxrdist.study import layout
from cxrdist.study.seeds import derive_seed

RESAMPLES = 2000

_KINDS: Mapping[str, Kind] = {"whole": "whole", "segmented": "segmented", "lungs_blanked": "lungs_blanked"}
"""By view."""
_SEES: Mapping[Kind, str] = {
    "whole": "the whole image",
    "segmented": "the lungs alone",
    "lungs_blanked": "everything but the lungs",
    "aspect": "aspect ratio of the file",
    "size": "aspect ratio and size of the file",
    "thumbnail": "a 16 x 16 thumbnail",
}


def audit_command(
    target: str, settings: Sequence[str], images: str | None, execution: Mapping[str, Any], run_dir: str | None
) -> None:
    """Audit a run, or a study that need not have been run.

    Args:
        target: a run directory or a study file.
        settings: KEY=VALUE, of a study file.
        images: folder, of a study file.
        execution: executor, workers, address and cache; None where not given.
        run_dir: of a study file.

    Raises:
        CxrdistError: fold jobs failed or diverged; the others are done and kept.
    """
    study, run = _study_and_run(target, settings, images, execution, run_dir)
    store = run.sub(layout.AUDIT_RUN)
    display = ConsoleDisplay(Console())
    require_same_study(run, study)
    computing = None
    compared = audit_study(study)
    claim_study(store, compared, [] if is_remote(target) else [Path(target)])
    if run.exists(layout.PLAN):
        planned = read_plan(run)
        adopt_jobs(run, store, planned.jobs)
        computing = planned.computing
    display.say("1. The study's models on whole images, on the lungs alone, and on everything but the lungs")
    run_to_end(compared, store, display, computing)
    computing = read_plan(store).computing
    cohort = read_cohort(store, study.cohort.classes)
    rows = _network_rows(compared, store)
    for label, of_source in source_studies(study, cohort, store.root).items():
        display.say(f"2. The source of {label} images ({', '.join(of_source.cohort.classes)}), from whole images")
        source_store = store.sub(Path(of_source.cohort.manifest).stem)
        make_room_for_cohort(source_store, display.say, open_cohort(of_source))
        run_to_end(of_source, source_store, display, computing)
        rows += _source_rows(of_source, source_store, label)
    display.say("3. Linear classifiers of the files' shapes and of thumbnails")
    plan = read_plan(store)
    for probe in linear_probes(store, compared, plan, cohort):
        tested = ~np.isnan(probe.probabilities).any(axis=1)
        groups = cohort.groups(study.folds.group_by)
        rows.append(
            _row(
                study,
                probe.kind,
                probe.kind,
                _SEES[probe.kind],
                cohort.classes,
                cohort.labels[tested],
                probe.probabilities[tested],
                groups[tested],
            )
        )
    audit = Audit(
        tuple(rows),
        tuple(cohort.doubts()),
        f"95 % intervals by a bootstrap of {RESAMPLES:,} resamples of patients, stratified by class",
    )
    store.write_json(layout.AUDIT, {"cohort": plan.cohort, **audit.to_json()})
    for table in (audit_table(audit), audit_by_class_table(audit)):
        click.echo(render_text(table))
    for finding in audit_findings(audit):
        click.echo(f"- {finding}")
    write_report_of(store, Findings.of(gather(store, partial=False)))
    click.echo(f"report: {place(store, f'{layout.REPORT}/index.html')}")


def _study_and_run(
    target: str, settings: Sequence[str], images: str | None, execution: Mapping[str, Any], run_dir: str | None
) -> tuple[Study, Store]:
    if not (is_remote(target) or Path(target).is_dir()):
        overrides = {"cohort.images": images, **{f"execution.{key}": value for key, value in execution.items()}}
        study = load_study(Path(target), settings=settings, overrides=overrides)
        return study, run_store(study, run_dir)
    if settings or run_dir or images:
        raise UserError(
            f"{target} is a run directory, whose study is given; options that change it need the study file instead."
        )
    store = open_store(target)
    if not store.exists(layout.PLAN):
        raise UserError(
            f"{target} is neither a study file nor a run directory (it holds no {layout.PLAN}); `cxrdist run` "
            "makes one."
        )
    require_study(store)
    study = read_study(store)
    # The cluster that the run had may be gone: the one to join now is the one that is named now.
    now = {"address": None, **{key: value for key, value in execution.items() if value is not None}}
    if now.get("cache") is not None:
        now["cache"] = absolute_location(now["cache"], "--cache")
    return study.model_copy(update={"execution": study.execution.model_copy(update=now)}), store


def _network_rows(study: Study, store: Store) -> list[AuditRow]:
    plan, cohort = read_plan(store), read_cohort(store, study.cohort.classes)
    group_of = dict(zip(cohort.image_ids, cohort.groups(study.folds.group_by).tolist(), strict=True))
    out_of_fold = collect(store, plan, study.cohort.classes, partial=False)
    rows = []
    for variant in plan.variants:
        own = out_of_fold[variant.name]
        kind = _KINDS[variant.view]
        groups = np.array([group_of[image_id] for image_id in own.image_ids])
        rows.append(_row(study, variant.name, kind, _SEES[kind], cohort.classes, own.truth, own.probabilities, groups))
    return rows


def _source_rows(study: Study, store: Store, label: str) -> list[AuditRow]:
    plan, cohort = read_plan(store), read_cohort(store, study.cohort.classes)
    group_of = dict(zip(cohort.image_ids, cohort.groups(study.folds.group_by).tolist(), strict=True))
    rows = []
    for name, own in collect(store, plan, study.cohort.classes, partial=False).items():
        groups = np.array([group_of[image_id] for image_id in own.image_ids])
        what = f"source of {label} images from the whole image"
        rows.append(
            _row(study, f"source-{label}-{name}", "source", what, cohort.classes, own.truth, own.probabilities, groups)
        )
    return rows


def _row(
    study: Study,
    name: str,
    kind: Kind,
    sees: str,
    classes: Sequence[str],
    truth: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    groups: NDArray[np.str_],
) -> AuditRow:
    rng = np.random.default_rng(derive_seed(study.seed, "audit", name))
    intervals = bootstrap_auc(truth, probabilities, groups, rng=rng, resamples=RESAMPLES)

    def values(interval: Any) -> Interval:
        return float(interval.value), float(interval.low), float(interval.high)

    return AuditRow(
        name=name,
        sees=sees,
        kind=kind,
        classes=tuple(classes),
        images=len(truth),
        accuracy=float((probabilities.argmax(axis=1) == truth).mean()),
        majority=float(np.bincount(truth).max() / len(truth)),
        macro=values(intervals.macro),
        by_class=tuple(values(one) for one in intervals.by_class),
    )
