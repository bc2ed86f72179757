"""The table of where the heat of a variant's heat maps lies."""

from collections.abc import Mapping, Sequence

import numpy as np

from cxrdist.report.images import HeatShares
from cxrdist.report.inference import LEVEL, RESAMPLES
from cxrdist.report.results import Results, patients_of
from cxrdist.report.table import Cell, Column, Table
from cxrdist.report.tables import SCORE_DIGITS, caption
from cxrdist.stats.heat import mean_by_patient_bootstrap
from cxrdist.study.seeds import derive_seed

_METHODS = {"cam": "CAM", "gradcam": "Grad-CAM"}


def heat_table(results: Results) -> Table | None:
    """One row a variant whose heat maps were made for all test images; None where there is none."""
    if not results.heat_shares:
        return None
    words = caption(results, "Heat maps of all test images, for the class that is predicted.")
    return heat_shares_table(results.heat_shares, results.groups, results.seed, words)


def heat_shares_table(shares: Sequence[HeatShares], groups: Mapping[str, str], seed: int, words: str) -> Table:
    """One row a variant: the mean share of a map's mass inside the lungs, and of the view's area that is lung.

    Args:
        shares: of each variant.
        groups: the patient of each image; an image without one is its own.
        seed: of the study; all variants of the same images have the same resamples.
        words: the caption, which says of which class the maps are.
    """
    rows: list[tuple[Cell, ...]] = []
    left_out = []
    for one in shares:
        patients = np.array(patients_of(groups, one.image_ids))
        rng = np.random.default_rng(derive_seed(seed, "heat"))
        inside = mean_by_patient_bootstrap(one.inside, patients, rng, RESAMPLES, LEVEL)
        defined = ~np.isnan(one.inside)
        area = float(one.area[defined].mean()) if defined.any() else float("nan")
        rows.append(
            (one.variant, _METHODS[one.method], int(defined.sum()), inside.value, inside.low, inside.high, area)
        )
        if not defined.all():
            left_out.append(f"{int((~defined).sum())} of {one.variant}")
    empty = (f"Maps without any heat for the class are left out: {', '.join(left_out)}.",) if left_out else ()
    return Table(
        name="heat_inside_lungs",
        title="Heat inside the lungs",
        caption=words,
        columns=(
            Column("Variant"),
            Column("Method"),
            Column("Images"),
            *(Column(title, "Share of heat inside the lungs", SCORE_DIGITS) for title in ("mean", "low", "high")),
            Column("Lung area", digits=SCORE_DIGITS),
        ),
        rows=tuple(rows),
        notes=(
            "Share of heat: of the sum of a map's positive values, the part that lies on the lung mask in the view's "
            "own geometry; the rest, 1 minus it, is hot spots outside the lungs.",
            "Lung area: mean share of the view that is lung, which is what heat without any preference for a place "
            "would have inside.",
            f"Low and high: 95 % interval, percentiles of {RESAMPLES:,} resamples of patients, the same for all "
            "variants of the same images.",
            *empty,
        ),
    )
