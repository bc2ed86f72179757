"""Training the lung network from manifests to scores, in as many goes as it takes."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrdist.cohort.chunks import ChunkRunner
from cxrdist.cohort.decode import Preprocessing
from cxrdist.cohort.shards import ShardSet, prepare_shards
from cxrdist.cohort.table import Cohort, load_cohort
from cxrdist.config.models import ExecutionConfig
from cxrdist.errors import UserError, first_few, one_of
from cxrdist.lungs.inputs import SIDE
from cxrdist.lungs.quality import ALMOST_ALL, judge_mask
from cxrdist.lungs.segmenter import LungWeights, load_lung_net
from cxrdist.lungs.train import LungRecipe
from cxrdist.run.board import Outcome
from cxrdist.run.computing import Computing, read_computing, settle
from cxrdist.run.driver import Display, open_tools, say_differences, settle_failures
from cxrdist.run.lock import RunLock
from cxrdist.run.lung_plan import FINAL, LungPlan, MaskedSet, plan_lung_jobs
from cxrdist.run.object_store import explained_cache
from cxrdist.run.plan_file import cache_of
from cxrdist.run.results import forget_damaged, has_diverged, is_done
from cxrdist.run.set_aside import make_room, require_lungs
from cxrdist.run.store import Store
from cxrdist.study import layout
from cxrdist.study.fingerprint import fingerprint
from cxrdist.study.folds import Part, make_folds
from cxrdist.study.queue import Unit
from cxrdist.study.seeds import derive_seed


@dataclass(frozen=True)
class LungTraining:
    """What is asked for."""

    manifest: Path
    images: Path
    tests: tuple[Path, ...]
    """Manifests of other sets that the final network is tested on, with the same folder of images."""
    folds: int
    """0: none, only the final network."""
    final: bool
    """Whether to train the network to keep, too."""
    hold_out: float
    """About this share of the patients of each source is not trained on in the final network, but tested on."""
    per_source: int | None
    """Most images used of each source."""
    with_heart: tuple[str, ...]
    """Sources whose masks include the heart."""
    recipe: LungRecipe
    init: str | None
    """Weights to start from, None for random ones."""
    seed: int
    execution: ExecutionConfig


@dataclass(frozen=True)
class LungSummary:
    """How a training ended."""

    plan: LungPlan
    unfinished: dict[str, Outcome]


def train_lungs(training: LungTraining, store: Store, display: Display) -> LungSummary:
    """Do whatever of a training is not done yet.

    Raises:
        UserError: the manifests, the images, the run directory or the cluster do not allow it.
    """
    with ExitStack() as stack:
        stack.enter_context(store.explained("choose another with --run-dir"))
        stack.enter_context(explained_cache(cache_of(training.execution)))
        store.create()
        stack.enter_context(RunLock(store, display.say))
        require_lungs(store)
        tools = open_tools(training.execution, stack)
        earlier = read_computing(store)
        plan, computing = _prepare(
            training,
            display,
            tools.run_chunks,
            lambda n_jobs: settle(earlier, training.execution, 1, lambda: tools.decide(n_jobs)),
        )
        make_room(store, display.say, plan.jobs)
        store.write_json(layout.PLAN, plan.to_json())
        forget_damaged(store, plan.jobs, display.say)
        jobs = [job for job in plan.jobs if not is_done(store, job) and not has_diverged(store, job)]
        outcomes: dict[str, Outcome] = {}
        if jobs:
            say_differences(store, plan.jobs, computing, training.execution, display)
            units = [Unit(job.key, job.cost) for job in jobs]
            display.begin(units, {job.key: plan.recipe.epochs for job in jobs})
            try:
                outcomes = tools.executor.run(store, units, training.execution.retries, display.event, computing)
            finally:
                display.end()
        return LungSummary(plan, settle_failures(store, plan.jobs, outcomes))


def _prepare(
    training: LungTraining, display: Display, run_chunks: ChunkRunner | None, settled: Callable[[int], Computing]
) -> tuple[LungPlan, Computing]:
    init = None if training.init is None else LungWeights.find(training.init, "--init")
    if init is not None:
        # Here, so that a wrong file is one sentence and not a failure of every network.
        load_lung_net(init.path)
    cohort = _masked_cohort(training.manifest, training.images, display)
    if training.per_source is not None:
        cohort = _sample(cohort, training.per_source, training.seed)
    unknown = sorted(set(training.with_heart) - set(cohort.sources.tolist()))
    if unknown:
        sources = sorted(set(cohort.sources.tolist()) - {""})
        raise UserError(
            f"--with-heart is {unknown[0]!r}, but should be {one_of(sources, unknown[0])}: a source of "
            f"{str(training.manifest)!r}."
        )
    cohorts = {"training": cohort}
    for manifest in training.tests:
        name = manifest.stem
        if name in cohorts:
            raise UserError(f"Two sets of images are called {name!r}; give the manifests of --test other names.")
        cohorts[name] = _masked_cohort(manifest, training.images, display)
    sets = []
    for name, one in cohorts.items():
        shards = prepare_shards(
            one,
            Preprocessing(SIDE),
            cache_of(training.execution).root,
            with_masks=True,
            run_chunks=run_chunks,
            on_progress=display.decoded,
            on_note=display.say,
        )
        for bad in shards.quarantine:
            display.say(f"{bad.path} is not used: it {bad.reason}.")
        _refuse_wrong_masks(name, len(one), shards)
        sets.append(_masked_set(name, one, shards))
        if name == "training":
            used = set(shards.image_ids)
            cohort = one.subset(np.array([image_id in used for image_id in one.image_ids]))
    recipe, heart = training.recipe, tuple(sorted(training.with_heart))
    jobs = plan_lung_jobs(
        sets, _divisions(training, cohort), recipe, heart, None if init is None else init.sha256, training.seed
    )
    computing = settled(len(jobs))
    plan = LungPlan(
        seed=training.seed,
        recipe=recipe,
        with_heart=heart,
        init=None if init is None else str(init.path),
        sets=tuple(sets),
        jobs=jobs,
        checkpoint_seconds=training.execution.checkpoint_seconds,
        computing=computing,
    )
    return plan, computing


def _masked_cohort(manifest: Path, images: Path, display: Display) -> Cohort:
    cohort = load_cohort(manifest, images, None)
    has_mask = np.array([path is not None for path in cohort.column("mask_path")])
    if not has_mask.any():
        raise UserError(f"No image of {str(manifest)!r} has a mask; its column mask_path should name some.")
    if not has_mask.all():
        display.say(f"{int((~has_mask).sum())} of {len(cohort)} images of {manifest} have no mask and are not used.")
    return cohort.subset(has_mask)


def _sample(cohort: Cohort, most: int, seed: int) -> Cohort:
    """Return at most `most` images of each source, whole patient groups in an order drawn from the seed."""
    groups, sources = cohort.groups("group"), cohort.sources
    keep = np.zeros(len(cohort), dtype=np.bool_)
    for source in sorted(set(sources.tolist())):
        own = sources == source
        left = most
        generator = np.random.default_rng(derive_seed(seed, "sample", source))
        for group in generator.permutation(np.unique(groups[own])):
            rows = own & (groups == group)
            if rows.sum() <= left:
                keep |= rows
                left -= int(rows.sum())
    return cohort.subset(keep)


def _refuse_wrong_masks(name: str, n_images: int, shards: ShardSet) -> None:
    """Refuse masks of which none can be used, or (almost) all are implausible."""
    if not shards.image_ids:
        reasons = first_few(f"{bad.path} {bad.reason}" for bad in shards.quarantine)
        raise UserError(f"None of the {n_images} {name} images can be used with its mask: {reasons}.")
    faulty = []
    for row, image_id in enumerate(shards.image_ids):
        faults = judge_mask(shards.take_masks(np.array([row], dtype=np.int64))[0]).faults
        faulty += [f"{image_id} {faults[0]}"] if faults else []
    if len(faulty) >= ALMOST_ALL * len(shards.image_ids):
        raise UserError(
            f"{len(faulty)} of {len(shards.image_ids)} masks of the {name} images are implausible "
            f"({first_few(faulty)}); look at the files of mask_path, in which both lungs must be bright, at the places "
            "where they are in the images."
        )


def _masked_set(name: str, cohort: Cohort, shards: ShardSet) -> MaskedSet:
    source_of = dict(zip(cohort.image_ids, cohort.sources.tolist(), strict=True))
    return MaskedSet(
        name=name,
        shards=str(shards.folder),
        image_ids=tuple(shards.image_ids),
        sources=tuple(source_of[image_id] for image_id in shards.image_ids),
        content=fingerprint([shards.pixels_hash, shards.masks_hash]),
    )


def _divisions(training: LungTraining, cohort: Cohort) -> dict[str, tuple[list[int], list[int]]]:
    """Return the rows to train and to test on, by the key of the job."""
    divisions = {}
    for fold in range(training.folds):
        divisions[f"fold-{fold}"] = _tested_fold(cohort, training.folds, fold, training.seed)
    if not training.final:
        return divisions
    if training.hold_out:
        divisions[FINAL] = _tested_fold(cohort, max(2, round(1 / training.hold_out)), 0, training.seed)
    else:
        divisions[FINAL] = list(range(len(cohort))), []
    return divisions


def _tested_fold(cohort: Cohort, k: int, fold: int, seed: int) -> tuple[list[int], list[int]]:
    sources = cohort.sources
    names, labels = np.unique(sources, return_inverse=True)
    groups: NDArray[np.str_] = cohort.groups("group")
    few = [str(n) or "unknown" for i, n in enumerate(names) if len(np.unique(groups[labels == i])) < k]
    if few:
        raise UserError(
            f"{k} parts by patient were asked for (--folds or --hold-out), but there are fewer patients of "
            f"{first_few(few)}; choose fewer folds, or a larger share to hold out."
        )
    folds = make_folds(
        cohort.image_ids,
        labels.astype(np.int64),
        groups,
        sources,
        classes=[str(name) for name in names],
        protocol="kfold",
        k=k,
        # Nothing is selected, so nothing is set aside for it.
        validation=0,
        stratify_by_source=False,
        seed=seed,
    )
    test = folds.rows(fold, Part.TEST).tolist()
    return sorted(set(range(len(cohort))) - set(test)), test
