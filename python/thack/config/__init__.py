"""Settings: frozen values with bounds and help on every field, read strictly from TOML files and key=value texts."""

from thack.config.commands import (
    CacheSettings,
    DistillSettings,
    DoctorSettings,
    EvaluateSettings,
    GenerateSettings,
    MergeSettings,
    PushSettings,
    SftSettings,
    ShowSettings,
)
from thack.config.experiment import Axes, ExperimentSettings, RoleSettings
from thack.config.loader import checked, from_dict, load_settings
from thack.config.reference import Field, Kind, Setting, describe, fields_of
from thack.config.shared import (
    ArchitectureSettings,
    DataSettings,
    DTypeName,
    EvaluationSettings,
    LoadSettings,
    RouterLoss,
    SamplingSettings,
    ServerSettings,
    TrackerName,
)
from thack.config.slurm import SlurmSettings
from thack.config.toml import to_dict, to_toml
from thack.config.training import (
    CheckpointSettings,
    GuardSettings,
    LoraSettings,
    LossSettings,
    MemorySettings,
    OptimizerSettings,
    ParallelSettings,
    PolicySettings,
    SourceSettings,
    TargetSettings,
)
from thack.config.verdict import VerdictSettings

__all__ = [
    "ArchitectureSettings",
    "Axes",
    "CacheSettings",
    "CheckpointSettings",
    "DTypeName",
    "DataSettings",
    "DistillSettings",
    "DoctorSettings",
    "EvaluateSettings",
    "EvaluationSettings",
    "ExperimentSettings",
    "Field",
    "GenerateSettings",
    "GuardSettings",
    "Kind",
    "LoadSettings",
    "LoraSettings",
    "LossSettings",
    "MemorySettings",
    "MergeSettings",
    "OptimizerSettings",
    "ParallelSettings",
    "PolicySettings",
    "PushSettings",
    "RoleSettings",
    "RouterLoss",
    "SamplingSettings",
    "ServerSettings",
    "Setting",
    "SftSettings",
    "ShowSettings",
    "SlurmSettings",
    "SourceSettings",
    "TargetSettings",
    "TrackerName",
    "VerdictSettings",
    "checked",
    "describe",
    "fields_of",
    "from_dict",
    "load_settings",
    "to_dict",
    "to_toml",
]
