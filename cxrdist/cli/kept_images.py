"""The images of a report's figures, kept in the run directory: a later report needs neither the cache nor networks."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxrdist.report.images import HeatMap, ShownImage
from cxrdist.report.results import Results
from cxrdist.report.style import Picture
from cxrdist.report.tables import file_name
from cxrdist.run.artefacts import map_arrow, whole, write_arrow
from cxrdist.run.context import Plan
from cxrdist.run.heat_files import job_marks
from cxrdist.run.heatmaps import in_view
from cxrdist.run.store import Store
from cxrdist.study import layout
from cxrdist.study.fingerprint import fingerprint

_AGAIN = "remove it; a report that finds the decoded images makes it anew"

_FORMAT = 1

_HEAT = pa.list_(
    pa.struct(
        {
            "variant": pa.string(),
            "label": pa.string(),
            "probability": pa.float64(),
            "rows": pa.int32(),
            "values": pa.list_(pa.float32()),
        }
    )
)


def predictions_mark(store: Store, plan: Plan) -> str:
    """Return what names all predictions of a run, and with them which images a report shows, and their heat maps."""
    return fingerprint({"format": _FORMAT, "jobs": job_marks(store, plan.jobs)})


def write_kept_images(store: Store, plan: Plan, images: Sequence[ShownImage]) -> None:
    """Keep the images of a report; those that were kept of other predictions give way."""
    columns: dict[str, pa.Array] = {
        name: pa.array([getattr(image, name) for image in images], pa.string())
        for name in ("image_id", "source", "label")
    }
    columns["pixels"] = _tensor([image.pixels for image in images])
    if all(image.mask is not None for image in images):
        columns["mask"] = _tensor([image.mask for image in images if image.mask is not None])
    columns["heat"] = pa.array([[_plain(name, one) for name, one in image.heat.items()] for image in images], _HEAT)
    table = pa.table(columns).replace_schema_metadata({"predictions": predictions_mark(store, plan)})
    write_arrow(store, layout.SHOWN_IMAGES, table)


def read_kept_images(store: Store, plan: Plan) -> dict[str, ShownImage]:
    """Return the images that an earlier report of the same predictions kept, by id; empty where there are none.

    Raises:
        DamagedError: they are not what was written.
    """
    name = layout.SHOWN_IMAGES
    if not store.exists(name):
        return {}
    table = map_arrow(store.local(name), _AGAIN, where=store.where(name))
    with whole(store.where(name), _AGAIN):
        if (table.schema.metadata or {}).get(b"predictions", b"").decode() != predictions_mark(store, plan):
            return {}
        pixels = _images(table, "pixels")
        masks = _images(table, "mask") if "mask" in table.column_names else None
        views = {variant.view: in_view(pixels, masks, variant.view) for variant in plan.variants}
        words = [table.column(name).to_pylist() for name in ("image_id", "source", "label", "heat")]
        return {
            image_id: ShownImage(
                image_id=image_id,
                source=source,
                label=label,
                pixels=pixels[row],
                mask=None if masks is None else masks[row],
                views={view: grey[row] for view, grey in views.items()},
                heat={one["variant"]: _heat_map(one) for one in heat},
            )
            for row, (image_id, source, label, heat) in enumerate(zip(*words, strict=True))
        }


def kept_pictures(store: Store, results: Results, files: Collection[str]) -> list[Picture]:
    """Return the figures of images that an earlier report drew and that cannot be drawn of these results.

    Args:
        store: the run directory.
        results: of the same predictions, with the images that can be shown now.
        files: what the earlier report wrote.
    """
    explained = {variant for image in results.images.values() for variant in image.heat}
    titles = {} if results.images else {"examples": "Examples of each class"}
    if not explained:
        titles["heat_by_view"] = "Heat maps of all variants"
    for variant in results.present:
        if variant not in explained:
            titles[f"heat_grid_{file_name(variant)}"] = f"Heat maps of {variant}"
        if not results.images:
            titles[f"confident_errors_{file_name(variant)}"] = f"Most confident errors of {variant}"
    caption = "As an earlier report drew it, from images or networks that are out of reach now."
    pictures = []
    for name, title in titles.items():
        own = [f"{layout.REPORT}/figures/{name}.{ending}" for ending in ("svg", "png")]
        if all(file in files and store.exists(file) for file in own):
            svg, png = (store.read_bytes(file) for file in own)
            pictures.append(Picture(name=name, title=title, caption=caption, alternative=title, svg=svg, png=png))
    return pictures


def _tensor(images: Sequence[NDArray[np.uint8]]) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(np.stack(images)))


def _images(table: pa.Table, name: str) -> NDArray[np.uint8]:
    # A copy: torch takes no arrays that cannot be written.
    return np.array(table.column(name).combine_chunks().to_numpy_ndarray())


def _plain(variant: str, heat: HeatMap) -> dict[str, Any]:
    values = heat.values.astype(np.float32)
    return {
        "variant": variant,
        "label": heat.label,
        "probability": heat.probability,
        "rows": len(values),
        "values": values.ravel(),
    }


def _heat_map(plain: Mapping[str, Any]) -> HeatMap:
    values = np.array(plain["values"], dtype=np.float32).reshape(plain["rows"], -1)
    return HeatMap(values, plain["label"], plain["probability"])
