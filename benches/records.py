"""What records lose, on named families of rows: codec KL of top-64, and squared error of sampled ids.

Synthetic families have V = 151,936. "demo teacher" is the teacher of runs/demo (`make demo`, or THACK_DEMO names
another run) on its own kind of text; without one that family is left out, aloud.

Peers of top-64 are bytes alone: ids in 32 bits and f16 values through zstd, and DistillKit's published layout
(18-bit ids and 7 or 16 bits a value: 200 and 272 B). The peer of sampled ids is multinomial sampling: with as many
draws as there are places, and with so many that the *expected number of distinct ids* is ours, which on peaked rows
is far more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness import Measurement, Target, at_most, ratio
from thack import kernels
from thack.cache.format.layout import RecordLayout
from thack.cache.format.records import decode, encode
from thack.config import DataSettings
from thack.data.prepare import prepare
from thack.data.stdlib import stdlib_records
from thack.models.batch import Batch
from thack.models.load import load_model
from thack.schema.targets import TargetSpec
from thack.targets.select import select
from thack.targets.types import SampledTarget, TopKTarget

V, K, N = 151_936, 64, 32
DRAWS = 64
SYNTHETIC = ("random", "random ×2", "peaked ×4", "peaked ×8", "flat", "Zipf 1", "Zipf 1.5", "Zipf 2")
LM_LIKE = ("Zipf 1.5", "Zipf 2", "demo teacher")  # Zipf 1 has 8 nats at this V: flat for a language model


def measure() -> Iterator[Measurement]:
    real = teacher_rows()
    for name in (*SYNTHETIC, *(["demo teacher"] if real is not None else [])):
        z = synthetic(name) if real is None or name != "demo teacher" else real
        for bits, limit in ((8, 2e-5 if name == "demo teacher" else 4e-5), (7, 2e-4)):
            yield codec_kl(name, z, bits, limit)
        for k in (16, 4):
            yield from squared_error(name, z, k)
        if name in ("Zipf 1", "demo teacher"):
            yield raw_bytes(name, z)


def codec_kl(name: str, z: Tensor, bits: int, limit: float) -> Measurement:
    """Mean KL on K+1 outcomes, renormalised, of what went through a record, in millionths of a nat."""
    layout = RecordLayout(spec=TargetSpec(kind="top-k", k=K, value_bits=bits), vocab_size=z.shape[1])
    kept, back = round_trip(z, layout)
    assert isinstance(kept, TopKTarget) and isinstance(back, TopKTarget)
    log_p, log_q = outcomes(kept), outcomes(back)
    found = float((log_p.exp() * (log_p - log_q)).sum(1).mean())
    return Measurement(
        what=f"codec KL, top-64 in {layout.stride} B (V = {z.shape[1]:,}), {name}",
        ours=found * 1e6,
        unit="µnat",
        peer="DistillKit, published: 200 B",
        theirs=210,
        target=at_most(limit * 1e6),
    )


def outcomes(target: TopKTarget) -> Tensor:
    assert target.log_tail_N is not None
    return torch.log_softmax(torch.cat([target.log_probs_NK, target.log_tail_N[:, None]], 1).double(), 1)


def round_trip(z: Tensor, layout: RecordLayout) -> tuple[object, object]:
    keys = row_keys(len(z))
    target = select(z, layout.spec, width=z.shape[1], seed=0, keys_N4=keys)
    return target, decode(encode(target, layout, seed=0, keys_N4=keys), layout)


def squared_error(name: str, z: Tensor, k: int) -> Iterator[Measurement]:
    """E Σ_v (weight_v − p_v)² after decoding, beside the peer's (1 − Σp²) / draws, both as means over rows."""
    layout = RecordLayout(spec=TargetSpec(kind="sampled", k=k), vocab_size=z.shape[1])
    p = torch.softmax(z.double(), 1)
    squares = (p**2).sum(1)
    ours = torch.zeros(len(z), dtype=torch.float64)
    for draw in range(DRAWS):
        keys = row_keys(len(z), draw)
        target = select(z, layout.spec, width=z.shape[1], seed=draw, keys_N4=keys)
        back = decode(encode(target, layout, seed=draw, keys_N4=keys), layout)
        assert isinstance(back, SampledTarget)
        own, weights = p.gather(1, back.ids_NK.long()), back.weights_NK.double()
        # Σ over all ids of p², with (w − p)² in place of p² where an id is kept.
        ours += squares + (weights * (weights - 2 * own)).sum(1)
    entropy = float(torch.special.entr(p).sum(1).mean())
    distinct = torch.tensor([draws_for(row, k) for row in p], dtype=torch.float64)
    peers: dict[str, tuple[float | Tensor, Target | None]] = {
        f"multinomial, {k} draws": (float(k), ratio(2) if k == 16 and name in LM_LIKE else None),
        f"multinomial, as many distinct ids: {float(distinct.median()):.0f} draws": (distinct, None),
    }
    for peer, (draws, goal) in peers.items():
        yield Measurement(
            what=f"squared error, {k} ids in {layout.stride} B, {name}, H = {entropy:.1f}",
            ours=float(ours.mean()) / DRAWS * 1e6,
            unit="millionths",
            peer=peer,
            theirs=float(((1 - squares) / draws).mean()) * 1e6,
            target=goal,
        )


