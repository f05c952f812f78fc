"""The store against its targets and its peers: record sizes, codec speed, random reads, cost of a capture.

Run: python benches/store.py (prints a table), or `rows()` from the benchmark runner.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from thack.cache import Cache
from thack.cache.capture import capture
from thack.cache.exchange import ImportSettings, import_cache
from thack.cache.plan import Record
from thack.config.settings import ArchitectureSettings, CacheSettings
from thack.models.batch import Batch
from thack.models.load import new_decoder
from thack.models.tokenizer import Tokenizer
from thack.targets import TokenSequence

V, K = 151_936, 64
Rows = list[dict[str, Any]]


def row(
    what: str, peer: str, value: float, target: str, *, ratio: float | None = None, floor: str = ""
) -> dict[str, Any]:
    return {"what": what, "peer": peer, "ratio": ratio, "floor": floor, "value": value, "target": target}


def sizes() -> Rows:
    """Bytes per token, exact."""
    peer = "DistillKit's published layout: 200 B"
    top = [(bits, Record(kind="top-k", vocab_size=V, k=K, value_bits=bits).stride) for bits in (8, 7)]
    found = [
        row(f"bytes, top-64 with tail, {bits} bits", peer, size, limit, ratio=200 / size, floor="100.7 ids alone")
        for (bits, size), limit in zip(top, ("≤ 176", "≤ 168"), strict=True)
    ]
    for k, limit in ((16, "≤ 44"), (4, "≤ 16")):
        size = Record(kind="sampled", vocab_size=V, k=k).stride
        found.append(row(f"bytes, {k} sampled ids", "random-sampling KD: about 36 B", size, limit))
    return found


def codec() -> Rows:
    """Million tokens per second on one core, from benches/codec.rs."""
    command = ["cargo", "bench", "--quiet", "--bench", "codec"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]).stdout
    rates = {item["what"]: item["million_tokens_per_s"] for item in map(json.loads, out.splitlines())}
    targets = {"encode top-64, 8 bits": "≥ 18", "decode top-64, 8 bits": "≥ 27"}
    peers = {"encode top-64, 8 bits": 0.047, "decode top-64, 8 bits": 0.043}
    return [
        row(
            f"M tokens/s, {what}",
            "DistillKit, published, 2 cores" if what in peers else "",
            rate,
            targets.get(what, ""),
            ratio=rate / peers[what] if what in peers else None,
        )
        for what, rate in rates.items()
        if not what.startswith("floor")
    ]


def reading(sequences: int = 4096, length: int = 64, batch: int = 32) -> Rows:
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
        seconds = best(lambda: [cache.targets(order[i : i + batch]) for i in range(0, sequences, batch)])
    return [row("M tokens/s, random reads, top-64", "", tokens / seconds / 1e6, "≥ 1")]


def capturing() -> Rows:
    """Seconds of a capture over seconds of the teacher's bare forward on the same batches."""
    tokenizer = Tokenizer.train([f"def f{i}(x): return x + {i}" for i in range(2000)], 1024)
    teacher = new_decoder(ArchitectureSettings(hidden_size=256, num_layers=4), tokenizer, 0).eval()
    rng = np.random.default_rng(0)
    data = [
        TokenSequence(
            index=i,
            prompt_id=str(i),
            prompt_ids=rng.integers(2, tokenizer.size, 16).astype(np.int32),
            response_ids=rng.integers(2, tokenizer.size, 24).astype(np.int32),
        )
        for i in range(512)
    ]

    def bare() -> None:
        with torch.inference_mode():
            for start in range(0, len(data), 32):
                teacher(Batch.of(data[start : start + 32]))

    def whole() -> None:
        with TemporaryDirectory(prefix="thack-") as scratch:
            settings = CacheSettings(out=Path(scratch) / "c", kind="dense", device="cpu", dtype="float32")
            capture(settings, teacher=teacher, sequences=data)

    alone, captured = best(bare), best(whole)
    return [row("capture / bare forward, dense, V = 1024", "the teacher's forward", captured / alone, "≤ 1.15")]


def best(work: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def rows() -> Rows:
    return [*sizes(), *codec(), *reading(), *capturing()]


if __name__ == "__main__":
    for found in rows():
        print(f"{found['what']:<45} {found['value']:>9.2f}   target {found['target']:<8} {found['peer']}")
