"""The shortcut audit's own studies: the variants without lungs, and the source of images within one class."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cxrdist.cohort.schema import COHORT_SCHEMA
from cxrdist.cohort.shards import ShardSet
from cxrdist.cohort.sizes import read_sizes
from cxrdist.cohort.table import Cohort
from cxrdist.config.models import Study
from cxrdist.errors import UserError
from cxrdist.run.context import Plan, read_folds, read_plan, read_study
from cxrdist.run.object_store import open_cache
from cxrdist.run.prepare import divide
from cxrdist.run.results import check_job, files_of, is_done, read_mark
from cxrdist.run.shared_shards import fetched_shards
from cxrdist.run.store import Store
from cxrdist.run.sweep_results import check_sweep
from cxrdist.stats.probes import linear_probe, size_features, thumbnails
from cxrdist.study import layout
from cxrdist.study.folds import Part
from cxrdist.study.layout import JobFiles
from cxrdist.study.plan import FoldJob
from cxrdist.study.seeds import derive_seed

VIEWS = ("whole", "segmented", "lungs_blanked")
"""What every model of a study is compared on."""

_FEWEST_PATIENTS = 4
"""Of a source, below which nothing is said of telling it from another."""

_LONGEST_NAME = 64
"""Of a study."""

ProbeKind = Literal["aspect", "size", "thumbnail"]


@dataclass(frozen=True)
class Probe:
    """A linear classifier of something that shows no lungs."""

    kind: ProbeKind
    probabilities: NDArray[np.float64]
    """[n, classes], out of fold; NaN where an image is never tested."""


def audit_study(study: Study) -> Study:
    """Return the study with the views that the audit compares."""
    variants = study.variants.model_copy(update={"views": list(VIEWS)})
    return study.model_copy(update={"name": _name(study, "audit"), "variants": variants})


def adopt_jobs(run: Store, audit: Store, jobs: Sequence[FoldJob]) -> None:
    """Give the audit the results that the study's own run has; a fingerprint says later whether they still hold.

    Raises:
        DamagedError: they are not what was written.
    """
    jobs = [job for job in jobs if job.variant.view in VIEWS]
    for job in jobs:
        files, mark = JobFiles(job.key), read_mark(run, job)
        if mark is not None and not is_done(audit, job):
            check_job(run, job, mark)
            for name in (files.history, files.validation, files.predictions):
                if run.exists(name):
                    audit.write_bytes(name, run.read_bytes(name))
            # Networks are large, and stay where they are.
            noted = {name: digest for name, digest in files_of(run, mark).hashes.items() if "safetensors" not in name}
            audit.write_json(files.done, {**mark, "artefacts": noted})
    check_sweep(run, read_study(run), read_plan(run))
    variants = {job.variant.name for job in jobs}
    for name in run.names(layout.SWEEP):
        if name.split("/")[1] not in variants:
            continue
        # Its trials are named by their search's fingerprint, too; networks of trials in work are not needed.
        if not name.endswith(".safetensors"):
            audit.write_bytes(name, run.read_bytes(name))


def source_studies(study: Study, cohort: Cohort, folder: Path) -> dict[str, Study]:
    """Return for each class with several sources a study that tells these apart, from whole images.

    Its folds are made by the study's own rule, by patient, among the images of the class: as many as the study's, or
    as near to that as the patients allow. Sources of fewer than four patients are left out, and classes whose sources
    no folds can divide. Their manifests are written into `folder`.
    """
    studies = {}
    groups, sources, labels = cohort.groups(study.folds.group_by), cohort.sources, cohort.labels
    for index, label in enumerate(cohort.classes):
        own = labels == index
        patients = {s: len(np.unique(groups[own & (sources == s)])) for s in sorted(set(sources[own].tolist()) - {""})}
        told = [source for source, count in patients.items() if count >= _FEWEST_PATIENTS]
        if len(told) < 2:
            continue
        table = cohort.subset(own & np.isin(sources, told)).table
        columns = {name: table.column(name) for name in COHORT_SCHEMA.names}
        # With the source as the label too, every class would rightly be said to be of one source.
        columns |= {"label": table.column("source"), "source": pa.nulls(table.num_rows, pa.string())}
        of_source = pa.table(columns)
        sink = io.BytesIO()
        pq.write_table(of_source, sink)
        name = f"source-{index}"
        Store(folder).write_bytes(f"{name}.parquet", sink.getvalue())
        changes = {
            "name": _name(study, name),
            "cohort": study.cohort.model_copy(update={"manifest": str(folder / f"{name}.parquet"), "classes": told}),
            "variants": study.variants.model_copy(update={"views": ["whole"]}),
            # Telling sources apart is no task to choose settings for.
            "sweep": None,
        }
        fewest = min(patients[source] for source in told)
        divided = _divided(study.model_copy(update=changes), Cohort(of_source, cohort.root, tuple(told)), fewest)
        if divided is not None:
            studies[label] = divided
    return studies


def _divided(study: Study, cohort: Cohort, most: int) -> Study | None:
    """Return the study with the number of folds, at most `most`, that is next to its own and can be made."""
    for k in sorted(range(2, most + 1), key=lambda k: abs(k - study.folds.k)):
        folds = study.folds.model_copy(update={"protocol": "kfold", "k": k})
        with_folds = study.model_copy(update={"folds": folds})
        try:
            divide(cohort, with_folds)
        except UserError:
            continue
        return with_folds
    return None


def linear_probes(store: Store, study: Study, plan: Plan, cohort: Cohort) -> list[Probe]:
    """Try to tell the classes from the files' shapes and from thumbnails, with the folds of the study.

    Args:
        store: the run directory.
        study: with the folder of the images, which are opened for their sizes.
        plan: of the run.
        cohort: of the run, in the order of its folds.
    """
    folds = read_folds(store)
    test = folds.parts == Part.TEST
    shards = ShardSet.open(fetched_shards(open_cache(plan.cache, plan.node_cache), plan.shards))
    row_of = {image_id: row for row, image_id in enumerate(shards.image_ids)}
    rows = np.array([row_of[image_id] for image_id in cohort.image_ids], dtype=np.int64)
    sizes = size_features(read_sizes(Path(study.cohort.images or "."), [str(path) for path in cohort.column("path")]))
    features: dict[ProbeKind, NDArray[np.float64]] = {
        "aspect": sizes[:, :1],
        "size": sizes,
        "thumbnail": thumbnails(shards.take(rows)),
    }
    return [
        Probe(
            kind,
            linear_probe(
                values,
                cohort.labels,
                test,
                n_classes=len(cohort.classes),
                seed=derive_seed(study.seed, "probe", kind) % 2**32,
            ),
        )
        for kind, values in features.items()
    ]


def _name(study: Study, what: str) -> str:
    """Return a name that is valid for a study, however long the study's own is."""
    return f"{study.name[: _LONGEST_NAME - len(what) - 1]}-{what}"
