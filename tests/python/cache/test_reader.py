"""The reader under load: many shards, many workers, many threads; bounded files and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from thack.cache import Cache
from thack.cache.capture.job import capture
from thack.config import CacheSettings
from thack.targets.types import TopKTarget

from .conftest import FakeTeacher, make_sequences

SHARDS = 10_000

# Run as a process of its own: its memory is what is measured.
MANY = """
import json, os, sys
from pathlib import Path
import numpy as np
from thack import _native
from thack.cache import Cache
from thack.cache.format.layout import RecordLayout
from thack.schema.targets import TargetSpec
from thack.cache.format.plan import SHARDS, CachePlan, shard_path
from thack.schema.cache import Fingerprints

root, count = Path(sys.argv[1]), int(sys.argv[2])
layout = RecordLayout(spec=TargetSpec(kind="top-k", k=8), vocab_size=1000)
prints = Fingerprints(teacher="sha256:x", tokenizer="sha256:x", data="sha256:x", settings="sha256:x")
plan = CachePlan(layout=layout, fingerprints=prints, firsts=tuple(range(count + 1)),
            batch_size=1, seed=0, samples=1, device="cpu", dtype="float32", threads=1, build="0")
(root / SHARDS).mkdir()
_native.publish(root / "plan.json", plan.to_bytes())
rows = 4
log_probs, tail = np.full((rows, 8), -2.5, np.float32), np.full(rows, -1.5, np.float32)
for shard in range(count):
    ids = np.arange(8, dtype=np.int32) * 100 + np.full((rows, 1), shard % 100, np.int32)
    writer = _native.ShardWriter(shard_path(root, shard), plan.metadata(shard))
    writer.records(layout.native.encode_top_k(ids, log_probs, tail, np.empty(0, np.float32)))
    writer.sequence((shard, shard, 0), str(shard), ids[0, :2].copy(), np.full(rows, shard % 1000, np.int32))
    writer.finish()
cache = Cache.open(root)

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def read(numbers):
    files = 0
    for start in range(0, len(numbers), 50):
        sequences, target = cache.targets(numbers[start : start + 50])
        for s, first in zip(sequences, target.ids_NK[::rows, 0].tolist()):
            assert first == int(s.prompt_id) % 100 and s.response_ids[0] == int(s.prompt_id) % 1000
        open_now = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        files = max(files, sum("shard-" in path for path in open_now))
    return files

order = np.random.default_rng(0).permutation(count)
read(order[: count // 10])
before = resident()
files = read(order)
print(json.dumps({"files": files, "grown_mib": (resident() - before) / 2**20}))
"""


def test_ten_thousand_shards_take_no_more_memory_or_files_than_a_few() -> None:
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # every shard is synced: quick in memory
    with TemporaryDirectory(prefix="thack-", dir=shm) as scratch:
        command = [sys.executable, "-c", MANY, scratch, str(SHARDS)]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    import json

    found = json.loads(done.stdout)
    print(f"{SHARDS:,} shards at random: {found['files']} files open, {found['grown_mib']:+.2f} MiB")
    assert found["files"] <= 64 and found["grown_mib"] < 8


@pytest.fixture
def cache(settings: CacheSettings, teacher: FakeTeacher) -> Cache:
    sparse = replace(settings, kind="top-k", top_k=8)
    return Cache.open(capture(sparse, teacher=teacher, sequences=make_sequences(40)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_workers_of_a_data_loader_read_the_same(cache: Cache, method: str) -> None:
    """The cache's own method collates: it crosses a fork with files open, and is pickled for a spawn."""
    numbers = [int(i) for i in np.random.default_rng(0).permutation(40)]
    expected = [cache.targets(numbers[i : i + 8]) for i in range(0, 40, 8)]
    workers = 2 if method == "fork" else 1
    loader: DataLoader[int] = DataLoader(
        numbers,  # type: ignore[arg-type] # torch takes any sequence, its types a Dataset only
        batch_size=8,
        num_workers=workers,
        collate_fn=cache.targets,
        multiprocessing_context=method,
    )
    found = list(loader)
    assert len(found) == len(expected)
    for (sequences, target), (theirs, want) in zip(found, expected, strict=True):
        assert [s.prompt_id for s in sequences] == [s.prompt_id for s in theirs]
        assert isinstance(target, TopKTarget) and isinstance(want, TopKTarget)
        assert torch.equal(target.ids_NK, want.ids_NK) and torch.equal(target.log_probs_NK, want.log_probs_NK)


def test_threads_share_a_cache(cache: Cache) -> None:
    def log_probs(number: int) -> torch.Tensor:
        _, target = cache.targets([number])
        assert isinstance(target, TopKTarget)
        return target.log_probs_NK

    expected = {i: log_probs(i) for i in range(40)}

    def read(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        return all(torch.equal(log_probs(i), expected[i]) for i in rng.integers(0, 40, 100))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(16)))


def test_prefetch_reads_in_a_thread_of_its_own(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    readers = set()
    targets = cache.targets

    def noted(indices: object) -> object:
        readers.add(threading.current_thread().name)
        return targets(indices)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "targets", noted)
    assert len(list(cache.prefetch([[0, 1], [2], [3, 4, 5]]))) == 3
    assert readers == {"thack-prefetch"}
    assert "thack-prefetch" not in {thread.name for thread in threading.enumerate()}


def test_a_damaged_shard_stops_the_prefetch_with_its_name(cache: Cache) -> None:
    path = sorted(Path(cache.directory, "shards").iterdir())[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:4200] + bytes([whole[4200] ^ 4]) + whole[4201:])
    with pytest.raises(ValueError, match=f"{path.name}: chunk 0"):
        list(cache.prefetch([[39], [0]]))
