"""The reader in NumPy alone gives what Rust's gives, on golden caches of every version and on records of any shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.stock_reader import arrays, compare_with_reference, same
from cache.test_realised import GOLDEN, KINDS
from thack import _native
from thack.cache.format.layout import RecordLayout
from thack.cache.format.plan import read_plan
from thack.cache.format.records import decode, encode
from thack.cache.reference import decode_reference, read_reference_shard, realised_of
from thack.cache.reference_checks import CHUNK, crc32c
from thack.errors import CacheError
from thack.schema.targets import CachedKind, TargetSpec
from thack.targets.select import select
from thack.targets.types import TopKTarget


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_golden_shards_are_read_alike(version: str, kind: CachedKind) -> None:
    for path in sorted((GOLDEN / version / kind / "shards").iterdir()):
        compare_with_reference(path)


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


def golden(kind: str) -> bytearray:
    return bytearray((GOLDEN / "1.1" / kind / "shards" / _native.shard_name(0)).read_bytes())


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_rust_refuses_of_a_record_is_refused(kind: CachedKind) -> None:
    """Every bit of a record flipped, and pairs of bits: both judge alike, and read the same of what is left."""
    layout = read_plan(GOLDEN / "1.1" / kind).layout
    head = 8 + int.from_bytes(golden(kind)[:8], "little")
    record, bits = golden(kind)[head : head + layout.stride], 8 * layout.stride
    rng = np.random.default_rng(0)
    flips = [[bit] for bit in range(bits)] if bits < 400 else rng.integers(0, bits, (300, 1)).tolist()
    refused = 0
    for flipped in [*flips, *rng.integers(0, bits, (300, 2)).tolist()]:
        damaged = bytearray(record)
        for bit in flipped:
            damaged[bit // 8] ^= 1 << bit % 8
        try:
            expected = arrays(decode(damaged, layout))
        except CacheError:
            refused += 1
            with pytest.raises(ValueError, match=r"record|weight|scale|τ"):
                decode_reference(np.frombuffer(damaged, np.uint8)[None], layout.metadata())
        else:
            same(decode_reference(np.frombuffer(damaged, np.uint8)[None], layout.metadata()), expected)
    assert refused > 10


def edited(given: bytearray, name: str, edit: Callable[[np.ndarray], None], out: Path) -> Path:
    """A shard with one tensor changed by hand, and with the checksums that it then has."""
    data = bytearray(given)
    head = 8 + int.from_bytes(data[:8], "little")
    start, end = (head + place for place in json.loads(data[8:head])[name]["data_offsets"]) if name else (8, head)
    edit(np.frombuffer(memoryview(data)[start:end], np.uint8))
    seal(data, head)
    out.mkdir(parents=True)
    (out / _native.shard_name(0)).write_bytes(data)
    return out / _native.shard_name(0)


def seal(data: bytearray, head: int) -> None:
    """Put right checksums into a shard. Its root stays: only a full verification looks at it."""
    table = json.loads(data[8:head])["checksums"]["data_offsets"]
    checked, behind = (head + place for place in table)
    sums = [crc32c(data[at : min(at + CHUNK, checked)]) for at in range(0, checked, CHUNK)]
    data[checked:behind] = np.array(sums, "<u4").tobytes()
    trailer = data[-64:]
    trailer[12:16] = crc32c(data[checked:behind]).to_bytes(4, "little")
    trailer[60:] = bytes(4)
    data[-64:] = trailer[:60] + crc32c(trailer).to_bytes(4, "little")


def number(place: int, value: int, dtype: str = "<i8") -> Callable[[np.ndarray], None]:
    def edit(part: np.ndarray) -> None:
        part.view(dtype)[place] = value

    return edit


@pytest.mark.parametrize(
    ("name", "edit", "problem"),
    [
        ("", number(-1, ord("\n"), "u1"), "header is not the one"),
        ("response_starts", number(0, 1), "response_starts do not fill"),
        ("response_starts", number(1, 0), "response_starts do not fill"),
        ("prompt_starts", number(-1, 3), "prompt_starts do not fill"),
        ("prompt_id_starts", number(1, 10**9), "prompt_id_starts do not fill"),
        ("sequence", number(0, 1), "occurs twice"),
        ("sequence", number(0, -5), "negative"),
        ("realised_log_probs", number(0, 65_510, "<u2"), "code without meaning"),
    ],
)
def test_a_shard_that_is_not_one_is_refused_with_right_checksums(
    name: str, edit: Callable[[np.ndarray], None], problem: str, tmp_path: Path
) -> None:
    path = edited(golden("top-k"), name, edit, tmp_path / "made-by-hand")
    with pytest.raises(ValueError, match=problem):
        read_reference_shard(path)
    with pytest.raises(CacheError):
        _native.verify_shard(path, True)


@pytest.mark.parametrize(
    ("name", "edit", "problem"),
    [
        ("response_tokens", number(0, -1, "<i4"), "no id"),
        ("response_tokens", number(0, 1 << 20, "<i4"), "no id"),
        ("prompt_tokens", number(0, -1, "<i4"), "no id"),
        ("prompt_ids", number(0, 0xFF, "u1"), "can't decode"),
    ],
)
def test_contents_that_mean_nothing_are_refused(
    name: str, edit: Callable[[np.ndarray], None], problem: str, tmp_path: Path
) -> None:
    path = edited(golden("top-k"), name, edit, tmp_path / "made-by-hand")
    with pytest.raises(ValueError, match=problem):
        read_reference_shard(path)
    with pytest.raises(CacheError):
        _native.verify_shard(path, True)


@pytest.mark.parametrize("name", ["padding", "realised_padding"])
def test_padding_of_a_shard_is_zero(name: str, tmp_path: Path) -> None:
    """Three records of 4 bytes and a prompt id of one: both paddings have bytes."""
    metadata = {"format": "thack-shard 1.1", "kind": "dense", "vocab_size": "1", "shard": "0"}
    writer = _native.ShardWriter(tmp_path / "whole", metadata)
    writer.records(bytes(12))
    writer.sequence((0, 0, 0), "p", np.zeros(1, np.int32), np.zeros(3, np.int32), np.zeros(3, np.float32))
    writer.finish()
    read_reference_shard(tmp_path / "whole")
    path = edited(bytearray((tmp_path / "whole").read_bytes()), name, number(0, 1, "u1"), tmp_path / "made-by-hand")
    with pytest.raises(ValueError, match="padding is not zero"):
        read_reference_shard(path)
    with pytest.raises(CacheError):
        _native.verify_shard(path, True)


def test_another_shard_than_the_one_that_was_asked_for_is_refused() -> None:
    plan = read_plan(GOLDEN / "1.1" / "top-k")
    path = GOLDEN / "1.1" / "top-k" / "shards" / _native.shard_name(0)
    assert read_reference_shard(path, plan.metadata(0)).metadata["shard"] == "0"
    for key, value in (("shard", "1"), ("plan", "sha256:other")):
        with pytest.raises(ValueError, match=f"its {key} is .*, not {value}"):
            read_reference_shard(path, plan.metadata(0) | {key: value})
    with pytest.raises(ValueError, match=r"KeyError|format"):
        read_reference_shard(path, {"format": "thack-shard 9"})
