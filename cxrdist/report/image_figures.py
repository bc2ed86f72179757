"""Examples of each class, heat maps of what made the networks decide, and the most confident errors, to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cxrdist.report.choice import ERRORS, confident_errors, examples_by_class
from cxrdist.report.image_panels import PAIR, Explained, PanelGrid, draw_heat, draw_image, draw_outline, explained
from cxrdist.report.images import HeatMap, ShownImage
from cxrdist.report.results import Results
from cxrdist.report.style import Picture, house_style, svg_and_png
from cxrdist.report.table import show_number
from cxrdist.report.tables import caption, file_name

_HEAT_WORDS = (
    "Heat maps: of the network of the fold that did not train on the image, for the class that it predicts, over what "
    "it saw, each scaled to its own range [0, 1], so that colours compare places within a map, not maps."
)
_CLASSES_ABREAST = 6
_PAIRS_ABREAST = 3

Examples = Mapping[str, Sequence[ShownImage]]
"""By class, in the study's order; at least one image each."""


@dataclass(frozen=True)
class _Pair:
    """An image, and beside it what a variant saw with the heat map, where there is one."""

    words: str
    """Above both."""
    left: NDArray[np.uint8]
    right: Explained | None


def example_pictures(results: Results) -> list[Picture]:
    """Draw each class's examples, their heat maps by variant, and each variant's; without images there is none."""
    examples: dict[str, list[ShownImage]] = {}
    for label, ids in examples_by_class(results).items():
        images = [results.images[image_id] for image_id in ids if image_id in results.images]
        if images:
            examples[label] = images
    if not examples:
        return []
    grids = [_heat_grid(results, examples, variant) for variant in results.present]
    pictures = [_examples(results, examples), _heat_by_view(results, examples), *grids]
    return [picture for picture in pictures if picture is not None]


def error_pictures(results: Results) -> list[Picture]:
    """Draw each variant's most confident errors; a variant without errors, or without images of them, has none."""
    pictures = [_confident_errors(results, variant) for variant in results.present]
    return [picture for picture in pictures if picture is not None]


