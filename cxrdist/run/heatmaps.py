"""Heat maps of a study: the network of the fold that tested an image explains it, never one that trained on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import nn

from cxrdist.cohort.packing import PackedMasks
from cxrdist.errors import CxrdistError, UserError, first_few, one_of
from cxrdist.learn.heatmaps import Method, enlarge, has_cam, heat_maps, mass_inside
from cxrdist.learn.models import Classifier, build_head, build_trunk
from cxrdist.learn.sources import ImageSource
from cxrdist.learn.views import apply_view
from cxrdist.learn.weights import IMAGENET, find_weights, hash_weights, load_trunk, read_state_dict
from cxrdist.lungs.segmenter import LungWeights
from cxrdist.run.context import Context, SelectedRows
from cxrdist.run.jobs import weights_file
from cxrdist.run.masks import network_masks
from cxrdist.run.results import files_of, read_mark
from cxrdist.study.folds import Part
from cxrdist.study.layout import JobFiles
from cxrdist.study.outoffold import OutOfFold
from cxrdist.study.plan import FoldJob, Variant
from cxrdist.study.recipe import Network, ViewName

MethodChoice = Literal["auto", "cam", "gradcam"]

_NETWORK_AGAIN = "start the run again, which trains it anew, or remove it to do without"

PREDICTED = "predicted"
TRUE = "true"

BATCH = 32
"""Fixed, so that the same images give the same maps."""


@dataclass(frozen=True)
class Target:
    """Which class of each image is explained: the predicted one, the true one, or one for all."""

    kind: str
    """`PREDICTED`, `TRUE`, or `class-N` of the class number N."""
    label: int | None = None
    """The one class for all."""

    @staticmethod
    def find(word: str, classes: Sequence[str]) -> "Target":
        """Return what a word of the command line means.

        Raises:
            UserError: it means nothing.
        """
        if word in (PREDICTED, TRUE):
            return Target(word)
        if word in classes:
            return Target(f"class-{list(classes).index(word)}", list(classes).index(word))
        raise UserError(f"--class is {word!r}, but should be {one_of([PREDICTED, TRUE, *classes], word)}.")

    def of(self, predictions: OutOfFold) -> NDArray[np.int64]:
        """Return the class of each predicted image: [n]."""
        if self.label is not None:
            return np.full(len(predictions.truth), self.label, dtype=np.int64)
        return predictions.truth if self.kind == TRUE else predictions.predicted

    @property
    def name(self) -> str:
        """What files are named by, as `HeatFiles` takes it."""
        return "" if self.kind == PREDICTED else self.kind


def method_of(variant: Variant, network: Network, choice: MethodChoice) -> Method:
    """Return how a network is explained: by CAM where its head allows that, else by Grad-CAM, or as it was chosen.

    Raises:
        UserError: CAM was chosen for a head that has none.
    """
    with torch.device("meta"):
        cam = has_cam(build_head(network, seed=0, fold=0))
    if choice == "cam" and not cam:
        raise UserError(
            f"--method is cam, but {variant.name} has none, since its head is more than global average pooling and one "
            "linear layer; use gradcam, or auto."
        )
    return "cam" if cam and choice != "gradcam" else "gradcam"


class NoNetworkError(UserError):
    """Fold jobs whose networks were not kept."""


class KeptNetworks:
    """The trained networks of a run, read from its fold jobs; a frozen trunk, which folds share, is made once."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._trunks: dict[str, nn.Module] = {}

    def require(self, jobs: Sequence[FoldJob]) -> None:
        """Refuse to begin where a network is missing.

        Raises:
            NoNetworkError: fold jobs have none.
        """
        store = self._context.store
        missing = [job.key for job in jobs if not store.exists(JobFiles(job.key).model)]
        if missing:
            raise NoNetworkError(
                f"{len(missing)} of {len(jobs)} fold jobs have no network to explain ({first_few(missing)}): they were "
                "trained with execution.keep_models: false, or taken over by an audit; remove their folders in "
                f"{store.where('jobs')} and run the study again with execution.keep_models: true."
            )

    def load(self, job: FoldJob) -> Classifier:
        """Return the classifier of a fold job on the context's device.

        Raises:
            DamagedError: it is not what was written.
            UserError: it was not kept, is not this job's, or the weights that its trunk starts from have changed.
        """
        self.require([job])
        context = self._context
        path = context.store.local(JobFiles(job.key).model)
        mark = read_mark(context.store, job)
        if mark is not None:
            files = files_of(context.store, mark)
            replace(files, remedy=_NETWORK_AGAIN).check_file(JobFiles(job.key).model, path)
        network, _ = context.plan.trained(job)
        with torch.device("meta"):
            head = build_head(network, context.study.seed, job.fold)
            trunk = build_trunk(network.model, context.study.seed)
        is_frozen = network.transfer == "frozen"
        classifier = Classifier(self._frozen_trunk(job.variant) if is_frozen else trunk, head)
        state = read_state_dict(path)
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("fingerprint") != job.fingerprint:
                    raise ValueError("of another fold job")
            (head if is_frozen else classifier).load_state_dict(state, assign=True)
        except (SafetensorError, RuntimeError, ValueError):
            raise UserError(
                f"{path} is not the network of {job.key} as it is planned now; remove the folder and run the study "
                "again."
            ) from None
        return classifier.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def _frozen_trunk(self, variant: Variant) -> nn.Module:
        model = variant.model
        if model not in self._trunks:
            context = self._context
            path = weights_file(context, model)
            if path is not None and not path.is_file():
                # As on another machine.
                if context.study.model.weights != IMAGENET:
                    raise UserError(
                        f"The weight file {path}, which the networks of {model} start from, is not there; put it, or a "
                        "link to it, there again."
                    )
                path = find_weights(IMAGENET, model, fetches=False)
            if hash_weights(path) != context.plan.networks[model].weights_hash:
                raise UserError(f"The weight file {path} has changed since the networks of {model} were trained on it.")
            trunk = build_trunk(model, context.study.seed)
            if path is not None:
                load_trunk(trunk, model, path)
            self._trunks[model] = trunk
        return self._trunks[model]


