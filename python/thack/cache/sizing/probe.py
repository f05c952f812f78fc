"""`thack cache probe`: what each kind of target would keep, lose and cost, before disk is spent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from thack.cache.capture.job import load_teacher, make_plan, numbered, read_data
from thack.cache.capture.score import Scorer
from thack.cache.format.layout import bytes_per_token
from thack.config import CacheSettings
from thack.data.sequence import TokenSequence
from thack.errors import UsageError
from thack.losses.vocabulary import log_probs
from thack.models.batch import Batch
from thack.runtime.progress import SILENT, Progress
from thack.schema.targets import TargetSpec

if TYPE_CHECKING:
    from thack.models.protocol import LanguageModel

_SEQUENCES = 64
_TOP_K = (4, 16, 64, 256)
_SAMPLED = (4, 16, 64)
_DENSE_VOCABULARY = 4096  # beyond, a dense record is larger than 16 KB a token
STUDENT_TOKENS_PER_S = 100_000  # of one GPU in training: what a reader has to keep up with
PROCESSES_PER_NODE = 8
_MOST_TOKENS = 1e18


def probe(
    settings: CacheSettings,
    *,
    tokens: float = 0,
    limit: int = _SEQUENCES,
    progress: Progress = SILENT,
    teacher: LanguageModel | None = None,
    sequences: Sequence[TokenSequence] | None = None,
) -> dict[str, Any]:
    """Score a sample of the data and compare what could be kept of it.

    `tokens` sizes a corpus that is not there yet; without it, the data at hand is sized. Mass and KL are
    means over the sampled response tokens, in nats. `kl_renormalised` is KL(p ‖ p restricted to the kept
    ids and renormalised) = −log(retained mass): what a truncated target without a tail teaches wrongly.
    `noise` is the mean squared error Σ_v E(w_v − p_v)² of one unbiased sample.
    """
    if not 0 <= tokens <= _MOST_TOKENS:
        raise UsageError(f"tokens = {tokens:g}: must be from 1 to {_MOST_TOKENS:g}", hint="such as `tokens = 1e12`")
    teacher = teacher or load_teacher(settings)
    data = list(read_data(settings, teacher, progress) if sequences is None else sequences)
    if settings.generate:
        data = _with_responses(settings, teacher, data[:limit])
    chosen = [data[i] for i in np.linspace(0, len(data) - 1, min(limit, len(data))).astype(int)]
    started = time.perf_counter()
    log_p_NV = _score(teacher, chosen, settings.batch_size)
    rate = len(log_p_NV) / (time.perf_counter() - started)
    mean_length = np.mean([len(s.response_ids) for s in chosen])
    total = int(tokens) if tokens else int(mean_length * len(data) * (settings.samples if settings.generate else 1))
    rows = _rows(log_p_NV, teacher.vocab_size, total)
    return {
        "sampled_sequences": len(chosen),
        "sampled_tokens": len(log_p_NV),
        "entropy_nats": float(-(log_p_NV.exp() * log_p_NV.clamp_min(-1e4)).sum(1).mean()),
        "corpus_tokens": total,
        "rows": rows,
        "recommended": recommend(rows, settings.epochs, teacher.vocab_size),
        "epochs": settings.epochs,
        "teacher_tokens_per_s": rate,
        "sizing": [_sizing(row, total, rate, settings) for row in rows],
    }


def recommend(rows: Sequence[dict[str, Any]], epochs: int, vocab_size: int) -> dict[str, Any]:
    """The kind for a planned number of passes, and why.

    An unbiased sample is fresh noise when each position is seen once; reused, it is fixed noise that a
    student memorises.
    """
    by_name = {(row["kind"], row["ids"]): row for row in rows}
    if epochs == 1 and ("sampled", 4) in by_name:
        return {"kind": "sampled", "ids": 4, "why": "each position is seen once: unbiased, and the smallest"}
    if vocab_size <= _DENSE_VOCABULARY:
        return {"kind": "dense", "ids": vocab_size, "why": "a small vocabulary: a cache that changes nothing"}
    top = by_name.get(("top-k", 64))
    if top is not None and top["retained_mass"] >= 0.98:
        return {"kind": "top-k", "ids": 64, "why": f"64 ids keep {top['retained_mass']:.1%} of the mass"}
    return {"kind": "sampled", "ids": 64, "why": "64 ids lose too much mass; a sample of 64 bears some reuse"}


def _score(teacher: LanguageModel, sequences: Sequence[TokenSequence], batch_size: int) -> Tensor:
    teacher.eval()
    ordered = sorted(sequences, key=lambda s: len(s.prompt_ids) + len(s.response_ids))
    found = []
    with torch.inference_mode():
        for start in range(0, len(ordered), batch_size):
            batch = Batch.of(ordered[start : start + batch_size], teacher.device)
            found.append(log_probs(teacher(batch), teacher.vocab_size).cpu())
    return torch.cat(found)


def _with_responses(
    settings: CacheSettings, teacher: LanguageModel, prompts: Sequence[TokenSequence]
) -> list[TokenSequence]:
    settings = replace(settings, samples=1)
    every = numbered(prompts, 1)
    scorer = Scorer(teacher, make_plan(settings, teacher, every), settings)
    return [s for _, s in scorer.write_responses(list(enumerate(every)))]


def _rows(log_p_NV: Tensor, vocab_size: int, tokens: int) -> list[dict[str, Any]]:
    p_NV = log_p_NV.exp()
    descending_NV = torch.sort(p_NV, dim=1, descending=True).values
    rows = [_top_k(descending_NV, vocab_size, k) for k in _TOP_K if k <= vocab_size]
    rows += [_sampled(descending_NV, vocab_size, k) for k in _SAMPLED if k <= vocab_size]
    nothing = {"retained_mass": 1.0, "tail_mass": 0.0, "kl_renormalised": 0.0, "noise": 0.0}
    rows.append(
        {"kind": "dense", "ids": vocab_size, **nothing, "bytes_per_token": bytes_per_token(TargetSpec(), vocab_size)}
    )
    for row in rows:
        row["corpus_gb"] = tokens * (row["bytes_per_token"] + 4) / 1e9
    return rows


def _top_k(descending_NV: Tensor, vocab_size: int, k: int) -> dict[str, Any]:
    head, tail = descending_NV[:, :k].sum(1), descending_NV[:, k:].sum(1)
    return {
        "kind": "top-k",
        "ids": k,
        "retained_mass": float(head.mean()),
        "tail_mass": float(tail.mean()),
        "kl_renormalised": float(-head.clamp(max=1).log().mean()),
        "noise": 0.0,
        "bytes_per_token": bytes_per_token(TargetSpec(kind="top-k", k=k), vocab_size),
    }


def _sampled(descending_NV: Tensor, vocab_size: int, k: int) -> dict[str, Any]:
    tau_N = threshold(descending_NV, k)
    below = descending_NV < tau_N[:, None]
    noise_N = (descending_NV * (tau_N[:, None] - descending_NV)).where(below, torch.zeros(())).sum(1)
    return {
        "kind": "sampled",
        "ids": k,
        "retained_mass": 1.0,
        "tail_mass": 0.0,
        "kl_renormalised": 0.0,
        "noise": float(noise_N.mean()),
        "bytes_per_token": bytes_per_token(TargetSpec(kind="sampled", k=k), vocab_size),
    }


def threshold(descending_NV: Tensor, k: int) -> Tensor:
    """tau_N with Σ_v min(1, p_v/τ) = k, from probabilities in descending order; 0 where fewer have mass.

    With h heads (p ≥ τ), τ = (mass behind them) / (k − h): the first h for which no further id exceeds it.
    """
    tails_NK = descending_NV.flip(1).cumsum(1).flip(1)[:, :k]
    candidates_NK = tails_NK / torch.arange(k, 0, -1, dtype=descending_NV.dtype)
    fits_NK = descending_NV[:, :k] <= candidates_NK
    first_N = torch.where(fits_NK.any(1), fits_NK.int().argmax(1), torch.full((len(descending_NV),), k - 1))
    return candidates_NK.gather(1, first_N[:, None])[:, 0]


def _sizing(row: dict[str, Any], tokens: int, rate: float, settings: CacheSettings) -> dict[str, Any]:
    size = row["bytes_per_token"] + 4
    shards = max(1, -(-tokens // settings.shard_tokens), -(-tokens * size // settings.shard_bytes))
    return {
        "kind": row["kind"],
        "ids": row["ids"],
        "bytes": tokens * size,
        "shards": shards,
        "inodes": shards + 4,
        "write_mb_per_s_per_node": PROCESSES_PER_NODE * rate * size / 1e6,
        "read_mb_per_s_per_gpu": STUDENT_TOKENS_PER_S * size / 1e6,
        "teacher_hours_per_process": tokens / rate / 3600,
    }
