"""Planning a sweep: for each variant and outer fold a search, with nothing of the outer test part in it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxrdist.cohort.table import Cohort
from cxrdist.config.models import Study
from cxrdist.config.sweep import DimensionConfig, SweepConfig
from cxrdist.errors import UserError
from cxrdist.run.artefacts import AGAIN, Checked, Noted, read_json, table_bytes, whole
from cxrdist.run.context import Plan
from cxrdist.run.store import Store
from cxrdist.study.fingerprint import fingerprint
from cxrdist.study.folds import Folds, Part, make_folds
from cxrdist.study.layout import SearchFiles
from cxrdist.study.plan import FORMAT, Variant
from cxrdist.study.recipe import Network, Recipe
from cxrdist.study.search import SELECTION_ON_REPORTED_FOLDS, Dimension, SearchRules, combinations
from cxrdist.study.seeds import derive_seed

_WHOLE = ("batch_size", "epochs")


@dataclass(frozen=True)
class Search:
    """One search: its trials are scored on inner folds of the training part of one outer fold."""

    variant: Variant
    fold: int
    """The outer fold."""
    shared: bool
    """Whether its choice serves the other outer folds, too."""
    rules: SearchRules
    metric: str
    trials: int
    network: Network
    recipe: Recipe
    """What a trial changes."""
    seed: int
    """Of everything random in training; the same for all trials, so that they are compared on equal terms."""
    n_classes: int
    fingerprint: str
    """Of all that can change a trial."""

    @property
    def key(self) -> str:
        """Names the search, such as `whole-resnet34/fold-0`."""
        return f"{self.variant.name}/{'shared' if self.shared else f'fold-{self.fold}'}"

    def to_json(self) -> dict[str, Any]:
        """Return plain data; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Search":
        """Read what `to_json` wrote."""
        space = tuple(Dimension(**{**one, "choices": tuple(one["choices"])}) for one in data["rules"]["space"])
        return cls(
            **{
                **data,
                "variant": Variant(**data["variant"]),
                "rules": SearchRules(**{**data["rules"], "space": space}),
                "network": Network(**data["network"]),
                "recipe": Recipe(**data["recipe"]),
            }
        )


@dataclass(frozen=True)
class SearchImages:
    """The images of one search: the training and validation parts of its outer fold, and no other."""

    rows: NDArray[np.int64]
    """Of the cohort, ascending."""
    labels: NDArray[np.int64]
    """Class of each."""
    folds: Folds
    """The inner ones: training and test parts of these images."""


def sweep_images(study: Study, cohort: Cohort, folds: Folds) -> dict[int, SearchImages]:
    """Return by outer fold what the searches of a study's sweep may see; empty without a sweep.

    Raises:
        UserError: the training part of a fold is too small for the inner folds or for a batch.
    """
    sweep = study.sweep
    if sweep is None:
        return {}
    outer = [0] if sweep.nesting == "shared" else range(folds.n_folds)
    images = {fold: cut_images(study, sweep, cohort, folds, fold) for fold in outer}
    for fold, own in images.items():
        _require_batches(sweep, study.training.batch_size, own.folds, fold)
    return images


def sweep_doubts(study: Study, n_folds: int) -> list[str]:
    """Say where the way of searching makes scores too good."""
    shared = study.sweep is not None and study.sweep.nesting == "shared" and n_folds > 1
    return [SELECTION_ON_REPORTED_FOLDS] if shared else []


def plan_searches(
    study: Study, cohort: Cohort, n_folds: int, plan: Plan, images: Mapping[int, SearchImages]
) -> list[Search]:
    """Return the searches of a study: for each variant and each outer fold of `images`."""
    sweep = study.sweep
    if sweep is None:
        return []
    space = tuple(dimension_of(key, one) for key, one in sweep.space.dimensions.items())
    every = combinations(space)
    searches = []
    for variant in plan.variants:
        for fold in images:
            seed = derive_seed(study.seed, "sweep", fold)
            rules = SearchRules(
                space=space,
                folds=sweep.folds,
                larger_is_better=sweep.larger_is_better,
                lag=sweep.concurrency,
                seed=derive_seed(study.seed, "search", variant.name, fold),
                searcher=sweep.searcher,
                halving=sweep.scheduler == "asha",
                grace=sweep.grace,
                exhaustive=every is not None and every <= sweep.trials,
            )
            searches.append(
                Search(
                    variant=variant,
                    fold=fold,
                    shared=sweep.nesting == "shared" and n_folds > 1,
                    rules=rules,
                    metric=sweep.metric,
                    trials=sweep.trials if every is None else min(every, sweep.trials),
                    network=plan.networks[variant.model],
                    recipe=plan.recipe,
                    seed=seed,
                    n_classes=len(cohort.classes),
                    fingerprint=_fingerprint(variant, rules, sweep.metric, plan, cohort, images[fold], seed),
                )
            )
    return searches


