"""What a lane must know of a study, read from the run directory: files are the protocol."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from cxrdist.cohort.packing import PackedMasks
from cxrdist.cohort.shards import ShardSet
from cxrdist.cohort.shardset import ImageStack
from cxrdist.cohort.table import Cohort
from cxrdist.config.document import parse_document
from cxrdist.config.load import validated_study
from cxrdist.config.models import Study
from cxrdist.errors import UserError
from cxrdist.learn.sources import FeatureRows
from cxrdist.run.artefacts import AGAIN, Checked, DamagedError, map_arrow, read_json, whole
from cxrdist.run.computing import COMPUTING, Computing
from cxrdist.run.object_store import open_cache
from cxrdist.run.shared_shards import fetched_shards
from cxrdist.run.store import Store
from cxrdist.run.study_masks import open_masks
from cxrdist.study import layout
from cxrdist.study.folds import Folds
from cxrdist.study.plan import FeatureJob, FoldJob, Variant
from cxrdist.study.recipe import Network, Recipe, with_settings

FEATURES_MADE_BY = "made_by"
"""In the metadata of a file of features: what computed them."""


@dataclass(frozen=True)
class Plan:
    """The contents of `plan.json`: every unit of work, and the hashes of what they work on."""

    study: str
    """Fingerprint of all fold jobs together."""
    cohort: str
    pixels: str
    shards: str
    """Folder of the shards, in the cache."""
    masks: str | None
    """File of the lung masks, in the cache; None where no view needs any."""
    cache: str
    """Location of the cache."""
    recipe: Recipe
    networks: Mapping[str, Network]
    """By model."""
    weights: Mapping[str, str | None]
    """File of each model's weights, None for random ones."""
    jobs: tuple[FoldJob, ...]
    features: tuple[FeatureJob, ...]
    """Units of feature extraction, where trunks are frozen."""
    doubts: tuple[str, ...] = ()
    """What a reader of the results must be told, a sentence each."""
    node_cache: str | None = None
    """Folder of each machine for what comes from a cache in an object store."""
    artefacts: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 by name of what was written into the run directory before the plan; other versions noted none."""
    computing: Computing | None = None
    """How numbers are computed; None where an earlier version planned."""

    def trained(self, job: FoldJob) -> tuple[Network, Recipe]:
        """Return what a fold job trains, and how: the study's, with what a sweep chose."""
        return with_settings(self.networks[job.variant.model], self.recipe, job.settings)

    @property
    def variants(self) -> list[Variant]:
        """The variants, in the order of the tables."""
        return list(dict.fromkeys(job.variant for job in self.jobs))

    def to_json(self) -> dict[str, Any]:
        """Return plain data; `from_json` reads it back."""
        return {
            **{key: getattr(self, key) for key in ("study", "cohort", "pixels", "shards", "masks", "cache")},
            "recipe": vars(self.recipe),
            "networks": {model: vars(network) for model, network in self.networks.items()},
            "weights": dict(self.weights),
            "jobs": [{**vars(job), "variant": vars(job.variant)} for job in self.jobs],
            "features": [{**vars(unit), "variant": vars(unit.variant)} for unit in self.features],
            "doubts": list(self.doubts),
            "node_cache": self.node_cache,
            "artefacts": dict(self.artefacts),
            COMPUTING: None if self.computing is None else self.computing.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Plan":
        """Read what `to_json` wrote."""
        return cls(
            **{key: data[key] for key in ("study", "cohort", "pixels", "shards", "masks", "cache", "weights")},
            recipe=Recipe(**data["recipe"]),
            networks={model: Network(**network) for model, network in data["networks"].items()},
            jobs=tuple(
                FoldJob(
                    **{
                        **job,
                        "variant": Variant(**job["variant"]),
                        "settings": tuple((key, value) for key, value in job["settings"]),
                    }
                )
                for job in data["jobs"]
            ),
            features=tuple(FeatureJob(**{**unit, "variant": Variant(**unit["variant"])}) for unit in data["features"]),
            doubts=tuple(data["doubts"]),
            node_cache=data.get("node_cache"),
            artefacts=data.get("artefacts", {}),
            computing=Computing.from_json(data.get(COMPUTING)),
        )


def read_plan(store: Store) -> Plan:
    """Read the plan of a run directory.

    Raises:
        DamagedError: there is none, it is not what was written, or another version wrote it.
    """
    data = read_json(store, layout.PLAN)
    try:
        return Plan.from_json(data or {})
    except (KeyError, TypeError):
        raise DamagedError(
            f"{store.where(layout.PLAN)} is no plan that this version can read; `cxrdist run` writes one."
        ) from None


def planned_files(store: Store) -> Checked:
    """Return what reads the artefacts that the plan was made with.

    Raises:
        DamagedError: the plan is not what was written.
    """
    noted = (read_json(store, layout.PLAN) or {}).get("artefacts", {})
    return Checked(store, noted, layout.PLAN)


def read_study(store: Store) -> Study:
    """Read the resolved study of a run directory.

    Raises:
        DamagedError: it is not what was written, or no valid study.
    """
    text = planned_files(store).text(layout.STUDY)
    try:
        return validated_study(parse_document(text, store.where(layout.STUDY)))
    except UserError as error:
        raise DamagedError(f"{str(error).splitlines()[0].rstrip('.')}; {AGAIN}.") from None


def read_table(store: Store, name: str) -> pa.Table:
    """Read an Arrow IPC file that the plan was made with.

    Raises:
        DamagedError: it is not what was written.
    """
    return planned_files(store).arrow(name)


def read_cohort(store: Store, classes: Sequence[str]) -> Cohort:
    """Read the images that a study uses.

    Raises:
        DamagedError: they are not what was written.
    """
    plan, files = read_plan(store), planned_files(store)
    with files.whole(layout.COHORT):
        cohort = Cohort(files.arrow(layout.COHORT), store.root, tuple(classes))
        if not files.knows(layout.COHORT) and cohort.content_hash != plan.cohort:
            raise ValueError("is not the cohort of the plan")
        return cohort


def folds_table(folds: Folds) -> pa.Table:
    """Return the folds as a table: image_id, then for each fold the part of each image (see `Part`)."""
    columns = {f"fold_{fold}": pa.array(parts, pa.int8()) for fold, parts in enumerate(folds.parts)}
    return pa.table({"image_id": pa.array(list(folds.image_ids), pa.string()), **columns})


def read_folds(store: Store) -> Folds:
    """Read what `folds_table` made.

    Raises:
        DamagedError: it is not what was written.
    """
    table = read_table(store, layout.FOLDS)
    with whole(store.where(layout.FOLDS), AGAIN):
        parts = np.stack([table.column(name).to_numpy() for name in table.column_names[1:]])
        return Folds(table.column("image_id").to_pylist(), parts)


class SelectedRows:
    """Some rows of an image stack, in the cohort's order."""

    def __init__(self, gather: Callable[[NDArray[np.int64]], NDArray[np.uint8]], rows: NDArray[np.int64]) -> None:
        self._gather = gather
        self._rows = rows

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the given rows of the cohort, [n, H, W]."""
        return self._gather(self._rows[rows])


class Inputs:
    """What networks are fed with, by row of some images of a planned cohort; opened once in each lane.

    Args:
        plan: of the run directory.
        image_ids: the images.
        rows: of the planned cohort, one for each image; None where they are the whole cohort.
        device: where units are computed.
        verify: whether decoded images and masks are hashed and compared when they are opened (about 1 GB/s); a lane
            need not, since its driver did.
    """

    def __init__(
        self,
        plan: Plan,
        image_ids: Sequence[str],
        device: torch.device,
        rows: NDArray[np.int64] | None = None,
        *,
        verify: bool = False,
    ) -> None:
        self.plan = plan
        self._verify = verify
        self.image_ids = list(image_ids)
        self.device = device
        self._rows = rows

    @functools.cached_property
    def _shard_rows(self) -> NDArray[np.int64]:
        position = {image_id: row for row, image_id in enumerate(self.shards.image_ids)}
        return np.array([position[image_id] for image_id in self.image_ids], dtype=np.int64)

    @functools.cached_property
    def cache(self) -> Store:
        """Where decoded images, masks, features and weights are."""
        return open_cache(self.plan.cache, self.plan.node_cache)

    @functools.cached_property
    def shards(self) -> ShardSet:
        """Decoded images, those that the study does not use too."""
        return ShardSet.open(fetched_shards(self.cache, self.plan.shards), verify=self._verify)

    def by_row(self, stack: ImageStack | PackedMasks) -> SelectedRows:
        """Return what belongs to the shards' images by row of the images."""
        return SelectedRows(stack.take, self._shard_rows)

    @functools.cached_property
    def images(self) -> SelectedRows:
        """Decoded images by row."""
        return self.by_row(self.shards.pixels)

    @functools.cached_property
    def masks(self) -> SelectedRows | None:
        """Lung masks by row, where a view needs them."""
        if self.plan.masks is None:
            return None
        path = self.cache.local(self.plan.masks)
        return self.by_row(open_masks(path, self.shards.pixels.side, verify=self._verify))

    def features_of(self, variant: Variant) -> FeatureRows:
        """Return a frozen trunk's features, computed before and mapped: float32 [images, values].

        Raises:
            DamagedError: they are missing or cannot be read.
        """
        units = [unit for unit in self.plan.features if unit.variant == variant]
        paths = self.cache.local_files([feature_file(unit) for unit in units])
        parts = [read_features(path, unit, verify=False) for unit, path in zip(units, paths, strict=True)]
        return FeatureRows(parts, self._rows)

    def features_made_by(self, variant: Variant) -> list[dict[str, str]]:
        """Say what computed the features of a variant, as `machine_facts` does; nothing where its trunk is trained."""
        found: list[dict[str, str]] = []
        names = [feature_file(unit) for unit in self.plan.features if unit.variant == variant]
        for path in self.cache.local_files(names):
            with pa.memory_map(str(path)) as file:
                metadata = pa.ipc.open_file(file).schema.metadata or {}
            facts = json.loads(metadata.get(FEATURES_MADE_BY.encode(), b"{}"))
            if facts not in found:
                found.append(facts)
        return found


class Context(Inputs):
    """A study as a lane sees it, or, with what it is fed with verified, a command that reads it.

    Args:
        store: the run directory.
        device: where units are computed.
        cache: location of the cache, where it is no longer the one that the run had.
        verify: see `Inputs`.
    """

    def __init__(self, store: Store, device: torch.device, cache: str | None = None, *, verify: bool = False) -> None:
        self.store = store
        self.study = read_study(self.store)
        self.folds = read_folds(self.store)
        plan = read_plan(self.store)
        plan = plan if cache is None else replace(plan, cache=cache)
        self.classes = tuple(self.study.cohort.classes)
        cohort = read_cohort(self.store, self.classes)
        super().__init__(plan, cohort.image_ids, device, verify=verify)
        self.labels = torch.from_numpy(cohort.labels)
        self.jobs = {job.key: job for job in self.plan.jobs}
        self.features = {unit.key: unit for unit in self.plan.features}


def feature_file(unit: FeatureJob) -> str:
    """Return the name, in the cache, of the features that a unit computes."""
    return f"{feature_folder(unit)}/{unit.start:08d}-{unit.stop:08d}.arrow"


def read_features(path: Path, unit: FeatureJob, *, verify: bool) -> NDArray[np.float32]:
    """Map the features that a unit has computed: [its images, values].

    Raises:
        DamagedError: they are not what was written.
    """
    table = map_arrow(path, AGAIN, verify=verify)
    with whole(str(path), AGAIN):
        values: NDArray[np.float32] = table.column("features").combine_chunks().to_numpy_ndarray()
        if len(values) != unit.stop - unit.start:
            raise ValueError(f"holds the features of {len(values)} images, not of {unit.stop - unit.start}")
        return values


def feature_folder(unit: FeatureJob) -> str:
    """Return the folder, in the cache, of the features of all images."""
    return f"features/{unit.features}"