def draws_for(p: Tensor, k: int) -> float:
    """n with Σ_v 1 − (1 − p_v)^n = k: so many draws hold k distinct ids in expectation."""
    log_miss = torch.log1p(-p.clamp_max(1 - 1e-16))
    low, high = float(k), 1e12
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if float(-torch.expm1(middle * log_miss).sum()) < k else (low, middle)
    return high


def raw_bytes(name: str, z: Tensor) -> Measurement:
    import pyarrow

    top = kernels.topk_logsumexp(z, K)
    plain = top.ids_NK.numpy().tobytes() + top.log_probs_NK.half().numpy().tobytes()
    packed = len(pyarrow.compress(plain, codec="zstd", asbytes=True)) / len(z)
    return Measurement(
        what=f"bytes, top-64 with tail, {name}",
        ours=RecordLayout(spec=TargetSpec(kind="top-k", k=K), vocab_size=z.shape[1]).stride,
        unit="B/token",
        peer="32-bit ids and f16 values through zstd, no tail",
        theirs=packed,
        target=Target(of="ratio", at_least=1),
    )


def row_keys(n: int, epoch: int = 0) -> Tensor:
    keys = torch.zeros(n, 4, dtype=torch.int64)
    keys[:, 0], keys[:, 1] = 0, torch.arange(n) + n * epoch
    return keys


def synthetic(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(SYNTHETIC.index(name))
    noise = torch.randn(N, V, generator=generator)
    if name.startswith("Zipf"):
        ranks = torch.stack([torch.randperm(V, generator=generator) for _ in range(N)])
        return -float(name.split()[1]) * torch.log(ranks.float() + 1) + 0.3 * noise
    return {"random": 1.0, "random ×2": 2.0, "peaked ×4": 4.0, "peaked ×8": 8.0, "flat": 1e-3}[name] * noise


def teacher_rows(rows: int = 512) -> Tensor | None:
    run = Path(os.environ.get("THACK_DEMO", Path(__file__).parents[1] / "runs/demo"))
    found = sorted(run.glob("stages/teacher-*/model"))
    if not found:
        print(f"SKIPPED demo teacher: no teacher under {run}; run make demo, or set THACK_DEMO", file=sys.stderr)
        return None
    teacher = load_model(found[-1])
    settings, records = DataSettings(max_prompt_tokens=24), stdlib_records()[-400:]
    prepared = prepare(settings, teacher.tokenizer, need_response=True, records=records).sequences
    sequences = [s for s in prepared if len(s.response_ids) <= 28]
    with torch.inference_mode():
        z = teacher(Batch.of(sequences)).float()
    return z[torch.from_numpy(np.random.default_rng(0).permutation(len(z))[:rows])].clone()
