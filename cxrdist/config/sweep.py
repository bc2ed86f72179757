"""The part of a study file that says what a sweep searches, and how."""

from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from cxrdist.config.recipe import ModelConfig, TrainingConfig
from cxrdist.config.section import Section


class DimensionConfig(Section):
    """The values of one setting that a sweep may try: a list of them, or all from `low` to `high`."""

    values: Annotated[
        list[float] | None,
        Field(min_length=1, description="The values themselves, such as [8, 16, 32]."),
    ] = None
    low: Annotated[float | None, Field(description="Smallest value.")] = None
    high: Annotated[float | None, Field(description="Largest value.")] = None
    scale: Annotated[
        Literal["linear", "log"] | None,
        Field(description="How values between `low` and `high` are spread; `log`: evenly over orders of magnitude."),
    ] = None

    @model_validator(mode="after")
    def _is_a_list_or_a_range(self) -> "DimensionConfig":
        bounds = (self.low, self.high)
        if self.values is not None:
            if bounds != (None, None) or self.scale is not None:
                raise ValueError("`values` are all there are: leave out low, high and scale")
            if len(set(self.values)) < len(self.values):
                raise ValueError(f"a value is listed twice in {self.values}")
        elif self.low is None or self.high is None:
            raise ValueError("give either `values`, or `low` and `high`")
        elif self.low >= self.high:
            raise ValueError(f"low is {self.low:g}, but should be less than high, {self.high:g}")
        elif self.scale == "log" and self.low <= 0:
            raise ValueError(f"low is {self.low:g}, but scale 'log' needs values above 0")
        return self


class SpaceConfig(Section):
    """What a sweep searches: keys of `training`, and `dropout` of `model`."""

    learning_rate: DimensionConfig | None = None
    batch_size: DimensionConfig | None = None
    weight_decay: DimensionConfig | None = None
    epochs: DimensionConfig | None = None
    dropout: DimensionConfig | None = None

    @property
    def dimensions(self) -> dict[str, DimensionConfig]:
        """What is searched, by key."""
        return {key: value for key in type(self).model_fields if (value := getattr(self, key)) is not None}

    @model_validator(mode="after")
    def _holds_values_that_a_study_may_have(self) -> "SpaceConfig":
        if not self.dimensions:
            raise ValueError(
                f"the space is empty; give at least one of {', '.join(type(self).model_fields)}, such as "
                "learning_rate: {low: 1e-5, high: 1e-2, scale: log}"
            )
        for key, dimension in self.dimensions.items():
            section: type[Section] = ModelConfig if key == "dropout" else TrainingConfig
            whole = section.model_fields[key].annotation is int
            named = {"low": dimension.low, "high": dimension.high}
            if dimension.values is not None:
                named = {"values": None} | {f"values[{i}]": value for i, value in enumerate(dimension.values)}
            for name, value in named.items():
                if value is None:
                    continue
                if whole and value != int(value):
                    raise ValueError(f"{key}.{name} is {value:g}, but {key} is a whole number")
                try:
                    section.model_validate({key: int(value) if whole else value})
                except ValidationError as error:
                    rule = error.errors()[0]["msg"].removeprefix("Input should be ")
                    raise ValueError(f"{key}.{name} is {value:g}, but {key} should be {rule}") from None
        return self


class SweepConfig(Section):
    """A search for settings inside the training part of a fold, by cross-validation of its own."""

    space: SpaceConfig
    trials: Annotated[
        int,
        Field(ge=1, le=10_000, description="Settings to try in each search; a space with no more is tried as a whole."),
    ] = 24
    folds: Annotated[
        int, Field(ge=2, le=20, description="Inner folds, by the same groups as the outer ones; each trial does all.")
    ] = 3
    nesting: Annotated[
        Literal["per_fold", "shared"],
        Field(
            description="`per_fold`: a search in the training part of every outer fold, so that no test image had a "
            "part in a choice. `shared`: one search, in the training part of fold 0, whose choice serves all folds: "
            "cheaper, but test images of the other folds had a part in it, and the report says so in red."
        ),
    ] = "per_fold"
    metric: Annotated[
        Literal["val_auc", "val_accuracy", "val_macro_f1", "val_loss"],
        Field(description="Mean over the inner folds' held-out parts; `val_auc` is the macro one-versus-rest AUC."),
    ] = "val_auc"
    mode: Annotated[
        Literal["auto", "max", "min"],
        Field(description="What is better; `auto`: min for val_loss, else max."),
    ] = "auto"
    searcher: Annotated[
        Literal["tpe", "random"],
        Field(description="`tpe`: Optuna's tree-structured Parzen estimator, which learns from earlier trials."),
    ] = "tpe"
    scheduler: Annotated[
        Literal["asha", "none"],
        Field(
            description="`asha`: successive halving; a trial stops where its mean so far is not among the best third "
            "of those that came as far. `none`: every trial does all inner folds."
        ),
    ] = "asha"
    grace: Annotated[
        float,
        Field(gt=0, le=20, description="Inner folds, or part of one, that no trial stops before."),
    ] = 0.3
    concurrency: Annotated[
        int,
        Field(
            ge=1,
            le=1000,
            description="Trials of one search at a time. A trial learns from those at least so many before it and no "
            "others, so that the choice never depends on which of them is quicker.",
        ),
    ] = 4
    minutes: Annotated[
        float | None,
        Field(gt=0, description="Time for all searches together; the trials done by then decide. None: no limit."),
    ] = None

    @property
    def larger_is_better(self) -> bool:
        """What is better of the metric."""
        return self.metric != "val_loss"

    @model_validator(mode="after")
    def _mode_suits_the_metric(self) -> "SweepConfig":
        right = "max" if self.larger_is_better else "min"
        if self.mode not in ("auto", right):
            raise ValueError(f"mode is {self.mode!r}, but of {self.metric} the {right}imum is the best; use {right!r}")
        if self.scheduler == "asha" and self.grace >= self.folds:
            raise ValueError(
                f"grace is {self.grace:g} of {self.folds} inner folds, so no trial could stop early; choose less, or "
                "scheduler 'none'"
            )
        return self
