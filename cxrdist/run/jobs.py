"""Doing one unit of work: a fold job, or some images through a frozen trunk."""

import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cxrdist.learn.checkpoint import history_lines, load_progress, save_progress
from cxrdist.learn.features import extract_features, head_pools
from cxrdist.learn.memory import has_room
from cxrdist.learn.models import TRUNK_CHANNELS, build_classifier, build_head, build_trunk, feature_shape
from cxrdist.learn.ranks import ALONE, Ranks
from cxrdist.learn.sources import FeatureSource, ImageSource, MappedFeatureSource, Source
from cxrdist.learn.train import Epoch, OnEpoch, Progress, computed_precision, fit, predict
from cxrdist.learn.weights import load_trunk
from cxrdist.run.artefacts import Noted, write_arrow
from cxrdist.run.computing import machine_facts
from cxrdist.run.context import FEATURES_MADE_BY, Context, Inputs, feature_file
from cxrdist.run.tracking import Tracker
from cxrdist.study.folds import Part
from cxrdist.study.layout import JobFiles
from cxrdist.study.plan import FeatureJob, FoldJob, Variant
from cxrdist.study.recipe import Network
from cxrdist.study.seeds import derive_seed

EpochListener = Callable[[Epoch], None]


def do_fold_job(
    context: Context,
    job: FoldJob,
    lane: str,
    tracker: Tracker,
    on_epoch: EpochListener,
    note: Callable[[str], None],
    ranks: Ranks = ALONE,
) -> None:
    """Train one variant on one fold and write its predictions; continue where an earlier attempt stopped.

    Of several ranks this is the first; the others do `follow_fold_job`.

    Args:
        context: of the study.
        job: what is done.
        lane: who does it.
        tracker: follows it.
        on_epoch: told of each epoch.
        note: told what the user should know, a sentence each.
        ranks: who do it together.

    Raises:
        DivergedError: the loss stopped being finite.
    """
    store, files = context.store, JobFiles(job.key)
    _, recipe = context.plan.trained(job)
    store.remove_leftovers(files.folder)
    store.remove(files.done, files.ended, files.validation, files.model)
    started = last_checkpoint = time.monotonic()
    where = store.where(files.checkpoint)
    progress = _checkpoint(context, job, lambda: note(f"{where} is damaged: {job.key} starts anew."))
    if progress:
        tracker.resume(len(progress.history))
    made_by = _made_by(context, job, continues=progress is not None)
    _write_progress(context, job, lane, progress.history if progress else [], made_by)

    def after_epoch(epoch: Epoch, snapshot: Callable[[], Progress[Epoch]]) -> None:
        nonlocal last_checkpoint
        state = snapshot()
        due = time.monotonic() - last_checkpoint >= context.study.execution.checkpoint_seconds
        if due and epoch.epoch < recipe.epochs:
            store.write_file(files.checkpoint, lambda path: save_progress(path, state, job.fingerprint))
            last_checkpoint = time.monotonic()
        _write_progress(context, job, lane, state.history, made_by)
        tracker.log(epoch.epoch, asdict(epoch))
        on_epoch(epoch)

    trained = _train(context, job, ranks, progress, after_epoch)
    history, probabilities = trained.history, trained.probabilities[Part.TEST]
    test = torch.from_numpy(context.folds.rows(job.fold, Part.TEST))
    predictions, of_validation = (
        _predictions(context, job, torch.from_numpy(context.folds.rows(job.fold, part)), trained.probabilities[part])
        for part in (Part.TEST, Part.VALIDATION)
    )
    written = Noted(store)
    if context.study.execution.keep_models:
        weights = {key: value.detach().cpu().contiguous() for key, value in trained.model.state_dict().items()}
        metadata = {"fingerprint": job.fingerprint}
        written.write_file(files.model, lambda path: save_file(weights, path, metadata=metadata))
    written.write_bytes(files.history, history_lines(history))
    written.write_bytes(files.validation, of_validation)
    written.write_bytes(files.predictions, predictions)
    right = probabilities.argmax(1) == context.labels[test]
    store.write_json(
        files.done,
        {
            "fingerprint": job.fingerprint,
            "artefacts": written.hashes,
            "epochs": len(history),
            "accuracy": right.double().mean().item(),
            "seconds": round(sum(epoch.seconds for epoch in history), 3),
            "overhead_seconds": round(time.monotonic() - started - sum(e.seconds for e in history), 3),
            "lane": lane,
            "ranks": ranks.size,
            **made_by,
            "features": context.features_made_by(job.variant),
        },
    )
    store.remove(files.checkpoint)


