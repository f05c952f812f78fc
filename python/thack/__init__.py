"""thack: cache what a teacher knows, distill it into a student, and see the moment it learns the mistakes.

Everything here is public. It is imported when first used, so that `import thack` stays quick.

    functions  sft  generate  cache_logits  distill  evaluate  verdict  report  demo  experiment  and more:
               one for each command, with the command's settings as one typed object
    settings   SftSettings  GenerateSettings  CacheSettings  DistillSettings  EvaluateSettings  and their groups
    values     Cache  EvalSet  References  Verdict  and what the functions return
    packages   thack.kernels  thack.losses  thack.cache  thack.evaluation  thack.detection  thack.integrations

    result = thack.distill(thack.DistillSettings(cache="cache", student="student", out=Path("runs/a")))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `__getattr__` imports, for type checkers and editors
    from thack import cache, detection, evaluation, integrations, kernels, losses
    from thack._version import __version__
    from thack.api import (
        cache_logits,
        corpus,
        demo,
        distill,
        doctor,
        estimate_cache,
        evaluate,
        experiment,
        explain,
        export_cache,
        forecast,
        generate,
        import_cache,
        inspect_cache,
        merge,
        preflight,
        probe_cache,
        read_curves,
        recipe,
        report,
        score_detectors,
        sft,
        slurm_script,
        verdict,
        verify_cache,
        write_cells,
    )
    from thack.cache import Cache
    from thack.config import (
        ArchitectureSettings,
        Axes,
        CacheSettings,
        CheckpointSettings,
        DataSettings,
        DistillSettings,
        DoctorSettings,
        EvaluateSettings,
        EvaluationSettings,
        ExperimentSettings,
        GenerateSettings,
        GuardSettings,
        LoadSettings,
        LoraSettings,
        LossSettings,
        MemorySettings,
        MergeSettings,
        OptimizerSettings,
        ParallelSettings,
        PushSettings,
        RoleSettings,
        SamplingSettings,
        SftSettings,
        ShowSettings,
        SlurmSettings,
        SourceSettings,
        TargetSettings,
        load_settings,
    )
    from thack.errors import ThackError
    from thack.evaluation import EvalSet, References
    from thack.integrations import CallbackSettings, HackingCallback
    from thack.schema.verdict import Margins, OracleFreeVerdict, Thresholds, Verdict

_HOMES = {
    "thack._version": "__version__",
    "thack.api": (
        "cache_logits corpus demo distill doctor estimate_cache evaluate experiment explain export_cache "
        "forecast generate import_cache inspect_cache merge preflight probe_cache push read_curves recipe report "
        "score_detectors sft show_data slurm_script verdict verify_cache write_cells"
    ),
    "thack.cache": "Cache",
    "thack.config": (
        "ArchitectureSettings Axes CacheSettings CheckpointSettings DataSettings DistillSettings "
        "DoctorSettings EvaluateSettings EvaluationSettings ExperimentSettings GenerateSettings GuardSettings "
        "LoadSettings LoraSettings LossSettings MemorySettings MergeSettings OptimizerSettings ParallelSettings "
        "PushSettings RoleSettings SamplingSettings SftSettings ShowSettings SlurmSettings SourceSettings "
        "TargetSettings load_settings"
    ),
    "thack.errors": "ThackError",
    "thack.evaluation": "EvalSet References",
    "thack.integrations": "CallbackSettings HackingCallback",
    "thack.schema.verdict": "Margins OracleFreeVerdict Thresholds Verdict",
}
_PACKAGES = ("cache", "detection", "evaluation", "integrations", "kernels", "losses")

__all__ = [
    "ArchitectureSettings",
    "Axes",
    "Cache",
    "CacheSettings",
    "CallbackSettings",
    "CheckpointSettings",
    "DataSettings",
    "DistillSettings",
    "DoctorSettings",
    "EvalSet",
    "EvaluateSettings",
    "EvaluationSettings",
    "ExperimentSettings",
    "GenerateSettings",
    "GuardSettings",
    "HackingCallback",
    "LoadSettings",
    "LoraSettings",
    "LossSettings",
    "Margins",
    "MemorySettings",
    "MergeSettings",
    "OptimizerSettings",
    "OracleFreeVerdict",
    "ParallelSettings",
    "PushSettings",
    "References",
    "RoleSettings",
    "SamplingSettings",
    "SftSettings",
    "ShowSettings",
    "SlurmSettings",
    "SourceSettings",
    "TargetSettings",
    "ThackError",
    "Thresholds",
    "Verdict",
    "__version__",
    "cache",
    "cache_logits",
    "corpus",
    "demo",
    "detection",
    "distill",
    "doctor",
    "estimate_cache",
    "evaluate",
    "evaluation",
    "experiment",
    "explain",
    "export_cache",
    "forecast",
    "generate",
    "import_cache",
    "inspect_cache",
    "integrations",
    "kernels",
    "load_settings",
    "losses",
    "merge",
    "preflight",
    "probe_cache",
    "push",
    "read_curves",
    "recipe",
    "report",
    "score_detectors",
    "sft",
    "show_data",
    "slurm_script",
    "verdict",
    "verify_cache",
    "write_cells",
]


def __getattr__(name: str) -> object:
    if name in _PACKAGES:
        return import_module(f"thack.{name}")
    for module, names in _HOMES.items():
        if name in names.split():
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'thack' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
