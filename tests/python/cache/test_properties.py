"""Laws of plans, shards and the JSON beside them, over random inputs."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thack import _native
from thack.cache import Cache, export_cache, inspect, verify
from thack.cache.capture.job import capture
from thack.cache.exchange.exporting import Format
from thack.cache.exchange.importing import ImportSettings, import_cache
from thack.cache.format.layout import RecordLayout
from thack.cache.format.partition import ShardLimits, partition
from thack.cache.format.records import decode, encode
from thack.config import CacheSettings
from thack.data.sequence import TokenSequence, data_fingerprint
from thack.errors import CacheError, DataError, ModelError, ThackError, UsageError
from thack.schema.cache_content import Verification
from thack.schema.targets import CachedKind, TargetSpec
from thack.targets.types import TopKTarget

from .conftest import VOCAB, FakeTeacher
from .stock_reader import open_with_stock_reader

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
few = settings(quick, max_examples=6)

ids = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12).map(lambda x: np.asarray(x, np.int32))
names = st.text(max_size=8)


@st.composite
def sequences(draw: st.DrawFn) -> list[TokenSequence]:
    rows = draw(st.lists(st.tuples(names, ids, ids, st.integers(0, 3)), min_size=1, max_size=14))
    return [
        TokenSequence(example=i, prompt_id=name, prompt_ids=prompt, response_ids=response, sample=sample)
        for i, (name, prompt, response, sample) in enumerate(rows)
    ]


@quick
@given(sequences(), st.integers(1, 60), st.integers(1, 2000), st.integers(1, 64))
def test_a_partition_covers_all_and_keeps_its_caps(
    rows: list[TokenSequence], tokens: int, size: int, stride: int
) -> None:
    lengths = [(len(s.prompt_ids), len(s.response_ids)) for s in rows]
    firsts = partition(lengths, stride, ShardLimits(tokens=tokens, bytes=size))
    assert firsts[0] == 0 and firsts[-1] == len(rows) and list(firsts) == sorted(set(firsts))
    for first, last in pairwise(firsts):
        held = rows[first:last]
        if len(held) > 1:
            assert sum(len(s.response_ids) for s in held) <= tokens
            assert sum(len(s.response_ids) * (stride + 4) + 4 * len(s.prompt_ids) + 64 for s in held) <= size


@quick
@given(sequences(), st.data())
def test_any_change_of_the_data_changes_its_fingerprint(rows: list[TokenSequence], data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(rows) - 1))
    s = rows[number]
    moved = (np.append(s.prompt_ids, s.response_ids[0]), s.response_ids[1:])  # the same stream, cut elsewhere
    others = [
        replace(s, prompt_id=s.prompt_id + "x"),
        replace(s, sample=s.sample + 1),
        replace(s, prompt_ids=moved[0].astype(np.int32), response_ids=moved[1]),
        replace(s, response_ids=(s.response_ids + 1) % VOCAB),
    ]
    found = {data_fingerprint([*rows[:number], other, *rows[number + 1 :]]) for other in others}
    assert len(found) == len(others) and data_fingerprint(rows) not in found
    copies = [replace(row, prompt_ids=row.prompt_ids.astype(np.int64)) for row in rows]
    assert data_fingerprint(copies) == data_fingerprint(rows)


@few
@given(sequences(), st.sampled_from(["dense", "top-k", "sampled"]), st.integers(8, 40), st.data())
def test_what_is_captured_is_read_in_any_order(
    rows: list[TokenSequence], kind: CachedKind, tokens: int, data: st.DataObject
) -> None:
    with TemporaryDirectory(prefix="thack-") as scratch:
        chosen = CacheSettings(
            out=Path(scratch) / "c", kind=kind, top_k=4, sampled=4, shard_tokens=tokens, batch_size=3, device="cpu"
        )
        cache = Cache.open(capture(chosen, teacher=FakeTeacher(), sequences=rows))
        order = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=20))
        found, target = cache.targets(order)
        assert len(target) == sum(len(rows[i].response_ids) for i in order)
        for s, number in zip(found, order, strict=True):
            want = rows[number]
            assert (s.prompt_id, s.sample) == (want.prompt_id, want.sample)
            assert np.array_equal(s.prompt_ids, want.prompt_ids) and np.array_equal(s.response_ids, want.response_ids)
        for path in cache.directory.glob("shards/shard-*"):
            open_with_stock_reader(path)
        assert verify(cache.directory, full=True).ok


@quick
@given(st.integers(1, 12), st.integers(0, 10_000), st.integers(0, 40), st.data())
def test_top_k_records_come_back_or_name_the_row(k: int, seed: int, spare: int, data: st.DataObject) -> None:
    layout = RecordLayout(spec=TargetSpec(kind="top-k", k=k), vocab_size=k + spare + 1)
    rng = np.random.default_rng(seed)
    log_p = np.log(rng.dirichlet(np.full(layout.vocab_size, 0.2), 5) + 1e-12).astype(np.float32)
    kept = np.stack([np.sort(rng.choice(layout.vocab_size, k, replace=False)) for _ in range(5)]).astype(np.int32)
    values = np.minimum(np.take_along_axis(log_p, kept, 1), 0)
    row = data.draw(st.integers(0, 4))
    poison = data.draw(st.sampled_from([None, np.nan, np.inf, 0.25]))
    if poison is not None:
        values[row, data.draw(st.integers(0, k - 1))] = poison
    tail = np.full(5, -1.0, np.float32)
    try:
        back = decode(layout.native.encode_top_k(kept, values, tail, np.empty(0, np.float32)), layout)
    except ModelError as error:
        assert poison is not None and f"row {row} " in error.message
        return
    assert poison is None and isinstance(back, TopKTarget)
    assert np.array_equal(back.ids_NK, kept)
    assert np.abs(np.exp(back.log_probs_NK.numpy()) - np.exp(values)).max() < 0.05


@quick
@given(st.binary(max_size=200), st.integers(0, 100_000))
def test_records_of_any_bytes_are_errors_or_targets(noise: bytes, seed: int) -> None:
    layout = RecordLayout(spec=TargetSpec(kind="top-k", k=8), vocab_size=300)
    data = bytearray((noise + np.random.default_rng(seed).bytes(layout.stride))[: layout.stride])
    try:
        found = decode(data, layout)
    except CacheError:
        return
    assert isinstance(found, TopKTarget)
    assert (found.ids_NK[:, 1:] > found.ids_NK[:, :-1]).all() and found.ids_NK.max() < 300
    again = encode(found, layout, seed=0, keys_N4=torch.zeros(1, 4, dtype=torch.int64))
    back = decode(again, layout)
    assert isinstance(back, TopKTarget) and np.array_equal(back.ids_NK, found.ids_NK)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        TokenSequence(
            example=i, prompt_id=str(i), prompt_ids=np.array([1], np.int32), response_ids=np.array([i, 2, 3], np.int32)
        )
        for i in range(9)
    ]
    out = tmp_path_factory.mktemp("finished") / "c"
    return capture(CacheSettings(out=out, top_k=4, shard_tokens=9), teacher=FakeTeacher(), sequences=rows)


@settings(quick, max_examples=80)
@given(name=st.sampled_from(["plan.json", "manifest.json"]), value=json_values, data=st.data())
def test_plans_and_manifests_that_hold_anything_are_errors_or_the_same(
    finished: Path, name: str, value: Any, data: st.DataObject
) -> None:
    """Never anything but a `ThackError`: what a user sees is a line, not a bug."""
    path = finished / name
    whole = path.read_bytes()
    content = json.loads(whole)
    groups = [content, *(part for part in content.values() if isinstance(part, dict)), *content.get("shards", ())]
    group = data.draw(st.sampled_from(groups))
    group[data.draw(st.sampled_from([*group, "new"]))] = value
    try:
        path.write_text(json.dumps(content))
        for look in (inspect, verify, Cache.open):
            try:
                found = look(finished)
            except ThackError:
                continue
            if isinstance(found, Verification) and json.loads(whole) != content:
                assert not found.ok
    finally:
        path.write_bytes(whole)


@settings(quick, max_examples=80)
@given(text=st.text(max_size=40) | json_values.map(json.dumps))
def test_imports_of_any_lines_are_errors(text: str) -> None:
    with TemporaryDirectory(prefix="thack-") as scratch:
        source = Path(scratch) / "rows.jsonl"
        source.write_text(text, encoding="utf-8")
        with pytest.raises((DataError, UsageError)):
            import_cache(ImportSettings(source=source, out=Path(scratch) / "c", vocab_size=VOCAB, tokenizer="sha256:t"))


@few
@given(sequences(), st.integers(8, 30), st.sampled_from(["safetensors", "parquet"]))
def test_an_export_can_be_imported_again(rows: list[TokenSequence], tokens: int, to: Format) -> None:
    """As the same numbers, with the same spec. Safetensors have no names and no realised log-probabilities."""
    with TemporaryDirectory(prefix="thack-") as scratch:
        root = Path(scratch)
        chosen = CacheSettings(
            out=root / "c", top_k=4, shard_tokens=tokens, batch_size=3, device="cpu", temperatures=(0.3, 1.25, 2.0)
        )
        unlike = {int(s.prompt_ids[-1]): s for s in rows}  # the fake teacher reads the last token alone
        cache = Cache.open(capture(chosen, teacher=FakeTeacher(), sequences=list(unlike.values())))
        source = export_cache(cache.directory, root / "plain", to=to)[0]
        settings = ImportSettings(source=source, out=root / "d", vocab_size=VOCAB, tokenizer="sha256:t", logprobs="raw")
        again = Cache.open(import_cache(settings))
        first = cache.plan.shard(0)
        (ours, target), (theirs, back) = cache.targets(first), again.targets(range(len(again)))
        assert [s.response_ids.tolist() for s in ours] == [s.response_ids.tolist() for s in theirs]
        assert isinstance(target, TopKTarget) and isinstance(back, TopKTarget)
        assert again.plan.layout.spec == cache.plan.layout.spec
        assert target.log_tail_N is not None and back.log_tail_N is not None
        for one, other in (
            (target.ids_NK, back.ids_NK),
            (target.log_probs_NK, back.log_probs_NK),
            (target.log_tail_N, back.log_tail_N),
            *((tail, back.log_tail_at[t]) for t, tail in target.log_tail_at.items()),
        ):
            np.testing.assert_array_equal(one, other)
        if to == "parquet":
            assert [(s.prompt_id, s.sample) for s in ours] == [(s.prompt_id, s.sample) for s in theirs]
            assert target.realised_logprob_N is not None and back.realised_logprob_N is not None
            np.testing.assert_array_equal(target.realised_logprob_N, back.realised_logprob_N)


def test_shards_have_names_that_sort(finished: Path) -> None:
    assert [path.name for path in sorted((finished / "shards").iterdir())] == [_native.shard_name(n) for n in range(3)]
