"""Views: what is black where, and lungs cut out exactly where an independent crop and resize puts them."""

from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from cxrdist.config import models as config
from cxrdist.learn import sources
from cxrdist.learn.sources import ImageSource
from cxrdist.learn.views import LUNG_BOX_MARGIN, apply_view, lung_boxes
from cxrdist.study import recipe
from tests.unit.learn_examples import CPU, Images, grey_images

SIDE = 40
MARGIN = 2
"""Pixels: 5 % of the side."""
VIEWS = get_args(recipe.ViewName)


def grey(n, side=SIDE):
    return torch.from_numpy(grey_images(n, side))


def masks(*boxes, side=SIDE):
    """Masks that each fill a box of (top, left, bottom, right)."""
    made = torch.zeros(len(boxes), side, side, dtype=torch.uint8)
    for mask, (top, left, bottom, right) in zip(made, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    return made


BOXES = [(10, 6, 31, 34), (0, 0, 5, 40), (20, 20, 21, 21), (7, 30, 40, 40), (0, 0, 0, 0), (0, 0, 40, 40)]
WITH_MARGIN = [(8, 4, 33, 36), (0, 0, 7, 40), (18, 18, 23, 23), (5, 28, 40, 40), (0, 0, 40, 40), (0, 0, 40, 40)]


def test_the_study_file_and_the_plan_know_the_same_views():
    assert get_args(config.ViewName) == VIEWS == ("whole", "segmented", "lung_box", "lungs_blanked")


@pytest.mark.parametrize(
    ("view", "inside", "outside"), [("whole", 77, 200), ("segmented", 77, 0), ("lungs_blanked", 0, 200)]
)
def test_a_view_keeps_or_blackens_each_side_of_the_masks_edge(view, inside, outside):
    mask = masks((10, 6, 31, 34))
    image = torch.where(mask == 1, 77, 200).to(torch.uint8)
    before = image.clone(), mask.clone()
    seen = apply_view(image, mask, view)
    assert seen.dtype == torch.uint8
    assert [int(seen[0, y, x]) for y, x in ((10, 6), (30, 33))] == [inside] * 2
    assert [int(seen[0, y, x]) for y, x in ((9, 6), (31, 33), (10, 5), (30, 34))] == [outside] * 4
    assert torch.equal(seen, torch.where(mask == 1, inside, outside).to(torch.uint8))
    assert torch.equal(image, before[0])
    assert torch.equal(mask, before[1])


def test_the_lung_box_shows_the_lungs_and_the_margin_and_nothing_farther():
    mask = masks((10, 6, 31, 34))
    image = torch.full((1, SIDE, SIDE), 255, dtype=torch.uint8)
    image[:, 8:33, 4:36] = 50
    image[mask == 1] = 100
    seen = apply_view(image, mask, "lung_box")
    assert [int(seen[0, at, at]) for at in (20, 0, -1)] == [100, 50, 50]
    assert set(seen.unique().tolist()) <= set(range(50, 101))


def test_boxes_are_exact_with_their_margin_and_end_at_the_image():
    assert lung_boxes(masks(*BOXES), 0.05).tolist() == [list(box) for box in WITH_MARGIN]
    assert lung_boxes(masks(BOXES[0]), 0).tolist() == [list(BOXES[0])]


def test_a_box_holds_every_part_of_a_mask():
    mask = masks((3, 30, 5, 33)) | masks((20, 8, 36, 9))
    assert lung_boxes(mask, 0).tolist() == [[3, 8, 36, 33]]


def test_margins_follow_the_sides_of_an_image_that_is_not_square():
    mask = torch.zeros(1, 20, 100, dtype=torch.uint8)
    mask[0, 10, 50] = 1
    assert lung_boxes(mask, 0.05).tolist() == [[9, 45, 12, 56]]
    image = torch.from_numpy(grey_images(1, 100)[:, :20])
    assert_like_pillow(apply_view(image, mask, "lung_box"), image, [(9, 45, 12, 56)])


def assert_like_pillow(seen, image, boxes):
    for ours, whole, (top, left, bottom, right) in zip(seen, image, boxes, strict=True):
        crop = Image.fromarray(whole.numpy()).crop((left, top, right, bottom))
        size = (whole.shape[1], whole.shape[0])
        theirs = np.asarray(crop.resize(size, Image.Resampling.BILINEAR)).astype(int)
        # Pillow rounds twice, after each of the two directions.
        assert np.abs(ours.numpy() - theirs).max() <= 1


def test_the_lung_box_is_pillows_crop_and_bilinear_resize():
    image = grey(len(BOXES))
    assert_like_pillow(apply_view(image, masks(*BOXES), "lung_box"), image, WITH_MARGIN)


def test_a_marker_lands_where_pillow_puts_it():
    image = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    image[0, 12:14, 29:31] = 255
    seen = apply_view(image, masks(BOXES[0]), "lung_box")
    assert_like_pillow(seen, image, WITH_MARGIN[:1])
    # The crop starts at (8, 4) and is enlarged 40/25 and 40/32 times.
    centre = (seen[0] > 128).nonzero().double().mean(0) + 0.5
    assert centre.tolist() == pytest.approx([(13 - 8) * 40 / 25, (30 - 4) * 40 / 32], abs=0.5)


def test_greys_are_rounded_to_the_nearest():
    image = torch.tensor([[[0, 0, 0, 0], [0, 10, 13, 0], [0, 10, 13, 0], [0, 0, 0, 0]]], dtype=torch.uint8)
    mask = torch.zeros_like(image)
    mask[0, 1:3, 1:3] = 1
    # 10, 10 + 3/4, 10 + 9/4 and 13.
    assert apply_view(image, mask, "lung_box")[0].tolist() == [[10, 11, 12, 13]] * 4


def test_an_image_without_a_mask_is_shown_whole():
    image = grey(2)
    assert torch.equal(apply_view(image, masks((0, 0, 0, 0), (0, 0, 40, 40)), "lung_box"), image)


@pytest.mark.parametrize("view", VIEWS)
def test_a_batch_gives_each_image_what_it_gets_alone(view):
    image, mask = grey(len(BOXES)), masks(*BOXES)
    together = apply_view(image, mask, view)
    for number in range(len(BOXES)):
        one = slice(number, number + 1)
        assert torch.equal(apply_view(image[one], mask[one], view), together[one])


def test_image_and_mask_are_cut_alike():
    mask = masks((10, 6, 31, 34))
    mask[0, 10:20, 6:10] = 0
    cut = apply_view(255 * mask, mask, "lung_box")[0] >= 128
    rows, columns = cut.any(1).nonzero().flatten(), cut.any(0).nonzero().flatten()
    down, across = MARGIN * SIDE / 25, MARGIN * SIDE / 32
    assert [int(rows[0]), SIDE - 1 - int(rows[-1])] == pytest.approx([down, down], abs=0.5)
    assert [int(columns[0]), SIDE - 1 - int(columns[-1])] == pytest.approx([across, across], abs=0.5)
    # The corner that was taken from the mask is at the top left of the cut, too.
    top, left = slice(4, 15), slice(3, 7)
    assert not cut[top, left].any()
    assert cut.flip(0)[top, left].all()
    assert cut.flip(1)[top, left].all()


def test_the_margin_is_five_percent_of_the_side():
    assert LUNG_BOX_MARGIN * SIDE == MARGIN


@pytest.mark.parametrize("view", VIEWS)
def test_sources_show_the_view_however_many_images_are_asked_for(view, monkeypatch):
    monkeypatch.setattr(sources, "VIEW_BATCH", 4)
    image, mask = grey(len(BOXES)), masks(*BOXES)
    expected = ImageSource(Images(apply_view(image, mask, view).numpy()), None, "whole", CPU)
    source, resident = (ImageSource(Images(image.numpy()), Images(mask.numpy()), view, CPU) for _ in range(2))
    resident.make_resident(np.arange(len(BOXES)))
    for rows in (torch.tensor([5, 0, 3, 3, 1, 2, 4]), torch.tensor([2])):
        assert torch.equal(source.batch(rows), expected.batch(rows))
        assert torch.equal(resident.batch(rows), expected.batch(rows))


@pytest.mark.parametrize("view", ["segmented", "lung_box", "lungs_blanked"])
def test_sources_refuse_a_view_that_they_have_no_masks_for(view):
    with pytest.raises(ValueError, match=f"view '{view}' needs masks"):
        ImageSource(Images(grey_images(1)), None, view, CPU)
