"""Caches from and to what other tools write: rows checked and aligned on the way in, plain on the way out.

Sources keep k ids with their log-probabilities and no tail. The tail is then estimated as 1 − Σ of what is
kept, in float64 and before anything is quantised, and the cache says so in its record; with
`estimate_tail=False` it has none, and no divergence is defined on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import thack
from thack import _thack
from thack.cache.capture import claim_directory
from thack.cache.manifest import finish, shard_is_good
from thack.cache.plan import Plan, Record, adopt, data_fingerprint, partition, shard_path
from thack.cache.sources import Row, read_rows
from thack.config.settings import CacheSettings
from thack.errors import CacheError, DataError, UsageError
from thack.files import digest
from thack.runtime.progress import SILENT, Progress
from thack.targets import DenseTarget, SampledTarget, TopKTarget

_SMALLEST_TAIL = 1e-7  # 1 − Σ of float32 numbers knows no smaller mass


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSettings:
    """Where from, where to, and what the numbers mean."""

    source: Path  # JSONL with prompt_logprobs, or safetensors or Parquet with ids and logprobs
    out: Path
    vocab_size: int
    tokenizer: str  # fingerprint of the tokenizer whose ids these are
    teacher: str = "imported"  # fingerprint, where it is known
    k: int = 0  # keep so many per row; 0: as many as every row has
    estimate_tail: bool = True
    shard_tokens: int = 1 << 20
    shard_bytes: int = 1 << 28


def import_cache(settings: ImportSettings, progress: Progress = SILENT) -> Path:
    """Make a top-k cache of another tool's rows; run again, it goes on."""
    if settings.vocab_size < 1:
        raise UsageError(f"vocab_size = {settings.vocab_size}: must be at least 1")
    claim_directory(settings.out)
    rows = list(read_rows(settings.source))
    if not rows:
        raise DataError(f"{settings.source}: holds no sequence")
    k = settings.k or min(row.width for row in rows)
    record = Record(
        kind="top-k",
        vocab_size=settings.vocab_size,
        k=k,
        tail="estimated" if settings.estimate_tail else "none",
    )
    packed = [_pack(row, record, settings.source) for row in rows]
    plan = adopt(settings.out, _plan(settings, record, rows, packed))
    with progress.task("import", plan.num_shards, "shards") as task:
        for shard in range(plan.num_shards):
            if not shard_is_good(settings.out, plan, shard):
                _write(settings.out, plan, shard, rows, packed)
            task.advance(1)
    finish(settings.out, plan)
    return settings.out


Packed = tuple[np.ndarray, np.ndarray, np.ndarray]  # ids int32 [R,K], log_probs float32 [R,K], log_tail [R]


def _pack(row: Row, record: Record, source: Path) -> Packed:
    """The k most likely entries of every position, by id, with the tail that they leave."""
    ids, values = np.empty((len(row.entries), record.k), np.int32), np.empty((len(row.entries), record.k))
    for n, (entry_ids, log_probs) in enumerate(row.entries):
        place = f"{source}: {row.place}, response token {n}"
        _check_entry(entry_ids, log_probs, record, place)
        order = np.lexsort((entry_ids, -log_probs))[: record.k]
        order = order[np.argsort(entry_ids[order])]
        ids[n], values[n] = entry_ids[order], log_probs[order]
    rest = 1 - np.exp(values).sum(1)
    if rest.min() < -1e-3:
        worst = int(rest.argmin())
        raise DataError(
            f"{source}: {row.place}, response token {worst}: the probabilities sum to {1 - rest[worst]:.4f}",
            hint="log-probabilities must be natural logarithms at temperature 1",
        )
    return (
        ids,
        np.minimum(values, 0).astype(np.float32),
        np.log(np.maximum(rest, _SMALLEST_TAIL)).astype(np.float32),
    )


def _check_entry(ids: np.ndarray, log_probs: np.ndarray, record: Record, place: str) -> None:
    if len(ids) < record.k:
        raise DataError(f"{place}: {len(ids)} entries, expected {record.k}")
    if len(np.unique(ids)) != len(ids):
        raise DataError(f"{place}: an id stands twice")
    if ids.min() < 0 or ids.max() >= record.vocab_size:
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise DataError(f"{place}: id {wrong} is outside the vocabulary of {record.vocab_size:,}")
    if not (log_probs <= 1e-4).all():
        wrong = log_probs[~(log_probs <= 1e-4)][0]
        raise DataError(f"{place}: {wrong} is not a log-probability")