def _examples(results: Results, examples: Examples) -> Picture:
    most = max(len(images) for images in examples.values())
    blocks = -(-len(examples) // _CLASSES_ABREAST)
    grid = PanelGrid(rows=blocks * most, columns=min(len(examples), _CLASSES_ABREAST))
    grid = replace(grid, above=grid.lines(examples))
    with house_style():
        figure = grid.figure()
        for index, (label, images) in enumerate(examples.items()):
            block, column = divmod(index, _CLASSES_ABREAST)
            for number, image in enumerate(images):
                axes = grid.panel(figure, block * most + number, column)
                draw_image(axes, image.pixels)
                grid.write_above(axes, label)
        svg, png = svg_and_png(figure)
    counts = ", ".join(f"{len(images)} of {label}" for label, images in examples.items())
    return Picture(
        name="examples",
        title="Examples of each class",
        caption=caption(
            results,
            "Drawn by chance, with the study's seed, from the test images that most variants classify correctly.",
        ),
        alternative=f"Whole radiographs: {counts}.",
        svg=svg,
        png=png,
    )


def _heat_by_view(results: Results, examples: Examples) -> Picture | None:
    first = {label: images[0] for label, images in examples.items()}
    heat = {
        (label, variant): one
        for label, image in first.items()
        for variant in results.present
        if (one := explained(image, variant)) is not None
    }
    if not heat:
        return None
    variants = [variant for variant in results.present if any(variant == name for _, name in heat)]
    masked = any(image.mask is not None for image in first.values())
    heads = ["Image", *(["Lung mask"] if masked else []), *variants]
    grid = PanelGrid(rows=len(first), columns=len(heads), left=0.3, bar=True)
    decisions = [_decision(one.heat) for one in heat.values()]
    grid = replace(grid, head=grid.lines(heads), below=grid.lines(decisions))
    with house_style():
        figure = grid.figure()
        for row, (label, image) in enumerate(first.items()):
            panels = [grid.panel(figure, row, column) for column in range(len(heads))]
            grid.write_left(panels[0], label)
            if row == 0:
                for axes, head in zip(panels, heads, strict=True):
                    grid.write_above(axes, head)
            draw_image(panels[0], image.pixels)
            if image.mask is not None:
                draw_image(panels[1], image.pixels)
                draw_outline(panels[1], image.mask)
            for axes, variant in zip(panels[-len(variants) :], variants, strict=True):
                if (label, variant) in heat:
                    draw_heat(axes, heat[label, variant])
                    grid.write_below(axes, _decision(heat[label, variant].heat))
        svg, png = svg_and_png(figure)
    described = "; ".join(f"{label}: {variant} says {_decision(one.heat)}" for (label, variant), one in heat.items())
    outline = ", the outline of its lung mask" if masked else ""
    return Picture(
        name="heat_by_view",
        title="Heat maps of all variants",
        caption=caption(
            results,
            f"An example of each class: the image{outline}, and for each variant the heat map, the predicted class and "
            f"its probability. {_HEAT_WORDS}",
        ),
        alternative=f"A row for each class with the image{outline} and the variants' heat maps. {described}.",
        svg=svg,
        png=png,
    )


def _heat_grid(results: Results, examples: Examples, variant: str) -> Picture | None:
    pairs = []
    for label, images in examples.items():
        for image in images:
            one = explained(image, variant)
            if one is not None:
                pairs.append(_Pair(_change(label, one.heat.label, one.heat.probability), one.seen, one))
    if not pairs:
        return None
    svg, png = _pair_sheet(pairs)
    return Picture(
        name=f"heat_grid_{file_name(variant)}",
        title=f"Heat maps of {variant}",
        caption=caption(
            results,
            "Examples class by class: what the network saw, and the same with the heat map; above them the true class, "
            f"the predicted one and its probability. {_HEAT_WORDS}",
        ),
        alternative=f"Images as {variant} saw them, each beside its heat map. {_listed(pairs)}.",
        svg=svg,
        png=png,
    )


def _confident_errors(results: Results, variant: str) -> Picture | None:
    predictions = results.out_of_fold[variant]
    pairs = []
    for rank, image_id in enumerate(confident_errors(results, variant, ERRORS), start=1):
        if image_id in results.images:
            image, row = results.images[image_id], list(predictions.image_ids).index(image_id)
            guess = int(predictions.predicted[row])
            change = _change(image.label, results.classes[guess], float(predictions.probabilities[row, guess]))
            pairs.append(_Pair(f"{rank}. {change}", image.pixels, explained(image, variant)))
    if not pairs:
        return None
    svg, png = _pair_sheet(pairs)
    heat = f" {_HEAT_WORDS}" if any(pair.right is not None for pair in pairs) else ""
    return Picture(
        name=f"confident_errors_{file_name(variant)}",
        title=f"Most confident errors of {variant}",
        caption=caption(
            results,
            "Wrong test images with the highest probability of the wrong class, numbered as in the table of errors: "
            f"the true class, the predicted one and its probability.{heat}",
        ),
        alternative=f"Images that {variant} gets wrong{', with their heat maps' if heat else ''}. {_listed(pairs)}.",
        svg=svg,
        png=png,
    )


def _pair_sheet(pairs: Sequence[_Pair]) -> tuple[bytes, bytes]:
    """Return SVG and PNG of all pairs, or of the left ones where no pair has a right one."""
    complete = any(pair.right is not None for pair in pairs)
    columns = min(_PAIRS_ABREAST if complete else 2 * _PAIRS_ABREAST, len(pairs))
    grid = PanelGrid(-(-len(pairs) // columns), columns, across=PAIR if complete else 1, bar=complete)
    grid = replace(grid, above=grid.lines(pair.words for pair in pairs))
    with house_style():
        figure = grid.figure()
        for index, pair in enumerate(pairs):
            axes = grid.panel(figure, *divmod(index, columns))
            grid.write_above(axes, pair.words)
            draw_image(axes, pair.left)
            if pair.right is not None:
                draw_heat(axes, pair.right, left=PAIR - 1)
        return svg_and_png(figure)


def _decision(heat: HeatMap) -> str:
    return f"{heat.label} {show_number(heat.probability, 2)}"


def _change(true: str, predicted: str, probability: float) -> str:
    return f"{true} → {predicted} ({show_number(probability, 2)})"


def _listed(pairs: Sequence[_Pair]) -> str:
    return "; ".join(pair.words for pair in pairs)
