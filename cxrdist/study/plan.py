"""The plan of a study: its variants, its fold jobs with their fingerprints, and the order to do them in."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from cxrdist.study.fingerprint import Json, fingerprint
from cxrdist.study.folds import Folds, Part
from cxrdist.study.recipe import ModelName, Network, Recipe, Settings, ViewName, with_settings

FORMAT = 1
"""Raised whenever the code changes what the same study computes, so that older results become stale."""

FEATURE_CHUNK = 256
"""Images a unit of feature extraction: a minute's work on a core, and fixed so that lanes never change a batch."""

GIGA_MACS = {"vgg16": 15.35, "resnet34": 3.67}
"""Multiply-accumulates of a trunk's forward pass on one 224x224 image, in 1e9: the scale of a job's cost."""

_STEP_GIGA_MACS = 0.03
"""What a step of training costs however small the network: about 0.6 ms, on two cores that do 50e9 a second."""


@dataclass(frozen=True)
class Variant:
    """One view with one model."""

    view: ViewName
    model: ModelName

    @property
    def name(self) -> str:
        """Names the variant in tables and folders, such as `whole-resnet34`."""
        return f"{self.view}-{self.model}"


@dataclass(frozen=True)
class FoldJob:
    """One variant on one fold: the unit of work, of resumption and of failure."""

    variant: Variant
    fold: int
    fingerprint: str
    """Of everything that can change the job's predictions."""
    cost: float
    """Estimated multiply-accumulates in 1e9: longer jobs are done first."""
    settings: Settings = ()
    """What a sweep chose for it, in place of the study's own values."""

    @property
    def key(self) -> str:
        """Names the job, such as `whole-resnet34/fold-0`."""
        return f"{self.variant.name}/fold-{self.fold}"


@dataclass(frozen=True)
class FeatureJob:
    """Features of one run of images through one frozen trunk, shared by all folds."""

    variant: Variant
    features: str
    """Fingerprint of the feature table."""
    start: int
    stop: int
    """Rows [start, stop) of the cohort."""
    cost: float

    @property
    def key(self) -> str:
        """Names the unit, such as `features/whole-resnet34/0`."""
        return f"features/{self.variant.name}/{self.start}"


def make_variants(views: Sequence[ViewName], models: Sequence[ModelName]) -> list[Variant]:
    """Return every view with every model, in the order of the tables."""
    return [Variant(view, model) for view in views for model in models]


def features_fingerprint(
    variant: Variant, network: Network, *, pixels: str, pooled: bool, seed: int, device: str
) -> str:
    """Return the name of a frozen trunk's feature table: of weights, pixels, view and device, and not of the folds.

    Each kind of device rounds in its own way; the number of threads changes nothing.
    """
    trunk: dict[str, Json] = {"model": network.model, "weights": network.weights_hash, "pooled": pooled}
    random_seed = seed if network.weights_hash == "none" else None
    return fingerprint(
        {
            "format": FORMAT,
            "trunk": trunk,
            "seed": random_seed,
            "pixels": pixels,
            "view": variant.view,
            "type": "fp32",
            "device": device,
        }
    )


def plan_fold_jobs(
    variant: Variant,
    network: Network,
    recipe: Recipe,
    folds: Folds,
    *,
    cohort: str,
    pixels: str,
    seed: int,
    settings: Mapping[int, Settings] | None = None,
) -> list[FoldJob]:
    """Return the fold jobs of one variant.

    Args:
        variant: what is trained.
        network: its network.
        recipe: its training.
        folds: the division of the cohort.
        cohort: the cohort's content hash.
        pixels: the shards' content hash.
        seed: the study's seed.
        settings: what a sweep chose, by fold.
    """
    jobs = []
    for fold in range(folds.n_folds):
        chosen = (settings or {}).get(fold, ())
        own_network, own_recipe = with_settings(network, recipe, chosen)
        inputs = {
            "format": FORMAT,
            "seed": seed,
            "cohort": cohort,
            "pixels": pixels,
            "view": variant.view,
            "network": asdict(own_network),
            "recipe": asdict(own_recipe),
            "fold": fold,
            "parts": folds.parts[fold].tolist(),
        }
        cost = _fold_cost(own_network, own_recipe, folds, fold)
        jobs.append(FoldJob(variant, fold, fingerprint(inputs), cost, chosen))
    return jobs


def plan_feature_jobs(variant: Variant, network: Network, features: str, n_images: int) -> list[FeatureJob]:
    """Return the units of feature extraction for one frozen variant, each of at most `FEATURE_CHUNK` images."""
    per_image = _macs_per_image(network)
    return [
        FeatureJob(variant, features, start, min(start + FEATURE_CHUNK, n_images), cost=per_image * FEATURE_CHUNK)
        for start in range(0, n_images, FEATURE_CHUNK)
    ]


def image_passes(folds: Folds, recipe: Recipe, fold: int) -> int:
    """Return how many images one fold job passes through its network, forward or forward and back."""
    training, validation, test = (len(folds.rows(fold, part)) for part in Part)
    return recipe.epochs * (training + validation) + test


def _macs_per_image(network: Network) -> float:
    return GIGA_MACS[network.model] * (network.image_size / 224) ** 2


def _fold_cost(network: Network, recipe: Recipe, folds: Folds, fold: int) -> float:
    training = len(folds.rows(fold, Part.TRAINING))
    # A backward pass costs about twice a forward one.
    passes = image_passes(folds, recipe, fold) + 2 * recipe.epochs * training
    trunk = 0.0 if network.transfer == "frozen" else _macs_per_image(network)
    steps = recipe.epochs * math.ceil(training / recipe.batch_size)
    return (trunk + _head_macs_per_image(network)) * passes + _STEP_GIGA_MACS * steps


def _head_macs_per_image(network: Network) -> float:
    if network.model == "resnet34":
        return 512 * network.n_classes / 1e9
    flat = 512 if network.vgg_head == "average_pool" else 512 * (network.image_size // 32) ** 2
    return (flat + 2 * network.vgg_hidden + network.n_classes) * network.vgg_hidden / 1e9
