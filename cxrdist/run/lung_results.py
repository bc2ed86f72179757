"""Reading what the training of the lung network left."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxrdist.run.artefacts import Checked
from cxrdist.run.lung_plan import LungPlan
from cxrdist.run.results import files_of, read_mark
from cxrdist.run.store import Store
from cxrdist.stats.overlap import Overlaps
from cxrdist.study.layout import JobFiles


@dataclass(frozen=True)
class LungScores:
    """How the network of one job does on the images of one source that it was not trained on."""

    key: str
    """Of the job."""
    tested_on: str
    source: str
    everywhere: Overlaps
    decided: Overlaps
    """The same on the pixels that the masks decide: all, but for masks that include the heart."""


def read_lung_scores(store: Store, plan: LungPlan) -> list[LungScores]:
    """Return the scores of every job that is done, by job, set and source.

    Raises:
        DamagedError: those of a job are not what was written.
    """
    marks = [(job.key, read_mark(store, job)) for job in plan.jobs]
    return [scores for key, mark in marks if mark is not None for scores in _of_job(files_of(store, mark), key)]


def _of_job(files: Checked, key: str) -> list[LungScores]:
    table = files.parquet(JobFiles(key).predictions)
    columns = {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}
    pairs = list(dict.fromkeys(zip(columns["tested_on"].tolist(), columns["source"].tolist(), strict=True)))
    scores = []
    for tested_on, source in pairs:
        rows = np.flatnonzero((columns["tested_on"] == tested_on) & (columns["source"] == source))
        counts = [
            Overlaps(*(columns[f"{prefix}{kind}"][rows] for kind in ("intersection", "predicted", "truth")))
            for prefix in ("", "decided_")
        ]
        scores.append(LungScores(key, tested_on, source, *counts))
    return scores


def joined(scores: Sequence[LungScores]) -> Overlaps:
    """Return the overlaps of all images together."""
    return Overlaps.join([one.everywhere for one in scores])
