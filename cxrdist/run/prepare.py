"""From a study file to a run directory that lanes can work in: cohort, shards, folds, plan."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from cxrdist.cohort.chunks import ChunkRunner, Quarantined
from cxrdist.cohort.decode import Preprocessing
from cxrdist.cohort.publish import cache_errors
from cxrdist.cohort.shard_looks import doubts_about_looks
from cxrdist.cohort.shards import ShardSet, check_quarantine, find_shards, prepare_shards
from cxrdist.cohort.table import Cohort, load_cohort
from cxrdist.config.location import is_remote
from cxrdist.config.models import Study
from cxrdist.errors import UserError, first_few
from cxrdist.learn.weights import find_weights, hash_weights
from cxrdist.run.artefacts import Noted, table_bytes
from cxrdist.run.claim import study_bytes
from cxrdist.run.computing import Computing
from cxrdist.run.context import Plan, folds_table
from cxrdist.run.plan_file import cache_of, make_plan, pixels_of, write_plan
from cxrdist.run.set_aside import require_same_cohort
from cxrdist.run.shared_shards import shard_fetcher, shards_name
from cxrdist.run.store import Store, json_bytes
from cxrdist.run.study_masks import (
    StudyMasks,
    dropped_for_masks,
    judge_masks,
    mask_examples,
    mask_origin,
    masks_made_before,
    mixture_note,
    publish_masks,
    quality_doubts,
    quality_summary,
    study_masks,
)
from cxrdist.run.sweep import Choice, SettingsByFold, known_choice, settings_by_fold
from cxrdist.run.sweep_plan import Search, SearchImages, plan_searches, sweep_doubts, sweep_images
from cxrdist.study import layout
from cxrdist.study.fingerprint import fingerprint
from cxrdist.study.folds import Folds, Part, class_counts, make_folds, training_groups
from cxrdist.study.plan import plan_fold_jobs
from cxrdist.study.recipe import ModelName, Network

NO_MASK = "has no lung mask"


@dataclass(frozen=True)
class Prepared:
    """A study ready to be worked on."""

    study: Study
    cohort: Cohort
    """The images that are used."""
    folds: Folds
    plan: Plan
    shards: ShardSet
    computing: Computing
    """As the plan says."""
    searches: tuple[Search, ...] = ()
    """Of the study's sweep."""
    search_images: Mapping[int, SearchImages] = field(default_factory=dict)
    """What the searches see, by outer fold."""
    settings: SettingsByFold = field(default_factory=dict)
    """What the sweep chose, as far as it came."""


def open_cohort(study: Study) -> Cohort:
    """Read and check the study's cohort.

    Raises:
        UserError: the manifest or the images' folder is missing or wrong.
    """
    if study.cohort.images is None:
        raise UserError("The folder of the images is not given: add --images DIR, or cohort.images to the study file.")
    return load_cohort(study.manifest_path(), Path(study.cohort.images), study.cohort.classes)


def with_masks_only(cohort: Cohort, study: Study) -> tuple[Cohort, list[Quarantined]]:
    """Apply the study's policy to images without a mask file, where masks are files; return who is left out.

    Raises:
        UserError: the policy is `error` and there are such images.
    """
    has_mask = np.array([path is not None for path in cohort.table.column("mask_path").to_pylist()])
    if mask_origin(study, cohort) != "files" or has_mask.all():
        return cohort, []
    n_missing = int((~has_mask).sum())
    if study.lungs.missing == "error":
        absent = first_few(name for name, there in zip(cohort.image_ids, has_mask, strict=True) if not there)
        raise UserError(
            f"lungs.masks is 'files', but {n_missing} of {len(has_mask)} images have no mask file ({absent}); give "
            "mask_path in the manifest, set lungs.missing to 'drop', or lungs.masks to 'network'."
        )
    dropped = cohort.subset(~has_mask).table
    paths = zip(dropped.column("image_id").to_pylist(), dropped.column("path").to_pylist(), strict=True)
    return cohort.subset(has_mask), [Quarantined(image_id, path, NO_MASK) for image_id, path in paths]


def divide(cohort: Cohort, study: Study) -> Folds:
    """Make the folds of a cohort as the study says."""
    return make_folds(
        cohort.image_ids,
        cohort.labels,
        cohort.groups(study.folds.group_by),
        cohort.sources,
        classes=study.cohort.classes,
        protocol=study.folds.protocol,
        k=study.folds.k,
        validation=study.folds.validation,
        stratify_by_source=study.folds.stratify_by == "class_and_source",
        seed=study.seed,
    )


def network_of(study: Study, model: ModelName, weights_hash: str) -> Network:
    """Return a model's network as the study wants it."""
    return Network(
        model=model,
        n_classes=len(study.cohort.classes),
        image_size=study.preprocessing.size,
        weights_hash=weights_hash,
        **study.model.model_dump(exclude={"weights"}),
    )


