"""Copies of a radiograph find each other, whatever was done to them; nothing else is joined, in whatever order."""

import io
import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw, ImageOps
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from benchmarks import duplicates as benchmark
from cxrdist.cohort import duplicates
from cxrdist.cohort.duplicates import (
    MIN_CORRELATION,
    MarkedImages,
    Pair,
    across_patients,
    conflicts_of_label,
    find_duplicates,
    merge_groups,
)
from cxrdist.cohort.perceptual import MAX_EQUAL, SIDE, mark_image, near_pairs, pairs_of_distinct


def radiograph(seed, height=200, width=160):
    """Blurred noise: large shapes, and finer ones of a rib's size."""
    rng = np.random.default_rng(seed)
    shapes = [gaussian_filter(rng.standard_normal((height, width)), sigma) * sigma for sigma in (25, 6, 3)]
    field = 2 * shapes[0] + shapes[1] + shapes[2]
    return np.clip(128 + 40 * field / field.std(), 10, 245).astype(np.uint8)


def recompressed(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file)


def with_text(image):
    image = image.copy()
    drawing = ImageDraw.Draw(image)
    drawing.rectangle((8, 170, 50, 190), fill=255)
    drawing.text((12, 174), "day 1", fill=0)
    return image


COPIES = {
    "recompressed": recompressed,
    "smaller": lambda image: image.resize((80, 100)),
    "larger": lambda image: image.resize((480, 600)),
    "squashed to a square": lambda image: image.resize((224, 224)),
    "brighter": lambda image: image.point(lambda grey: min(255, grey + 40)),
    "of less contrast": lambda image: image.point(lambda grey: 128 + 0.5 * (grey - 128)),
    "of another gamma": lambda image: image.point(lambda grey: 255 * (grey / 255) ** 1.6),
    "equalised": ImageOps.equalize,
    "with burned-in text": with_text,
    "cropped by a pixel": lambda image: image.crop((1, 1, image.width - 1, image.height - 1)),
}
OTHERS = {
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "inverted": ImageOps.invert,
    "cropped by a tenth": lambda image: image.crop((16, 20, 144, 180)),
}


@pytest.fixture(scope="module")
def originals():
    return [radiograph(seed) for seed in range(12)]


def pairs_of(images):
    return [(pair.a, pair.b) for pair in find_duplicates(MarkedImages.of([mark_image(image) for image in images]))]


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_finds_its_original_and_no_other(originals, change):
    copies = [np.asarray(COPIES[change](Image.fromarray(image))) for image in originals[:3]]
    assert pairs_of(originals + copies) == [(0, 12), (1, 13), (2, 14)]


@pytest.mark.parametrize("change", OTHERS)
def test_what_is_not_a_copy_of_the_same_view_is_not_paired(originals, change):
    assert pairs_of([*originals, np.asarray(OTHERS[change](Image.fromarray(originals[0])))]) == []


def correlation(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def test_structure_tells_bodies_of_one_shape_apart():
    shape = gaussian_filter(np.random.default_rng(0).standard_normal((200, 160)), 25)
    body = 128 + 30 * shape / shape.std()
    a, b = ((body + 0.15 * (radiograph(seed) - 128.0)).clip(0, 255).astype(np.uint8) for seed in (1, 2))
    assert correlation(a, b) > 0.96
    assert correlation(mark_image(a).structure, mark_image(b).structure) < MIN_CORRELATION / 2


def test_contrast_that_changes_across_the_image_leaves_the_structure(originals):
    fading = np.linspace(1, 0.2, originals[0].shape[1])
    faded = (128 + fading * (originals[0] - 128.0)).astype(np.uint8)
    assert correlation(mark_image(faded).structure, mark_image(originals[0]).structure) > 0.97


def test_equal_pixels_are_exact_and_others_are_not(originals):
    brighter = originals[0] + np.uint8(1)
    found = find_duplicates(MarkedImages.of([mark_image(i) for i in (originals[0], brighter, originals[0].copy())]))
    assert [(pair.a, pair.b, pair.exact) for pair in found] == [(0, 1, False), (0, 2, True), (1, 2, False)]
    assert found[1] == Pair(0, 2, distance=0, correlation=1.0, exact=True)
    assert 0.99 < found[0].correlation <= 1


def test_images_of_one_grey_are_copies_only_where_they_are_equal():
    images = [np.full(shape, grey, np.uint8) for shape, grey in [((9, 9), 0), ((9, 9), 255), ((8, 9), 0), ((9, 9), 0)]]
    assert pairs_of(images) == [(0, 3)]


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 70), st.integers(1, 70))))
def test_every_image_has_marks_and_equal_pixels_have_equal_ones(grey):
    marks, again = mark_image(grey), mark_image(np.asfortranarray(grey))
    assert 0 <= marks.phash < 2**64
    assert 0 <= marks.dhash < 2**64
    assert marks.structure.shape == (SIDE, SIDE)
    assert marks.structure.dtype == np.int8
    assert abs(marks.structure.mean()) < 2
    assert (marks.pixel_hash, marks.phash, marks.dhash) == (again.pixel_hash, again.phash, again.dhash)
    assert np.array_equal(marks.structure, again.structure)
    if grey.shape[0] != grey.shape[1]:
        assert mark_image(grey.reshape(grey.shape[::-1])).pixel_hash != marks.pixel_hash


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2)), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8)]
)
def test_what_is_not_grey_pixels_is_refused(wrong):
    with pytest.raises(ValueError, match=r"must be \[H, W\] uint8"):
        mark_image(wrong)


