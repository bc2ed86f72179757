"""`cxrdist heatmaps`: what made the networks decide, and how much of that lies in the lungs."""

import io
from collections.abc import Sequence

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from cxrdist.cli.commands import existing_run, place, require_study
from cxrdist.cli.gather_images import heat_map, shares_of
from cxrdist.errors import UserError, nearest, one_of
from cxrdist.report.heat_tables import heat_shares_table
from cxrdist.report.image_panels import overlay
from cxrdist.report.images import HeatMap
from cxrdist.report.render import render_text
from cxrdist.run.artefacts import DamagedError
from cxrdist.run.computing import use_planned
from cxrdist.run.context import Context, read_cohort, read_plan
from cxrdist.run.display import ConsoleDisplay
from cxrdist.run.heat_files import VariantHeat, make_variant_heat, read_fresh_heat, write_heat
from cxrdist.run.heatmaps import (
    PREDICTED,
    TRUE,
    KeptNetworks,
    MethodChoice,
    Target,
    explain_predictions,
    lung_masks,
    method_of,
    of_images,
    seen,
    why_no_pixels,
)
from cxrdist.run.results import collect
from cxrdist.study.layout import HeatFiles
from cxrdist.study.plan import Variant

_ENLARGED = 2
"""Pixels of a picture for each pixel that the network saw, along a side."""


def heatmaps_command(
    run_dir: str,
    images: Sequence[str],
    variants: Sequence[str],
    method: MethodChoice,
    class_: str,
    cache: str | None,
) -> None:
    """Make the heat maps of all test images and print where their heat lies, or draw those of some images.

    Raises:
        UserError: an option means nothing here, a network was not kept, or an image is tested by none.
        IncompleteStudyError: all test images are asked for, but fold jobs have no predictions.
    """
    store = existing_run(run_dir)
    require_study(store)
    context = Context(store, use_planned(read_plan(store).computing), cache, verify=True)
    target = Target.find(class_, context.classes)
    chosen = _variants(context, variants)
    for variant in chosen:
        method_of(variant, context.plan.networks[variant.model], method)
    for image_id in images:
        _check_image(context, image_id)
    display = ConsoleDisplay(Console())
    with store.explained("make room or give the right to write"):
        if images:
            _draw(context, list(dict.fromkeys(images)), chosen, target, method)
            return
        try:
            made = _all(context, chosen, target, method, display)
        finally:
            display.end()
    cohort = read_cohort(store, context.classes)
    groups = dict(zip(cohort.image_ids, cohort.groups("group").tolist(), strict=True))
    words = {PREDICTED: "the class that is predicted", TRUE: "the true class"}.get(target.kind, f"the class {class_}")
    shares = [shares_of(variant.name, heat) for variant, heat in zip(chosen, made, strict=True)]
    table = heat_shares_table(shares, groups, context.study.seed, f"Heat maps of all test images, for {words}.")
    click.echo(render_text(table))
    for variant in chosen:
        click.echo(f"maps: {place(store, HeatFiles(variant.name, target.name).maps)}")


def _variants(context: Context, names: Sequence[str]) -> list[Variant]:
    by_name = {variant.name: variant for variant in context.plan.variants}
    for name in names:
        if name not in by_name:
            raise UserError(f"--variant is {name!r}, but should be {one_of(by_name, name)}.")
    return [variant for name, variant in by_name.items() if name in names or not names]


def _check_image(context: Context, image_id: str) -> None:
    if image_id not in context.image_ids:
        near = nearest(image_id, context.image_ids)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise UserError(f"The study of {context.store.where('')} has no image {image_id!r}{hint}.")
    if not any(image_id in ids for ids in context.folds.test_ids().values()):
        raise UserError(f"No fold of the study tests the image {image_id!r}, so every network may have trained on it.")


def _require_pixels(context: Context) -> None:
    missing = why_no_pixels(context)
    if missing:
        raise UserError(
            f"The decoded images of the study are out of reach ({missing}); give their cache with --cache, or do "
            "`cxrdist run` again, which makes them."
        )


def _all(
    context: Context, variants: Sequence[Variant], target: Target, choice: MethodChoice, display: ConsoleDisplay
) -> list[VariantHeat]:
    """Return the heat maps of all test images, and make those that are not kept yet."""
    predictions = collect(context.store, context.plan, context.classes, partial=False)
    made = []
    masks = None
    for variant in variants:
        method = method_of(variant, context.plan.networks[variant.model], choice)
        try:
            heat = read_fresh_heat(context, variant, target, method)
        except DamagedError as error:
            display.say(f"{str(error).partition(';')[0]}: it is made again.")
            heat = None
        if heat is None:
            _require_pixels(context)
            KeptNetworks(context).require([job for job in context.plan.jobs if job.variant == variant])
            masks = lung_masks(context, display.masked) if masks is None else masks
            own = predictions[variant.name]

            def on_progress(done: int, total: int, name: str = variant.name) -> None:
                display.explained(name, done, total)

            heat = make_variant_heat(context, variant, own, target, method, masks, on_progress)
            write_heat(context, variant, target, heat)
        made.append(heat)
    return made


def _draw(
    context: Context, image_ids: Sequence[str], variants: Sequence[Variant], target: Target, choice: MethodChoice
) -> None:
    """Write a picture and the bare map of each image and variant."""
    _require_pixels(context)
    predictions = collect(context.store, context.plan, context.classes, partial=True)
    for variant in variants:
        own = of_images(predictions[variant.name], image_ids) if variant.name in predictions else None
        if own is None or len(own.image_ids) < len(image_ids):
            raise UserError(
                f"{variant.name} has not predicted all of the images that are asked for; `cxrdist run` continues the "
                "study."
            )
        method = method_of(variant, context.plan.networks[variant.model], choice)
        maps = explain_predictions(context, variant, own, target, method)
        files = HeatFiles(variant.name, target.name)
        position = [context.image_ids.index(image_id) for image_id in own.image_ids]
        pixels = seen(context, variant.view, np.array(position, dtype=np.int64))
        for row, image_id in enumerate(own.image_ids):
            heat = heat_map(context, own, target, row, maps[row])
            context.store.write_bytes(files.image(image_id, "npy"), _npy(maps[row]))
            context.store.write_bytes(files.image(image_id, "png"), _picture(pixels[row], heat))
            click.echo(
                f"{image_id}  {variant.name}  {heat.label} {heat.probability:.3f} "
                f"(true: {context.classes[own.truth[row]]})  {place(context.store, files.image(image_id, 'png'))}"
            )


def _picture(pixels: NDArray[np.uint8], heat: HeatMap) -> bytes:
    side = _ENLARGED * len(pixels)
    enlarged = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
    file = io.BytesIO()
    Image.fromarray(overlay(enlarged, heat)).save(file, format="PNG")
    return file.getvalue()


def _npy(values: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()