def cut_images(study: Study, sweep: SweepConfig, cohort: Cohort, folds: Folds, fold: int) -> SearchImages:
    """Return what a search may see of the cohort, divided into inner folds by the rule of the outer ones.

    Raises:
        UserError: too few patients of a class for so many inner folds.
    """
    rows = np.flatnonzero(folds.parts[fold] != Part.TEST).astype(np.int64)
    keep = np.zeros(len(cohort), dtype=np.bool_)
    keep[rows] = True
    own = cohort.subset(keep)
    try:
        inner = make_folds(
            own.image_ids,
            own.labels,
            own.groups(study.folds.group_by),
            own.sources,
            classes=cohort.classes,
            protocol="kfold",
            k=sweep.folds,
            validation=0,
            stratify_by_source=study.folds.stratify_by == "class_and_source",
            seed=derive_seed(study.seed, "inner folds", fold),
        )
    except UserError as error:
        raise UserError(
            f"sweep.folds is {sweep.folds}, too many for the training part of fold {fold}: "
            f"{str(error).replace('folds.k', 'sweep.folds')}"
        ) from None
    return SearchImages(rows, own.labels, inner)


def write_search(store: Store, search: Search, images: SearchImages) -> None:
    """Write all that a trial is told: labels and rows of its own images, and of no other."""
    files = SearchFiles(search.key)
    columns = {f"inner_{k}": pa.array(parts, pa.int8()) for k, parts in enumerate(images.folds.parts)}
    table = {
        "image_id": pa.array(list(images.folds.image_ids), pa.string()),
        "row": pa.array(images.rows, pa.int64()),
        "label": pa.array(images.labels, pa.int64()),
    }
    written = Noted(store)
    written.write_bytes(files.images, table_bytes(pa.table({**table, **columns})))
    store.write_json(files.search, {**search.to_json(), "artefacts": written.hashes})


def read_search(store: Store, key: str) -> Search:
    """Read the search that `write_search` wrote.

    Raises:
        DamagedError: it is missing, or not what was written.
    """
    return _read_search(store, key)[0]


def read_search_images(store: Store, key: str) -> SearchImages:
    """Read the images that `write_search` wrote.

    Raises:
        DamagedError: they are missing, or not what was written.
    """
    name = SearchFiles(key).images
    search, files = _read_search(store, key)
    table = files.arrow(name)
    with files.whole(name):
        parts = np.stack([table.column(f"inner_{k}").to_numpy() for k in range(search.rules.folds)])
        folds = Folds(table.column("image_id").to_pylist(), parts)
        return SearchImages(table.column("row").to_numpy(), table.column("label").to_numpy(), folds)


def _read_search(store: Store, key: str) -> tuple[Search, Checked]:
    name = SearchFiles(key).search
    data = read_json(store, name)
    with whole(store.where(name), AGAIN):
        if data is None:
            raise FileNotFoundError
        noted = data.pop("artefacts", {})
        search = Search.from_json(data)
        if search.key != key:
            raise ValueError(f"is of the search {search.key}")
        return search, Checked(store, noted, "search.json")


def dimension_of(key: str, one: DimensionConfig) -> Dimension:
    """Return a dimension of the study file as a search takes it."""
    whole = key in _WHOLE
    if one.values is not None:
        return Dimension(key, choices=tuple(int(value) if whole else value for value in one.values), whole=whole)
    return Dimension(key, low=one.low or 0.0, high=one.high or 0.0, log=one.scale == "log", whole=whole)


def _require_batches(sweep: SweepConfig, batch_size: int, inner: Folds, fold: int) -> None:
    smallest = min(len(inner.rows(k, Part.TRAINING)) for k in range(inner.n_folds))
    one = sweep.space.batch_size
    largest = batch_size if one is None else int(max(one.values) if one.values is not None else one.high or 0)
    if largest > smallest:
        where = "training.batch_size" if one is None else "sweep.space.batch_size"
        raise UserError(
            f"{where} goes up to {largest}, but the smallest inner training part, in fold {fold}, has {smallest} "
            f"images; choose at most {smallest}."
        )


def _fingerprint(
    variant: Variant,
    rules: SearchRules,
    metric: str,
    plan: Plan,
    cohort: Cohort,
    images: SearchImages,
    seed: int,
) -> str:
    return fingerprint(
        {
            "format": FORMAT,
            "variant": asdict(variant),
            "rules": asdict(rules),
            "metric": metric,
            "network": asdict(plan.networks[variant.model]),
            "recipe": asdict(plan.recipe),
            "pixels": plan.pixels,
            "masks": None if variant.view == "whole" or plan.masks is None else Path(plan.masks).name,
            "classes": list(cohort.classes),
            "images": list(images.folds.image_ids),
            "labels": images.labels.tolist(),
            "inner": images.folds.parts.tolist(),
            "seed": seed,
        }
    )
