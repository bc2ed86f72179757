"""From a run directory to the images that a report shows, and to what was measured of its heat maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cxrdist.cli.kept_images import read_kept_images
from cxrdist.cohort.table import Cohort
from cxrdist.errors import UserError
from cxrdist.learn.heatmaps import min_max
from cxrdist.report.images import HeatMap, HeatShares, ShownImage
from cxrdist.run.artefacts import DamagedError
from cxrdist.run.context import Context
from cxrdist.run.heat_files import VariantHeat, read_fresh_heat
from cxrdist.run.heatmaps import (
    PREDICTED,
    NoNetworkError,
    Target,
    explain_predictions,
    method_of,
    of_images,
    seen,
    why_no_pixels,
)
from cxrdist.study.outoffold import OutOfFold
from cxrdist.study.plan import Variant

_PREDICTED = Target(PREDICTED)


@dataclass(frozen=True)
class Shown:
    """What a report shows of images."""

    images: Mapping[str, ShownImage]
    """By id."""
    lacking: Sequence[str] = ()
    """What could not be had, or made again, a sentence each."""
    made: bool = True
    """Whether they were made now, and not read from what an earlier report kept."""


def shown_images(
    context: Context, cohort: Cohort, image_ids: Sequence[str], out_of_fold: Mapping[str, OutOfFold]
) -> Shown:
    """Return images by id, with heat maps of the variants whose networks were kept.

    Where the decoded images, or what made a heat map, are out of reach, they are those that an earlier report of the
    same predictions kept.
    """
    if not image_ids:
        return Shown({})
    kept = read_kept_images(context.store, context.plan)
    missing = why_no_pixels(context)
    if missing:
        found = {image_id: kept[image_id] for image_id in image_ids if image_id in kept}
        return Shown(found, [_without_pixels(missing, len(found), len(image_ids))], made=False)
    position = {image_id: row for row, image_id in enumerate(context.image_ids)}
    rows = np.array([position[image_id] for image_id in image_ids], dtype=np.int64)
    views = {variant.view: seen(context, variant.view, rows) for variant in context.plan.variants}
    heat: dict[str, dict[str, HeatMap]] = {}
    lacking = []
    for variant in context.plan.variants:
        if variant.name in out_of_fold and (own := of_images(out_of_fold[variant.name], image_ids)).image_ids:
            earlier = {
                i: kept[i].heat[variant.name] for i in own.image_ids if i in kept and variant.name in kept[i].heat
            }
            try:
                heat[variant.name] = _heat(context, variant, own)
            except DamagedError:
                raise
            except UserError as error:
                heat[variant.name] = earlier
                # The report is made of runs that kept no networks, too.
                if not earlier and not isinstance(error, NoNetworkError):
                    lacking.append(f"The report has no heat maps of {variant.name}: {error}")
    pixels = context.images.take(rows)
    masks = None if context.masks is None else context.masks.take(rows)
    sources, labels = cohort.sources.tolist(), cohort.column("label")
    images = {
        image_id: ShownImage(
            image_id=image_id,
            source=sources[row],
            label=str(labels[row]),
            pixels=pixels[number],
            mask=None if masks is None else masks[number],
            views={view: grey[number] for view, grey in views.items()},
            heat={variant: own[image_id] for variant, own in heat.items() if image_id in own},
        )
        for number, (image_id, row) in enumerate(zip(image_ids, rows.tolist(), strict=True))
    }
    return Shown(images, lacking)


def _without_pixels(why: str, found: int, wanted: int) -> str:
    where = f"The decoded images of the study are out of reach ({why})"
    if found == wanted:
        return f"{where}: the figures of images are of those that an earlier report kept."
    shown = f"{found} of {wanted} images are shown, which an earlier report kept" if found else "no image is drawn"
    return f"{where}: {shown}; give their cache with --cache, or do `cxrdist run` again, which makes them."


def heat_shares(context: Context) -> list[HeatShares]:
    """Return where the heat lies, of the variants whose heat maps are kept and of the run as it is now."""
    kept = [(variant.name, read_fresh_heat(context, variant, _PREDICTED)) for variant in context.plan.variants]
    return [shares_of(name, heat) for name, heat in kept if heat is not None]


def shares_of(variant: str, heat: VariantHeat) -> HeatShares:
    """Return what a report says of a variant's heat maps."""
    return HeatShares(variant, heat.method, heat.image_ids, heat.inside, heat.area)


def heat_map(
    context: Context, predictions: OutOfFold, target: Target, row: int, values: NDArray[np.float32]
) -> HeatMap:
    """Return the map [h, w] of one prediction as it is shown."""
    label = int(target.of(predictions)[row])
    return HeatMap(_scaled(values), context.classes[label], float(predictions.probabilities[row, label]))


def _heat(context: Context, variant: Variant, predictions: OutOfFold) -> dict[str, HeatMap]:
    """Return the heat maps of predictions: kept ones, or such as are made now.

    Raises:
        UserError: a network was not kept, or what it needs is not there.
    """
    kept = read_fresh_heat(context, variant, _PREDICTED)
    if kept is None:
        method = method_of(variant, context.plan.networks[variant.model], "auto")
        maps = explain_predictions(context, variant, predictions, _PREDICTED, method)
    else:
        position = {image_id: row for row, image_id in enumerate(kept.image_ids)}
        maps = kept.maps[[position[image_id] for image_id in predictions.image_ids]]
    return {
        image_id: heat_map(context, predictions, _PREDICTED, row, maps[row])
        for row, image_id in enumerate(predictions.image_ids)
    }


def _scaled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(min_max(torch.from_numpy(values).unsqueeze(0))[0].numpy())
