"""thack: cache what a teacher knows, distill it into a student, and see the moment it learns the mistakes.

Everything here is public and kept; it is imported when first used, so that `import thack` stays quick.

    verbs   sft  generate  cache_logits  distill  evaluate  verdict  report  experiment  demo
            the commands as functions; their settings are keyword arguments
    parts   thack.kernels (topk_logsumexp, sample, threshold_sample, sparse_divergence: tensors in, tensors out)
            thack.cache.Cache (open, index by sequence, iterate batches, verify)
            thack.losses (forward_kl, reverse_kl, jsd, skewed_kl, total_variation: on every target)
            thack.metrics (PromptBank, distance)   thack.hacking (fit_power_law, slope_ratio, verdict)
    beside  thack.HackingCallback and thack.integrations, for transformers' and TRL's trainers
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thack import cache, hacking, integrations, kernels, losses, metrics
    from thack.api import (
        cache_logits,
        demo,
        distill,
        evaluate,
        experiment,
        generate,
        report,
        sft,
        verdict,
    )
    from thack.cache import Cache
    from thack.errors import ThackError
    from thack.integrations import HackingCallback
    from thack.metrics import PromptBank

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
    "PromptBank": "thack.metrics",
    "ThackError": "thack.errors",
    "HackingCallback": "thack.integrations",
}

_PARTS = ("cache", "hacking", "integrations", "kernels", "losses", "metrics")

__all__ = [
    "Cache",
    "HackingCallback",
    "PromptBank",
    "ThackError",
    "__version__",
    "cache",
    "cache_logits",
    "demo",
    "distill",
    "evaluate",
    "experiment",
    "generate",
    "hacking",
    "integrations",
    "kernels",
    "losses",
    "metrics",
    "report",
    "sft",
    "verdict",
]


def __getattr__(name: str) -> Any:
    if name == "_thack":  # asked for by whoever imports it first
        return _native()
    if name in _PARTS:
        return import_module(f"thack.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "__version__":
        return _native().__version__
    raise AttributeError(f"module 'thack' has no attribute {name!r}")


def _native() -> ModuleType:
    """The native module; in a checkout, where it is built apart, one of another interface is refused."""
    native = import_module("thack._thack")
    stub = Path(__file__).with_name("_thack.pyi")
    if (stub.parents[2] / "Cargo.toml").is_file() and getattr(native, "INTERFACE", "") != stub.read_text("utf-8"):
        from thack.errors import ThackError

        raise ThackError("the native module is older than the Python code", hint="next: make install")
    return native


def __dir__() -> list[str]:
    return sorted(__all__)


class _Verb(ModuleType):
    """A subpackage with the name of a verb: `thack.report(...)` works, imported or not."""

    def __call__(self, *arguments: Any, **keys: Any) -> Any:
        return getattr(import_module("thack.api"), self.__name__.rpartition(".")[2])(*arguments, **keys)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOMES.get(name) == "thack.api":
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