@st.composite
def clustered_hashes(draw, distinct=False):
    """Hashes of which many are near each other, and some equal."""
    centres = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3))
    flips = st.lists(st.integers(0, 63), max_size=10).map(lambda bits: sum(1 << bit for bit in set(bits)))
    near = st.tuples(st.sampled_from(centres), flips).map(lambda both: both[0] ^ both[1])
    hashes = draw(st.lists(near, max_size=MAX_EQUAL, unique=distinct))
    return np.array(hashes, dtype=np.uint64)


def all_near(hashes, distance):
    return [(a, b) for a, b in combinations(range(len(hashes)), 2) if (hashes[a] ^ hashes[b]).bit_count() <= distance]


def listed(chunks):
    return sorted((min(a, b), max(a, b)) for chunk in chunks for a, b in chunk.tolist())


@settings(max_examples=60, deadline=None)
@given(clustered_hashes(), st.one_of(st.integers(0, 12), st.just(63)))
def test_near_pairs_are_those_of_brute_force_each_once(hashes, distance):
    assert listed(near_pairs(hashes, distance)) == all_near(hashes.tolist(), distance)


@settings(max_examples=40, deadline=None)
@given(clustered_hashes(distinct=True), st.integers(0, 7), st.integers(1, 4))
def test_no_choice_of_blocks_loses_a_pair(hashes, distance, agreeing):
    assert listed(pairs_of_distinct(hashes, distance, agreeing)) == all_near(hashes.tolist(), distance)


@pytest.mark.parametrize("distance", [-1, 64])
def test_an_impossible_distance_is_refused(distance):
    with pytest.raises(ValueError, match=f"not {distance}"):
        next(near_pairs(np.zeros(2, np.uint64), distance))


def test_a_hundred_thousand_equal_hashes_are_chained_in_little_memory():
    hashes = np.zeros(100_001, dtype=np.uint64)
    hashes[50_000] = 7
    tracemalloc.start()
    pairs = np.concatenate(list(near_pairs(hashes, 3)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    in_all_pairs = MAX_EQUAL * (MAX_EQUAL - 1) // 2
    assert len(pairs) == in_all_pairs + (100_000 - MAX_EQUAL) + MAX_EQUAL
    links = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(hashes), len(hashes)))
    assert connected_components(links, directed=False)[0] == 1


def as_pairs(rows):
    return [Pair(min(a, b), max(a, b), 0, 1.0, exact=False) for a, b in rows]


def marked(rng, n):
    """Marks in clusters, whose images correlate anywhere between 0.4 and 1, some with equal pixels."""
    cluster = rng.integers(0, 4, n)
    noise = rng.uniform(0, 1.2, n)[:, None, None] * rng.standard_normal((n, SIDE, SIDE))
    structures = rng.standard_normal((4, SIDE, SIDE))[cluster] + noise
    structures /= structures.std(axis=(1, 2), keepdims=True)
    phashes, dhashes = rng.integers(0, 2**64, (2, 4), dtype=np.uint64)[:, cluster]
    for hashes in (phashes, dhashes):
        for _ in range(3):
            hashes ^= np.uint64(1) << rng.integers(0, 64, n, dtype=np.uint64)
    names = np.array([f"{number:064x}" for number in rng.permutation(n)], dtype="S64")
    images = MarkedImages(names, phashes, dhashes, np.rint(np.clip(32 * structures, -127, 127)).astype(np.int8))
    first, second = rng.choice(n, 2, replace=False)
    for column in (images.pixel_hashes, images.phashes, images.dhashes, images.structures):
        column[second] = column[first]
    return images


def permuted(images, order):
    columns = (images.pixel_hashes, images.phashes, images.dhashes, images.structures)
    return MarkedImages(*(column[order] for column in columns))


