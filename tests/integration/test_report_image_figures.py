"""Images in the report: examples, heat maps over what the networks saw, and errors; what is missing is left out."""

import base64
import io
import re
from dataclasses import replace
from unittest.mock import MagicMock
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from cxrdist.report import image_figures
from cxrdist.report.choice import confident_errors, examples_by_class, images_to_show
from cxrdist.report.image_figures import error_pictures, example_pictures
from cxrdist.report.image_panels import PanelGrid, explained, overlay
from cxrdist.report.images import HeatMap, ShownImage
from tests.unit.report_examples import CLASSES, VARIANTS, small_results

WHOLE, SEGMENTED = VARIANTS
SIDE = 24
WIDTH = 7.2


def shown(results, image_id):
    """An image with its mask, both views and both heat maps; it is bright everywhere."""
    pixels = np.random.default_rng(int(image_id[-4:])).integers(100, 256, (SIDE, SIDE), dtype=np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[8:20, 3:10] = mask[8:20, 14:21] = 1
    heat = {}
    for number, (variant, own) in enumerate(results.out_of_fold.items()):
        row = own.image_ids.index(image_id)
        guess = own.predicted[row]
        values = np.linspace(0, 1, 49, dtype=np.float32).reshape(7, 7) if number else np.eye(14, dtype=np.float32)
        heat[variant] = HeatMap(values, CLASSES[guess], float(own.probabilities[row, guess]))
    label = CLASSES[own.truth[row]]
    return ShownImage(image_id, "cohen", label, pixels, mask, {"whole": pixels, "segmented": pixels * mask}, heat)


def with_images(variants=VARIANTS, **changes):
    """The small results of these variants with all images that are to be shown, each changed alike."""
    results = small_results()
    results = replace(
        results, variants=variants, out_of_fold={variant: results.out_of_fold[variant] for variant in variants}
    )
    images = {image_id: replace(shown(results, image_id), **changes) for image_id in images_to_show(results)}
    return replace(results, images=images)


def one_of_each():
    """One variant with an example of two classes, and with one error, which is no example."""
    results = with_images((SEGMENTED,))
    chosen = [own[0] for own in list(examples_by_class(results).values())[:2]]
    chosen.append(next(name for name in confident_errors(results, SEGMENTED, 6) if name.endswith(("3", "7"))))
    return replace(results, images={name: results.images[name] for name in chosen})


@pytest.fixture(scope="module")
def pictures():
    results = one_of_each()
    return {one.name: one for one in [*example_pictures(results), *error_pictures(results)]}


@pytest.fixture
def draw(monkeypatch):
    """Make the pictures without files and return with each what its panels were told, by row and column."""
    figures: list[dict[tuple[int, int], MagicMock]] = []

    def figure(grid):
        figures.append({})
        return len(figures) - 1

    monkeypatch.setattr(PanelGrid, "figure", figure)
    monkeypatch.setattr(
        PanelGrid, "panel", lambda grid, number, row, column: figures[number].setdefault((row, column), MagicMock())
    )
    monkeypatch.setattr(image_figures, "svg_and_png", lambda number: (b"%d" % number, b""))

    def make(results):
        made = [*example_pictures(results), *error_pictures(results)]
        return {one.name: (one, figures[int(one.svg)]) for one in made}

    return make


def texts(panel):
    """What is written around a panel."""
    return [call.args[2].replace("\n", " ") for call in panel.text.call_args_list]


def images(panel):
    """What is drawn in a panel, from left to right."""
    return [call.args[0] for call in panel.imshow.call_args_list]


def embedded(picture):
    """The images inside an SVG, which holds them upside down, but for the scale of heat, which comes first."""
    found = re.findall(rb'"data:image/png;base64,\s*([^"]+)"', picture.svg)
    decoded = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB"))[::-1] for one in found]
    return decoded[1:] if "Heat maps" in picture.caption else decoded


def test_without_images_there_are_no_pictures():
    assert example_pictures(small_results()) == []
    assert error_pictures(small_results()) == []


def test_there_are_pictures_of_examples_of_all_heat_maps_and_of_each_variant(draw):
    assert list(draw(with_images())) == [
        *("examples", "heat_by_view", f"heat_grid_{WHOLE}", f"heat_grid_{SEGMENTED}"),
        *(f"confident_errors_{WHOLE}", f"confident_errors_{SEGMENTED}"),
    ]


def test_pictures_are_svg_and_png_and_equal_images_give_equal_ones(pictures):
    for one in pictures.values():
        ElementTree.fromstring(one.svg)
        assert one.png.startswith(b"\x89PNG\r\n\x1a\n")
    (again,) = error_pictures(one_of_each())
    assert again == pictures[again.name]


def test_an_svg_holds_an_image_for_every_panel_and_the_outline_of_the_masks(pictures):
    columns = {"examples": 1, "heat_by_view": 3, f"heat_grid_{SEGMENTED}": 1}
    assert {name: len(embedded(pictures[name])) for name in columns} == {name: 2 * own for name, own in columns.items()}
    assert len(embedded(pictures[f"confident_errors_{SEGMENTED}"])) == 1
    assert b"#e69f00" in pictures["heat_by_view"].svg.lower()
    assert b"#e69f00" not in pictures["examples"].svg.lower()


def test_captions_say_whose_heat_maps_they_are_and_that_each_has_its_own_range(pictures):
    for name, one in pictures.items():
        said = ("the network of the fold that did not train on the image", "scaled to its own range [0, 1]")
        assert all(words in one.caption for words in said) == (name != "examples")


def test_examples_stand_under_the_name_of_their_class(draw):
    results = with_images()
    picture, panels = draw(results)["examples"]
    for column, (label, ids) in enumerate(examples_by_class(results).items()):
        for row, image_id in enumerate(ids):
            assert texts(panels[row, column]) == [label]
            np.testing.assert_array_equal(images(panels[row, column])[0], results.images[image_id].pixels)
        assert f"2 of {label}" in picture.alternative


def test_each_class_is_a_row_of_its_image_its_mask_and_what_every_variant_sees_and_says(draw):
    results = with_images()
    picture, panels = draw(results)["heat_by_view"]
    for row, (label, ids) in enumerate(examples_by_class(results).items()):
        image = results.images[ids[0]]
        assert label in texts(panels[row, 0])
        for column, variant in enumerate(VARIANTS, start=2):
            heat = image.heat[variant]
            said = f"{heat.label} {heat.probability:.2f}"
            assert said in texts(panels[row, column])
            assert f"{label}: {variant} says {said}" in picture.alternative
            view = image.views["whole" if variant == WHOLE else "segmented"]
            np.testing.assert_array_equal(images(panels[row, column])[0], overlay(view, heat))
        assert panels[row, 1].contour.called
        assert not panels[row, 0].contour.called


def test_inputs_stand_beside_the_same_with_their_heat_class_by_class(draw):
    results = with_images()
    _, panels = draw(results)[f"heat_grid_{SEGMENTED}"]
    examples = [(label, image_id) for label, ids in examples_by_class(results).items() for image_id in ids]
    for panel, (label, image_id) in zip(panels.values(), examples, strict=True):
        image = results.images[image_id]
        view, heat = image.views["segmented"], image.heat[SEGMENTED]
        assert texts(panel) == [f"{label} → {heat.label} ({heat.probability:.2f})"]
        left, right = images(panel)
        np.testing.assert_array_equal(left, view)
        np.testing.assert_array_equal(right, overlay(view, heat))


def test_errors_show_the_whole_image_and_are_numbered_as_in_their_table(draw):
    results = with_images()
    picture, panels = draw(results)[f"confident_errors_{SEGMENTED}"]
    own = results.out_of_fold[SEGMENTED]
    for number, (panel, image_id) in enumerate(
        zip(panels.values(), confident_errors(results, SEGMENTED, 6), strict=True), start=1
    ):
        row = own.image_ids.index(image_id)
        classes = f"{CLASSES[own.truth[row]]} → {CLASSES[own.predicted[row]]}"
        words = f"{number}. {classes} ({own.probabilities[row].max():.2f})"
        assert texts(panel) == [words]
        assert words in picture.alternative
        left, right = images(panel)
        np.testing.assert_array_equal(left, results.images[image_id].pixels)
        assert right.shape == (SIDE, SIDE, 3)


def test_errors_keep_their_number_where_an_image_is_missing(draw):
    results = with_images()
    kept = dict(results.images)
    del kept[confident_errors(results, WHOLE, 1)[0]]
    _, panels = draw(replace(results, images=kept))[f"confident_errors_{WHOLE}"]
    assert [texts(panel)[0][:2] for panel in panels.values()] == ["2."]


@pytest.mark.parametrize(
    ("changes", "heads"),
    [
        ({}, ["Image", "Lung mask", WHOLE, SEGMENTED]),
        ({"mask": None}, ["Image", WHOLE, SEGMENTED]),
        # What a network of whole images saw is the image itself.
        ({"views": {}}, ["Image", "Lung mask", WHOLE]),
        (
            {"heat": {SEGMENTED: HeatMap(np.zeros((7, 7), np.float32), CLASSES[0], 0.5)}},
            ["Image", "Lung mask", SEGMENTED],
        ),
    ],
)
def test_columns_of_what_is_missing_are_left_out(draw, changes, heads):
    made = draw(with_images(**changes))
    _, panels = made["heat_by_view"]
    written = [texts(panels[0, column]) for column in range(len(heads))]
    assert all(head in words for head, words in zip(heads, written, strict=True))
    assert max(column for _, column in panels) == len(heads) - 1
    assert {name for name in made if name.startswith("heat_grid")} == {f"heat_grid_{name}" for name in heads[-2:]} & {
        f"heat_grid_{variant}" for variant in VARIANTS
    }


def test_a_heat_map_that_only_one_image_lacks_leaves_its_panel_empty(draw):
    results = with_images()
    first = examples_by_class(results)[CLASSES[0]][0]
    lacking = replace(results.images[first], heat={WHOLE: results.images[first].heat[WHOLE]}, mask=None)
    made = draw(replace(results, images={**results.images, first: lacking}))
    _, panels = made["heat_by_view"]
    assert [len(images(panels[0, column])) for column in range(4)] == [1, 0, 1, 0]
    assert [len(images(panels[1, column])) for column in range(4)] == [1, 1, 1, 1]
    assert len(made[f"heat_grid_{SEGMENTED}"][1]) == len(made[f"heat_grid_{WHOLE}"][1]) - 1


def test_without_heat_maps_there_are_examples_and_errors_alone(draw):
    made = draw(with_images(heat={}, mask=None))
    assert list(made) == ["examples", *(f"confident_errors_{variant}" for variant in VARIANTS)]
    errors, panels = made[f"confident_errors_{SEGMENTED}"]
    assert "heat" not in f"{errors.caption} {errors.alternative}".lower()
    assert list(panels) == [(0, column) for column in range(6)]
    assert {image.ndim for panel in panels.values() for image in images(panel)} == {2}, "grey"


def test_files_show_the_colours_that_were_mixed(pictures):
    image = list(one_of_each().images.values())[-1]
    one = explained(image, SEGMENTED)
    assert one is not None
    pair = embedded(pictures[f"confident_errors_{SEGMENTED}"])[0].astype(int)
    right = pair[:, -pair.shape[0] :]
    enlarged = np.asarray(
        Image.fromarray(overlay(one.seen, one.heat)).resize(right.shape[:2], Image.Resampling.BILINEAR)
    )
    assert np.abs(right - enlarged).mean() < 8


def test_heat_is_coloured_from_black_to_bright_the_same_for_all_maps():
    grey = np.full((20, 20), 100, np.uint8)
    least, half, most = (
        overlay(grey, HeatMap(np.full((7, 7), value, np.float32), "a", 1.0)).reshape(-1, 3) for value in (0, 0.5, 1)
    )
    # Inferno goes from (0, 0, 4) to (252, 255, 164).
    np.testing.assert_allclose(least, np.tile([50, 50, 52], (400, 1)), atol=1)
    np.testing.assert_allclose(most, np.tile([176, 177, 132], (400, 1)), atol=1)
    assert (half == half[0]).all()
    assert least[0].sum() < half[0].sum() < most[0].sum()


def test_heat_lies_where_its_map_has_it_and_is_enlarged_smoothly():
    values = np.zeros((4, 4), np.float32)
    values[0, 3] = 1
    colours = overlay(np.zeros((64, 64), np.uint8), HeatMap(values, "a", 1.0)).sum(axis=2).astype(int)
    assert colours[4, 60] == colours.max()
    assert colours[40:, :].max() == colours[:, :24].max() == colours.min()
    assert np.abs(np.diff(colours, axis=1)).max() < colours.max() / 6


def test_what_a_variant_saw_and_its_heat_map_are_shown_together_or_not_at_all():
    image = next(iter(with_images().images.values()))
    one = explained(image, SEGMENTED)
    assert one is not None
    assert one.seen is image.views["segmented"]
    assert one.heat is image.heat[SEGMENTED]
    assert explained(replace(image, views={}), SEGMENTED) is None
    assert explained(replace(image, heat={}), SEGMENTED) is None


def test_an_image_is_drawn_with_at_most_160_pixels_a_side(draw):
    pixels = np.zeros((700, 700), np.uint8)
    pixels[:, 350:] = 200
    made = draw(with_images(pixels=pixels, views={"whole": pixels}))
    panels = [panel for _, own in made.values() for panel in own.values()]
    drawn = [image for panel in panels for image in images(panel)]
    assert {image.shape[:2] for image in drawn} == {(160, 160)}
    np.testing.assert_array_equal(drawn[0][:, [0, 79, 80, 159]], np.tile([0, 0, 200, 200], (160, 1)))


@pytest.mark.parametrize("grid", [PanelGrid(2, 3, left=0.3, head=2, below=2, bar=True), PanelGrid(2, 2, 2.04, above=2)])
def test_panels_neither_overlap_nor_leave_the_figure_and_have_room_for_text(grid):
    figure = grid.figure()
    boxes = [
        grid.panel(figure, row, column).get_position() for row in range(grid.rows) for column in range(grid.columns)
    ]
    width, height = figure.get_size_inches()
    line = 1.25 * grid.font_size / 72
    for one in boxes:
        assert min(one.x0 - grid.left / width, one.y0, 1 - one.x1, 1 - one.y1) > -1e-9
        assert one.width * width == pytest.approx(grid.across * one.height * height)
        assert (1 - one.y1) * height > (grid.head + grid.above) * line
        for other in boxes:
            if one is not other:
                beside = max(one.x0, other.x0) - min(one.x1, other.x1)
                under = max(one.y0, other.y0) - min(one.y1, other.y1)
                assert beside > 0 or under * height > (grid.above + grid.below) * line


def test_a_figure_is_as_wide_as_the_page_where_images_would_not_be_too_large():
    assert PanelGrid(1, 6, left=0.3).figure().get_figwidth() == pytest.approx(WIDTH)
    assert PanelGrid(1, 3, 2.04).figure().get_figwidth() == pytest.approx(WIDTH)
    assert PanelGrid(1, 2).figure().get_figwidth() < WIDTH


@pytest.mark.parametrize("columns", [4, 6, 10])
def test_names_over_panels_stay_over_their_panel(columns):
    grid = PanelGrid(1, columns, head=2)
    axes = grid.panel(grid.figure(), 0, 0)
    for name in ("lungs_blanked-resnet34", "other_viral_pneumonia 0.64", "bacterial pneumonia", "tuberculosis " * 20):
        grid.write_above(axes, name)
        text = axes.texts[-1]
        assert text.get_window_extent().width < 1.06 * axes.get_window_extent().width
        assert text.get_text().count("\n") <= 1
        assert text.get_text().endswith("…") == (len(name) > 100)


def test_names_break_behind_underscores_and_hyphens():
    assert PanelGrid(1, 10).wrapped("other_viral_pneumonia") == "other_viral_\npneumonia"
    assert PanelGrid(1, 10).wrapped("segmented-resnet34") == "segmented-\nresnet34"
