"""A capture by a teacher on the device against the same by itself on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from thack.cache import Cache
from thack.cache.capture import scorer
from thack.cache.capture.job import capture
from thack.config import CacheSettings, DataSettings
from thack.data.sequence import TokenSequence
from thack.schema.targets import CachedKind
from thack.targets import DenseTarget, FrozenHeadTarget, SampledTarget, Target, TopKTarget

from .host import HostCopies
from .small import VOCAB, model, sequences

KINDS: dict[CachedKind, dict[str, Any]] = {
    "dense": {},
    "top-k": {"top_k": 8, "temperatures": (2.0,)},
    "sampled": {"sampled": 6},
}


def cached(
    path: Path, kind: CachedKind, device: torch.device | str, **changes: Any
) -> tuple[list[TokenSequence], Target]:
    """What a cache by the teacher on `device` holds, in the order of the data; two shards and more."""
    settings = CacheSettings(
        out=path / f"{torch.device(device).type}-{kind}",
        kind=kind,
        shard_tokens=100,
        batch_size=8,
        seed=3,
        dtype="float32",
    )
    settings = replace(settings, **KINDS[kind], **changes)
    directory = capture(settings, teacher=model(0, device), sequences=sequences(40))
    cache = Cache.open(directory)
    assert cache.meta.num_shards > 1
    return cache.targets(range(40))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_records(cuda: torch.device, tmp_path: Path, kind: CachedKind) -> None:
    (_, expected), (_, found) = cached(tmp_path, kind, "cpu"), cached(tmp_path, kind, cuda)
    if isinstance(expected, DenseTarget) and isinstance(found, DenseTarget):
        torch.testing.assert_close(found.log_probs_NV, expected.log_probs_NV, rtol=1e-2, atol=1e-2)
        return
    other = DenseTarget | FrozenHeadTarget
    assert not isinstance(expected, other) and not isinstance(found, other)
    same_N = (found.ids_NK == expected.ids_NK).all(1)  # the last bit of two logits can order them otherwise
    assert same_N.float().mean() > 0.9
    # Records round: in a few of them the last bit decides how.
    if isinstance(expected, TopKTarget) and isinstance(found, TopKTarget):
        assert found.log_tail_N is not None and expected.log_tail_N is not None
        torch.testing.assert_close(found.log_probs_NK[same_N], expected.log_probs_NK[same_N], rtol=0, atol=0.1)
        torch.testing.assert_close(found.log_tail_N[same_N], expected.log_tail_N[same_N], rtol=1e-2, atol=2e-2)
        tails = found.log_tail_at[2.0][same_N], expected.log_tail_at[2.0][same_N]
        torch.testing.assert_close(*tails, rtol=1e-2, atol=2e-2)
    if isinstance(expected, SampledTarget) and isinstance(found, SampledTarget):
        assert torch.equal(found.counts_N[same_N], expected.counts_N[same_N])
        torch.testing.assert_close(found.weights_NK[same_N], expected.weights_NK[same_N], rtol=0.1, atol=1e-3)
        torch.testing.assert_close(found.tau_N[same_N], expected.tau_N[same_N], rtol=2e-2, atol=0)
        torch.testing.assert_close(found.entropy_N, expected.entropy_N, rtol=0, atol=2e-2)


@pytest.mark.parametrize("kind", ["top-k", "sampled"])
def test_only_what_is_kept_leaves_the_device(
    cuda: torch.device, tmp_path: Path, kind: CachedKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scorer.Scorer.score

    def watched(self: scorer.Scorer, batch: Any) -> scorer.Scored:
        with HostCopies(VOCAB * len(batch)):  # every sequence has a row of logits, at least
            return whole(self, batch)

    monkeypatch.setattr(scorer.Scorer, "score", watched)
    cached(tmp_path, kind, cuda)


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast(cuda: torch.device, tmp_path: Path, kind: CachedKind) -> None:
    """Records of finite numbers whose teacher ran in bfloat16."""
    _, found = cached(tmp_path, kind, cuda, dtype="bfloat16")
    values = {DenseTarget: "log_probs_NV", TopKTarget: "log_tail_N", SampledTarget: "entropy_N"}
    assert torch.isfinite(getattr(found, values[type(found)])).all()


def test_the_teacher_writes_and_scores(cuda: torch.device, tmp_path: Path) -> None:
    changes = {"generate": True, "shard_tokens": 200, "data": DataSettings(max_response_tokens=8)}
    written = [cached(tmp_path, "top-k", device, **changes)[0] for device in ("cpu", cuda)]
    equal = [np.array_equal(a.response_ids, b.response_ids) for a, b in zip(*written, strict=True)]
    assert np.mean(equal) > 0.8


def test_what_comes_off_the_device_is_pinned_and_whole(cuda: torch.device) -> None:
    """Without a card pinned memory is ordinary memory: then only the values are looked at."""
    log_probs_NV = torch.randn(5, VOCAB)
    target = TopKTarget(
        ids_NK=torch.arange(8).repeat(5, 1).int().to(cuda),
        log_probs_NK=log_probs_NV[:, :8].contiguous().to(cuda),
        log_tail_N=log_probs_NV[:, 8].contiguous().to(cuda),
        vocab_size=VOCAB,
        log_tail_at={2.0: log_probs_NV[:, 9].contiguous().to(cuda)},
    )
    keys = torch.zeros(5, 4, dtype=torch.int64)
    scored = scorer._off_the_gpu(target, keys, cuda)
    scored.wait()
    copied = scored.target
    assert isinstance(copied, TopKTarget) and copied.log_tail_N is not None and scored.keys_N4 is keys
    assert torch.equal(copied.ids_NK, torch.arange(8).repeat(5, 1).int())
    assert torch.equal(copied.log_probs_NK, log_probs_NV[:, :8]) and torch.equal(copied.log_tail_N, log_probs_NV[:, 8])
    assert torch.equal(copied.log_tail_at[2.0], log_probs_NV[:, 9])
    on_a_card = "Simulated" not in type(target.ids_NK).__name__
    every = [copied.ids_NK, copied.log_probs_NK, copied.log_tail_N, copied.log_tail_at[2.0]]
    assert all(x.device.type == "cpu" and x.is_pinned() == on_a_card for x in every)
