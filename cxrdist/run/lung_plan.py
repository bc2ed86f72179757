"""The plan of a lung network's training: folds by patient, then all, as units of work with fingerprints."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cxrdist.lungs.train import LungRecipe
from cxrdist.run.artefacts import DamagedError, read_json
from cxrdist.run.computing import COMPUTING, Computing
from cxrdist.run.store import Store
from cxrdist.study import layout
from cxrdist.study.fingerprint import Json, fingerprint

LUNGS = "lungs"
"""The plan's `kind`, which tells it from a study's."""

FINAL = "final"
"""Key of the job that trains the network to keep; those of the folds are `fold-0`, `fold-1` ..."""

_FORMAT = 4


@dataclass(frozen=True)
class MaskedSet:
    """Decoded images with their masks."""

    name: str
    shards: str
    """Folder of the shards."""
    image_ids: tuple[str, ...]
    sources: tuple[str, ...]
    content: str
    """Hash of ids, pixels and masks."""


@dataclass(frozen=True)
class LungJob:
    """One training: a fold, or all."""

    key: str
    training: tuple[int, ...]
    """Rows of the first set."""
    held_out: tuple[int, ...]
    """Rows of the first set that it is tested on."""
    fingerprint: str
    cost: float


@dataclass(frozen=True)
class LungPlan:
    """The contents of `plan.json` where the lung network is trained."""

    seed: int
    recipe: LungRecipe
    with_heart: tuple[str, ...]
    """Sources whose masks include the heart."""
    init: str | None
    """File of weights to start from, None for random ones."""
    sets: tuple[MaskedSet, ...]
    """What is trained on, then those that the final network is tested on besides."""
    jobs: tuple[LungJob, ...]
    checkpoint_seconds: float
    computing: Computing | None = None
    """How numbers are computed; None where an earlier version planned."""

    @property
    def computed_recipe(self) -> LungRecipe:
        """The recipe, with the precision that it was planned to be computed in."""
        if self.computing is None or self.recipe.precision != "auto":
            return self.recipe
        return replace(self.recipe, precision=self.computing.lung_precision)

    def to_json(self) -> dict[str, Any]:
        """Return plain data; `from_json` reads it back."""
        return {"kind": LUNGS, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "LungPlan":
        """Read what `to_json` wrote."""
        return cls(
            seed=data["seed"],
            recipe=LungRecipe(**data["recipe"]),
            with_heart=tuple(data["with_heart"]),
            init=data["init"],
            sets=tuple(MaskedSet(**_with_tuples(one)) for one in data["sets"]),
            jobs=tuple(LungJob(**_with_tuples(one)) for one in data["jobs"]),
            checkpoint_seconds=data["checkpoint_seconds"],
            computing=Computing.from_json(data.get(COMPUTING)),
        )


def plan_lung_jobs(
    sets: Sequence[MaskedSet],
    divisions: Mapping[str, tuple[Sequence[int], Sequence[int]]],
    recipe: LungRecipe,
    with_heart: Sequence[str],
    init: str | None,
    seed: int,
) -> tuple[LungJob, ...]:
    """Return the jobs.

    Args:
        sets: what is trained on, then what the final network is tested on.
        divisions: by key, the rows of training and of test.
        recipe: the training.
        with_heart: sources whose masks include the heart.
        init: hash of the weights to start from, None for random ones.
        seed: every draw derives from it.
    """
    jobs = []
    for key, (training, held_out) in divisions.items():
        tested = sets if key == FINAL else sets[:1]
        inputs: dict[str, Json] = {
            "format": _FORMAT,
            "key": key,
            "seed": seed,
            "recipe": asdict(recipe),
            "with_heart": sorted(with_heart),
            "init": init,
            "sets": [one.content for one in tested],
            "training": list(training),
            "held_out": list(held_out),
        }
        jobs.append(
            LungJob(key, tuple(training), tuple(held_out), fingerprint(inputs), float(recipe.epochs * len(training)))
        )
    return tuple(jobs)


def read_lung_plan(store: Store) -> LungPlan:
    """Read the plan of a run directory where the lung network is trained.

    Raises:
        DamagedError: there is none, it is not what was written, or another version wrote it.
    """
    data = read_json(store, layout.PLAN)
    try:
        return LungPlan.from_json(data or {})
    except (KeyError, TypeError):
        raise DamagedError(
            f"{store.where(layout.PLAN)} is no plan of a lung network that this version can read; `cxrdist lungs "
            "train` writes one."
        ) from None


def _with_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
