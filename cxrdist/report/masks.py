"""The lung masks of a study, for people to judge: counts by source, the implausible ones, and contact sheets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from cxrdist.report.style import Picture, house_style, new_figure, svg_and_png
from cxrdist.report.table import Column, Table

_COLUMNS = 6
_OUTLINE = "#E69F00"
_POLICIES = {
    "whole": "all of the image counts as lung",
    "drop": "the image is left out of every variant",
    "error": "the study is refused",
}


@dataclass(frozen=True)
class SourceMasks:
    """The masks of one source's images."""

    images: int
    implausible: int
    area: float
    """Mean share of the image that is lung."""


@dataclass(frozen=True)
class ImplausibleMask:
    """A mask that cannot be right."""

    image_id: str
    source: str
    label: str
    faults: tuple[str, ...]


@dataclass(frozen=True)
class MaskExample:
    """An image with its mask as it was found."""

    image_id: str
    source: str
    label: str
    faults: str
    """Empty where the mask is plausible."""
    pixels: NDArray[np.uint8]
    """[side, side]."""
    mask: NDArray[np.uint8]
    """[side, side] of 0 and 1."""


@dataclass(frozen=True)
class MaskSummary:
    """What a report shows of a study's lung masks."""

    origin: str
    """Where they come from."""
    policy: str
    """What is done about implausible ones: `whole`, `drop` or `error`."""
    sources: Mapping[str, SourceMasks]
    implausible: Sequence[ImplausibleMask]
    examples: Sequence[MaskExample]


def mask_table(summary: MaskSummary) -> Table:
    """Return the number of masks and of implausible ones by source, with what is done about these."""
    return mask_counts_table(
        summary.sources, f"From {summary.origin}. Where a mask is implausible, {_POLICIES[summary.policy]}."
    )


def mask_counts_table(sources: Mapping[str, SourceMasks], caption: str) -> Table:
    """Return the number of masks and of implausible ones by source."""
    images = sum(one.images for one in sources.values())
    area = sum(one.images * one.area for one in sources.values()) / images
    total = SourceMasks(images, sum(one.implausible for one in sources.values()), area)
    rows = [*sources.items(), ("all", total)]
    return Table(
        name="lung_masks",
        title="Lung masks",
        caption=caption,
        columns=(
            Column("Source"),
            Column("Images"),
            Column("Implausible"),
            Column("% implausible", digits=1),
            Column("Mean % of the image", digits=1),
        ),
        rows=tuple(
            (name, one.images, one.implausible, 100 * one.implausible / one.images, 100 * one.area)
            for name, one in rows
        ),
        totals=frozenset({len(rows) - 1}),
    )


def implausible_table(summary: MaskSummary) -> Table:
    """Return every implausible mask with what is wrong with it."""
    return Table(
        name="implausible_masks",
        title="Implausible lung masks",
        caption="The mask of each of these images",
        columns=(Column("Image"), Column("Source"), Column("Class"), Column("What is wrong")),
        rows=tuple((one.image_id, one.source, one.label, "; ".join(one.faults)) for one in summary.implausible),
        keys=3,
    )


def mask_pictures(summary: MaskSummary) -> list[Picture]:
    """Draw contact sheets of plausible masks by source and of implausible ones, outlined on their images."""
    plausible = [one for one in summary.examples if not one.faults]
    implausible = [one for one in summary.examples if one.faults]
    pictures = []
    if plausible:
        sources = list(dict.fromkeys(one.source for one in plausible))
        pictures.append(
            _sheet(
                "lung_mask_outlines",
                "Lung masks by source",
                plausible,
                f"{_images(len(plausible))} of {', '.join(sources)} with the outline of the lung mask.",
            )
        )
    if implausible:
        count, every = len(implausible), len(summary.implausible)
        shown = f"{count} of the {_images(every)}" if count < every else _images(count)
        pictures.append(
            _sheet(
                "implausible_mask_outlines",
                "Implausible lung masks",
                implausible,
                f"{shown} whose lung mask is implausible, with its outline as it was found.",
            )
        )
    return pictures


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _sheet(name: str, title: str, examples: Sequence[MaskExample], what: str) -> Picture:
    rows = -(-len(examples) // _COLUMNS)
    with house_style():
        figure = new_figure(7.2, 0.2 + 1.42 * rows)
        grid = figure.subplots(rows, _COLUMNS, squeeze=False)
        for index, axes in enumerate(grid.flat):
            axes.set_axis_off()
            if index < len(examples):
                _panel(axes, examples[index])
        svg, png = svg_and_png(figure)
    return Picture(name=name, title=title, caption=what, alternative=f"Contact sheet. {what}", svg=svg, png=png)


def _panel(axes: Axes, example: MaskExample) -> None:
    axes.grid(visible=False)
    axes.imshow(example.pixels, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
    if example.mask.any() and not example.mask.all():
        axes.contour(example.mask, levels=[0.5], colors=_OUTLINE, linewidths=0.9)
    title = f"{example.source} · {example.label}" if example.label != example.source else example.source
    axes.set_title(title if len(title) <= 26 else f"{title[:25]}…", fontsize=5.5, fontweight="normal", pad=2)
