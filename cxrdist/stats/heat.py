"""The mean of what was measured of heat maps, with an interval by patients."""

import numpy as np
from numpy.typing import ArrayLike

from cxrdist.stats.averages import Floats, ratio
from cxrdist.stats.resampling import Interval, group_bootstrap, percentile_interval


def mean_by_patient_bootstrap(
    values: Floats, groups: ArrayLike, rng: np.random.Generator, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """Return the mean over images with a percentile interval from a bootstrap of patients.

    Whole groups are drawn with replacement, and a resample's mean is the ratio of its sum to its number of images
    (Davison and Hinkley 1997, 3.8; for percentiles Efron and Tibshirani 1993, 13). The names of the groups do not
    matter, the order of the images does.

    Args:
        values: [n]; NaN where undefined, which is left out.
        groups: [n], the name or number of each image's patient.
        rng: where the draws come from; equal inputs and state give equal intervals.
        resamples: number of resamples.
        level: confidence level, in (0, 1).

    Returns:
        NaN without values; ends that are NaN where the values are of fewer than two patients.

    Raises:
        ValueError: the arrays differ in length, a value is infinite, there is no resample, or the level is not in
            (0, 1).
    """
    values, names = np.asarray(values, np.float64), np.asarray(groups)
    if values.ndim != 1 or names.shape != values.shape:
        raise ValueError(f"values and groups must be [n] alike, not {values.shape} and {names.shape}")
    if np.isinf(values).any():
        raise ValueError("values must not be infinite")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"need resamples >= 1 and 0 < level < 1, not {resamples}, {level}")
    defined = ~np.isnan(values)
    values = values[defined]
    mean = float(ratio(values.sum(), len(values)))
    bootstrap = group_bootstrap(np.zeros(len(values), np.int64), names[defined], n_classes=1)
    n_groups = len(bootstrap.stratum)
    if n_groups < 2:
        return Interval(mean, float("nan"), float("nan"))
    sums = np.bincount(bootstrap.group, weights=values, minlength=n_groups)
    images = np.bincount(bootstrap.group, minlength=n_groups)
    means = [ratio(drawn @ sums, drawn @ images) for drawn in bootstrap.draws(resamples, rng)]
    return percentile_interval(mean, np.concatenate(means), level)