@pytest.mark.parametrize("seed", range(4))
def test_pairs_are_those_that_comparing_every_image_with_every_other_gives(seed, monkeypatch):
    images = marked(np.random.default_rng(seed), 24)
    correlation = np.corrcoef(images.structures.reshape(24, -1).astype(float))
    expected: list[tuple[object, ...]] = []
    for a, b in combinations(range(24), 2):
        by_phash, by_dhash = ((int(h[a]) ^ int(h[b])).bit_count() for h in (images.phashes, images.dhashes))
        exact = images.pixel_hashes[a] == images.pixel_hashes[b]
        if (by_phash <= 6 or by_dhash <= 5) and (correlation[a, b] >= 0.7 or exact):
            expected.append((a, b, min(by_phash, by_dhash), pytest.approx(correlation[a, b], abs=2e-3), exact))
    assert 10 < len(expected) < 100
    found = find_duplicates(images, min_correlation=0.7)
    assert [(p.a, p.b, p.distance, p.correlation, p.exact) for p in found] == expected
    monkeypatch.setattr(duplicates, "_PAIRS_AT_ONCE", 5)
    assert find_duplicates(images, min_correlation=0.7) == found


@pytest.mark.parametrize("n", [24, 2 * MAX_EQUAL])
def test_pairs_do_not_depend_on_the_order_of_images(n):
    rng = np.random.default_rng(n)
    images = marked(rng, n)
    if n > MAX_EQUAL:
        images.phashes[:] = images.dhashes[:] = 0
    order = rng.permutation(n)
    found = find_duplicates(permuted(images, order))
    again = {(*sorted((int(order[p.a]), int(order[p.b]))), p.correlation, p.exact) for p in found}
    # Which of two equal images is compared with a third one may differ.
    if n <= MAX_EQUAL:
        assert again == {(p.a, p.b, p.correlation, p.exact) for p in find_duplicates(images)}
    names = images.pixel_hashes.astype(str).tolist()
    assert merge_groups(names, find_duplicates(images)) == merge_groups(names, as_pairs(row[:2] for row in again))


def test_no_images_and_one_have_no_pairs():
    assert pairs_of([radiograph(0)]) == []
    assert find_duplicates(permuted(MarkedImages.of([mark_image(radiograph(0))]), [])) == []


@st.composite
def grouped_pairs(draw):
    n = draw(st.integers(1, 12))
    groups = draw(st.lists(st.sampled_from(["a", "b", "c d", "é", "patient:1", "z"]), min_size=n, max_size=n))
    rows = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda both: both[0] != both[1])
    return groups, as_pairs(draw(st.lists(rows, max_size=8))) if n > 1 else []


def reachable(groups, pairs):
    """[n, n], whether a chain of pairs and common groups leads from one image to the other."""
    names = np.array(groups)
    linked = names[:, None] == names
    for pair in pairs:
        linked[pair.a, pair.b] = linked[pair.b, pair.a] = True
    for via in range(len(groups)):
        linked |= linked[:, [via]] & linked[[via]]
    return linked


@settings(max_examples=60, deadline=None)
@given(grouped_pairs(), st.randoms(use_true_random=False))
def test_groups_are_joined_where_a_chain_of_pairs_joins_them_and_nowhere_else(case, random):
    groups, pairs = case
    merged = merge_groups(groups, pairs)
    linked = reachable(groups, pairs)
    assert [[a == b for b in merged] for a in merged] == linked.tolist()
    assert merged == [min(group for group, here in zip(groups, row, strict=True) if here) for row in linked.tolist()]
    assert merge_groups(merged, pairs) == merged

    order = random.sample(range(len(groups)), len(groups))
    place = {row: position for position, row in enumerate(order)}
    moved = as_pairs((place[pair.a], place[pair.b]) for pair in random.sample(pairs, len(pairs)))
    assert merge_groups([groups[row] for row in order], moved) == [merged[row] for row in order]


def test_groups_that_share_very_many_radiographs_are_joined():
    assert set(merge_groups(["b"] * 256 + ["a"] * 256, as_pairs((row, row + 256) for row in range(256)))) == {"a"}


def test_a_huge_name_costs_its_own_bytes_only():
    groups = ["x" * 10_000_000, *map(str, range(1000))]
    tracemalloc.start()
    merged = merge_groups(groups, as_pairs([(0, 1)]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert merged[:3] == ["0", "0", "1"]
    assert peak < 10e6


def test_conflicts_are_pairs_of_known_and_different_values():
    pairs = as_pairs([(0, 1), (0, 2), (1, 2), (2, 3), (3, 4)])
    values = ["covid19", "covid19", "normal", None, ""]
    for conflicts in (conflicts_of_label, across_patients):
        assert [(pair.a, pair.b) for pair in conflicts(pairs, values)] == [(0, 2), (1, 2)]


def test_the_benchmark_runs_and_finds_what_it_planted(capsys):
    benchmark.main(["--quick"])
    assert "4 of 4 planted pairs found" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="planted pairs"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "near_pairs", lambda _hashes, _distance: iter(()))
        benchmark.search(benchmark.QUICK)
