"""The store against its targets and its peers: record sizes, codec speed, random reads, cost of a capture."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from itertools import count as count_up
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from harness import Measurement, Target, at_least, at_most, interleaved, tokenizer_of
from thack import _native
from thack.cache import Cache
from thack.cache.capture.job import capture
from thack.cache.exchange.importing import ImportSettings, import_cache
from thack.cache.format.layout import RecordLayout
from thack.cache.format.plan import SHARDS, CachePlan, shard_path
from thack.config import ArchitectureSettings, CacheSettings
from thack.data.sequence import TokenSequence
from thack.models.batch import Batch
from thack.models.native.architecture import Architecture
from thack.models.native.llama import Llama
from thack.schema.cache import Fingerprints
from thack.schema.targets import TargetSpec

V, K = 151_936, 64


def measure() -> Iterator[Measurement]:
    yield from sizes()
    yield from codec()
    yield from reading()
    yield from reading_many()
    yield from capturing()


def sizes() -> Iterator[Measurement]:
    """Bytes per token, exact."""
    for bits, limit in ((8, 176), (7, 168)):
        yield Measurement(
            what=f"record, top-64 with tail, {bits} bits",
            ours=RecordLayout(spec=TargetSpec(kind="top-k", k=K, value_bits=bits), vocab_size=V).stride,
            unit="B/token",
            peer="DistillKit's published layout",
            theirs=200,
            floor=100.7,
            floor_is="the ids alone",
            target=at_most(limit),
        )
    for k, theirs, limit in ((16, 36, 44), (4, None, 16)):
        yield Measurement(
            what=f"record, {k} sampled ids",
            ours=RecordLayout(spec=TargetSpec(kind="sampled", k=k), vocab_size=V).stride,
            unit="B/token",
            peer="random-sampling KD, published, multinomial" if theirs else "",
            theirs=theirs,
            target=at_most(limit),
        )


def codec() -> Iterator[Measurement]:
    """Million tokens per second on one core, from benches/codec.rs."""
    command = ["cargo", "bench", "--quiet", "--bench", "codec"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]).stdout
    rates = {item["what"]: item["million_tokens_per_s"] for item in map(json.loads, out.splitlines())}
    targets = {"encode top-64, 8 bits": at_least(18), "decode top-64, 8 bits": at_least(27)}
    peers = {"encode top-64, 8 bits": 0.047, "decode top-64, 8 bits": 0.043}
    for what, rate in rates.items():
        if not what.startswith("floor"):
            yield Measurement(
                what=what,
                ours=rate,
                unit="M tokens/s",
                peer="DistillKit, published, 2 cores" if what in peers else "",
                theirs=peers.get(what),
                target=targets.get(what),
                is_rate=True,
            )


def reading(sequences: int = 4096, length: int = 64, batch: int = 32) -> Iterator[Measurement]:
    """Million tokens per second decoded, sequences at random, checksums verified."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    tokens = sequences * length
    steps = rng.integers(1, V // K - 1, (tokens, K), dtype=np.int32)
    values = np.sort(-12 * rng.random((tokens, K), dtype=np.float32) - 4.2, axis=1)
    starts = np.arange(sequences + 1, dtype=np.int64) * length
    with TemporaryDirectory(prefix="thack-") as scratch:
        source = Path(scratch) / "rows.safetensors"
        arrays = {"ids": np.cumsum(steps, 1, dtype=np.int32), "logprobs": values}
        arrays |= {"response_tokens": np.zeros(tokens, np.int32), "response_starts": starts}
        arrays |= {"prompt_tokens": np.zeros(sequences, np.int32)}
        save_file(arrays | {"prompt_starts": np.arange(sequences + 1, dtype=np.int64)}, source)
        settings = ImportSettings(source=source, out=Path(scratch) / "c", vocab_size=V, tokenizer="none")
        cache = Cache.open(import_cache(settings))
        order = rng.permutation(sequences)
        work = lambda: [cache.targets(order[i : i + batch]) for i in range(0, sequences, batch)]  # noqa: E731
        (seconds,) = interleaved([work], repeats=3, warmups=0)
    yield Measurement(
        what="random reads, top-64",
        ours=tokens / seconds / 1e6,
        unit="M tokens/s",
        target=at_least(1),
        is_rate=True,
    )


def reading_many(shards: int = 192, per_shard: int = 256, length: int = 64, batch: int = 32) -> Iterator[Measurement]:
    """The same over more shards than may be open: most sequences lie in a shard whose file was closed."""
    rng = np.random.default_rng(0)
    layout, none = RecordLayout(spec=TargetSpec(kind="top-k", k=K), vocab_size=V), np.empty(0, np.float32)
    rows = per_shard * length // 4
    ids = np.cumsum(rng.integers(1, V // K - 1, (rows, K), dtype=np.int32), 1, dtype=np.int32)
    values = np.sort(-12 * rng.random((rows, K), dtype=np.float32) - 4.2, axis=1)
    records = layout.native.encode_top_k(ids, values, np.full(rows, -3, np.float32), none)
    firsts = tuple(range(0, shards * per_shard + 1, per_shard))
    facts: dict[str, Any] = {"batch_size": 1, "seed": 0, "samples": 1, "device": "cpu", "dtype": "float32"}
    prints = Fingerprints(teacher="sha256:x", tokenizer="sha256:x", data="sha256:x", settings="sha256:x")
    plan = CachePlan(layout=layout, fingerprints=prints, firsts=firsts, threads=1, build="0", **facts)
    with TemporaryDirectory(prefix="thack-") as scratch:
        (Path(scratch) / SHARDS).mkdir()
        (Path(scratch) / "plan.json").write_bytes(plan.to_bytes())
        for shard in range(shards):
            writer = _native.ShardWriter(shard_path(Path(scratch), shard), plan.metadata(shard))
            for _ in range(4):
                writer.records(records)
            for number in plan.shard(shard):
                writer.sequence((number, number, 0), str(number), np.zeros(16, np.int32), np.zeros(length, np.int32))
            writer.finish()
        cache, order = Cache.open(Path(scratch)), rng.permutation(shards * per_shard)[:8192]
        files = 0

        def work() -> None:
            nonlocal files
            for i in range(0, len(order), batch):
                cache.targets(order[i : i + batch])
            files = len([fd for fd in Path("/proc/self/fd").iterdir() if "shard-" in str(fd.resolve())])

        (seconds,) = interleaved([work], repeats=3, warmups=0, clock=time.thread_time)
    yield Measurement(
        what=f"random reads over {shards} shards, {files} files open",
        ours=len(order) * length / seconds / 1e6,
        unit="M tokens/s/core",
        target=at_least(1),
        is_rate=True,
    )


def capturing() -> Iterator[Measurement]:
    """A capture's CPU seconds over those of the teacher's bare forward on the same batches.

    Of the thread that runs the teacher, which records and files leave to another one; and of both.
    """
    yield from _captured("dense", at_most(1.08), hidden=256, layers=4, vocab=1024, count=512)
    yield from _captured("top-k", at_most(1.05), hidden=512, layers=6, vocab=32_000, count=64)


def _captured(kind: Any, target: Target, *, hidden: int, layers: int, vocab: int, count: int) -> Iterator[Measurement]:
    tokenizer = tokenizer_of(vocab)
    teacher = Llama(Architecture.new(ArchitectureSettings(hidden_size=hidden, num_layers=layers), vocab), tokenizer)
    teacher.initialise(0)
    rng = np.random.default_rng(0)
    data = [
        TokenSequence(
            example=i,
            prompt_id=str(i),
            prompt_ids=rng.integers(2, tokenizer.size, 16).astype(np.int32),
            response_ids=rng.integers(2, tokenizer.size, 48).astype(np.int32),
        )
        for i in range(count)
    ]

    def bare() -> None:
        with torch.inference_mode():
            for start in range(0, len(data), 32):
                teacher(Batch.of(data[start : start + 32]))

    with TemporaryDirectory(prefix="thack-") as scratch:
        outs = (Path(scratch) / str(number) for number in count_up())

        def whole() -> None:
            settings = CacheSettings(out=next(outs), kind=kind, device="cpu", dtype="float32")
            capture(settings, teacher=teacher.eval(), sequences=data)

        for of, clock in (("the teacher's thread", time.thread_time), ("all threads", time.process_time)):
            alone, captured = interleaved([bare, whole], repeats=2, warmups=0, clock=clock)
            yield Measurement(
                what=f"capture, {kind}, V = {vocab:,}, width {hidden}, {of}",
                ours=captured / alone,
                unit="× forward",
                floor=1,
                floor_is="the teacher's bare forward",
                target=target if clock is time.thread_time else None,
            )
