"""How much of the class can be told without the lungs: from a file's size and format, age, how bright an image is."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrdist.cohort.check_copies import Copies
from cxrdist.cohort.check_files import CheckedFiles
from cxrdist.cohort.check_table import CheckedTable
from cxrdist.cohort.looks import Looks

_LEAST_GAIN = 0.02
_STANDARD_ERRORS = 3.0
"""Of 11 properties without any meaning, three in two hundred cohorts are warned of."""
_FOLDS = 5
_MOST_VALUES = 200
_BINS = 20


@dataclass(frozen=True)
class RuleScore:
    """How often a rule is right that says, for each value of one property, the class that is most frequent there."""

    accuracy: float
    """On images of groups that the rule does not know."""
    majority: float
    """Share of the most frequent class, which a rule without any property would say of every image."""
    majority_class: int
    standard_error: float
    """Of the difference of the two, with groups as the independent units."""

    @property
    def gain(self) -> float:
        """How much better than without the property."""
        return self.accuracy - self.majority


@dataclass(frozen=True)
class Shortcut:
    """How well a property that is not of the lungs tells the class."""

    name: str
    distinct: int
    """How many values it has."""
    score: RuleScore

    @property
    def warned(self) -> bool:
        """Whether it tells the class by more than chance, and by enough to matter."""
        return self.score.gain >= _LEAST_GAIN and self.score.gain > _STANDARD_ERRORS * self.score.standard_error


def find_shortcuts(table: CheckedTable, files: CheckedFiles, copies: Copies) -> list[Shortcut]:
    """Try to tell the class from single properties, best first: of the table, for all rows; of usable files."""
    facts, usable = files.facts, files.usable
    width, height = facts.width.astype(np.float64), facts.height.astype(np.float64)
    groups = copies.group_codes()
    every = np.arange(len(table))
    tried: list[tuple[str, NDArray[Any], NDArray[np.int64]]] = [
        ("source", table.source.codes + 1, every),
        ("view position", table.view.codes + 1, every),
        ("age group", table.age.codes + 1, every),
        ("sex", table.sex.codes + 1, every),
        ("image size", binned(width * height), usable),
        ("aspect ratio", binned(width / height), usable),
        ("file format", facts.format, usable),
        ("bit depth", facts.bits, usable),
        *((name, values, usable) for name, values in brightness(files.looks)),
    ]
    labels, n_classes = table.label.codes.astype(np.int64), len(table.label.names)
    found = [shortcut_of(name, values, labels[rows], groups[rows], n_classes) for name, values, rows in tried]
    return sorted((one for one in found if one is not None), key=lambda shortcut: -shortcut.score.gain)


def brightness(looks: Looks) -> list[tuple[str, NDArray[np.int64]]]:
    """Return what is known of images' brightness, by name and as values [n] for `rule_score`."""
    return [
        ("mean grey value", binned(looks.mean.astype(np.float64))),
        ("spread of grey values", binned(looks.sd.astype(np.float64))),
        ("share of nearly black pixels", binned(looks.black.astype(np.float64))),
    ]


def shortcut_of(
    name: str, values: NDArray[Any], labels: NDArray[np.int64], groups: NDArray[np.int64], n_classes: int
) -> Shortcut | None:
    """Return how well a property tells the class, by the arguments of `rule_score`; None where nothing is learnt."""
    score = rule_score(values.astype(np.int64), labels, groups, n_classes=n_classes)
    return None if score is None else Shortcut(name, len(np.unique(values)), score)


def rule_score(
    values: NDArray[np.int64], labels: NDArray[np.int64], groups: NDArray[np.int64], *, n_classes: int
) -> RuleScore | None:
    """Cross-validate, in 5 folds by group, the rule that says of each value the class most frequent among it.

    Where a value does not occur in the training part, and for all but the 200 most frequent values together, the
    rule says what is most frequent there in general. Ties go to the first class. Folds are drawn with a fixed seed.

    Args:
        values: [n], the property, in [0, V).
        labels: [n], in [0, n_classes).
        groups: [n], in [0, G): images of one patient, or of copies.
        n_classes: number of classes C.

    Returns:
        None where there is one value, one group or one class only, so that nothing is to be learnt.
    """
    if any(len(values) == 0 or (column == column[0]).all() for column in (values, labels, groups)):
        return None
    values = _frequent(values)
    n_values = int(values.max()) + 1
    n_groups = int(groups.max()) + 1
    fold = (np.random.default_rng(0).permutation(n_groups) % _FOLDS)[groups]
    place = (fold * n_values + values) * n_classes + labels
    counts = np.bincount(place, minlength=_FOLDS * n_values * n_classes).reshape(_FOLDS, n_values, n_classes)
    training = counts.sum(axis=0) - counts
    said = training.argmax(axis=2)
    in_general = training.sum(axis=1).argmax(axis=1)
    said = np.where(training.any(axis=2), said, in_general[:, np.newaxis])
    majority_class = int(counts.sum(axis=(0, 1)).argmax())
    right, usual = said[fold, values] == labels, labels == majority_class
    by_group = np.bincount(groups, weights=right.astype(np.int64) - usual, minlength=n_groups)
    size = np.bincount(groups, minlength=n_groups)
    gain = by_group.sum() / len(labels)
    error = np.sqrt(((by_group - gain * size) ** 2).sum()) / len(labels)
    return RuleScore(float(right.mean()), float(usual.mean()), majority_class, float(error))


def binned(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return [n], which of at most 20 bins between quantiles each of `values` [n] is in; ties are never divided."""
    if not len(values):
        return np.empty(0, dtype=np.int64)
    edges = np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS))
    return np.unique(np.searchsorted(edges, values), return_inverse=True)[1].astype(np.int64)


def _frequent(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `values` with all but the most frequent ones as one."""
    counts = np.bincount(values)
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return np.minimum(rank, _MOST_VALUES)[values]
