"""The heat maps of all test images of a variant, kept in a file that knows what it was made from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from cxrdist.errors import UserError
from cxrdist.learn.heatmaps import Method
from cxrdist.lungs.segmenter import LungWeights
from cxrdist.run.artefacts import map_arrow, whole, write_arrow
from cxrdist.run.context import Context, Plan, SelectedRows
from cxrdist.run.heatmaps import Target, explain_predictions, shares_inside
from cxrdist.run.results import files_of, read_mark
from cxrdist.run.store import Store
from cxrdist.study.fingerprint import Json, fingerprint
from cxrdist.study.layout import HeatFiles
from cxrdist.study.outoffold import OutOfFold
from cxrdist.study.plan import FoldJob, Variant

HEAT_AGAIN = "remove it; `cxrdist heatmaps` makes it anew"

_FORMAT = 1
"""Raised whenever the code changes what the same networks and images give."""


@dataclass(frozen=True)
class VariantHeat:
    """Heat maps of a variant's test images."""

    method: Method
    image_ids: Sequence[str]
    fold: NDArray[np.int64]
    """[n], whose network explains the image."""
    labels: Sequence[str]
    """[n], the class that is explained."""
    probability: NDArray[np.float64]
    """[n], that the network gives to this class."""
    maps: NDArray[np.float32]
    """[n, h, w], as `explain` makes them."""
    inside: NDArray[np.float64]
    """[n], share of the map's mass in the lungs; NaN where it has none."""
    area: NDArray[np.float64]
    """[n], share of the view that is lung."""


def make_variant_heat(
    context: Context,
    variant: Variant,
    predictions: OutOfFold,
    target: Target,
    method: Method,
    masks: SelectedRows,
    on_progress: Callable[[int, int], None] | None = None,
) -> VariantHeat:
    """Explain all predictions of a variant, each by its own fold's network.

    Raises:
        UserError: a network was not kept.
    """
    done = 0

    def count(images: int) -> None:
        nonlocal done
        done += images
        if on_progress is not None:
            on_progress(done, len(predictions.image_ids))

    maps = explain_predictions(context, variant, predictions, target, method, count)
    position = {image_id: row for row, image_id in enumerate(context.image_ids)}
    rows = np.array([position[image_id] for image_id in predictions.image_ids], dtype=np.int64)
    inside, area = shares_inside(maps, masks, variant.view, rows)
    classes = target.of(predictions)
    return VariantHeat(
        method=method,
        image_ids=predictions.image_ids,
        fold=predictions.fold,
        labels=[context.classes[label] for label in classes],
        probability=predictions.probabilities[np.arange(len(rows)), classes],
        maps=maps,
        inside=inside,
        area=area,
    )


def write_heat(context: Context, variant: Variant, target: Target, heat: VariantHeat) -> None:
    """Keep a variant's heat maps in half precision, each divided by its largest magnitude, which is kept beside."""
    scale = np.abs(heat.maps).max(axis=(1, 2))
    scaled = heat.maps / np.where(scale > 0, scale, 1)[:, None, None]
    table = pa.table(
        {
            "image_id": pa.array(heat.image_ids, pa.string()),
            "fold": pa.array(heat.fold, pa.int32()),
            "label": pa.array(heat.labels, pa.string()),
            "probability": pa.array(heat.probability, pa.float64()),
            "map": pa.FixedShapeTensorArray.from_numpy_ndarray(scaled.astype(np.float16)),
            "scale": pa.array(scale, pa.float32()),
            "inside": pa.array(heat.inside, pa.float64()),
            "area": pa.array(heat.area, pa.float64()),
        }
    )
    masks = _mask_name(context)
    made_from = _made_from(context, variant, target, heat.method, masks)
    metadata = {
        "method": heat.method,
        "variant": variant.name,
        "class": target.kind,
        "masks": masks,
        "fingerprint": made_from,
    }
    write_arrow(context.store, HeatFiles(variant.name, target.name).maps, table.replace_schema_metadata(metadata))


def read_fresh_heat(
    context: Context, variant: Variant, target: Target, method: Method | None = None
) -> VariantHeat | None:
    """Return a variant's kept heat maps.

    None where there are none, they were made by another method than `method`, where that is given, or from other
    networks or masks than the run's.

    Raises:
        DamagedError: they are not what was written.
    """
    name = HeatFiles(variant.name, target.name).maps
    if not context.store.exists(name):
        return None
    table = map_arrow(context.store.local(name), HEAT_AGAIN, where=context.store.where(name))
    with whole(context.store.where(name), HEAT_AGAIN):
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        made_by: Method = "cam" if metadata["method"] == "cam" else "gradcam"
        if metadata.get("variant", variant.name) != variant.name or metadata["class"] != target.kind:
            raise ValueError("holds the heat maps of another variant or class")
        if method not in (None, made_by):
            return None
        try:
            masks = _mask_name(context)
        except UserError:
            # The weights of the lung network are out of reach, so they did not change either.
            masks = metadata["masks"]
        if metadata["fingerprint"] != _made_from(context, variant, target, made_by, masks):
            return None
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        scale = columns["scale"].to_numpy()[:, None, None]
        return VariantHeat(
            method=made_by,
            image_ids=columns["image_id"].to_pylist(),
            fold=columns["fold"].to_numpy().astype(np.int64),
            labels=columns["label"].to_pylist(),
            probability=columns["probability"].to_numpy(),
            maps=columns["map"].to_numpy_ndarray().astype(np.float32) * scale,
            inside=columns["inside"].to_numpy(),
            area=columns["area"].to_numpy(),
        )


def heat_marks(store: Store, plan: Plan) -> dict[str, str]:
    """Return of each variant's kept heat maps of the predicted classes what they were made from."""
    marks = {}
    for variant in plan.variants:
        name = HeatFiles(variant.name).maps
        if store.exists(name):
            table = map_arrow(store.local(name), HEAT_AGAIN, where=store.where(name), verify=False)
            with whole(store.where(name), HEAT_AGAIN):
                marks[variant.name] = (table.schema.metadata or {})[b"fingerprint"].decode()
    return marks


def job_marks(store: Store, jobs: Sequence[FoldJob]) -> dict[str, Json]:
    """Return by fold job what its predictions are named by, whatever machine made them.

    Raises:
        DamagedError: the mark of one is not what was written.
    """
    marks = {job: read_mark(store, job) for job in jobs}
    return {
        job.key: [job.fingerprint, None if mark is None else files_of(store, mark).hashes.get("predictions.parquet")]
        for job, mark in marks.items()
    }


def _made_from(context: Context, variant: Variant, target: Target, method: Method, masks: str) -> str:
    """Return the hash of everything that can change a variant's heat maps, and their shares in the lungs."""
    marks = job_marks(context.store, [job for job in context.plan.jobs if job.variant == variant])
    return fingerprint({"format": _FORMAT, "jobs": marks, "class": target.kind, "method": method, "masks": masks})


def _mask_name(context: Context) -> str:
    """Return what names the masks that `lung_masks` gives, wherever they are made."""
    if context.plan.masks is not None:
        return Path(context.plan.masks).stem
    return LungWeights.find(context.study.lungs.weights).key("fp32", torch.device("cpu"))
