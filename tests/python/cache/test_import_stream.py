"""An import keeps one sequence in memory, for any size of source, and resumes after any interruption."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from thack import _native
from thack.cache import Cache, import_cache, verify
from thack.cache.exchange.importing import ImportSettings
from thack.cache.format.plan import CachePlan, publish_plan, shard_path
from thack.errors import DataError

VOCAB, K = 5000, 256
BOUND_MIB = {"jsonl": 3, "safetensors": 3, "parquet": 5}


def rows(count: int, length: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """ids and log-probabilities [count × length, K], most likely first."""
    rng = np.random.default_rng(0)
    n = count * length
    ids = (rng.integers(0, VOCAB, (n, 1)) + np.arange(K) * 7) % VOCAB
    return ids.astype(np.int32), (-7 - np.sort(rng.random((n, K)), axis=1)).astype(np.float32)


def jsonl(path: Path, count: int) -> Path:
    length = 16
    ids, values = rows(count, length)
    with open(path, "w") as file:
        for s in range(count):
            span = slice(s * length, (s + 1) * length)
            pairs = zip(ids[span].tolist(), values[span].tolist(), strict=True)
            tops: list[dict[int, float] | None] = [None, *(dict(zip(a, b, strict=True)) for a, b in pairs)]
            tokens = [1, *ids[span, 0].tolist()]
            file.write(json.dumps({"prompt_token_ids": tokens, "prompt_logprobs": tops, "prompt_length": 1}) + "\n")
    return path


def safetensors(path: Path, count: int) -> Path:
    ids, values = rows(count)
    starts = np.arange(count + 1, dtype=np.int64)
    arrays = {"ids": ids, "logprobs": values, "response_tokens": ids[:, 0].copy(), "response_starts": 16 * starts}
    save_file(arrays | {"prompt_tokens": np.ones(count, np.int32), "prompt_starts": starts}, path)
    return path


def parquet(path: Path, count: int) -> Path:
    pyarrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    ids, values = rows(count)

    def nested(flat: np.ndarray) -> object:
        inner = pyarrow.ListArray.from_arrays(np.arange(len(flat) + 1, dtype=np.int32) * K, flat.reshape(-1))
        return pyarrow.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * 16, inner)

    columns: dict[str, object] = {"prompt_ids": [[1]] * count, "response_ids": ids[:, 0].reshape(count, 16).tolist()}
    columns |= {"ids": nested(ids), "logprobs": nested(values)}
    writer.write_table(pyarrow.table(columns), path, row_group_size=64)
    return path


def _memory(key: str) -> int:
    return int(re.findall(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read and reset through /proc")
@pytest.mark.parametrize("make", [jsonl, safetensors, parquet])
def test_an_import_keeps_one_sequence_in_memory(tmp_path: Path, make: Callable[[Path, int], Path]) -> None:
    suffix = f".{make.__name__}"
    _import(make(tmp_path / f"small{suffix}", 4), tmp_path / "small")  # what is loaded and allocated once
    source = make(tmp_path / f"large{suffix}", {"jsonl": 100, "safetensors": 350, "parquet": 600}[make.__name__])
    size = source.stat().st_size / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here
    before = _memory("VmHWM")
    cache = _import(source, tmp_path / "large")
    grown = (_memory("VmHWM") - before) / 1024
    print(f"{make.__name__}: {size:.0f} MiB imported with {grown:.1f} MiB more")
    assert size > 3 * BOUND_MIB[make.__name__] and grown < BOUND_MIB[make.__name__]
    assert cache.meta.k == K and verify(cache.directory, full=True).ok


def test_all_kinds_of_source_give_the_same_records(tmp_path: Path) -> None:
    caches = [_import(make(tmp_path / f"rows.{make.__name__}", 9), tmp_path / make.__name__) for make in KINDS]
    for cache in caches[1:]:
        assert len(cache) == 9
        for mine, first in zip(_records(cache), _records(caches[0]), strict=True):
            assert (mine == first).all()


def test_an_import_that_was_stopped_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at every sequence: complete shards are skipped, and all shards are those of an uninterrupted import."""
    source = safetensors(tmp_path / "rows.safetensors", 9)
    whole = _import(source, tmp_path / "whole", shard_tokens=40)
    assert whole.meta.num_shards == 5
    _native_writer = _native.ShardWriter
    for stop in range(9):
        out, left = tmp_path / f"at{stop}", [stop]

        class Stopped:
            def __init__(self, path: Path, metadata: dict[str, str]) -> None:
                self._writer = _native_writer(path, metadata)

            def __getattr__(self, name: str) -> object:
                return getattr(self._writer, name)

            def records(self, records: bytearray) -> None:
                if not left[0]:  # noqa: B023 - called in this turn
                    raise KeyboardInterrupt
                left[0] -= 1  # noqa: B023
                self._writer.records(records)

        with monkeypatch.context() as patch:
            patch.setattr(_native, "ShardWriter", Stopped)
            with pytest.raises(KeyboardInterrupt):
                _import(source, out, shard_tokens=40)
        _import(source, out, shard_tokens=40)
        assert not [path for path in out.rglob("*.tmp")]
        for shard in range(5):
            assert shard_path(out, shard).read_bytes() == shard_path(whole.directory, shard).read_bytes()


def test_a_source_that_changes_meanwhile_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thack.cache.exchange import importing as exchange

    source = jsonl(tmp_path / "rows.jsonl", 6)

    def meddle(directory: Path, plan: CachePlan) -> CachePlan:
        os.utime(source, ns=(1, 1))
        return publish_plan(directory, plan)

    monkeypatch.setattr(exchange, "publish_plan", meddle)
    with pytest.raises(DataError, match="was changed while it was imported"):
        _import(source, tmp_path / "c")
    monkeypatch.undo()
    assert len(_import(source, tmp_path / "c")) == 6


def test_a_bad_row_far_behind_leaves_no_shard(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "rows.jsonl", 6)
    lines = source.read_text().splitlines()
    lines[-1] = lines[-1].replace('"prompt_length": 1', '"prompt_length": 99')
    source.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"rows\.jsonl:6: prompt_length is 99"):
        _import(source, tmp_path / "c", shard_tokens=16)
    assert not list((tmp_path / "c" / "shards").iterdir()) and not (tmp_path / "c" / "plan.json").exists()


@pytest.mark.parametrize("cut", [0, 1, 8, 100, -1])
def test_a_cut_file_of_tensors_is_an_error(tmp_path: Path, cut: int) -> None:
    source = safetensors(tmp_path / "rows.safetensors", 3)
    source.write_bytes(source.read_bytes()[:cut])
    with pytest.raises(DataError, match="not a safetensors file"):
        _import(source, tmp_path / "c")


KINDS = (jsonl, safetensors, parquet)


def _import(source: Path, out: Path, *, shard_tokens: int = 1 << 20) -> Cache:
    settings = ImportSettings(source=source, out=out, vocab_size=VOCAB, tokenizer="sha256:t", shard_tokens=shard_tokens)
    return Cache.open(import_cache(settings))


def _records(cache: Cache) -> list[np.ndarray]:
    _, target = cache.targets(range(len(cache)))
    return [target.ids_NK.numpy(), target.log_probs_NK.numpy(), target.log_tail_N.numpy()]  # type: ignore[union-attr]