def networks_of(study: Study) -> tuple[dict[str, Network], dict[str, str | None]]:
    """Return each model's network and its weight file (None for random weights), by model.

    Raises:
        UserError: a weight file is missing or cannot be fetched.
    """
    networks: dict[str, Network] = {}
    weights: dict[str, str | None] = {}
    for model in study.variants.models:
        path = find_weights(study.model.weights, model)
        weights[model] = None if path is None else str(path.resolve())
        networks[model] = network_of(study, model, hash_weights(path))
    return networks, weights


def prepare(
    study: Study,
    store: Store,
    *,
    device: Callable[[], torch.device],
    computing: Callable[[], Computing],
    run_chunks: ChunkRunner | None = None,
    run_mask_chunks: ChunkRunner | None = None,
    on_decoded: Callable[[int, int], None] | None = None,
    on_masked: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    on_planned: Callable[[Prepared], bool] = lambda _: True,
) -> Prepared:
    """Decode what is not decoded yet, make folds and plan, and write them into the run directory.

    Args:
        study: the study.
        store: the run directory.
        device: what there is for lung masks, a GPU or the CPU.
        computing: how numbers are computed; asked for once the study and its cohort are known to be right.
        run_chunks: where decoding is done; by default on this machine's cores.
        run_mask_chunks: where masks are made; by default here, too.
        on_decoded: told the number of images decoded so far, and of all.
        on_masked: told the number of lung masks made so far, and of all that are not there yet.
        on_note: told what the user should know, a sentence each.
        on_planned: told what is planned before anything is written in the run directory; returns whether it is to be.

    Raises:
        UserError: something in the study, the cohort or the images does not allow it.
    """
    listed = open_cohort(study)
    require_same_cohort(store, listed)
    cohort, left_out = with_masks_only(listed, study)
    n_asked = len(cohort.image_ids) + len(left_out)
    networks, weights = networks_of(study)
    cache = cache_of(study.execution)
    with cache_errors(cache.root):
        cache.create()
    weights = {model: None if path is None else cache.adopt(Path(path)) for model, path in weights.items()}
    settled = computing()
    origin = mask_origin(study, cohort)
    shards = prepare_shards(
        cohort,
        Preprocessing(**study.preprocessing.model_dump()),
        cache.root,
        with_masks=origin == "files",
        # Who shares no disk for shards need not share one for images: they are read here.
        run_chunks=None if is_remote(cache.location) else run_chunks,
        on_progress=on_decoded,
        on_note=on_note,
        fetch=shard_fetcher(cache, on_note),
    )
    cache.publish_folder(shards_name(shards))
    check_quarantine(shards, len(cohort.image_ids), study.cohort.max_quarantined, cohort.root)
    left_out += shards.quarantine
    masks = None
    if origin is not None:
        on_gpu = settled.device == "cuda" and device().type == "cuda"
        masks = study_masks(
            study,
            origin,
            shards,
            cache,
            device=torch.device("cuda" if on_gpu else "cpu"),
            precision=settled.lung_precision,
            run_chunks=run_mask_chunks if on_gpu else run_chunks,
            on_progress=on_masked,
        )
        left_out += dropped_for_masks(masks, shards, cohort)
    doubts = []
    seen: list[str] = []
    if left_out:
        reasons = first_few(f"{q.image_id} {q.reason}" for q in left_out)
        doubts.append(f"{len(left_out)} of {n_asked} images are not used ({reasons})")
    if masks is not None:
        note = mixture_note(study, cohort)
        if note:
            doubts.append(note)
        seen += quality_doubts(study.lungs, masks.quality)
    of_masks = cohort
    decoded = {name for row, name in enumerate(shards.image_ids) if masks is None or masks.keep[row]}
    cohort = cohort.subset(np.array([image_id in decoded for image_id in cohort.image_ids]))
    seen += doubts_about_looks(cohort, shards, cohort.groups(study.folds.group_by))
    if on_note is not None:
        for doubt in seen:
            on_note(f"Warning: {doubt}.")
    doubts += [*seen, *cohort.doubts(), *grouping_doubts(study)]
    folds = divide(cohort, study)
    doubts += training_doubts(folds, cohort)
    doubts += sweep_doubts(study, folds.n_folds)
    mask_file = None if masks is None else publish_masks(masks, shards, cache)
    plan = replace(make_plan(study, cohort, folds, shards, mask_file, networks, weights, settled), doubts=tuple(doubts))
    images = sweep_images(study, cohort, folds)
    searches = plan_searches(study, cohort, folds.n_folds, plan, images)
    prepared = Prepared(study, cohort, folds, plan, shards, settled, tuple(searches), images)
    known = [known_choice(store, search, study.sweep.minutes if study.sweep else None, on_note) for search in searches]
    prepared = with_choices(prepared, [choice for choice in known if choice is not None])
    if on_planned(prepared):
        written = Noted(store)
        if masks is not None:
            _write_masks(study, written, masks, shards, of_masks)
        _write(study, written, cohort, folds, left_out)
        prepared = replace(prepared, plan=replace(prepared.plan, artefacts=written.hashes))
        write_plan(store, prepared.plan)
    return prepared


