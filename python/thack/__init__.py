"""thack: cache what a teacher knows, distill it into a student, and see the moment it learns the mistakes.

Everything here is public and kept; it is imported when first used, so that `import thack` stays quick.

    verbs   sft  generate  cache_logits  distill  evaluate  verdict  report  experiment  demo
            the commands as functions; their settings are keyword arguments
    parts   thack.kernels (topk_logsumexp, sample, threshold_sample, sparse_divergence: tensors in, tensors out)
            thack.cache.Cache (open, index by sequence, iterate batches, verify)
            thack.losses (forward_kl, reverse_kl, jsd, skewed_kl, total_variation: on every target)
            thack.evaluation (EvalSet, distance)   thack.detection (fit_power_law, slope_ratio, verdict)
    beside  thack.HackingCallback and thack.integrations, for transformers' and TRL's trainers
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thack import cache, integrations, kernels, losses
    from thack import detection as detection
    from thack import evaluation as evaluation
    from thack.api import cache_logits, demo, distill, evaluate, experiment, generate, report, sft, verdict
    from thack.cache import Cache
    from thack.errors import ThackError
    from thack.evaluation import EvalSet, References
    from thack.integrations import HackingCallback

_HOMES = {
    "cache_logits": "thack.api",
    "demo": "thack.api",
    "distill": "thack.api",
    "evaluate": "thack.api",
    "experiment": "thack.api",
    "generate": "thack.api",
    "report": "thack.api",
    "sft": "thack.api",
    "verdict": "thack.api",
    "Cache": "thack.cache",
    "EvalSet": "thack.evaluation",
    "References": "thack.evaluation",
    "ThackError": "thack.errors",
    "__version__": "thack._version",
    "HackingCallback": "thack.integrations",
}

_PARTS = ("cache", "detection", "evaluation", "integrations", "kernels", "losses")

__all__ = [
    "Cache",
    "EvalSet",
    "HackingCallback",
    "References",
    "ThackError",
    "__version__",
    "cache",
    "cache_logits",
    "demo",
    "detection",
    "distill",
    "evaluate",
    "evaluation",
    "experiment",
    "generate",
    "integrations",
    "kernels",
    "losses",
    "report",
    "sft",
    "verdict",
]


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"thack.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'thack' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