def explain(
    context: Context,
    job: FoldJob,
    classifier: Classifier,
    rows: NDArray[np.int64],
    classes: NDArray[np.int64],
    method: Method,
    on_batch: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Return heat maps of images by the network of a fold job.

    Args:
        context: of the study.
        job: whose network it is.
        classifier: the network.
        rows: [n] of the cohort, at least one, all of the fold's test part.
        classes: [n], the class that each map is of.
        method: CAM or Grad-CAM.
        on_batch: told how many images each batch had.

    Returns:
        [n, h, w] of the layer that is explained, in the logit's units and the geometry of the variant's view.

    Raises:
        ValueError: the fold did not test an image.
    """
    if not np.isin(rows, context.folds.rows(job.fold, Part.TEST)).all():
        raise ValueError(f"{job.key} is asked to explain images that it did not test")
    source = ImageSource(context.images, context.masks, job.variant.view, context.device)
    parts = []
    for start in range(0, len(rows), BATCH):
        part = slice(start, start + BATCH)
        images = source.batch(torch.from_numpy(rows[part]))
        made = heat_maps(classifier, job.variant.model, images, torch.from_numpy(classes[part]), method)
        parts.append(made.maps.cpu().numpy())
        if on_batch is not None:
            on_batch(len(images))
    return np.concatenate(parts)


def explain_predictions(
    context: Context,
    variant: Variant,
    predictions: OutOfFold,
    target: Target,
    method: Method,
    on_batch: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Return the heat map of each prediction of a variant by the network that made it: [n, h, w], see `explain`.

    Raises:
        UserError: a network was not kept, or is another one.
    """
    networks = KeptNetworks(context)
    position = {image_id: row for row, image_id in enumerate(context.image_ids)}
    rows = np.array([position[image_id] for image_id in predictions.image_ids], dtype=np.int64)
    classes = target.of(predictions)
    jobs = [job for job in context.plan.jobs if job.variant == variant and job.fold in predictions.fold]
    networks.require(jobs)
    order, parts = [], []
    for job in jobs:
        own = np.flatnonzero(predictions.fold == job.fold)
        order.append(own)
        parts.append(explain(context, job, networks.load(job), rows[own], classes[own], method, on_batch))
    maps = np.concatenate(parts)
    return maps[np.argsort(np.concatenate(order))]


def of_images(predictions: OutOfFold, image_ids: Sequence[str]) -> OutOfFold:
    """Return the predictions of these images, in their order; an image without one is left out."""
    position = {image_id: row for row, image_id in enumerate(predictions.image_ids)}
    there = [image_id for image_id in image_ids if image_id in position]
    rows = np.array([position[image_id] for image_id in there], dtype=np.int64)
    return OutOfFold(
        predictions.variant, there, predictions.truth[rows], predictions.probabilities[rows], predictions.fold[rows]
    )


def why_no_pixels(context: Context) -> str:
    """Return why the decoded images, or the run's masks if it has any, cannot be had; empty where they can.

    They are those of the run: a cache that holds others under their name does not count.
    """
    try:
        if context.shards.pixels_hash != context.plan.pixels:
            return f"{context.shards.folder} holds others"
        # They are opened when they are asked for.
        _ = context.masks
    except CxrdistError as error:
        # Shards that cannot be read, or an object store that refuses or does not answer.
        return str(error).removesuffix(".")
    except (OSError, pa.ArrowException, ValueError) as error:
        return str(error).partition(". Detail")[0]
    return ""


def lung_masks(context: Context, on_progress: Callable[[int, int], None] | None = None) -> SelectedRows:
    """Return the run's lung masks by row of the cohort, or those of the lung network where no view needed any."""
    if context.masks is not None:
        return context.masks
    packed = network_masks(
        context.shards,
        LungWeights.find(context.study.lungs.weights),
        context.cache,
        device=context.device,
        on_progress=on_progress,
    )
    return context.by_row(PackedMasks(packed, context.shards.pixels.side))


def mask_in_view(masks: NDArray[np.uint8], view: ViewName) -> NDArray[np.uint8]:
    """Return masks [n, s, s] of 0 and 1 as they lie in a view, which for `lung_box` is stretched."""
    if view != "lung_box":
        return masks
    mask = torch.from_numpy(masks)
    return np.asarray((apply_view(255 * mask, mask, view) >= 128).to(torch.uint8).numpy())


def seen(context: Context, view: ViewName, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return what a network sees of images in a view: grey [n, s, s]."""
    return in_view(context.images.take(rows), None if context.masks is None else context.masks.take(rows), view)


def in_view(grey: NDArray[np.uint8], masks: NDArray[np.uint8] | None, view: ViewName) -> NDArray[np.uint8]:
    """Return what a network sees in a view of images [n, s, s] with masks [n, s, s] of 0 and 1: grey [n, s, s]."""
    if view == "whole" or masks is None:
        return grey
    return np.asarray(apply_view(torch.from_numpy(grey), torch.from_numpy(masks), view).numpy())


def shares_inside(
    maps: NDArray[np.float32], masks: SelectedRows, view: ViewName, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how much of the mass of maps [n, h, w] lies in the lungs, and how much of the view is lung: [n] each.

    The first is NaN where a map has no mass.
    """
    inside, area = np.empty(len(rows)), np.empty(len(rows))
    for start in range(0, len(rows), BATCH):
        part = slice(start, start + BATCH)
        mask = mask_in_view(masks.take(rows[part]), view)
        enlarged = enlarge(torch.from_numpy(maps[part]), mask.shape[1])
        inside[part] = mass_inside(enlarged, torch.from_numpy(mask)).numpy()
        area[part] = mask.mean(axis=(1, 2), dtype=np.float64)
    return inside, area
