"""The study file as pydantic models: strict, and every key documented here once."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from cxrdist.config.recipe import ModelConfig, TrainingConfig
from cxrdist.config.section import Section
from cxrdist.config.sweep import SweepConfig
from cxrdist.errors import UserError

ViewName = Literal["whole", "segmented", "lung_box", "lungs_blanked"]
ModelName = Literal["vgg16", "resnet34"]

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


def _distinct(values: list[str]) -> list[str]:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"{repeated[0]!r} is listed twice")
    return values


Distinct = AfterValidator(_distinct)


class CohortConfig(Section):
    """Which images, with which labels."""

    manifest: Annotated[
        str,
        Field(
            min_length=1,
            description="Table of the images (.csv or .parquet), or a recipe (.yaml) that maps a foreign table; "
            "a relative path starts at the study file.",
        ),
    ]
    images: Annotated[
        str | None,
        Field(description="Folder that the manifest's paths start from; `--images` overrides it."),
    ] = None
    classes: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Distinct,
        Field(min_length=2, description="Labels, in the order of rows and columns of every table."),
    ]
    max_quarantined: Annotated[
        float,
        Field(ge=0, lt=1, description="Largest share of unreadable images with which the study goes on."),
    ] = 0.02


class PreprocessingConfig(Section):
    """How a file becomes a uint8 grey image; applied once, when shards are written."""

    size: Annotated[int, Field(ge=32, le=1024, multiple_of=32, description="Side of the square image in pixels.")] = 224
    resize: Annotated[
        Literal["stretch", "pad"],
        Field(description="`stretch`: bilinear with antialiasing to the square; `pad`: pad with black first."),
    ] = "stretch"
    equalize: Annotated[
        Literal["none", "histogram", "clahe"],
        Field(description="Contrast: untouched, histogram equalisation, or contrast-limited adaptive (CLAHE)."),
    ] = "none"


class LungsConfig(Section):
    """Lung masks, where a view needs them."""

    masks: Annotated[
        Literal["auto", "network", "files"],
        Field(
            description="`auto`: the manifest's mask files where every image has one, else the lung network for all "
            "images (never a mixture, which would tell apart whoever has files); `network`: the lung network; "
            "`files`: the manifest's."
        ),
    ] = "auto"
    missing: Annotated[
        Literal["error", "drop"],
        Field(
            description="With `masks: files`, what happens to an image without one: `error` refuses the study, `drop` "
            "leaves the image out of every variant (so that variants stay comparable)."
        ),
    ] = "error"
    weights: Annotated[
        str,
        Field(min_length=1, description="`builtin`, or a model.safetensors that `cxrdist lungs train` wrote."),
    ] = "builtin"
    implausible: Annotated[
        Literal["whole", "drop", "error"],
        Field(
            description="What happens to an image whose mask cannot be right: `whole`: all of the image counts as "
            "lung; `drop`: the image is left out of every variant; `error`: the study is refused."
        ),
    ] = "whole"

    @model_validator(mode="after")
    def _only_files_can_be_missing(self) -> "LungsConfig":
        if self.missing == "drop" and self.masks != "files":
            raise ValueError(
                f"missing 'drop' needs masks 'files', not {self.masks!r} (the lung network makes one for every image)"
            )
        return self


class FoldsConfig(Section):
    """How images are divided into training, validation and test parts; the same for every variant."""

    protocol: Annotated[
        Literal["kfold", "holdout_75_25", "holdout_batches"],
        Field(
            description="`kfold`: every image is tested once. `holdout_75_25`: one split, paper 1's. "
            "`holdout_batches`: 60/20/20 in random batches of 16 images, paper 2's (needs `group_by: image`)."
        ),
    ] = "kfold"
    k: Annotated[int, Field(ge=2, le=100, description="Number of folds (kfold only).")] = 5
    group_by: Annotated[
        Literal["group", "patient", "image"],
        Field(
            description="What is never divided between parts: `group` (the manifest's group_id where given, else "
            "the patient), `patient`, or `image` (as the papers did; leaks patients, and the report says so)."
        ),
    ] = "group"
    stratify_by: Annotated[
        Literal["class_and_source", "class"],
        Field(description="What is kept in proportion; sources too small for that fall back to the class."),
    ] = "class_and_source"
    validation: Annotated[
        float,
        Field(gt=0, le=0.5, description="Share of the training groups used for validation; never the test part."),
    ] = 0.15

    @model_validator(mode="after")
    def _batches_of_the_paper_are_of_images(self) -> "FoldsConfig":
        if self.protocol == "holdout_batches" and self.group_by != "image":
            raise ValueError(
                f"protocol 'holdout_batches' divides images, so it needs group_by 'image', not {self.group_by!r} "
                "('kfold' and 'holdout_75_25' keep patients together)"
            )
        return self


class VariantsConfig(Section):
    """What is compared: every view with every model."""

    views: Annotated[
        list[ViewName],
        Distinct,
        Field(
            min_length=1,
            description="`whole`: the image as it is; `segmented`: black outside the lungs; `lung_box`: cut to the "
            "lungs' box with a margin; `lungs_blanked`: black inside the lungs, the rest stays.",
        ),
    ] = ["whole"]  # noqa: RUF012 - pydantic copies it
    models: Annotated[
        list[ModelName], Distinct, Field(min_length=1, description="Networks: paper 1's VGG16, paper 2's ResNet-34.")
    ] = ["resnet34"]  # noqa: RUF012


class ExecutionConfig(Section):
    """Where and how the work is done; nothing here changes a result's meaning or makes it stale."""

    executor: Annotated[
        Literal["ray", "inline"],
        Field(description="`ray`: fold jobs in parallel; `inline`: one after another in this process."),
    ] = "ray"
    address: Annotated[
        str | None, Field(description="Ray cluster to join; without it a local one is started and ended.")
    ] = None
    device: Annotated[
        Literal["auto", "cpu", "gpu"],
        Field(
            description="`auto`: as the run directory was planned first, on GPUs where there were any; `gpu`: wait "
            "for a cluster to bring some, or refuse."
        ),
    ] = "auto"
    workers: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1, le=4096)],
        Field(
            description="Lanes: workers that do fold jobs one after another. `auto`: by GPUs, else by cores; on a "
            "cluster that was joined, as many as it has room for, also when it grows."
        ),
    ] = "auto"
    min_workers: Annotated[
        int, Field(ge=1, le=4096, description="Start with as few lanes as this, and grow to `workers`.")
    ] = 1
    resize_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="How often a cluster that was joined is asked for room for more lanes; to take them, all lanes "
            "start again from their checkpoints.",
        ),
    ] = 60.0
    gpus_per_worker: Annotated[
        float, Field(gt=0, le=1, description="Share of a GPU for each lane, where there are GPUs.")
    ] = 1.0
    threads: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1, le=1024)],
        Field(
            description="CPU threads a lane. `auto`: as the run directory was planned first, with the cores divided "
            "between the lanes of all fold jobs."
        ),
    ] = "auto"
    retries: Annotated[
        int,
        Field(ge=0, le=100, description="How often a fold job that failed by its own error is tried again."),
    ] = 1
    worker_failures: Annotated[int, Field(ge=0, le=10_000, description="How many lost workers a study survives.")] = 20
    checkpoint_seconds: Annotated[
        float, Field(ge=0, description="Checkpoint at the first epoch's end after this many seconds.")
    ] = 30.0
    keep_models: Annotated[
        bool, Field(description="Keep each fold's trained network (VGG16's head alone is 0.5 GB a fold).")
    ] = True
    cache: Annotated[
        str | None,
        Field(
            description="Where decoded images, masks and trunk features are kept: a folder that all machines see, or "
            "s3://BUCKET/PREFIX or gs://BUCKET/PREFIX; by default the user's cache folder."
        ),
    ] = None
    node_cache: Annotated[
        str | None,
        Field(
            description="Folder of each machine, such as one on its own disk, for what it fetches from an object "
            "store; by default the user's cache folder."
        ),
    ] = None


