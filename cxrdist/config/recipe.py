"""The parts of a study file that say what is trained, and how."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cxrdist.config.section import Section


class ModelConfig(Section):
    """The networks."""

    weights: Annotated[
        str,
        Field(
            min_length=1,
            description="`imagenet`, `none` (random), or a folder or file of state dicts "
            "(.safetensors or .pth); a folder holds one file a model, such as resnet34.safetensors.",
        ),
    ] = "imagenet"
    transfer: Annotated[
        Literal["frozen", "finetune"],
        Field(description="`frozen`: only the head is trained, on features computed once; `finetune`: everything."),
    ] = "frozen"
    vgg_head: Annotated[
        Literal["flatten", "average_pool"],
        Field(description="Paper 1's flattened features, or global average pooling, before the hidden layers."),
    ] = "flatten"
    vgg_hidden: Annotated[
        int, Field(ge=1, le=16384, description="Width of the three hidden layers of VGG16's head.")
    ] = 4096
    dropout: Annotated[float, Field(ge=0, lt=1, description="Dropout rate in VGG16's head.")] = 0.5


class TrainingConfig(Section):
    """The recipe of one training run."""

    epochs: Annotated[int, Field(ge=1, le=100_000, description="Passes over the training part.")] = 10
    batch_size: Annotated[int, Field(ge=2, le=4096, description="Images a step.")] = 16
    learning_rate: Annotated[float, Field(gt=0, le=10, description="Adam's step size.")] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=1, description="Adam's L2 penalty.")] = 0.0
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        Field(description="`auto`: bf16 on a GPU that has it, else fp32."),
    ] = "auto"
    selection: Annotated[
        Literal["last", "best_validation_loss"],
        Field(description="Which epoch's model is tested: the last, as in the papers, or the best on validation."),
    ] = "last"
    gpus_per_fold: Annotated[
        int,
        Field(
            ge=1,
            le=1024,
            description="Devices that train one fold job together, each a part of every batch: GPUs, or CPU workers "
            "where there are none. The results are those of one device but for rounding; like the number of threads it "
            "makes nothing stale, and is recorded. Trials of a sweep run on one device each, whatever this says.",
        ),
    ] = 1

    @model_validator(mode="after")
    def _every_device_has_a_part(self) -> "TrainingConfig":
        if self.batch_size < self.gpus_per_fold:
            raise ValueError(
                f"gpus_per_fold is {self.gpus_per_fold}, but a batch of {self.batch_size} images (batch_size) is work "
                f"for {self.batch_size} devices at most"
            )
        return self
