"""What a cache holds, as plain values: for people and for scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thack.cache.format.layout import RecordLayout
from thack.cache.format.manifest import load_manifest, missing, read_manifest
from thack.cache.format.plan import read_plan
from thack.errors import UndefinedLoss
from thack.losses.sparse import check_defined
from thack.schema.targets import DIVERGENCES, DivergenceKind
from thack.targets.types import SampledTarget, TopKTarget


def inspect(directory: Path | str) -> dict[str, Any]:
    """Kind, sizes, fingerprints, what losses it serves, and whether it is whole. Reads no record."""
    directory = Path(directory).expanduser()
    plan = read_plan(directory)
    lacking = list(missing(directory, plan))
    found: dict[str, Any] = {
        "directory": str(directory),
        "complete": not lacking,
        "shards": plan.num_shards,
        "missing_shards": lacking[:100],
        "kind": plan.layout.spec.kind,
        "ids_per_token": plan.layout.vocab_size if plan.layout.spec.kind == "dense" else plan.layout.spec.k,
        "vocab_size": plan.layout.vocab_size,
        "bytes_per_token": plan.layout.stride,
        "temperatures": [1.0, *plan.layout.spec.temperatures],
        "exact_tail": plan.layout.spec.tail == "exact",
        "losses": losses(plan.layout),
        "sequences": plan.num_sequences,
        "tokens": None,
        "bytes": None,
        "fingerprints": {"plan": plan.fingerprint(), **plan.fingerprints},
        "made_by": {"thack": plan.build, "device": plan.device, "dtype": plan.dtype, "seed": plan.seed},
    }
    manifest = load_manifest(directory, plan) if lacking else read_manifest(directory, plan)
    if manifest is not None:
        found |= {"tokens": manifest.tokens, "bytes": manifest.bytes}
    return found


def losses(layout: RecordLayout) -> dict[str, str]:
    """Which divergence is defined on these targets, and how well: exact, a bound, unbiased, or refused."""
    if layout.spec.kind == "dense":
        return dict.fromkeys(DIVERGENCES, "exact, at any temperature")
    return {kind: _on_sparse(layout, kind) for kind in DIVERGENCES}


def _on_sparse(layout: RecordLayout, kind: DivergenceKind) -> str:
    """What training would say, asked of one row like those of the cache."""
    served = []
    for temperature in (1.0, *layout.spec.temperatures):
        try:
            check_defined(_one_row(layout), kind, temperature)
            served.append(f"{temperature:g}")
        except UndefinedLoss as refusal:
            if not served:
                return f"refused: {refusal.message}"
    how = {
        "sampled": "unbiased",
        "exact": "a lower bound, of the kept ids and the rest as one",
        "estimated": "approximate: the rest is 1 − Σ of the kept, unreliable where it is below 1e-3",
    }["sampled" if layout.spec.kind == "sampled" else layout.spec.tail]
    return f"{how}; temperature {', '.join(served)}"


def _one_row(layout: RecordLayout) -> TopKTarget | SampledTarget:
    import torch

    one, ids = torch.zeros(1), torch.zeros(1, 1, dtype=torch.int32)
    if layout.spec.kind == "sampled":
        return SampledTarget(
            ids_NK=ids,
            weights_NK=one[:, None] + 1,
            counts_N=ids[0] + 1,
            tau_N=one + 1,
            entropy_N=one,
            vocab_size=layout.vocab_size,
        )
    return TopKTarget(
        ids_NK=ids,
        log_probs_NK=one[:, None] - 1,
        log_tail_N=None if layout.spec.tail == "none" else one - 1,
        vocab_size=layout.vocab_size,
        log_tail_at=dict.fromkeys(layout.spec.temperatures, one),
    )
