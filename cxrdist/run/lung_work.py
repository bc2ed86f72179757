"""The units of a lung network's training: one fold, or all, from decoded images to scores of held-out ones."""

import functools
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn

from cxrdist.cohort.shards import ShardSet
from cxrdist.learn.checkpoint import history_lines, load_progress, save_progress
from cxrdist.learn.train import Progress
from cxrdist.lungs.inputs import SIDE, equalized, find_frame, framed
from cxrdist.lungs.network import build_lung_net
from cxrdist.lungs.normalization import folded, with_normalization
from cxrdist.lungs.segmenter import Segmenter, load_lung_net, save_lung_net
from cxrdist.lungs.targets import IGNORED, LUNG, without_heart
from cxrdist.lungs.train import LungEpoch, LungExamples, LungsDivergedError, fit_lungs
from cxrdist.run.artefacts import Noted
from cxrdist.run.board import BoardClient
from cxrdist.run.computing import machine_facts
from cxrdist.run.lane import UnitDivergedError
from cxrdist.run.lung_plan import FINAL, LungJob, LungPlan, MaskedSet, read_lung_plan
from cxrdist.run.store import Store
from cxrdist.stats.overlap import measure_overlap
from cxrdist.study.layout import JobFiles
from cxrdist.study.queue import State

HELD_OUT = "held out"
"""The `tested_on` of images of held-out patients; other sets go by their names."""

_SCORED_AT_ONCE = 64
_NORMALIZED_AS_BEFORE = 16
"""Images by which a known network's channels are measured before normalisation."""


class LungWorkload:
    """Does the jobs of a `LungPlan`."""

    def __init__(self, store: Store, device: torch.device) -> None:
        self._store = store
        self._device = device
        self._plan = read_lung_plan(store)

    def do(self, board: BoardClient, lane: str, key: str) -> None:
        """Train and test one network; continue where an earlier attempt stopped.

        Raises:
            UnitDivergedError: the loss stopped being finite.
        """
        job = next(job for job in self._plan.jobs if job.key == key)

        def on_epoch(epoch: LungEpoch) -> None:
            measures = tuple((name, float(value)) for name, value in asdict(epoch).items() if name != "epoch")
            share = self._plan.recipe.share_done(epoch.epoch)
            board.epoch(lane, key, epoch.epoch, (*measures, ("share", share)))

        try:
            _do(self._store, self._plan, job, lane, self._device, on_epoch, lambda text: board.note(lane, text))
        except LungsDivergedError as error:
            end = {"fingerprint": job.fingerprint, "state": str(State.DIVERGED), "reason": str(error)}
            self._store.write_json(JobFiles(key).ended, end)
            raise UnitDivergedError(str(error)) from error


def _do(
    store: Store,
    plan: LungPlan,
    job: LungJob,
    lane: str,
    device: torch.device,
    on_epoch: Callable[[LungEpoch], None],
    note: Callable[[str], None],
) -> None:
    files, recipe = JobFiles(job.key), plan.computed_recipe
    store.remove_leftovers(files.folder)
    store.remove(files.done, files.ended)
    started = last_checkpoint = time.monotonic()
    examples = load_examples(plan.sets[0], job.training, plan.with_heart)
    standard = examples.standard()
    network = build_lung_net(plan.seed) if plan.init is None else load_lung_net(Path(plan.init))[0]
    trained: nn.Module = network
    if recipe.normalization == "batch":
        known = examples.images[:_NORMALIZED_AS_BEFORE]
        trained = with_normalization(
            network, None if plan.init is None else standard.apply(np.stack([equalized(image) for image in known]))
        )
    trained = trained.to(device)

    def after_epoch(epoch: LungEpoch, snapshot: Callable[[], Progress[LungEpoch]]) -> None:
        nonlocal last_checkpoint
        state = snapshot()
        due = time.monotonic() - last_checkpoint >= plan.checkpoint_seconds
        if due and epoch.epoch < recipe.epochs:
            store.write_file(files.checkpoint, lambda path: save_progress(path, state, job.fingerprint))
            last_checkpoint = time.monotonic()
        _write_progress(store, job, lane, recipe.epochs, state.history)
        on_epoch(epoch)

    where = store.where(files.checkpoint)
    progress = load_progress(
        store.local(files.checkpoint),
        job.fingerprint,
        LungEpoch,
        lambda: note(f"{where} is damaged: {job.key} starts anew."),
    )
    _write_progress(store, job, lane, recipe.epochs, progress.history if progress else [])
    history = fit_lungs(
        trained,
        examples,
        standard,
        recipe,
        seed=plan.seed,
        stream=job.key,
        device=device,
        progress=progress,
        on_epoch=after_epoch,
    )
    kept = folded(trained) if recipe.normalization == "batch" else network
    written = Noted(store)
    written.write_file(files.model, lambda path: save_lung_net(path, kept, standard, job.fingerprint))
    # As it was written: what is tested is what others will use.
    segmenter = Segmenter.load(store.local(files.model), device, recipe.precision)
    tested: list[tuple[str, MaskedSet, Sequence[int]]] = [(HELD_OUT, plan.sets[0], job.held_out)]
    if job.key == FINAL:
        tested += [(one.name, one, range(len(one.image_ids))) for one in plan.sets[1:]]
    scores = _scores(segmenter, tested, plan.with_heart)
    written.write_bytes(files.history, history_lines(history))
    written.write_bytes(files.predictions, scores)
    store.write_json(
        files.done,
        {
            "fingerprint": job.fingerprint,
            "artefacts": written.hashes,
            "epochs": len(history),
            "seconds": round(sum(epoch.seconds for epoch in history), 3),
            "overhead_seconds": round(time.monotonic() - started - sum(e.seconds for e in history), 3),
            "lane": lane,
            "machine": machine_facts(device),
        },
    )
    store.remove(files.checkpoint)