def follow_fold_job(context: Context, job: FoldJob, ranks: Ranks) -> None:
    """Do this rank's part of a fold job that the first rank leads; write and report nothing.

    Raises:
        DivergedError: the loss stopped being finite.
    """
    _train(context, job, ranks, _checkpoint(context, job, lambda: None), None)


@dataclass(frozen=True)
class _Trained:
    """What became of a fold job's network."""

    model: nn.Module
    history: list[Epoch]
    probabilities: dict[Part, Tensor]
    """Of the test and of the validation part."""


def _train(
    context: Context, job: FoldJob, ranks: Ranks, progress: Progress[Epoch] | None, on_epoch: OnEpoch | None
) -> _Trained:
    network, recipe = context.plan.trained(job)
    rows = {part: torch.from_numpy(context.folds.rows(job.fold, part)) for part in Part}
    model, source = model_and_source(
        context, job.variant, network, torch.cat(list(rows.values())), seed=context.study.seed, fold=job.fold
    )
    history = fit(
        model,
        source,
        context.labels,
        rows[Part.TRAINING],
        rows[Part.VALIDATION],
        recipe,
        seed=context.study.seed,
        stream=(job.variant.name, job.fold),
        device=context.device,
        ranks=ranks,
        progress=progress,
        on_epoch=on_epoch,
    )
    tested = (Part.TEST, Part.VALIDATION)
    return _Trained(
        model, history, {part: predict(model, source, rows[part], recipe, context.device, ranks) for part in tested}
    )


def _checkpoint(context: Context, job: FoldJob, on_damage: Callable[[], None]) -> Progress[Epoch] | None:
    return load_progress(context.store.local(JobFiles(job.key).checkpoint), job.fingerprint, Epoch, on_damage)


def do_feature_job(context: Context, unit: FeatureJob) -> None:
    """Pass some images through a frozen trunk and keep what comes out, unless it is there already."""
    name = feature_file(unit)
    if context.cache.exists(name):
        return
    network = context.plan.networks[unit.variant.model]
    trunk = build_trunk(network.model, context.study.seed)
    load_given_weights(context, trunk, unit.variant)
    rows = torch.arange(unit.start, unit.stop)
    source = ImageSource(context.images, context.masks, unit.variant.view, context.device)
    trunk = trunk.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    features = extract_features(trunk, source, rows, pooled=head_pools(network))
    # Flat, since Arrow takes the order of dimensions from strides, and those of size one have any.
    table = pa.table({"features": pa.FixedShapeTensorArray.from_numpy_ndarray(features.flatten(1).numpy())})
    # Whoever uses them may compute otherwise; the number of threads does not change their bytes.
    facts = machine_facts(context.device)
    made_by = json.dumps({key: facts[key] for key in ("device", "cpu", "torch")})
    write_arrow(context.cache, name, table.replace_schema_metadata({FEATURES_MADE_BY: made_by}))


