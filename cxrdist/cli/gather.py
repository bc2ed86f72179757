"""From a run directory to what a report shows."""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import distributions, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrdist import __version__
from cxrdist.cli.gather_images import Shown, heat_shares, shown_images
from cxrdist.cli.gather_sweep import sweep_marks, sweep_summary
from cxrdist.cli.provenance import PACKAGE, git_commit
from cxrdist.cohort.table import Cohort
from cxrdist.config import Study
from cxrdist.report.audit import Audit, audit_warnings
from cxrdist.report.choice import images_to_show
from cxrdist.report.inference import RESAMPLES
from cxrdist.report.masks import ImplausibleMask, MaskExample, MaskSummary, SourceMasks
from cxrdist.report.results import ClassCount, CohortSummary, FoldSummary, Results
from cxrdist.run.artefacts import read_json, whole
from cxrdist.run.computing import differences, use_planned
from cxrdist.run.context import Context, Plan, planned_files, read_cohort, read_folds, read_plan, read_study
from cxrdist.run.heat_files import heat_marks
from cxrdist.run.prepare import NO_MASK
from cxrdist.run.results import collect, read_history, read_mark, read_validation
from cxrdist.run.store import Store
from cxrdist.run.study_masks import IMPLAUSIBLE
from cxrdist.study import layout
from cxrdist.study.fingerprint import fingerprint
from cxrdist.study.folds import Folds, Part, class_counts
from cxrdist.study.seeds import derive_seed

_AUDIT_AGAIN = "run `cxrdist audit` again, which makes it anew"
GROUP_NAMES = {"group": "patient groups", "patient": "patients", "image": "images"}


def gather(store: Store, *, partial: bool) -> Results:
    """Read everything that a report shows but its images.

    Raises:
        IncompleteStudyError: fold jobs are missing and `partial` is false.
    """
    study, plan, folds = read_study(store), read_plan(store), read_folds(store)
    cohort = read_cohort(store, study.cohort.classes)
    out_of_fold = collect(store, plan, study.cohort.classes, partial=partial)
    marks = {job.key: mark for job in plan.jobs if (mark := read_mark(store, job)) is not None}
    done = [job for job in plan.jobs if job.key in marks]
    audit = _audit(store, plan)
    return Results(
        study=study.name,
        classes=tuple(study.cohort.classes),
        variants=tuple(variant.name for variant in plan.variants),
        n_folds=folds.n_folds,
        out_of_fold=out_of_fold,
        histories={(job.variant.name, job.fold): read_history(store, job, marks[job.key]) for job in done},
        cohort=cohort_summary(cohort, study, store),
        folds=fold_summaries(folds, cohort),
        warnings=[*(audit_warnings(audit) if audit else []), *plan.doubts, *differences(marks)],
        missing=[job.key for job in plan.jobs if job.key not in marks],
        facts=_facts(study, plan, list(marks.values())),
        study_yaml=planned_files(store).text(layout.STUDY),
        masks=_masks(store, plan),
        audit=audit,
        groups=dict(zip(cohort.image_ids, cohort.groups("group").tolist(), strict=True)),
        sources=dict(zip(cohort.image_ids, cohort.sources.tolist(), strict=True)),
        validation=read_validation(store, plan, study.cohort.classes),
        config=study,
        seed=study.seed,
        sweep=sweep_summary(store, study),
    )


def with_images(store: Store, results: Results, cache: str | None = None) -> tuple[Results, Shown]:
    """Return results with the images that a page shows, explained by the networks that were kept: seconds of work.

    Args:
        store: the run directory.
        results: of its predictions.
        cache: location of the cache, where it is no longer the one that the run had.
    """
    context = Context(store, use_planned(read_plan(store).computing), cache, verify=True)
    cohort = read_cohort(store, results.classes)
    shown = shown_images(context, cohort, images_to_show(results), results.out_of_fold)
    return replace(results, images=shown.images, heat_shares=heat_shares(context)), shown


def results_fingerprint(store: Store) -> str:
    """Return a hash of what the report is made from: study, marks of fold jobs done, version."""
    plan = read_plan(store)
    marks = {job.key: read_mark(store, job) for job in plan.jobs}
    study = planned_files(store).text(layout.STUDY)
    audit = _audit(store, plan)
    return fingerprint(
        {
            "version": __version__,
            "study": study,
            "doubts": list(plan.doubts),
            "jobs": marks,
            "masks": planned_files(store).json(layout.MASKS) if plan.masks else None,
            "audit": None if audit is None else audit.to_json(),
            "heat": heat_marks(store, plan),
            "sweep": sweep_marks(store),
        }
    )


def cohort_summary(cohort: Cohort, study: Study, store: Store | None = None) -> CohortSummary:
    """Count images, groups and sources by class, and what was left out of a run."""
    groups, sources, labels = cohort.groups(study.folds.group_by), cohort.sources, cohort.labels
    counts = []
    for index, label in enumerate(cohort.classes):
        own = labels == index
        by_source = Counter(source or "unknown" for source in sources[own].tolist())
        counts.append(
            ClassCount(
                label,
                int(own.sum()),
                len(np.unique(groups[own])),
                dict(sorted(by_source.items())),
                _groups_by_source(groups[own], sources[own]),
            )
        )
    excluded = Counter(_why_excluded(reason) for reason in (_reasons(store) if store else []))
    return CohortSummary(
        counts,
        len(np.unique(groups)),
        GROUP_NAMES[study.folds.group_by],
        dict(excluded),
        _groups_by_source(groups, sources),
        len(np.unique(cohort.groups("patient"))) - len(np.unique(cohort.groups("group"))),
    )


