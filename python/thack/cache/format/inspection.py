"""What a cache holds, as plain values: for people and for scripts."""

from __future__ import annotations

from pathlib import Path

from thack.cache.format.ends import count_ends
from thack.cache.format.manifest import load_manifest, missing, read_manifest
from thack.cache.format.nll import teacher_nll
from thack.cache.format.plan import read_plan
from thack.errors import UndefinedLoss
from thack.schema import document
from thack.schema.cache_content import Inspection, Origin
from thack.schema.defined import check_defined
from thack.schema.targets import DIVERGENCES, Divergence, DivergenceKind, TargetSpec

_MOST_SHARDS = 100  # of the missing ones that are listed


def inspect(directory: Path | str) -> Inspection:
    """What a cache holds, what it was made from, and which losses are defined on it. Reads no record.

    Args:
        directory: of the cache, which may be incomplete.

    Returns:
        The description. Its tokens and bytes are None while a shard is missing.

    Raises:
        CacheError: the directory is not a cache, or its plan or manifest is damaged.

    Example:
        >>> inspect("no/such/cache")
        Traceback (most recent call last):
        ...
        thack.errors.CacheError: no/such/cache does not exist
          make a cache with: thack cache-logits
    """
    directory = Path(directory).expanduser()
    plan = read_plan(directory)
    lacking = list(missing(directory, plan))
    manifest = load_manifest(directory, plan) if lacking else read_manifest(directory, plan)
    layout, spec = plan.layout, plan.layout.spec
    ends = None if lacking else count_ends(directory, plan)
    return Inspection(
        directory=str(directory),
        complete=not lacking,
        shards=plan.num_shards,
        missing_shards=tuple(lacking[:_MOST_SHARDS]),
        kind=spec.kind,
        ids_per_token=spec.k or layout.vocab_size,
        vocab_size=layout.vocab_size,
        bytes_per_token=plan.bytes_per_token,
        temperatures=(1.0, *spec.temperatures) if spec.kind == "top-k" else (),
        exact_tail=spec.tail == "exact" if spec.kind == "top-k" else None,
        precision=_precision(spec),
        losses={kind: _how_well(spec, kind) for kind in DIVERGENCES},
        sequences=plan.num_sequences,
        tokens=manifest.tokens if manifest else None,
        bytes=manifest.bytes if manifest else None,
        fingerprints={"plan": plan.fingerprint, **{k: str(v) for k, v in document.dump(plan.fingerprints).items()}},
        made_by=Origin(thack=plan.build, device=plan.device, dtype=plan.dtype, seed=plan.seed),
        finished=ends.finished_share if ends else None,
        truncated=ends.truncated_share if ends else None,
        teacher_nll=None if lacking else teacher_nll(directory, plan),
    )


def _precision(spec: TargetSpec) -> str:
    """The error of what is stored, by the record's layout (rust/codec)."""
    if spec.kind == "dense":
        return "float32"
    if spec.kind == "sampled":
        return "weights rounded at random, so that their expectation is exact; entropy to 2^-11 nats"
    if spec.kind == "projected":
        kept = "11 bits of each number" if spec.value_bits == 16 else "4 bits of each number, FP8"
        return f"{kept}, and the entropy in float32: forward KL and its gradient exact but for that"
    share = 0.75 / (2**spec.value_bits - 1)  # half the widest step of a code, 1.5 · range / Q
    return (
        f"log-probs in {spec.value_bits} bits: off by up to {share:.1%} of their range in a row (0.05 nats where the "
        "ids span 18), KL 1e-5 to 2e-4 nats a token; mass of a row 1 within 0.4 %"
    )


def _how_well(spec: TargetSpec, kind: DivergenceKind) -> str:
    """Whether a divergence is defined on these targets: exact, a bound, unbiased, or refused with the reason."""
    if spec.kind == "dense":
        return "exact, at any temperature"
    defined = []
    for temperature in (1.0, *spec.temperatures):
        try:
            check_defined(spec, Divergence(kind=kind, temperature=temperature))
            defined.append(f"{temperature:g}")
        except UndefinedLoss as refusal:
            if not defined:
                return f"refused: {refusal.message}"
    quality = {
        "exact": "a lower bound: all other ids count as one outcome",
        "estimated": "approximate: the tail is 1 − Σ of the kept ids, unreliable where it is below 1e-3",
        "processed": "of the distribution that the server sampled from, not of the teacher's own",
    }
    if spec.kind == "projected":
        return "exact over the whole vocabulary, for a student with this frozen head; temperature 1"
    how = "unbiased" if spec.kind == "sampled" else quality[spec.tail]
    return f"{how}; temperature {', '.join(defined)}"
