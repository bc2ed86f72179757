"""The study file: its model, reading it with good errors, and the fingerprint of what can change a number."""

from cxrdist.config.load import load_study, parse_setting
from cxrdist.config.models import (
    CohortConfig,
    ExecutionConfig,
    FoldsConfig,
    ModelConfig,
    PreprocessingConfig,
    Study,
    TrackingConfig,
    TrainingConfig,
    VariantsConfig,
)

__all__ = [
    "CohortConfig",
    "ExecutionConfig",
    "FoldsConfig",
    "ModelConfig",
    "PreprocessingConfig",
    "Study",
    "TrackingConfig",
    "TrainingConfig",
    "VariantsConfig",
    "load_study",
    "parse_setting",
]
