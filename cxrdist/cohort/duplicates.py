"""Which images are copies of one radiograph, and what follows for groups, labels and patients."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxrdist.cohort.perceptual import ImageMarks, Rows, near_pairs

MAX_PHASH_DISTANCE, MAX_DHASH_DISTANCE = 6, 5
"""Bits; either makes a candidate: of the 6.6 million pairs of 3,634 X-rays 1,533, with all of 61 known copies."""
MIN_CORRELATION = 0.65
"""Of structure: in those pairs at most 0.61 between patients, from 0.89 for plain copies, 0.65 to 0.71 with text."""
_PAIRS_AT_ONCE = 256
"""Their structures fit into the cache of a processor."""


@dataclass(frozen=True, eq=False)
class MarkedImages:
    """The marks of n images, by column."""

    pixel_hashes: NDArray[np.bytes_]
    """[n] of 64 hexadecimal digits."""
    phashes: NDArray[np.uint64]
    """[n]"""
    dhashes: NDArray[np.uint64]
    """[n]"""
    structures: NDArray[np.int8]
    """[n, SIDE, SIDE], 4 KiB an image; may be a read-only memory map."""

    @classmethod
    def of(cls, marks: Sequence[ImageMarks]) -> "MarkedImages":
        """Return the marks of images as columns, in the order given."""
        return cls(
            np.array([mark.pixel_hash for mark in marks], dtype="S64"),
            np.array([mark.phash for mark in marks], dtype=np.uint64),
            np.array([mark.dhash for mark in marks], dtype=np.uint64),
            np.array([mark.structure for mark in marks], dtype=np.int8),
        )


@dataclass(frozen=True)
class Pair:
    """Two images of the same radiograph."""

    a: int
    """Row of the one image."""
    b: int
    """Row of the other; larger than `a`."""
    distance: int
    """Bits, of 64, in which their hashes differ, for the one of both hashes that differs less."""
    correlation: float
    """Of their structure; 1 for equal pixels."""
    exact: bool
    """Their pixels are equal."""


def find_duplicates(images: MarkedImages, min_correlation: float = MIN_CORRELATION) -> list[Pair]:
    """Return the pairs of images of the same radiograph, sorted by rows.

    Candidates are near in one of two perceptual hashes (`near_pairs`); a pair correlates in structure by at least
    `min_correlation`, or has equal pixels. Of images that share a hash with more than 32 others, not every pair is
    compared, but each image with its neighbour in the order of pixel hashes, which chains what is equal; for all
    else the result depends neither on the order of images nor on chance. Memory beyond the marks is O(n + pairs).
    """
    order = np.argsort(images.pixel_hashes, kind="stable")
    found: dict[tuple[int, int], Pair] = {}
    for hashes, distance in ((images.phashes, MAX_PHASH_DISTANCE), (images.dhashes, MAX_DHASH_DISTANCE)):
        for rows in _in_batches(near_pairs(hashes[order], distance)):
            for pair in _confirmed(images, np.sort(order[rows], axis=1), min_correlation):
                found[pair.a, pair.b] = pair
    return [found[key] for key in sorted(found)]


def merge_groups(groups: Sequence[str], pairs: Iterable[Pair]) -> list[str]:
    """Return each image's group when groups that share a radiograph are one: the smallest of the joined names.

    Groups are joined by chains of pairs, so that no radiograph is in two of them. The names do not depend on the
    order of images or pairs, and merging again changes nothing.

    Args:
        groups: [n], such as the patient of each image.
        pairs: of rows of `groups`.
    """
    names = sorted(set(groups))
    code_of = {name: code for code, name in enumerate(names)}
    codes = [code_of[group] for group in groups]
    links = np.array([(codes[pair.a], codes[pair.b]) for pair in pairs], dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(links), dtype=np.bool_), (links[:, 0], links[:, 1])), shape=(len(names),) * 2)
    _, component = connected_components(graph, directed=False)
    # `names` is sorted, so that the first of a component is its smallest.
    _, smallest = np.unique(component, return_index=True)
    return [names[smallest[component[code]]] for code in codes]


def conflicts_of_label(pairs: Iterable[Pair], labels: Sequence[str | None]) -> list[Pair]:
    """Return the pairs whose images have different `labels` [n]; an unknown one (None or "") differs from none."""
    return _differing(pairs, labels)


def across_patients(pairs: Iterable[Pair], patients: Sequence[str | None]) -> list[Pair]:
    """Return the pairs whose images have different `patients` [n]; an unknown one (None or "") differs from none."""
    return _differing(pairs, patients)


def _differing(pairs: Iterable[Pair], values: Sequence[str | None]) -> list[Pair]:
    return [pair for pair in pairs if values[pair.a] and values[pair.b] and values[pair.a] != values[pair.b]]


def _in_batches(chunks: Iterator[Rows]) -> Iterator[Rows]:
    """Yield the rows of `chunks` [m, 2] in arrays of _PAIRS_AT_ONCE, and a shorter last one."""
    waiting: list[Rows] = []
    n_waiting = 0
    for chunk in chunks:
        waiting.append(chunk)
        n_waiting += len(chunk)
        if n_waiting >= _PAIRS_AT_ONCE:
            rows = np.concatenate(waiting)
            n_waiting = len(rows) % _PAIRS_AT_ONCE
            full = len(rows) - n_waiting
            yield from np.split(rows[:full], full // _PAIRS_AT_ONCE)
            waiting = [rows[full:]]
    if n_waiting:
        yield np.concatenate(waiting)


def _confirmed(images: MarkedImages, rows: Rows, min_correlation: float) -> Iterator[Pair]:
    a, b = rows.T
    exact = images.pixel_hashes[a] == images.pixel_hashes[b]
    correlation = np.where(exact, 1.0, _correlations(images.structures[a], images.structures[b]))
    differing = np.stack([hashes[a] ^ hashes[b] for hashes in (images.phashes, images.dhashes)])
    distance = np.bitwise_count(differing).min(axis=0)
    for k in np.flatnonzero(correlation >= min_correlation):
        yield Pair(int(a[k]), int(b[k]), int(distance[k]), float(correlation[k]), bool(exact[k]))


def _correlations(a: NDArray[np.int8], b: NDArray[np.int8]) -> NDArray[np.float64]:
    """[m], Pearson's correlation of structures [m, SIDE, SIDE], whose means are 0; 0 where one is empty."""
    norms = np.sqrt(_products(a, a) * _products(b, b))
    norms[norms == 0] = 1
    return _products(a, b) / norms


def _products(a: NDArray[np.int8], b: NDArray[np.int8]) -> NDArray[np.float64]:
    # In integers it is exact, and far quicker than in floats; 127 squared fits into 16 bits.
    return np.asarray(np.multiply(a, b, dtype=np.int16).sum(axis=(1, 2), dtype=np.int32), dtype=np.float64)
