"""Two-by-two tables, exact intervals of proportions, and how many images a proportion needs."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.stats import beta, chi2_contingency, fisher_exact, norm

from cxrdist.stats.averages import ratio
from cxrdist.stats.confusion import Counts

# Below this expected count the chi-square distribution is not trusted (Cochran 1954).
_SMALLEST_TRUSTED = 5


@dataclass(frozen=True)
class TwoByTwo:
    """Tests of whether the rows and columns of a two-by-two table are independent.

    All chi-square numbers are NaN where a row or column is empty.
    """

    df: ClassVar[int] = 1
    """Degrees of freedom of both chi-squares."""

    chi_square: float
    """Pearson's, uncorrected."""
    p: float
    """Of `chi_square`."""
    yates_chi_square: float
    """With Yates's continuity correction (1934)."""
    yates_p: float
    """Of `yates_chi_square`."""
    fisher_p: float
    """Of Fisher's exact test, two-sided; 1 where a row or column is empty."""
    smallest_expected: float
    """The smallest count expected under independence; NaN where the table is empty."""

    @property
    def use_fisher(self) -> bool:
        """Whether an expected count is below 5, or there is none, so that Fisher's p is the one to report."""
        return not self.smallest_expected >= _SMALLEST_TRUSTED


def two_by_two(table: Counts) -> TwoByTwo:
    """Test rows and columns of a table [2, 2] of counts for independence.

    It takes the counted images as independent: with several images of one patient every p is too small.

    Raises:
        ValueError: the table is not [2, 2] of integers, or a count is negative.
    """
    table = np.asarray(table)
    if table.shape != (2, 2) or not np.issubdtype(table.dtype, np.integer) or (table < 0).any():
        raise ValueError(f"need a table [2, 2] of counts, not {table.tolist()}")
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    pearson = yates = (float("nan"), float("nan"))
    if rows.all() and columns.all():
        pearson, yates = (chi2_contingency(table, correction=correction)[:2] for correction in (False, True))
    return TwoByTwo(
        chi_square=float(pearson[0]),
        p=float(pearson[1]),
        yates_chi_square=float(yates[0]),
        yates_p=float(yates[1]),
        fisher_p=float(fisher_exact(table).pvalue),
        smallest_expected=float(ratio(float(rows.min()) * float(columns.min()), table.sum())),
    )


def pair_table(confusion: Counts, first: int, second: int) -> Counts:
    """Return the part of a confusion matrix that is of two classes, as figure 3 of paper 2 compares them.

    Args:
        confusion: [C, C], rows = truth, columns = prediction.
        first: index of one class.
        second: index of the other.

    Returns:
        [2, 2], rows = truth, columns = prediction, the first class first: images of either class that are
        predicted as either; predictions of a third class are left out.

    Raises:
        ValueError: the matrix is not [C, C], or the indices are not two different ones in [0, C).
    """
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"confusion must be [C, C], not {confusion.shape}")
    n_classes = len(confusion)
    if not 0 <= first < n_classes or not 0 <= second < n_classes or first == second:
        raise ValueError(f"need two different classes in [0, {n_classes}), not {first} and {second}")
    pair = [first, second]
    return np.asarray(confusion[np.ix_(pair, pair)], np.int64)


def sample_size(proportion: float, margin: float, level: float = 0.95) -> int:
    """Return how many independent cases estimate a proportion within a margin, by normal approximation.

    n = z^2 p (1 - p) / d^2 (Cochran 1977, 4.4), rounded up.

    Args:
        proportion: the expected proportion p, in (0, 1): at its ends the approximation knows no spread.
        margin: half the width d of the interval, positive.
        level: confidence level, in (0, 1).

    Raises:
        ValueError: an argument is outside its range.
    """
    if not 0 < proportion < 1 or not margin > 0 or not 0 < level < 1:
        raise ValueError(f"need 0 < proportion < 1, margin > 0 and 0 < level < 1, not {proportion}, {margin}, {level}")
    return math.ceil(_quantile(level) ** 2 * proportion * (1 - proportion) / margin**2)


def margin_reached(proportion: float, n: int, level: float = 0.95) -> float:
    """Return half the width of a proportion's interval with n independent cases, the inverse of `sample_size`.

    NaN where n is 0, and where the proportion is 0 or 1: the normal approximation knows no spread there.

    Raises:
        ValueError: `proportion` is not in [0, 1], n is negative, or `level` is not in (0, 1).
    """
    if not 0 <= proportion <= 1 or n < 0 or not 0 < level < 1:
        raise ValueError(f"need 0 <= proportion <= 1, n >= 0 and 0 < level < 1, not {proportion}, {n}, {level}")
    if n == 0 or proportion in (0, 1):
        return float("nan")
    return _quantile(level) * math.sqrt(proportion * (1 - proportion) / n)


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of Clopper and Pearson (1934) of a proportion; (NaN, NaN) where n is 0.

    It takes the n cases as independent: with several images of one patient it is too narrow.

    Raises:
        ValueError: `successes` is not in [0, n], or `level` not in (0, 1).
    """
    if not 0 <= successes <= n or not 0 < level < 1:
        raise ValueError(f"need 0 <= successes <= n and 0 < level < 1, not {successes}, {n}, {level}")
    if n == 0:
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, successes, n - successes + 1)) if successes else 0.0
    high = float(beta.isf(tail, successes + 1, n - successes)) if successes < n else 1.0
    return low, high


def _quantile(level: float) -> float:
    """Return the standard normal z that holds `level` of the distribution between -z and z."""
    return float(norm.ppf((1 + level) / 2))
