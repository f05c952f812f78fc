"""The reader in NumPy alone gives what Rust's gives, on golden caches of every version and on records of any shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.test_realised import GOLDEN, KINDS
from thack import _native
from thack.cache.format.layout import RecordLayout
from thack.cache.format.reader import Cache
from thack.cache.format.records import decode, encode
from thack.cache.reference import decode_reference, read_reference_shard, realised_of
from thack.schema.targets import CachedKind, TargetSpec
from thack.targets.select import select
from thack.targets.types import DenseTarget, SampledTarget, Target, TopKTarget


def arrays(target: Target) -> dict[str, np.ndarray]:
    """A target under the names of the reference."""
    if isinstance(target, DenseTarget):
        found = {"log_probs": target.log_probs_NV}
    elif isinstance(target, TopKTarget):
        found = {"ids": target.ids_NK, "log_probs": target.log_probs_NK}
        found |= {} if target.log_tail_N is None else {"log_tail": target.log_tail_N}
        at = list(target.log_tail_at.values())
        found["log_tail_at"] = torch.stack(at) if at else torch.empty(0, len(target))
    else:
        assert isinstance(target, SampledTarget)
        found = {"ids": target.ids_NK, "weights": target.weights_NK, "counts": target.counts_N}
        found |= {"tau": target.tau_N, "entropy": target.entropy_N}
    if target.realised_logprob_N is not None:
        found["realised"] = target.realised_logprob_N
    return {name: tensor.numpy() for name, tensor in found.items()}


def same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_golden_shards_are_read_alike(version: str, kind: CachedKind) -> None:
    cache = Cache.open(GOLDEN / version / kind)
    for number in range(cache.plan.num_shards):
        shard = read_reference_shard(cache.directory / "shards" / _native.shard_name(number))
        order = shard.tensors["sequence"].tolist()
        sequences, target = cache.targets(order)
        same(dict(shard.targets), arrays(target))
        response_ids = np.concatenate([s.response_ids for s in sequences])
        np.testing.assert_array_equal(shard.tensors["response_tokens"], response_ids)


@given(
    kind=st.sampled_from(KINDS),
    k=st.integers(1, 70),
    vocab=st.sampled_from([71, 100, 1000, 33_000]),
    spread=st.floats(0.1, 30),
    bits=st.sampled_from([7, 8]),
    tail=st.sampled_from(["exact", "none"]),
    temperatures=st.sampled_from([(), (2.0,), (0.5, 4.0)]),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_records_of_any_shape_are_read_alike(
    kind: CachedKind,
    k: int,
    vocab: int,
    spread: float,
    bits: int,
    tail: str,
    temperatures: tuple[float, ...],
    seed: int,
) -> None:
    logits_NV = spread * torch.randn(5, vocab, generator=torch.Generator().manual_seed(seed))
    spec = TargetSpec(kind=kind, k=0 if kind == "dense" else k)
    if kind == "top-k":
        spec = TargetSpec(kind=kind, k=k, value_bits=bits, tail=tail, temperatures=temperatures)  # type: ignore[arg-type]
    layout = RecordLayout(spec=spec, vocab_size=vocab)
    keys_N4 = torch.tensor([[0, n, 0, seed] for n in range(5)])
    target = select(logits_NV, spec, width=vocab, seed=seed, keys_N4=keys_N4)
    if tail == "none" and isinstance(target, TopKTarget):
        target = replace(target, log_tail_N=None)
    records = bytearray(encode(target, layout, seed=seed, keys_N4=keys_N4))
    found = decode_reference(np.frombuffer(records, np.uint8).reshape(5, -1), layout.metadata())
    same(found, arrays(decode(records, layout)))


def test_codes_of_realised_tokens_are_what_they_mean() -> None:
    found = realised_of(np.array([0, 2047, 65_504, 65_533, 65_534, 65_535], np.uint16))
    np.testing.assert_array_equal(found[:3], np.array([0, -1, -32], np.float32))
    assert -32.1 < found[3] < -32 and np.isneginf(found[4]) and np.isnan(found[5])


@pytest.mark.parametrize("place", [9, 5000, -200, -50, -1])
def test_a_damaged_shard_is_refused(place: int, tmp_path: Path) -> None:
    data = bytearray((GOLDEN / "1.1" / "dense" / "shards" / _native.shard_name(0)).read_bytes())
    data[place] ^= 4
    (tmp_path / "shard").write_bytes(data)
    with pytest.raises((ValueError, KeyError)):
        read_reference_shard(tmp_path / "shard")
