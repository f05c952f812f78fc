"""What a cache holds, as plain values: for people and for scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from thack.cache.format.manifest import load_manifest, missing, read_manifest
from thack.cache.format.plan import Record, read_plan
from thack.config.settings import Divergence
from thack.errors import UndefinedLoss
from thack.losses.formulas import resolve
from thack.losses.sparse import check_defined
from thack.targets.types import SampledTarget, TopKTarget

_DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)


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
        "kind": plan.record.kind,
        "ids_per_token": plan.record.vocab_size if plan.record.kind == "dense" else plan.record.k,
        "vocab_size": plan.record.vocab_size,
        "bytes_per_token": plan.record.stride,
        "temperatures": [1.0, *plan.record.temperatures],
        "exact_tail": plan.record.tail == "exact",
        "losses": losses(plan.record),
        "sequences": plan.num_sequences,
        "tokens": None,
        "bytes": None,
        "fingerprints": {"plan": plan.fingerprint(), **plan.fingerprints},
        "made_by": {"thack": plan.build, "device": plan.device, "dtype": plan.dtype, "seed": plan.seed},
    }
    manifest = load_manifest(directory, plan) if lacking else read_manifest(directory, plan)
    if manifest is not None:
        found |= {"tokens": manifest["tokens"], "bytes": manifest["bytes"]}
    return found


def losses(record: Record) -> dict[str, str]:
    """Which divergence is defined on these targets, and how well: exact, a bound, unbiased, or refused."""
    if record.kind == "dense":
        return dict.fromkeys(_DIVERGENCES, "exact, at any temperature")
    return {kind: _on_sparse(record, kind) for kind in _DIVERGENCES}


def _on_sparse(record: Record, kind: Divergence) -> str:
    """What training would say, asked of one row like those of the cache."""
    served = []
    for temperature in (1.0, *record.temperatures):
        try:
            check_defined(_one_row(record), resolve(kind, 0.5, 0.5, temperature), temperature)
            served.append(f"{temperature:g}")
        except UndefinedLoss as refusal:
            if not served:
                return f"refused: {refusal.message}"
    how = {
        "sampled": "unbiased",
        "exact": "a lower bound, of the kept ids and the rest as one",
        "estimated": "approximate: the rest is 1 − Σ of the kept, unreliable where it is below 1e-3",
    }["sampled" if record.kind == "sampled" else record.tail]
    return f"{how}; temperature {', '.join(served)}"


def _one_row(record: Record) -> TopKTarget | SampledTarget:
    import torch

    one, ids = torch.zeros(1), torch.zeros(1, 1, dtype=torch.int32)
    if record.kind == "sampled":
        return SampledTarget(
            ids_NK=ids,
            weights_NK=one[:, None] + 1,
            counts_N=ids[0] + 1,
            tau_N=one + 1,
            entropy_N=one,
            vocab_size=record.vocab_size,
        )
    return TopKTarget(
        ids_NK=ids,
        log_probs_NK=one[:, None] - 1,
        log_tail_N=None if record.tail == "none" else one - 1,
        vocab_size=record.vocab_size,
        log_tail_at=dict.fromkeys(record.temperatures, one),
    )
