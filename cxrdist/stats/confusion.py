"""The confusion matrix and everything that is computed from it alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from cxrdist.stats.averages import Floats, macro_average, ratio, weighted_average

Counts = NDArray[np.int64]


def confusion_matrix(truth: NDArray[np.int64], predicted: NDArray[np.int64], n_classes: int) -> Counts:
    """Count images by true class (rows) and predicted class (columns).

    Args:
        truth: [n], index of the true class.
        predicted: [n], index of the predicted class.
        n_classes: number of classes C.

    Returns:
        [C, C] counts that add up to n.

    Raises:
        ValueError: the arrays differ in length, or an index is not in [0, C).
    """
    truth, predicted = np.asarray(truth, np.int64), np.asarray(predicted, np.int64)
    if truth.ndim != 1 or truth.shape != predicted.shape:
        raise ValueError(f"truth and predicted must be [n] alike, not {truth.shape} and {predicted.shape}")
    for name, labels in (("truth", truth), ("predicted", predicted)):
        if labels.size and (labels.min() < 0 or labels.max() >= n_classes):
            raise ValueError(f"{name} must be in [0, {n_classes}), not in [{labels.min()}, {labels.max()}]")
    counts = np.bincount(truth * n_classes + predicted, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes).astype(np.int64)


@dataclass(frozen=True)
class ClassScores:
    """Each class against the rest: arrays [C] in class order; a ratio without cases is NaN."""

    true_positive: Counts
    false_positive: Counts
    false_negative: Counts
    true_negative: Counts

    @property
    def support(self) -> Counts:
        """Images that are of the class."""
        return self.true_positive + self.false_negative

    @property
    def precision(self) -> Floats:
        """TP / (TP + FP): undefined where the class is never predicted."""
        return ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def sensitivity(self) -> Floats:
        """TP / (TP + FN), also called recall: undefined where the class has no images."""
        return ratio(self.true_positive, self.support)

    @property
    def specificity(self) -> Floats:
        """TN / (TN + FP): undefined where every image is of the class."""
        return ratio(self.true_negative, self.true_negative + self.false_positive)

    @property
    def f1(self) -> Floats:
        """2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall.

        Undefined where the class neither occurs nor is predicted.
        """
        return ratio(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative)

    def added_up(self) -> "ClassScores":
        """Return the counts of all classes added up, arrays [1]: the source of micro averages."""
        return ClassScores(
            self.true_positive.sum(keepdims=True),
            self.false_positive.sum(keepdims=True),
            self.false_negative.sum(keepdims=True),
            self.true_negative.sum(keepdims=True),
        )

    def undefined(self, classes: Sequence[str]) -> list[str]:
        """Return a sentence for each undefined ratio, with its reason."""
        reasons = (
            ("Precision", self.precision, "it is never predicted"),
            ("Recall", self.sensitivity, "no image is of it"),
            ("Specificity", self.specificity, "every image is of it"),
            ("F1", self.f1, "it neither occurs nor is predicted"),
        )
        return [
            f"{name} of {classes[index]} is undefined (n/a): {reason}."
            for name, values, reason in reasons
            for index in np.flatnonzero(np.isnan(values)).tolist()
        ]


def class_scores(confusion: Counts) -> ClassScores:
    """Return each class's counts against the rest from a confusion matrix [C, C], rows = truth."""
    true_positive = np.diag(confusion).astype(np.int64)
    false_positive = confusion.sum(axis=0) - true_positive
    false_negative = confusion.sum(axis=1) - true_positive
    true_negative = confusion.sum() - true_positive - false_positive - false_negative
    return ClassScores(true_positive, false_positive, false_negative, true_negative)


@dataclass(frozen=True)
class Averages:
    """One score over all classes, three ways."""

    macro: float
    """Plain mean over classes; NaN if one is undefined."""
    weighted: float
    """Mean over classes weighted by their number of images."""
    micro: float
    """From the counts of all classes added up."""


@dataclass(frozen=True)
class Summary:
    """Scores over all classes.

    Every image has one label and one prediction, so micro-averaged sensitivity, precision and F1, and the
    weighted sensitivity, all equal the accuracy.
    """

    n: int
    correct: int
    accuracy: float
    sensitivity: Averages
    specificity: Averages
    precision: Averages
    f1: Averages
    kappa: float
    mcc: float


def summarize(confusion: Counts) -> Summary:
    """Return accuracy, averaged scores and agreement of a confusion matrix [C, C], rows = truth."""
    scores = class_scores(confusion)
    total = scores.added_up()

    def averages(by_class: Floats, micro: Floats) -> Averages:
        return Averages(macro_average(by_class), weighted_average(by_class, scores.support), float(micro[0]))

    n, correct = int(confusion.sum()), int(np.trace(confusion))
    return Summary(
        n=n,
        correct=correct,
        accuracy=float(ratio(correct, n)),
        sensitivity=averages(scores.sensitivity, total.sensitivity),
        specificity=averages(scores.specificity, total.specificity),
        precision=averages(scores.precision, total.precision),
        f1=averages(scores.f1, total.f1),
        kappa=float(cohen_kappa(confusion)),
        mcc=float(matthews_correlation(confusion)),
    )


def cohen_kappa(confusion: Counts) -> Floats:
    """Return Cohen's unweighted kappa (1960) of each of the confusion matrices [..., C, C]: an array [...].

    NaN where truth and prediction are one and the same class.
    """
    n = confusion.sum(axis=(-2, -1)).astype(np.float64)
    observed = ratio(np.trace(confusion, axis1=-2, axis2=-1), n)
    expected = ratio((confusion.sum(axis=-2) * confusion.sum(axis=-1)).sum(axis=-1), n**2)
    return ratio(observed - expected, 1 - expected)


def matthews_correlation(confusion: Counts) -> Floats:
    """Return the correlation coefficient of Matthews for any number of classes (Gorodkin 2004).

    NaN where all images are of one class or all predictions are.

    Args:
        confusion: [..., C, C], rows = truth.

    Returns:
        [...], one for each matrix.
    """
    n = confusion.sum(axis=(-2, -1)).astype(np.float64)
    predicted, true = confusion.sum(axis=-2).astype(np.float64), confusion.sum(axis=-1).astype(np.float64)
    covariance = np.trace(confusion, axis1=-2, axis2=-1) * n - (predicted * true).sum(axis=-1)
    spread = (n**2 - (predicted**2).sum(axis=-1)) * (n**2 - (true**2).sum(axis=-1))
    return ratio(covariance, np.sqrt(spread))


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval (1927) of a proportion; (NaN, NaN) where n is 0.

    It takes the n cases as independent: with several images of one patient it is too narrow.

    Raises:
        ValueError: `successes` is not in [0, n], or `level` not in (0, 1).
    """
    if not 0 <= successes <= n or not 0 < level < 1:
        raise ValueError(f"need 0 <= successes <= n and 0 < level < 1, not {successes}, {n}, {level}")
    if n == 0:
        return float("nan"), float("nan")
    z = float(norm.ppf((1 + level) / 2))
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * ((share * (1 - share) + z**2 / (4 * n)) / n) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)
