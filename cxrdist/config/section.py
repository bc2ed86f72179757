"""What all parts of a study file share."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """What all parts of a study file share: unknown keys refused, types not coerced, values fixed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
