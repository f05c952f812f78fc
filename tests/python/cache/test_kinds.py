"""Sparse caches end to end, with the kernels that select: what is read is what the kernel gave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from thack import kernels
from thack.cache import Cache, inspect, verify
from thack.cache.capture.job import capture
from thack.config import CacheSettings
from thack.generation import sampler
from thack.generation.sampler import GenerationRequest
from thack.models.batch import Batch
from thack.runtime.ranks import Rank
from thack.schema.targets import CachedKind
from thack.targets.keys import row_keys
from thack.targets.types import SampledTarget, TopKTarget

from .conftest import FakeTeacher, make_sequences
from .test_capture import content


def test_top_k_cache_holds_what_the_kernel_selects(settings: CacheSettings, teacher: FakeTeacher) -> None:
    sequences = make_sequences(30)
    sparse = replace(settings, kind="top-k", top_k=8, temperatures=(2.0,))
    cache = Cache.open(capture(sparse, teacher=teacher, sequences=sequences))
    order = [4, 29, 0]
    _, found = cache.targets(order)
    want = kernels.topk_logsumexp(teacher(Batch.of([sequences[i] for i in order])), 8, temperatures=(2.0,))
    assert isinstance(found, TopKTarget) and found.log_tail_N is not None
    assert torch.equal(found.ids_NK, want.ids_NK)
    torch.testing.assert_close(found.log_probs_NK, want.log_probs_NK, atol=0.08, rtol=0)
    torch.testing.assert_close(found.log_tail_N, want.log_tail_N, atol=4e-3, rtol=1e-3)
    torch.testing.assert_close(found.log_tail_at[2.0], want.log_tail_at[2.0], atol=4e-3, rtol=1e-3)
    said = inspect(cache.directory).losses
    assert "temperature 1, 2" in said["forward_kl"] and verify(cache.directory, full=True).ok


def test_sampled_cache_holds_what_the_kernel_draws(settings: CacheSettings, teacher: FakeTeacher) -> None:
    sequences = make_sequences(30)
    sparse = replace(settings, kind="sampled", sampled=4, seed=3)
    cache = Cache.open(capture(sparse, teacher=teacher, sequences=sequences))
    order = [4, 29, 0]
    _, found = cache.targets(order)
    chosen = [sequences[i] for i in order]
    want = kernels.threshold_sample(teacher(Batch.of(chosen)), 4, seed=3, keys_N4=row_keys(chosen))
    assert isinstance(found, SampledTarget)
    assert torch.equal(found.counts_N, want.counts_N)
    for n, count in enumerate(want.counts_N.tolist()):
        assert torch.equal(found.ids_NK[n, :count], want.ids_NK[n, :count])
    torch.testing.assert_close(found.tau_N, want.tau_N, rtol=2e-3, atol=0)
    torch.testing.assert_close(found.entropy_N, want.entropy_N, atol=1.1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["top-k", "sampled"])
def test_sparse_caches_do_not_depend_on_ranks(settings: CacheSettings, teacher: FakeTeacher, kind: CachedKind) -> None:
    sequences = make_sequences(40)
    sparse = replace(settings, kind=kind, top_k=8, sampled=4)
    alone = content(capture(sparse, teacher=teacher, sequences=sequences))
    spread = replace(sparse, out=settings.out.with_name("spread"))
    for number in (2, 0, 1):
        capture(spread, teacher=teacher, sequences=sequences, rank=Rank(number, 3, 0))
    assert content(spread.out) == alone


@pytest.mark.parametrize("kind", ["dense", "top-k", "sampled"])
def test_generated_responses_depend_on_seed_and_prompt_alone(
    settings: CacheSettings, kind: CachedKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(
        model: object,
        prompts: list[np.ndarray],
        request: GenerationRequest,
        *,
        examples: list[int],
        samples: int,
        progress: object,
        group: object,
        kept: object,
    ) -> list[np.ndarray]:
        responses = []
        for example in examples:
            rng = np.random.default_rng([request.seed, example, samples])
            responses.append(rng.integers(0, 50, rng.integers(1, 9)).astype(np.int32))
        return responses

    monkeypatch.setattr(sampler, "generate", generate)
    prompts = [replace(s, response_ids=np.empty(0, np.int32)) for s in make_sequences(12)]
    written = replace(settings, kind=kind, top_k=8, sampled=4, generate=True, samples=3, shard_tokens=2000)
    cache = Cache.open(capture(written, teacher=FakeTeacher(), sequences=prompts))
    assert len(cache) == 36
    for number in range(36):
        s = cache.sequences(number)
        assert s.sample == number % 3 and s.prompt_id == prompts[number // 3].prompt_id
        rng = np.random.default_rng([0, number // 3, number % 3])
        np.testing.assert_array_equal(s.response_ids, rng.integers(0, 50, rng.integers(1, 9)))
