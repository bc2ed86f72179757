"""The study file: its model, reading it with good errors, and the fingerprint of what can change a number."""

from cxrdist.config.load import load_study, parse_setting
from cxrdist.config.models import (
    CohortConfig,
    ExecutionConfig,
    FoldsConfig,
    PreprocessingConfig,
    Study,
    TrackingConfig,
    VariantsConfig,
)
from cxrdist.config.recipe import ModelConfig, TrainingConfig
from cxrdist.config.sweep import DimensionConfig, SpaceConfig, SweepConfig

__all__ = [
    "CohortConfig",
    "DimensionConfig",
    "ExecutionConfig",
    "FoldsConfig",
    "ModelConfig",
    "PreprocessingConfig",
    "SpaceConfig",
    "Study",
    "SweepConfig",
    "TrackingConfig",
    "TrainingConfig",
    "VariantsConfig",
    "load_study",
    "parse_setting",
]