def _reasons(store: Store) -> list[str]:
    files = planned_files(store)
    with files.whole(layout.QUARANTINE):
        return [one["reason"] for one in files.json(layout.QUARANTINE)["images"]]


def _groups_by_source(groups: NDArray[np.str_], sources: NDArray[np.str_]) -> dict[str, int]:
    return {name or "unknown": len(np.unique(groups[sources == name])) for name in sorted(set(sources.tolist()))}


def _why_excluded(reason: str) -> str:
    if reason == NO_MASK:
        return "no lung mask"
    return "implausible lung mask" if reason.startswith(IMPLAUSIBLE) else "unusable file"


def fold_summaries(folds: Folds, cohort: Cohort) -> list[FoldSummary]:
    """Count images by fold, part and class."""
    counts = class_counts(folds, cohort.labels, len(cohort.classes)).tolist()
    return [
        FoldSummary(fold, training=parts[Part.TRAINING], validation=parts[Part.VALIDATION], test=parts[Part.TEST])
        for fold, parts in enumerate(counts)
    ]


def _masks(store: Store, plan: Plan) -> MaskSummary | None:
    """Read what the run kept of its lung masks."""
    if plan.masks is None:
        return None
    files = planned_files(store)
    table = files.arrow(layout.MASK_EXAMPLES)
    with files.whole(layout.MASK_EXAMPLES):
        columns = [table.column(name).to_pylist() for name in ("image_id", "source", "label", "faults")]
        pixels, masks = (table.column(name).combine_chunks().to_numpy_ndarray() for name in ("pixels", "mask"))
        examples = [MaskExample(*row) for row in zip(*columns, pixels, masks, strict=True)]
    kept = files.json(layout.MASKS)
    with files.whole(layout.MASKS):
        return MaskSummary(
            origin=kept["origin"],
            policy=kept["policy"],
            sources={name: SourceMasks(**counts) for name, counts in kept["sources"].items()},
            implausible=[ImplausibleMask(**{**one, "faults": tuple(one["faults"])}) for one in kept["implausible"]],
            examples=examples,
        )


def _audit(store: Store, plan: Plan) -> Audit | None:
    """Read the audit of this run, its own or the one in its folder; one of another cohort counts as none."""
    for name in (layout.AUDIT, f"{layout.AUDIT_RUN}/{layout.AUDIT}"):
        kept = read_json(store, name, _AUDIT_AGAIN)
        if kept is not None:
            with whole(store.where(name), _AUDIT_AGAIN):
                if kept["cohort"] == plan.cohort:
                    return Audit.from_json(kept)
    return None


def _facts(study: Study, plan: Plan, marks: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    machines: Counter[str] = Counter(_machine(mark["machine"]) for mark in marks)
    packages = ["torch", "torchvision", "ray", "numpy", "scikit-learn", "pyarrow"]
    # A study runs inline where Ray is not installed.
    installed = [f"{name} {version(name)}" for name in packages if any(distributions(name=name))]
    commit = git_commit(PACKAGE)
    return [
        ("Study fingerprint", plan.study),
        ("Cohort fingerprint", plan.cohort),
        ("Seed", str(study.seed)),
        (
            "Random draws of the statistics",
            f'{RESAMPLES:,} resamples from derive_seed({study.seed}, "bootstrap") = '
            f"{derive_seed(study.seed, 'bootstrap')}",
        ),
        ("Folds", _division(study)),
        ("Weights", ", ".join(f"{model}: {n.weights_hash}" for model, n in plan.networks.items())),
        ("Software", ", ".join([f"cxrdist {__version__}", *installed])),
        # Of the code that reports, which need not be that which trained.
        *([("Git commit (report)", commit)] if commit else []),
        ("Python", platform.python_version()),
        ("Machines", "; ".join(f"{name} ({n} fold jobs)" for name, n in sorted(machines.items()))),
        ("Training time, all fold jobs", f"{sum(mark['seconds'] for mark in marks):.0f} s"),
    ]


def _division(study: Study) -> str:
    folds = study.folds
    if folds.protocol == "holdout_batches":
        return f"{folds.protocol}, by {folds.group_by}"
    protocol = f"{folds.protocol} with k = {folds.k}" if folds.protocol == "kfold" else folds.protocol
    return f"{protocol}, by {folds.group_by}, stratified by {folds.stratify_by}, validation {folds.validation:g}"


def _machine(facts: dict[str, Any]) -> str:
    # Not how many cores there are: that changes no number, and a study may be done on several machines.
    cpu = f" ({facts['cpu']})" if "cpu" in facts else ""
    return f"{facts['device']}{cpu}, {facts['threads']} threads, torch {facts['torch']}"