def _plan(settings: ImportSettings, record: Record, rows: Sequence[Row], packed: Sequence[Packed]) -> Plan:
    caps = CacheSettings(shard_tokens=settings.shard_tokens, shard_bytes=settings.shard_bytes)
    sequences = [row.sequence for row in rows]
    content = digest(array.tobytes() for arrays in packed for array in arrays)
    return Plan(
        record=record,
        fingerprints={
            "teacher": settings.teacher,
            "tokenizer": settings.tokenizer,
            "data": data_fingerprint(sequences),
            "settings": content,
        },
        firsts=partition(sequences, record.stride, caps),
        batch_size=1,
        seed=0,
        samples=1,
        device="none",
        dtype="float32",
        threads=1,
        build=thack.__version__,
    )


def _write(directory: Path, plan: Plan, shard: int, rows: Sequence[Row], packed: Sequence[Packed]) -> None:
    layout = plan.record.layout()
    writer = _thack.ShardWriter(shard_path(directory, shard), plan.metadata(shard))
    try:
        for number in plan.shard(shard):
            ids, log_probs, tail = packed[number]
            tails = tail if plan.record.tail == "estimated" else np.empty(0, np.float32)
            writer.records(layout.encode_top_k(ids, log_probs, tails, np.empty(0, np.float32)))
            s = rows[number].sequence
            writer.sequence((number, s.index, s.sample), s.prompt_id, s.prompt_ids, s.response_ids)
        writer.finish()
    except BaseException:
        writer.abandon()
        raise


def export_cache(directory: Path | str, out: Path | str, progress: Progress = SILENT) -> list[Path]:
    """Write plain safetensors, one file per shard, that need nothing of thack to be read.

    Tensors: response_tokens [N], response_starts [S+1], prompt_tokens [P], prompt_starts [S+1], and by kind
    log_probs [N,V]; or ids [N,K], log_probs [N,K], log_tail [N], log_tail_at_T [N]; or ids [N,K],
    weights [N,K], counts [N], tau [N], entropy [N].
    """
    from safetensors.numpy import save_file

    from thack.cache.reader import Cache

    cache, out = Cache.open(directory), Path(out)
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty", hint="give a directory that is new or empty")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with progress.task("export", cache.plan.num_shards, "shards") as task:
        for shard in range(cache.plan.num_shards):
            path = out / f"part-{shard:05d}.safetensors"
            metadata = {"kind": cache.meta.kind, "vocab_size": str(cache.meta.vocab_size)}
            metadata |= {"tokenizer": cache.meta.tokenizer, "teacher": cache.meta.teacher}
            save_file(_tensors(cache, cache.plan.shard(shard)), path, metadata)
            written.append(path)
            task.advance(1)
    return written


def _tensors(cache: Any, numbers: range) -> dict[str, np.ndarray]:
    sequences, target = cache.targets(numbers)
    responses, prompts = [s.response_ids for s in sequences], [s.prompt_ids for s in sequences]
    found = {
        "response_tokens": np.concatenate(responses),
        "response_starts": np.cumsum([0, *map(len, responses)]).astype(np.int64),
        "prompt_tokens": np.concatenate(prompts),
        "prompt_starts": np.cumsum([0, *map(len, prompts)]).astype(np.int64),
    }
    if isinstance(target, DenseTarget):
        return found | {"log_probs": target.log_probs_NV.numpy()}
    if isinstance(target, TopKTarget):
        found |= {"ids": target.ids_NK.numpy(), "log_probs": target.log_probs_NK.numpy()}
        if target.log_tail_N is not None:
            found["log_tail"] = target.log_tail_N.numpy()
        return found | {f"log_tail_at_{t:g}": tail.numpy() for t, tail in target.log_tail_at.items()}
    if isinstance(target, SampledTarget):
        names = {"ids": "ids_NK", "weights": "weights_NK", "counts": "counts_N", "tau": "tau_N"}
        names |= {"entropy": "entropy_N"}
        return found | {name: getattr(target, field).numpy() for name, field in names.items()}
    raise CacheError(f"targets of kind {cache.meta.kind} cannot be exported")
