"""What of a radiograph survives copying: two perceptual hashes and its fine structure, and the search for near hashes.

Chest X-rays are all alike: brightness and large shapes correlate above 0.95 between patients. Ribs and vessels differ,
so that copies are told by structure of about a centimetre, at equal contrast everywhere.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, count
from math import comb, inf
from statistics import fmean

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Rows = NDArray[np.int64]

SIDE = 64
"""Pixels a side of `ImageMarks.structure`."""
MAX_EQUAL = 32
"""Images of one hash that are compared in all pairs."""
_STRUCTURE_SIGMA, _CONTRAST_SIGMA = 2.0, 4.0
_NOISE = 2.0
"""Grey levels of contrast below which structure is not amplified to the contrast of the rest."""
_CLIP = 4.0
"""Standard deviations that an int8 reaches to; burned-in text is beyond."""
_MAX_AGREEING = 6
_SORT, _COMPARE = 100.0, 15.0
"""Nanoseconds to sort one hash and to compare one pair; only their ratio matters, and only to the speed."""


@dataclass(frozen=True, eq=False)
class ImageMarks:
    """What finding copies needs of one image."""

    pixel_hash: str
    """64 hexadecimal digits of SHA-256 over height and width (8 bytes each, little-endian) and the pixels."""
    phash: int
    """64 bits: signs of low frequencies (`imagehash.phash`)."""
    dhash: int
    """64 bits: signs of vertical differences (`imagehash.dhash_vertical`)."""
    structure: NDArray[np.int8]
    """[SIDE, SIDE], the ribs and vessels: mean 0, standard deviation 127 / 4; zeros where an image is of one grey."""


def mark_image(grey: NDArray[np.uint8]) -> ImageMarks:
    """Return the marks of decoded grey [H, W] uint8.

    The perceptual marks survive recompression, resizing (to a square too), other brightness, contrast or gamma,
    equalisation and burned-in text, and cutting off about 1 % of each side. They do not survive larger crops, added
    borders, rotation by more than a degree, mirroring and inversion: mirrored radiographs are different ones here.

    Structure is local contrast normalisation (Jarrett et al. 2009) of the image resized to [SIDE, SIDE]: the
    difference to a Gaussian mean of sigma 2, over its own root mean square under a Gaussian of sigma 4.

    Raises:
        ValueError: `grey` is not [H, W] uint8, or has no pixel.
    """
    if grey.dtype != np.uint8 or grey.ndim != 2 or not grey.size:
        raise ValueError(f"grey must be [H, W] uint8 with at least one pixel, not {grey.shape} {grey.dtype}")
    digest = hashlib.sha256(np.array(grey.shape, dtype="<u8").tobytes())
    digest.update(np.ascontiguousarray(grey).data)
    small = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return ImageMarks(
        pixel_hash=digest.hexdigest(),
        phash=int(str(imagehash.phash(small)), 16),
        dhash=int(str(imagehash.dhash_vertical(small)), 16),
        structure=_structure(np.asarray(small, dtype=np.float32)),
    )


def _structure(small: NDArray[np.float32]) -> NDArray[np.int8]:
    fine = small - gaussian_filter(small, _STRUCTURE_SIGMA)
    fine /= np.sqrt(gaussian_filter(fine**2, _CONTRAST_SIGMA) + _NOISE**2)
    fine -= fine.mean()
    spread = float(fine.std())
    # Rounding alone leaves some 1e-6 of an image of one grey.
    if spread < 1e-4:
        return np.zeros(small.shape, dtype=np.int8)
    return np.asarray(np.rint(np.clip(fine * (127 / _CLIP / spread), -127, 127)), dtype=np.int8)


def near_pairs(hashes: NDArray[np.uint64], distance: int) -> Iterator[Rows]:
    """Yield the pairs of rows of `hashes` [n] that differ in at most `distance` of 64 bits, as [m, 2] a chunk.

    Each pair comes once. All pairs come, but for hashes that more than MAX_EQUAL rows share: there, the first
    MAX_EQUAL rows stand for the hash, and each later row is paired with the one before it only. Memory is O(n);
    time grows little faster than n and the pairs found, unless most hashes agree in most bits.

    Raises:
        ValueError: `distance` is not in [0, 63].
    """
    if not 0 <= distance <= 63:
        raise ValueError(f"the distance of 64-bit hashes must be in [0, 63], not {distance}")
    order = np.argsort(hashes, kind="stable")
    distinct, starts, counts = np.unique(hashes[order], return_index=True, return_counts=True)
    for pairs in _pairs_of_equal(starts, counts):
        yield order[pairs]
    for pairs in pairs_of_distinct(distinct, distance, _cheapest_agreement(distinct, distance)):
        for members in _members(pairs, starts, np.minimum(counts, MAX_EQUAL)):
            yield order[members]


def pairs_of_distinct(hashes: NDArray[np.uint64], distance: int, agreeing: int) -> Iterator[Rows]:
    """Yield the pairs of rows of distinct `hashes` [n] that differ in at most `distance` bits, each once, as [m, 2].

    Multi-index hashing (Norouzi, Punjani and Fleet 2012), by exact keys: of `distance + agreeing` blocks of bits, at
    least `agreeing` are equal in a near pair, so that it shares a bucket for one choice of that many blocks. More
    agreeing blocks mean more sorting, and far smaller buckets.
    """
    blocks = _blocks(distance + agreeing)
    for chosen in combinations(range(len(blocks)), agreeing):
        keys = hashes & np.bitwise_or.reduce(blocks[list(chosen)])
        order = np.argsort(keys)
        by_key = hashes[order]
        lengths = _run_lengths(keys[order])
        ends = np.repeat(np.cumsum(lengths), lengths)
        first = np.arange(len(hashes))
        for step in count(1):
            first = first[first + step < ends[first]]
            if not len(first):
                break
            differing = by_key[first] ^ by_key[first + step]
            near = np.bitwise_count(differing) <= distance
            differing, left = differing[near], first[near]
            # Found here only if no earlier choice of equal blocks found it.
            equal = (differing & blocks[: chosen[-1] + 1, np.newaxis]) == 0
            left = left[equal.sum(axis=0) == agreeing]
            if len(left):
                yield np.stack([order[left], order[left + step]], axis=1)


def _blocks(number: int) -> NDArray[np.uint64]:
    """[number] masks that divide 64 bits; each takes every number-th bit, because neighbours tend to be equal."""
    return np.array([sum(1 << bit for bit in range(start, 64, number)) for start in range(number)], dtype=np.uint64)


def _run_lengths(keys: NDArray[np.uint64]) -> Rows:
    """How many equal ones follow each other in `keys`."""
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
    return np.diff(starts, append=len(keys))


def _cheapest_agreement(hashes: NDArray[np.uint64], distance: int) -> int:
    """How many blocks must agree for the least work, from the buckets of three choices of blocks."""
    best, least = 1, inf
    for agreeing in range(1, min(_MAX_AGREEING, 64 - distance) + 1):
        blocks = _blocks(distance + agreeing)
        choices = comb(len(blocks), agreeing)
        if choices * len(hashes) * _SORT > least:
            break
        compared = []
        for start in range(min(3, len(blocks))):
            chosen = np.roll(blocks, -start)[:: len(blocks) // agreeing][:agreeing]
            lengths = _run_lengths(np.sort(hashes & np.bitwise_or.reduce(chosen)))
            compared.append(float((lengths * (lengths - 1) // 2).sum()))
        work = choices * (len(hashes) * _SORT + fmean(compared) * _COMPARE)
        if work < least:
            best, least = agreeing, work
    return best


def _pairs_of_equal(starts: Rows, counts: Rows) -> Iterator[Rows]:
    """Pairs of positions within runs of equal hashes."""
    place = np.arange(counts.sum()) - np.repeat(starts, counts)
    compared = np.repeat(np.minimum(counts, MAX_EQUAL), counts)
    for step in range(1, MAX_EQUAL):
        first = np.flatnonzero(place + step < compared)
        if not len(first):
            break
        yield np.stack([first, first + step], axis=1)
    later = np.flatnonzero(place >= MAX_EQUAL)
    yield np.stack([later - 1, later], axis=1)


def _members(pairs: Rows, starts: Rows, counts: Rows) -> Iterator[Rows]:
    """Every pair of a position of the one hash and a position of the other, for `pairs` of distinct hashes."""
    n_pairs = counts[pairs].prod(axis=1)
    limit = max(len(starts), MAX_EQUAL**2)
    cuts = np.flatnonzero(np.diff(np.cumsum(n_pairs) // limit)) + 1
    for part in np.split(np.arange(len(pairs)), cuts):
        sizes = n_pairs[part]
        a, b = np.repeat(pairs[part], sizes, axis=0).T
        index = np.arange(len(a)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        yield np.stack([starts[a] + index // counts[b], starts[b] + index % counts[b]], axis=1)
