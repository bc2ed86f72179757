"""Making the plan of a study, and writing it where lanes read it."""

from pathlib import Path

from cxrdist.cohort.shards import ShardSet
from cxrdist.cohort.table import Cohort
from cxrdist.config.models import ExecutionConfig, Study
from cxrdist.learn.features import head_pools
from cxrdist.run.computing import Computing
from cxrdist.run.context import Plan
from cxrdist.run.object_store import open_cache, user_cache
from cxrdist.run.shared_shards import shards_name
from cxrdist.run.store import Store, json_bytes
from cxrdist.study import layout
from cxrdist.study.fingerprint import fingerprint
from cxrdist.study.folds import Folds
from cxrdist.study.plan import (
    FeatureJob,
    FoldJob,
    Variant,
    features_fingerprint,
    make_variants,
    plan_feature_jobs,
    plan_fold_jobs,
)
from cxrdist.study.recipe import Network, Recipe


def cache_of(execution: ExecutionConfig) -> Store:
    """Return where decoded images, masks and features are kept: as given, or the user's cache folder."""
    return open_cache(execution.cache or str(user_cache()), execution.node_cache)


def recipe_of(study: Study) -> Recipe:
    """Return how networks are trained, without how many devices do it: that makes nothing stale."""
    return Recipe(**study.training.model_dump(exclude={"gpus_per_fold"}))


def make_plan(
    study: Study,
    cohort: Cohort,
    folds: Folds,
    shards: ShardSet,
    masks: str | None,
    networks: dict[str, Network],
    weights: dict[str, str | None],
    computing: Computing,
) -> Plan:
    """Plan every unit of work."""
    recipe = recipe_of(study)
    jobs: list[FoldJob] = []
    features: list[FeatureJob] = []
    for variant in make_variants(study.variants.views, study.variants.models):
        network = networks[variant.model]
        rows = pixels_of(variant, cohort, shards, masks)
        jobs += plan_fold_jobs(
            variant, network, recipe, folds, cohort=cohort.content_hash, pixels=rows, seed=study.seed
        )
        if network.transfer == "frozen":
            name = features_fingerprint(
                variant,
                network,
                pixels=rows,
                pooled=head_pools(network),
                seed=study.seed,
                device=computing.device,
            )
            features += plan_feature_jobs(variant, network, name, len(cohort.image_ids))
    return Plan(
        study=fingerprint([job.fingerprint for job in jobs]),
        cohort=cohort.content_hash,
        pixels=shards.pixels_hash,
        shards=shards_name(shards),
        masks=masks,
        cache=cache_of(study.execution).location,
        node_cache=study.execution.node_cache,
        recipe=recipe,
        networks=networks,
        weights=weights,
        jobs=tuple(jobs),
        features=tuple(features),
        computing=computing,
    )


def write_plan(store: Store, plan: Plan) -> None:
    """Write the plan into the run directory."""
    store.write_bytes(layout.PLAN, json_bytes(plan.to_json(), compact=True))


def pixels_of(variant: Variant, cohort: Cohort, shards: ShardSet, masks: str | None) -> str:
    """Return the hash of what a variant sees: the same pixels in another cohort are other rows."""
    # Masks count where the view uses them; their file is named by what is in it.
    of_masks = None if variant.view == "whole" or masks is None else Path(masks).stem
    return fingerprint({"pixels": shards.pixels_hash, "masks": of_masks, "rows": list(cohort.image_ids)})
