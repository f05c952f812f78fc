"""Memory and time of each step by the size of the corpus, and what 10¹¹ tokens would take: `python benches/scale.py`.

Each measurement is a process of its own, so that its peak memory is its own. Records are short (77 bytes, some 17
tokens) and the models tiny: what is measured is what a record costs beside the model.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from thack.data.index import IndexedSequences

_TOKENS = 1e11
_BLOCK = 10_000
_STEPS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one measurement.

    Args:
        cpu_s: processor seconds of the step alone.
        peak_mb: largest resident memory of its process.
    """

    cpu_s: float
    peak_mb: float


def write_corpus(path: Path, count: int) -> None:
    """`count` records of a prompt and a response."""
    with open(path, "w") as file:
        for first in range(0, count, _BLOCK):
            rows = range(first, min(first + _BLOCK, count))
            file.writelines(map(_line, rows))


def _line(number: int) -> str:
    return f'{{"prompt": "read file {number:09d} and say", "response": "line {number % 997:03d}"}}\n'


def make_teacher(path: Path) -> None:
    """A tiny model with a tokenizer of its own."""
    from thack.config import ArchitectureSettings
    from thack.data.tokenizer import Tokenizer
    from thack.models.load import new_decoder

    tokenizer = Tokenizer.train(["read file 0123456789 and say line"] * 3, 300)
    new_decoder(ArchitectureSettings(hidden_size=16, num_layers=1, num_heads=2), tokenizer, seed=0).save(path)


def tokens_per_record(root: Path) -> float:
    """Tokens of prompt and response, of the first records."""
    write_corpus(root / "few.jsonl", 100)
    found = index(root, root / "few.jsonl")
    return float(np.concatenate(list(found().lengths())).sum() / 100)


def index(root: Path, corpus: Path) -> Callable[[], IndexedSequences]:
    """The first pass of a capture: read, encode, write the index."""
    from thack.config import DataSettings
    from thack.data.index import index_data
    from thack.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(root / "teacher")
    settings = DataSettings(path=str(corpus))
    return partial(index_data, settings, tokenizer, need_response=True, directory=root)


def index_again(root: Path, corpus: Path) -> Callable[[], object]:
    """What a task of an array, or a resumed job, does instead."""
    return index(root, corpus)


def plan_and_one_shard(root: Path, corpus: Path) -> Callable[[], object]:
    """The plan of the cache from the index, and the sequences of a shard in its middle."""
    from thack.cache.format.partition import ShardLimits, partition

    opened = index(root, corpus)

    def work() -> None:
        found = opened()
        limits = ShardLimits(tokens=1 << 16, bytes=1 << 28)
        firsts = partition(((p, r) for part in found.lengths() for p, r in part.tolist()), 176, limits)
        middle = len(firsts) // 2
        found.read(range(firsts[middle - 1], firsts[middle]))

    return work


def training_steps(root: Path, corpus: Path) -> Callable[[], object]:
    """The order of 64 steps in the middle of an epoch."""
    from thack.training.order import order_of
    from thack.training.plan import Plan

    with open(corpus) as file:
        count = sum(1 for _ in file)
    order = order_of(count)

    def work() -> None:
        plan = Plan(
            num_sequences=count,
            batch_size=32,
            seed=0,
            total_steps=10**9,
            window_steps=16,
            lengths=np.full(count, 17, dtype=np.int32),
            order=order,
        )
        for step in range(plan.steps_per_epoch // 2, plan.steps_per_epoch // 2 + _STEPS, 16):
            plan.window(step)

    return work


def training_data(root: Path, corpus: Path) -> Callable[[], object]:
    """What sft and distill train on: all of it encoded once, then read in any order."""
    from thack.config import DataSettings
    from thack.data.spool import spool
    from thack.data.stream import DataStream
    from thack.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(root / "teacher")
    stream = DataStream(DataSettings(path=str(corpus)), tokenizer, need_response=True)

    def work() -> None:
        found = spool(stream, root)
        for position in np.random.default_rng(0).integers(0, len(found), 2048):
            found[int(position)]

    return work


STEPS = [index, index_again, plan_and_one_shard, training_data, training_steps]


def _measured(step: Callable[[Path, Path], Callable[[], object]], root: Path, corpus: Path, out: Path) -> None:
    work = step(root, corpus)
    before = time.process_time()
    work()
    cost = {
        "cpu_s": time.process_time() - before,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    out.write_text(json.dumps(cost))


def measure(step: Callable[[Path, Path], Callable[[], object]], root: Path, corpus: Path) -> Cost:
    """One step in a new process."""
    out = root / "cost.json"
    process = multiprocessing.get_context("spawn").Process(target=_measured, args=(step, root, corpus, out))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{step.__name__} failed on {corpus.name}")
    return Cost(**json.loads(out.read_text()))


def main() -> None:
    """Print a table, and exit with 1 where memory grew by more than a fifth from 10⁵ records to the most."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=float, default=1e5, help="records of the largest corpus, up to 1e7")
    parser.add_argument("--least", type=float, default=1e4, help="records of the smallest corpus")
    given = parser.parse_args()
    sizes = [int(10**e) for e in range(round(np.log10(given.least)), round(np.log10(given.most)) + 1)]
    grew = False
    with TemporaryDirectory(prefix="thack-scale-") as scratch:
        root = Path(scratch)
        make_teacher(root / "teacher")
        print(f"{'step':<20}{'records':>12}{'CPU s':>9}{'µs/record':>11}{'peak MB':>9}")
        tokens = tokens_per_record(root)
        peaks: dict[str, dict[int, float]] = {}
        costs: dict[str, float] = {}  # seconds per record, of the largest corpus
        for size in sizes:
            corpus = root / f"{size}.jsonl"
            write_corpus(corpus, size)
            for step in STEPS:
                cost = measure(step, root, corpus)
                costs[step.__name__] = cost.cpu_s / size
                peaks.setdefault(step.__name__, {})[size] = cost.peak_mb
                numbers = f"{cost.cpu_s:>9.2f}{cost.cpu_s / size * 1e6:>11.2f}{cost.peak_mb:>9.0f}"
                print(f"{step.__name__:<20}{size:>12,}{numbers}", flush=True)
            corpus.unlink()
        for name, found in peaks.items():
            first = 100_000 if 100_000 in found else sizes[0]
            growth = found[sizes[-1]] / found[first]
            grew |= growth > 1.2
            hours = costs[name] * _TOKENS / tokens / 3600
            print(f"{name}: {growth:.2f} × the memory of {first:,} records; 10¹¹ tokens: {hours:,.1f} CPU hours")
    raise SystemExit(int(grew))


if __name__ == "__main__":
    main()
