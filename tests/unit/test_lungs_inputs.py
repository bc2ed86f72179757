"""The lung network's input: borders are cut and come back, image and mask stay together, exposure does not matter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cxrdist.lungs.inputs import SIDE, Frame, Standard, equalized, find_frame, framed

HEIGHT, WIDTH = 100, 140
WHOLE = Frame(0, HEIGHT, 0, WIDTH)


def film(frame, seed=0, height=HEIGHT, width=WIDTH):
    """Grey within the frame, and a noisy black around it."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 9, (height, width), dtype=np.uint8)
    inside = frame.cut(image)
    inside[:] = rng.integers(60, 256, inside.shape, dtype=np.uint8)
    return image


@st.composite
def frames(draw):
    """Frames of at least half the height and width."""
    height, width = draw(st.integers(HEIGHT // 2, HEIGHT)), draw(st.integers(WIDTH // 2, WIDTH))
    top, left = draw(st.integers(0, HEIGHT - height)), draw(st.integers(0, WIDTH - width))
    return Frame(top, top + height, left, left + width)


@given(frames(), st.integers(0, 99))
@settings(deadline=None)
def test_black_borders_of_any_width_are_found_to_the_pixel(frame, seed):
    assert find_frame(film(frame, seed)) == frame


@pytest.mark.parametrize(
    "frame", [WHOLE, Frame(20, 80, 0, WIDTH), Frame(0, HEIGHT, 30, 110)], ids=["none", "letterbox", "pillarbox"]
)
def test_what_is_cut_is_the_border_alone(frame):
    image = film(frame)
    assert find_frame(image) == frame
    assert frame.cut(image).min() >= 60
    assert frame.cut(image).size == np.count_nonzero(image >= 60)


def test_black_within_the_image_is_no_border():
    image = film(WHOLE)
    image[40:60] = 0
    image[:, 70:90] = 0
    assert find_frame(image) == WHOLE


@pytest.mark.parametrize("grey", [0, 8, 9, 255])
def test_of_an_image_of_one_grey_nothing_is_cut(grey):
    assert find_frame(np.full((HEIGHT, WIDTH), grey, dtype=np.uint8)) == WHOLE


@pytest.mark.parametrize("content", [Frame(0, HEIGHT, 35, 104), Frame(26, 75, 0, WIDTH), Frame(50, 52, 70, 72)])
def test_an_image_that_would_lose_more_than_half_of_a_side_is_left_whole(content):
    assert find_frame(film(content)) == WHOLE


@pytest.mark.parametrize(("bright", "cut"), [(1, True), (2, False)])
def test_a_marker_of_up_to_one_percent_of_a_row_does_not_keep_the_border(bright, cut):
    image = film(Frame(10, HEIGHT, 0, 100), width=100)
    image[4, 50 : 50 + bright] = 255
    assert find_frame(image).top == (10 if cut else 4)


@given(frames())
@settings(deadline=None)
def test_what_is_put_back_lies_where_it_was_cut(frame):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    lung = frame.cut(mask)
    height, width = lung.shape
    lung[height // 5 : -height // 5, width // 4 : -width // 3] = True
    seen = framed(mask * np.uint8(255), frame) >= 128
    back = frame.put_back(seen, mask.shape)
    box = np.ones((3, 3))
    assert not (back & ~ndimage.binary_dilation(mask, box)).any()
    assert not (ndimage.binary_erosion(mask, box) & ~back).any()
    assert back.sum() == pytest.approx(mask.sum(), rel=0.03)


@given(frames())
@settings(deadline=None)
def test_outside_the_frame_nothing_is_put_and_within_it_everything(frame):
    back = frame.put_back(np.ones((SIDE, SIDE), dtype=bool), (HEIGHT, WIDTH))
    assert back.dtype == np.bool_
    assert back.sum() == (frame.bottom - frame.top) * (frame.right - frame.left)
    assert frame.cut(back).all()
    assert not frame.put_back(np.zeros((SIDE, SIDE), dtype=bool), (HEIGHT, WIDTH)).any()


def test_a_mask_of_the_frames_own_size_comes_back_bit_by_bit():
    mask = np.random.default_rng(0).random((60, 80)) < 0.5
    back = Frame(20, 80, 30, 110).put_back(mask, (HEIGHT, WIDTH))
    assert np.array_equal(back[20:80, 30:110], mask)


@given(frames())
@settings(deadline=None)
def test_image_and_mask_are_cut_and_resized_alike(frame):
    image = film(frame)
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    cut_image, cut_mask = frame.cut(image), frame.cut(mask)
    height, width = cut_image.shape
    cut_image[:] = 60
    inside = np.s_[height // 6 : height // 2, width // 3 : -width // 6]
    cut_image[inside], cut_mask[inside] = 255, 1
    assert find_frame(image) == frame
    seen, target = framed(image, frame) >= 158, framed(mask * np.uint8(255), frame) >= 128
    assert (seen != target).mean() < 0.002
    rows, columns = (np.flatnonzero(target.any(axis)) / SIDE for axis in (1, 0))
    assert rows[[0, -1]] == pytest.approx([inside[0].start / height, inside[0].stop / height], abs=1.5 / SIDE)
    assert columns[0] == pytest.approx(inside[1].start / width, abs=1.5 / SIDE)


@pytest.mark.parametrize("size", [(SIDE, SIDE), (40, 500), (700, 300)])
def test_the_input_has_the_networks_side_whatever_the_image(size):
    image = film(Frame(0, size[0], 0, size[1]), height=size[0], width=size[1])
    kept = image.copy()
    seen = framed(image, find_frame(image))
    assert seen.shape == (SIDE, SIDE)
    assert seen.dtype == np.uint8
    assert np.array_equal(image, kept)
    assert size != (SIDE, SIDE) or np.array_equal(seen, image)


def dark_image(seed):
    """Greys of 0 to 120, some of them much more often than others."""
    rng = np.random.default_rng(seed)
    return rng.choice(121, (48, 48), p=rng.dirichlet(np.full(121, 0.3))).astype(np.uint8)


SEED = st.integers(0, 2**32)


@given(SEED, SEED)
@settings(deadline=None)
def test_equalising_forgets_any_increasing_change_of_the_greys(seed, curve_seed):
    image = dark_image(seed)
    curve = np.sort(np.random.default_rng(curve_seed).choice(256, 121, replace=False)).astype(np.uint8)
    assert np.array_equal(equalized(image), equalized(curve[image]))


@pytest.mark.parametrize("gamma", [0.5, 0.8, 1.25, 2.0])
def test_exposure_and_gamma_hardly_change_an_equalised_image(gamma):
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).random((SIDE, SIDE)), 6)
    image = np.interp(smooth, (smooth.min(), smooth.max()), (10, 230)).astype(np.uint8)
    changed = np.round(255 * (image / 255) ** gamma).astype(np.uint8)
    difference = equalized(image).astype(int) - equalized(changed)
    assert np.abs(image.astype(int) - changed).mean() > 10
    assert np.abs(difference).mean() < 2


@given(SEED)
@settings(deadline=None)
def test_equalising_keeps_the_order_of_greys_and_its_input(seed):
    image = dark_image(seed)
    kept = image.copy()
    after = equalized(image).astype(int)
    assert np.array_equal(image, kept)
    order = np.argsort(image, axis=None, kind="stable")
    assert (np.diff(after.ravel()[order]) >= 0).all()


def test_an_equalised_image_uses_every_grey_alike():
    image = np.random.default_rng(0).normal(110, 25, (SIDE, SIDE)).clip(0, 255).astype(np.uint8)
    assert np.quantile(equalized(image), [0.1, 0.5, 0.9]) == pytest.approx([25.5, 127.5, 229.5], abs=8)


@pytest.mark.parametrize("grey", [0, 7, 255])
def test_an_image_of_one_grey_can_be_equalised(grey):
    image = np.full((24, 24), grey, dtype=np.uint8)
    assert len(np.unique(equalized(image))) == 1


def equalised_images(seed):
    return np.stack([equalized(dark_image(seed + number)) for number in range(3)])


@given(SEED)
@settings(deadline=None)
def test_the_standard_is_numpys_mean_and_standard_deviation(seed):
    images = equalised_images(seed)
    standard = Standard.of(images)
    assert standard.mean == pytest.approx((images / 255).mean(), abs=1e-12)
    assert standard.sd == pytest.approx((images / 255).std(), abs=1e-12)


@given(SEED)
@settings(deadline=None)
def test_standardised_images_have_mean_0_and_standard_deviation_1(seed):
    images = equalised_images(seed)
    kept = images.copy()
    values = Standard.of(images).apply(images)
    assert np.array_equal(images, kept)
    assert (values.shape, values.dtype) == ((3, 1, 48, 48), torch.float32)
    assert values.mean().item() == pytest.approx(0, abs=1e-4)
    assert values.std(correction=0).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("grey", [0, 5, 255])
def test_of_images_of_one_grey_nothing_is_left(grey):
    images = np.full((2, 16, 16), grey, dtype=np.uint8)
    assert Standard.of(images).apply(images).abs().max() < 1e-6


def test_the_standard_is_of_the_training_set_and_not_of_the_image():
    standard = Standard(mean=0.5, sd=0.25)
    images = np.array([[[0, 255]], [[51, 204]]], dtype=np.uint8)
    assert standard.apply(images)[:, 0, 0].numpy() == pytest.approx(np.array([[-2, 2], [-1.2, 1.2]]), abs=1e-6)