class TrackingConfig(Section):
    """Weights & Biases; off by default."""

    wandb: Annotated[
        Literal["off", "auto", "offline", "online"],
        Field(
            description="`offline`: files in the run directory, for `wandb sync`; `online`: they are uploaded, too, "
            "when a fold job or trial is over; `auto`: online where there is an API key, else offline."
        ),
    ] = "off"
    project: Annotated[str, Field(pattern=_NAME, description="W&B project of the runs.")] = "cxrdist"
    entity: Annotated[
        str | None, Field(pattern=_NAME, description="W&B user or team; by default the one that is logged in.")
    ] = None
    trial_runs: Annotated[
        Literal["trial", "inner_fold"],
        Field(description="W&B runs of a sweep: one for each trial, or one for each of its inner folds."),
    ] = "trial"
    images: Annotated[
        bool,
        Field(
            description="Log some images with heat maps at the end of a study. They show patients, so W&B is sent no "
            "pixels unless this is true; ids, labels, sources and hashes of images are sent in any case."
        ),
    ] = False


class Study(Section):
    """A study: one cohort, one set of folds, every variant trained on every fold."""

    name: Annotated[str, Field(pattern=_NAME, max_length=64, description="Names the run directory and the W&B group.")]
    seed: Annotated[int, Field(ge=0, lt=2**63, description="Every random draw derives from it.")] = 0
    cohort: CohortConfig
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    lungs: LungsConfig = LungsConfig()
    folds: FoldsConfig = FoldsConfig()
    variants: VariantsConfig = VariantsConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    sweep: Annotated[
        SweepConfig | None, Field(description="Search for settings that replace those of `training` and `model`.")
    ] = None
    execution: ExecutionConfig = ExecutionConfig()
    tracking: TrackingConfig = TrackingConfig()

    @field_validator("training")
    @classmethod
    def _only_whole_networks_are_shared(cls, training: TrainingConfig, info: ValidationInfo) -> TrainingConfig:
        model = info.data.get("model")
        if training.gpus_per_fold > 1 and model is not None and model.transfer == "frozen":
            raise ValueError(
                f"gpus_per_fold is {training.gpus_per_fold}, but with model.transfer 'frozen' the head alone is "
                "trained, which one device does best; use 1, or transfer 'finetune'"
            )
        return training

    @field_validator("execution")
    @classmethod
    def _several_devices_need_workers(cls, execution: ExecutionConfig, info: ValidationInfo) -> ExecutionConfig:
        training = info.data.get("training")
        if training is None or training.gpus_per_fold == 1:
            return execution
        if execution.executor == "inline":
            raise ValueError(
                f"executor is 'inline', one process, but training.gpus_per_fold is {training.gpus_per_fold}; use "
                "executor 'ray', or 1"
            )
        if execution.gpus_per_worker < 1:
            raise ValueError(
                f"gpus_per_worker is {execution.gpus_per_worker:g}, but training.gpus_per_fold is "
                f"{training.gpus_per_fold}, and each of them needs a whole GPU; use gpus_per_worker 1"
            )
        return execution

    @property
    def needs_masks(self) -> bool:
        """Whether a view needs lung masks."""
        return any(view != "whole" for view in self.variants.views)

    def required_sweep(self) -> SweepConfig:
        """Return the sweep.

        Raises:
            UserError: the study has none.
        """
        if self.sweep is None:
            raise UserError(
                "The study file has no `sweep`; give at least its space, such as sweep: {space: {learning_rate: "
                "{low: 1e-5, high: 1e-2, scale: log}}}."
            )
        return self.sweep

    def manifest_path(self) -> Path:
        """The manifest's location; absolute once the study was loaded from a file."""
        return Path(self.cohort.manifest)
