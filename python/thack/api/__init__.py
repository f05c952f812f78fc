"""The functions of thack: what a command calls, and what `import thack` exports.

A function takes the settings of its command as one typed object, does the work, and returns a typed value. Every
function checks its settings as strictly as the command line does. `progress` receives what a person would watch.

Modules import the rest of the package inside their functions: `thack --help` and `import thack` must not import torch.
"""

from __future__ import annotations

from thack.api.caches import (
    cache_logits,
    estimate_cache,
    export_cache,
    import_cache,
    inspect_cache,
    probe_cache,
    verify_cache,
)
from thack.api.data import corpus, generate, show_data
from thack.api.experiments import demo, experiment, forecast, recipe, write_cells
from thack.api.models import distill, evaluate, merge, push, sft
from thack.api.runs import explain, read_curves, report, score_detectors, verdict
from thack.api.setup import doctor, preflight, slurm_script

__all__ = [
    "cache_logits",
    "corpus",
    "demo",
    "distill",
    "doctor",
    "estimate_cache",
    "evaluate",
    "experiment",
    "explain",
    "export_cache",
    "forecast",
    "generate",
    "import_cache",
    "inspect_cache",
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