def doubts_of_decoded(study: Study, cohort: Cohort) -> list[str]:
    """Say what a look at the images and masks tells, as far as they are in the cache; nothing is decoded or made.

    Raises:
        UserError: what is there refuses the study: too many images that cannot be used, or masks.
    """
    cache, origin = cache_of(study.execution), mask_origin(study, cohort)
    preprocessing = Preprocessing(**study.preprocessing.model_dump())
    shards = find_shards(cohort, preprocessing, cache.root, with_masks=origin == "files")
    if shards is None:
        return []
    check_quarantine(shards, len(cohort.image_ids), study.cohort.max_quarantined, cohort.root)
    doubts = []
    if shards.quarantine:
        reasons = first_few(f"{bad.image_id} {bad.reason}" for bad in shards.quarantine)
        doubts.append(f"{len(shards.quarantine)} of {len(cohort)} images cannot be used ({reasons})")
    found = None if origin is None else masks_made_before(study, origin, shards, cache)
    if origin is not None and found is not None:
        doubts += quality_doubts(study.lungs, judge_masks(study.lungs, origin, found, shards))
    there = set(shards.image_ids)
    usable = cohort.subset(np.array([image_id in there for image_id in cohort.image_ids]))
    return doubts + doubts_about_looks(usable, shards, usable.groups(study.folds.group_by))


def with_choices(prepared: Prepared, choices: Sequence[Choice]) -> Prepared:
    """Return the study with the fold jobs that a sweep's choices make of it."""
    settings = settings_by_fold(choices, prepared.folds.n_folds)
    if not settings:
        return prepared
    plan = prepared.plan
    fold_jobs = []
    for variant in plan.variants:
        rows = pixels_of(variant, prepared.cohort, prepared.shards, plan.masks)
        fold_jobs += plan_fold_jobs(
            variant,
            plan.networks[variant.model],
            plan.recipe,
            prepared.folds,
            cohort=prepared.cohort.content_hash,
            pixels=rows,
            seed=prepared.study.seed,
            settings=settings.get(variant.name),
        )
    study = fingerprint([job.fingerprint for job in fold_jobs])
    return replace(prepared, plan=replace(plan, jobs=tuple(fold_jobs), study=study), settings=settings)


def grouping_doubts(study: Study) -> list[str]:
    """Say where the way of dividing leaks."""
    if study.folds.group_by == "image":
        return [
            "folds divide images, not patients: images of one patient may be in training and test parts, "
            "so the scores are too good"
        ]
    if study.folds.group_by == "patient":
        return ["folds keep patients together, but not groups of patients who share an image"]
    return []


def training_doubts(folds: Folds, cohort: Cohort) -> list[str]:
    """Say of which classes a network sees one patient only."""
    lone = training_groups(folds, cohort.labels, cohort.groups("patient"), len(cohort.classes)) == 1
    return [
        f"class {name} has a single training patient in {sum(of_folds)} of {folds.n_folds} folds "
        f"(fold {first_few(str(fold) for fold in np.flatnonzero(of_folds).tolist())}), so that a network learns that "
        "patient instead of the class"
        for name, of_folds in zip(cohort.classes, lone.T, strict=True)
        if of_folds.any()
    ]


def fold_counts(folds: Folds, cohort: Cohort) -> list[dict[str, dict[str, int]]]:
    """Return for each fold, by part and class, the number of images."""
    counts = class_counts(folds, cohort.labels, len(cohort.classes))
    return [
        {part.name.lower(): dict(zip(cohort.classes, counts[fold, part].tolist(), strict=True)) for part in Part}
        for fold in range(folds.n_folds)
    ]


def _write_masks(study: Study, store: Noted, masks: StudyMasks, shards: ShardSet, cohort: Cohort) -> None:
    store.write_bytes(layout.MASKS, json_bytes(quality_summary(masks, shards, cohort, study.lungs)))
    store.write_bytes(layout.MASK_EXAMPLES, table_bytes(mask_examples(masks, shards, cohort)))


def _write(study: Study, store: Noted, cohort: Cohort, folds: Folds, left_out: list[Quarantined]) -> None:
    store.write_bytes(layout.STUDY, study_bytes(study))
    store.write_bytes(layout.COHORT, table_bytes(cohort.table))
    store.write_bytes(layout.FOLDS, table_bytes(folds_table(folds)))
    by_part = [
        {part.name.lower(): [folds.image_ids[row] for row in folds.rows(fold, part)] for part in Part}
        for fold in range(folds.n_folds)
    ]
    store.write_bytes(layout.FOLDS_JSON, json_bytes({"counts": fold_counts(folds, cohort), "folds": by_part}))
    quarantine = [{"image_id": q.image_id, "path": q.path, "reason": q.reason} for q in left_out]
    store.write_bytes(layout.QUARANTINE, json_bytes({"images": quarantine}))