def model_and_source(
    inputs: Inputs, variant: Variant, network: Network, rows: Tensor, *, seed: int, fold: int
) -> tuple[nn.Module, Source]:
    """Return a new network, or the head alone where its trunk is frozen, and what feeds it.

    Args:
        inputs: of the run directory.
        variant: what is trained.
        network: how it is built.
        rows: int64 [n], the only rows that will be asked for.
        seed: the new weights are drawn from it, and from the model's name.
        fold: the head's, too.
    """
    if network.transfer == "frozen":
        head = build_head(network, seed, fold).to(inputs.device)
        shape = (TRUNK_CHANNELS[network.model], 1, 1) if head_pools(network) else feature_shape(network)
        features = inputs.features_of(variant)
        if not has_room(features.nbytes, inputs.device):
            return head, MappedFeatureSource(features, shape, inputs.device)
        every = torch.from_numpy(features.take(np.arange(len(features))))
        return head, FeatureSource(every.view(-1, *shape), inputs.device)
    classifier = build_classifier(network, seed, fold)
    load_given_weights(inputs, classifier.trunk, variant)
    images = ImageSource(inputs.images, inputs.masks, variant.view, inputs.device)
    size = len(rows) * inputs.shards.pixels.side**2
    if inputs.device.type == "cuda" and has_room(size, inputs.device):
        images.make_resident(np.sort(rows.numpy()))
    return classifier.to(inputs.device, memory_format=torch.channels_last), images  # type: ignore[call-overload]


def load_given_weights(inputs: Inputs, trunk: nn.Module, variant: Variant) -> None:
    """Fill a trunk with the weights that the study starts from; random ones stay as they were drawn."""
    path = weights_file(inputs, variant.model)
    if path is not None:
        load_trunk(trunk, variant.model, path)


def weights_file(inputs: Inputs, model: str) -> Path | None:
    """Return the file of the weights that the study's networks of a model start from; None for random ones."""
    name = inputs.plan.weights[model]
    return None if name is None else inputs.cache.local(name)


def _made_by(context: Context, job: FoldJob, *, continues: bool) -> dict[str, Any]:
    """Say what computes a fold job, and what did `before`, where a checkpoint of another machine is continued."""
    _, recipe = context.plan.trained(job)
    now = {**machine_facts(context.device), "precision": computed_precision(recipe, context.device)}
    earlier = context.store.read_json(JobFiles(job.key).progress) or {}
    before = [*earlier.get("before", []), *([earlier["machine"]] if "machine" in earlier else [])] if continues else []
    return {"machine": now, "before": [one for one in before if one != now]}


def _write_progress(context: Context, job: FoldJob, lane: str, history: list[Epoch], made_by: dict[str, Any]) -> None:
    files = JobFiles(job.key)
    context.store.write_bytes(files.history, history_lines(history))
    context.store.write_json(
        files.progress,
        {
            "fingerprint": job.fingerprint,
            "epoch": len(history),
            "epochs": context.plan.trained(job)[1].epochs,
            "seconds": round(sum(epoch.seconds for epoch in history), 3),
            "lane": lane,
            **made_by,
        },
    )


def _predictions(context: Context, job: FoldJob, rows: Tensor, probabilities: Tensor) -> bytes:
    """Return the Parquet bytes of one part's predictions, the same bytes for the same numbers."""
    index = rows.tolist()
    labels = context.labels[rows].tolist()
    columns: dict[str, pa.Array] = {
        "image_id": pa.array([context.image_ids[row] for row in index], pa.string()),
        "variant": pa.array([job.variant.name] * len(index), pa.string()),
        "fold": pa.array([job.fold] * len(index), pa.int32()),
        "truth": pa.array([context.classes[label] for label in labels], pa.string()),
    }
    for number, name in enumerate(context.classes):
        columns[f"p_{name}"] = pa.array(probabilities[:, number].numpy(), pa.float64())
    metadata = {"cohort": context.plan.cohort, "fingerprint": job.fingerprint, "classes": json.dumps(context.classes)}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), sink, compression="zstd")
    return sink.getvalue()


def tracking_id(context: Context, job: FoldJob) -> str:
    """Return a stable id of a fold job for trackers: resumption continues it, another recipe starts another."""
    return f"{derive_seed(0, context.study.name, job.key, job.fingerprint):016x}"
