"""What a fold job trains: the network and the recipe, as plain values that a fingerprint can hash."""

from dataclasses import dataclass, replace
from typing import Literal

ViewName = Literal["whole", "segmented", "lung_box", "lungs_blanked"]
ModelName = Literal["vgg16", "resnet34"]


@dataclass(frozen=True)
class Network:
    """A classifier: a convolutional trunk and a new head."""

    model: ModelName
    n_classes: int
    image_size: int
    """Side of the square input in pixels, a multiple of 32."""
    transfer: Literal["frozen", "finetune"] = "finetune"
    weights_hash: str = "none"
    """SHA-256 of the trunk's weight file, or `none` for random weights drawn from the study's seed."""
    vgg_head: Literal["flatten", "average_pool"] = "flatten"
    vgg_hidden: int = 4096
    dropout: float = 0.5


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: Adam on the cross-entropy."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    selection: Literal["last", "best_validation_loss"] = "last"


Settings = tuple[tuple[str, int | float], ...]
"""Values that a sweep tries or chose: keys of `Recipe`, and `dropout` of `Network`; in the order of the space."""


def with_settings(network: Network, recipe: Recipe, settings: Settings) -> tuple[Network, Recipe]:
    """Return network and recipe with these values in place of their own."""
    values = dict(settings)
    if "dropout" in values:
        network = replace(network, dropout=float(values.pop("dropout")))
    epochs, batch_size = values.pop("epochs", recipe.epochs), values.pop("batch_size", recipe.batch_size)
    rates = {key: float(value) for key, value in values.items()}
    return network, replace(recipe, epochs=int(epochs), batch_size=int(batch_size), **rates)  # type: ignore[arg-type]