def _write_progress(store: Store, job: LungJob, lane: str, epochs: int, history: Sequence[LungEpoch]) -> None:
    files = JobFiles(job.key)
    store.write_bytes(files.history, history_lines(history))
    seconds = round(sum(epoch.seconds for epoch in history), 3)
    progress = {
        "fingerprint": job.fingerprint,
        "epoch": len(history),
        "epochs": epochs,
        "seconds": seconds,
        "lane": lane,
    }
    store.write_json(files.progress, progress)


def load_examples(masked: MaskedSet, rows: Sequence[int], with_heart: Sequence[str]) -> LungExamples:
    """Return images and targets of some rows of a set, cut to their frames."""
    shards, positions = _open(masked, rows)
    images = np.empty((len(rows), SIDE, SIDE), dtype=np.uint8)
    targets = np.empty_like(images)
    for number, (row, image, mask) in enumerate(
        zip(rows, shards.take(positions), shards.take_masks(positions), strict=True)
    ):
        frame = find_frame(image)
        images[number] = framed(image, frame)
        inside = (framed(mask * np.uint8(255), frame) >= 128).astype(np.uint8)
        targets[number] = without_heart(inside) if masked.sources[row] in with_heart else inside
    return LungExamples([masked.image_ids[row] for row in rows], images, targets)


def _scores(
    segmenter: Segmenter, tested: Sequence[tuple[str, MaskedSet, Sequence[int]]], with_heart: Sequence[str]
) -> bytes:
    """Return the Parquet bytes of each tested image's counts of pixels."""
    columns: dict[str, list[str] | list[int]] = {}

    def extend(name: str, values: list[str] | list[int]) -> None:
        columns.setdefault(name, []).extend(values)  # type: ignore[arg-type]

    for name, masked, rows in tested:
        for start in range(0, len(rows), _SCORED_AT_ONCE):
            part = rows[start : start + _SCORED_AT_ONCE]
            shards, positions = _open(masked, part)
            truth = shards.take_masks(positions)
            found = segmenter.masks(shards.take(positions)) > 0
            # Where a mask includes the heart, agreement is counted on the pixels that it decides, too.
            sure = np.stack(
                [
                    without_heart(mask) if masked.sources[row] in with_heart else mask
                    for row, mask in zip(part, truth, strict=True)
                ]
            )
            everywhere = measure_overlap(found, truth > 0)
            decided = measure_overlap(found & (sure != IGNORED), sure == LUNG)
            extend("image_id", [masked.image_ids[row] for row in part])
            extend("tested_on", [name] * len(part))
            extend("source", [masked.sources[row] for row in part])
            for prefix, overlap in (("", everywhere), ("decided_", decided)):
                for kind in ("intersection", "predicted", "truth"):
                    extend(f"{prefix}{kind}", getattr(overlap, kind).tolist())
    names = ("image_id", "tested_on", "source")
    kinds = [f"{prefix}{kind}" for prefix in ("", "decided_") for kind in ("intersection", "predicted", "truth")]
    schema = pa.schema([*((name, pa.string()) for name in names), *((kind, pa.int64()) for kind in kinds)])
    table = pa.table({field.name: columns.get(field.name, []) for field in schema}, schema=schema)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


@functools.cache
def _shards(folder: str) -> tuple[ShardSet, dict[str, int]]:
    shards = ShardSet.open(Path(folder))
    return shards, {image_id: row for row, image_id in enumerate(shards.image_ids)}


def _open(masked: MaskedSet, rows: Sequence[int]) -> tuple[ShardSet, NDArray[np.int64]]:
    shards, position = _shards(masked.shards)
    return shards, np.array([position[masked.image_ids[row]] for row in rows], dtype=np.int64)
