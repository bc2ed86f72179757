"""Masks of one bit a pixel: nothing is lost, and no row is invented."""

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cxrdist.cohort.packing import PackedMasks, pack_masks, unpack_masks

if TYPE_CHECKING:
    from cxrdist.learn.sources import Rows


def some_masks(n, side, seed=0):
    return np.random.default_rng(seed).integers(0, 2, (n, side, side), dtype=np.uint8)


masks = st.tuples(st.integers(0, 4), st.integers(1, 9)).flatmap(
    lambda size: arrays(np.uint8, (size[0], size[1], size[1]), elements=st.integers(0, 1))
)


@settings(max_examples=40, deadline=None)
@given(masks)
def test_unpacking_gives_back_what_was_packed_in_an_eighth_of_the_bytes(original):
    side = original.shape[1]
    packed = pack_masks(original)
    assert packed.dtype == np.uint8
    assert packed.shape == (len(original), (side * side + 7) // 8)
    unpacked = unpack_masks(packed, side)
    assert unpacked.dtype == np.uint8
    assert np.array_equal(unpacked, original)
    assert np.array_equal(pack_masks(original.astype(bool)), packed)


def test_the_first_pixel_is_the_highest_bit_and_the_last_byte_ends_in_zeros():
    mask = np.array([[[1, 0, 0], [0, 0, 0], [1, 1, 1]]], dtype=np.uint8)
    assert pack_masks(mask).tolist() == [[0b10000011, 0b10000000]]


def test_rows_are_taken_in_the_order_asked_for_and_again():
    original = some_masks(6, 5)
    rows: Rows = PackedMasks(pack_masks(original), 5)
    wanted = np.array([4, 0, 4, 5])
    taken = rows.take(wanted)
    assert np.array_equal(taken, original[wanted])
    taken[:] = 9
    assert np.array_equal(rows.take(wanted), original[wanted])
    assert rows.take(np.empty(0, dtype=np.int64)).shape == (0, 5, 5)


def test_a_read_only_memory_map_is_enough(tmp_path):
    original = some_masks(5, 11)
    np.save(tmp_path / "masks.npy", pack_masks(original))
    mapped = np.load(tmp_path / "masks.npy", mmap_mode="r")
    taken = PackedMasks(mapped, 11).take(np.array([3, 1]))
    assert np.array_equal(taken, original[[3, 1]])
    assert taken.flags.writeable


@pytest.mark.parametrize("rows", [[-1], [0, 3], [2, -3]])
def test_a_row_that_is_not_there_is_refused(rows):
    with pytest.raises(IndexError, match=r"rows must be in \[0, 3\)"):
        PackedMasks(pack_masks(some_masks(3, 4)), 4).take(np.array(rows))


@pytest.mark.parametrize(
    "packed",
    [np.zeros((2, 3), np.uint8), np.zeros((2, 2), np.int64), np.zeros(2, np.uint8)],
    ids=["another side", "another type", "flat"],
)
def test_what_was_not_packed_from_masks_of_that_side_is_refused(packed):
    with pytest.raises(ValueError, match=r"masks of 4 pixels a side are \[n, 2\] uint8"):
        PackedMasks(packed, 4)
    with pytest.raises(ValueError, match=r"masks of 4 pixels a side are \[n, 2\] uint8"):
        unpack_masks(packed, 4)
