"""Linear probes: how much of the class a few plain numbers of an image tell."""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from cxrdist.stats.averages import Floats

_ITERATIONS = 10_000


def linear_probe(
    features: Floats, labels: NDArray[np.int64], test: NDArray[np.bool_], *, n_classes: int, seed: int
) -> Floats:
    """Return out-of-fold class probabilities of a multinomial logistic regression with an L2 penalty.

    For each fold it is trained on all rows that the fold does not test, validation rows included, since
    nothing is chosen with them. Features are standardised by the training rows.

    Args:
        features: [n, d], finite.
        labels: [n], in [0, n_classes).
        test: [folds, n], the rows that each fold tests; no row in two folds.
        n_classes: number of classes C.
        seed: for a solver that draws at random; today's draws nothing.

    Returns:
        [n, C]; NaN in rows that no fold tests, 0 for a class that is absent from the fold's training rows.

    Raises:
        ValueError: the arrays do not fit together, a label or feature is not as above, a row is tested twice,
            or a fold leaves no row to train on.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1] or test.ndim != 2 or test.shape[1:] != labels.shape:
        raise ValueError(
            f"need features [n, d], labels [n] and test [folds, n], not {features.shape}, {labels.shape}, {test.shape}"
        )
    if labels.size and (labels.min() < 0 or labels.max() >= n_classes):
        raise ValueError(f"labels must be in [0, {n_classes}), not in [{labels.min()}, {labels.max()}]")
    if not np.isfinite(features).all():
        raise ValueError("features must be finite")
    if (test.sum(axis=0) > 1).any():
        raise ValueError("a row is tested in more than one fold")
    if test.all(axis=1).any():
        raise ValueError("a fold tests every row and leaves none to train on")
    probabilities = np.full((len(labels), n_classes), np.nan)
    for tested in test[test.any(axis=1)]:
        known = np.unique(labels[~tested])
        probabilities[tested] = 0.0
        if len(known) == 1:
            probabilities[tested, known[0]] = 1.0
            continue
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_ITERATIONS, random_state=seed % 2**32))
        # One thread: their number can change the last bits, and threads that wait for each other take longer.
        with threadpool_limits(limits=1):
            probe.fit(features[~tested], labels[~tested])
            probabilities[np.ix_(tested, known)] = probe.predict_proba(features[tested])
    return probabilities


def size_features(sizes: NDArray[np.int64]) -> Floats:
    """Return the logarithms of aspect ratio (width / height) and area of `sizes`, widths and heights [n, 2]: [n, 2]."""
    width, height = np.log(sizes.astype(np.float64)).T
    return np.column_stack([width - height, width + height])


def thumbnails(images: NDArray[np.uint8], side: int = 16) -> Floats:
    """Return the mean grey of blocks of each image, row by row: [n, side * side], 0 to 255.

    Args:
        images: [n, s, s].
        side: blocks along a side.

    Raises:
        ValueError: images are not square, or `side` does not divide theirs.
    """
    n, height, width = images.shape
    if height != width or height % side:
        raise ValueError(f"images of {width} x {height} pixels have no {side} x {side} blocks of equal size")
    blocks = images.reshape(n, side, height // side, side, width // side)
    return np.asarray(blocks.mean(axis=(2, 4), dtype=np.float64).reshape(n, side * side))
