"""Health columns against their definitions, row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from thack.data.eos import Ends
from thack.data.sequence import TokenSequence
from thack.evaluation.health import FixedHealth, entropies, repeated_share, sample_health
from thack.schema.metrics import HealthName, Role


def sequences(lengths: list[int]) -> list[TokenSequence]:
    return [
        TokenSequence(example=i, prompt_id=f"p{i}", prompt_ids=np.ones(1, np.int32), response_ids=np.ones(n, np.int32))
        for i, n in enumerate(lengths)
    ]


def named(columns: Mapping[HealthName, float]) -> dict[str, float]:
    return {str(name): value for name, value in columns.items()}


def log_softmax(seed: int, n: int, v: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(3 * torch.randn(n, v, generator=generator), 1)


def test_fixed_rows_by_definition() -> None:
    lengths, v = [2, 20, 70], 30
    n = sum(lengths)
    log_p, log_q = log_softmax(0, n, v), log_softmax(1, n, v)
    kl_N = (log_p.exp() * (log_p - log_q)).sum(1)
    health = FixedHealth()
    batches, at = [lengths[:1], lengths[1:]], 0
    for batch in batches:  # two batches make one measurement
        rows = slice(at, at + sum(batch))
        health.add(sequences(batch), log_p[rows], log_q[rows], kl_N[rows])
        at += sum(batch)
    found = named(health.columns(Role.TEACHER))

    p, q = log_p.double().exp().numpy(), log_q.double().exp().numpy()
    entropy = [-sum(x * math.log(x) for x in row) for row in q]
    shared = [len(set(np.argsort(-a)[:10]) & set(np.argsort(-b)[:10])) / 10 for a, b in zip(p, q, strict=True)]
    bins: dict[int, list[tuple[float, float]]] = {}
    for a, b in zip(p, q, strict=True):
        bins.setdefault(min(int(b.max() * 15), 14), []).append((b.max(), a[b.argmax()]))
    error = sum(abs(sum(c for c, _ in rows) - sum(a for _, a in rows)) for rows in bins.values()) / n
    positions = np.concatenate([np.arange(k) for k in lengths])
    spans = {"0_3": (0, 4), "4_15": (4, 16), "16_63": (16, 64), "64_up": (64, 999)}

    def column(name: str) -> float:
        return found[f"health/proxy/{name}/reference_sampled"]

    assert column("entropy") == pytest.approx(np.mean(entropy), rel=1e-5)
    assert column("reference_entropy") == pytest.approx(float(entropies(log_p).mean()), rel=1e-6)
    assert column("top_10_overlap") == pytest.approx(np.mean(shared))
    assert column("calibration_error") == pytest.approx(error, rel=1e-5)
    for name, (low, high) in spans.items():
        inside = kl_N.numpy()[(positions >= low) & (positions < high)]
        assert column(f"forward_kl/tokens_{name}") == pytest.approx(inside.mean(), rel=1e-5)


def test_a_model_against_itself_is_calibrated_and_overlaps() -> None:
    log_p = log_softmax(2, 12, 20)
    health = FixedHealth()
    health.add(sequences([3, 9]), log_p, log_p, torch.zeros(12))
    found = named(health.columns(Role.ORACLE))
    assert found["health/golden/top_10_overlap/reference_sampled"] == 1
    assert found["health/golden/calibration_error/reference_sampled"] == pytest.approx(0, abs=1e-6)
    assert "health/golden/forward_kl/tokens_64_up/reference_sampled" not in found


def test_of_large_batches_every_sixth_row_is_looked_at() -> None:
    spoilt = torch.full((1000, 12), float("nan"))
    spoilt[::6] = log_softmax(3, 167, 12)
    health = FixedHealth()
    health.add(sequences([1000]), spoilt, spoilt, torch.zeros(1000))
    assert all(math.isfinite(value) for value in health.columns(Role.TEACHER).values())


def test_impossible_outcomes_have_no_entropy() -> None:
    assert float(entropies(torch.tensor([[0.5, 0.5, 0.0]]).log())[0]) == pytest.approx(math.log(2))


def test_samples_by_definition() -> None:
    rambling = np.array([5, 6, 7, 8] * 3, dtype=np.int32)  # 9 grams, 4 distinct
    ended = np.array([5, 6, 1], dtype=np.int32)
    found = named(sample_health([rambling, ended], ends=Ends(eos=1), max_new_tokens=12, entropy=0.5))
    assert found == {
        "health/response_tokens/student_sampled": 7.5,
        "health/truncated_share/student_sampled": 0.5,
        "health/repeated_share/student_sampled": pytest.approx(5 / 9),
        "health/entropy/student_sampled": 0.5,
    }
    assert repeated_share([ended]) == 0
    full = np.array([5] * 11 + [1], dtype=np.int32)  # an end at the very last place is an end
    whole = sample_health([full], ends=Ends(eos=1), max_new_tokens=12, entropy=0)
    assert whole[HealthName(quantity="truncated_share")] == 0
