"""Caches from and to what other tools write: rows checked and aligned on the way in, plain on the way out.

Sources keep k ids with their log-probabilities and no tail. The tail is then estimated as 1 − Σ of what is
kept, in float64 and before anything is quantised, and the cache says so in its record; with
`estimate_tail=False` it has none, and no divergence is defined on it.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from thack import _native, _version
from thack.cache.capture.job import claim_directory
from thack.cache.exchange.readers import Row, read_rows
from thack.cache.format.layout import RecordLayout
from thack.cache.format.manifest import finish, shard_is_good
from thack.cache.format.plan import Plan, adopt, partition_lengths, shard_path
from thack.config import CacheSettings
from thack.data.sequence import TokenSequence, data_fingerprint
from thack.errors import CacheError, DataError, UsageError
from thack.files import atomic_directory
from thack.runtime.progress import SILENT, Progress
from thack.schema.targets import Tail, TargetSpec
from thack.targets.types import DenseTarget, SampledTarget, TopKTarget

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
    """Make a top-k cache of another tool's rows; run again, it goes on.

    The source is read twice and never held: once to check every row and to plan, before anything is written, and
    once to write, a sequence at a time.
    """
    if settings.vocab_size < 1:
        raise UsageError(f"vocab_size = {settings.vocab_size}: must be at least 1")
    if settings.k < 0:
        raise UsageError(f"top_k = {settings.k}: must be at least 1, or 0 for as many as every row has")
    read_rows(settings.source)  # refuses what is not there, or of an unknown kind
    claim_directory(settings.out)
    survey = _survey(settings)
    plan = adopt(settings.out, _plan(settings, survey))
    wanted = [shard for shard in range(plan.num_shards) if not shard_is_good(settings.out, plan, shard)]
    if wanted:
        rows = _unchanged(settings.source, survey, read_rows(settings.source))
        with progress.task("import", plan.num_sequences, "sequences") as task:
            for shard in range(wanted[-1] + 1):
                numbers = plan.shard(shard)
                if shard in wanted:
                    _write(settings.out, plan, shard, islice(rows, len(numbers)))
                else:
                    deque(islice(rows, len(numbers)), maxlen=0)  # read past them
                task.advance(len(numbers))
    finish(settings.out, plan)
    return settings.out


@dataclass(slots=True, kw_only=True)
class _Survey:
    """What one reading of the source tells: all that a plan needs, and nothing that grows with its rows' width."""

    width: int  # ids that every position has
    lengths: array[int]  # of prompt and response, by turns
    data: str  # fingerprints: of the tokens,
    content: str  # and of ids and log-probabilities
    state: tuple[int, ...]  # of the file


def _survey(settings: ImportSettings) -> _Survey:
    """Read and check every row."""
    lengths, content, widths = array("q"), hashlib.sha256(), [sys.maxsize]
    state = _state(settings.source)

    def sequences() -> Iterator[TokenSequence]:
        for row in read_rows(settings.source):
            _check_row(row, settings)
            widths[0] = min(widths[0], row.width)
            lengths.extend((len(row.sequence.prompt_ids), len(row.sequence.response_ids)))
            for ids, log_probs in row.entries:
                content.update(b"%d " % len(ids))
                content.update(ids.tobytes())
                content.update(log_probs.tobytes())
            yield row.sequence

    data = data_fingerprint(sequences())
    if not lengths:
        raise DataError(f"{settings.source}: holds no sequence")
    return _Survey(width=widths[0], lengths=lengths, data=data, content=f"sha256:{content.hexdigest()}", state=state)


def _state(source: Path) -> tuple[int, ...]:
    """Tells that a file was replaced or written to; a missing one is for `read_rows` to say."""
    if not source.is_file():
        return ()
    found = source.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _unchanged(source: Path, survey: _Survey, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows, as long as they are the ones that were planned for."""
    for row in chain(rows, [None]):
        if _state(source) != survey.state:
            raise DataError(f"{source} was changed while it was imported", hint="run the same command again")
        if row is not None:
            yield row


def _check_row(row: Row, settings: ImportSettings) -> None:
    for ids in (row.sequence.prompt_ids, row.sequence.response_ids):
        if ids.max() >= settings.vocab_size:
            raise DataError(
                f"{settings.source}: {row.place}: token {ids.max():,} is outside the vocabulary of"
                f" {settings.vocab_size:,}",
                hint="is `vocab_size` the width of the teacher's logits, and this its tokenizer?",
            )
    for n, (ids, log_probs) in enumerate(row.entries):
        place = f"{settings.source}: {row.place}, response token {n}"
        _check_entry(ids, log_probs, settings, place)
        total = np.exp(log_probs).sum()
        if total > 1 + 1e-3:
            raise DataError(
                f"{place}: the probabilities sum to {total:.4f}",
                hint="log-probabilities must be natural logarithms at temperature 1",
            )


def _check_entry(ids: np.ndarray, log_probs: np.ndarray, settings: ImportSettings, place: str) -> None:
    if len(ids) < max(settings.k, 1):
        raise DataError(f"{place}: {len(ids)} entries, expected {max(settings.k, 1)}")
    if len(np.unique(ids)) != len(ids):
        raise DataError(f"{place}: an id stands twice")
    if ids.min() < 0 or ids.max() >= settings.vocab_size:
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise DataError(f"{place}: id {wrong} is outside the vocabulary of {settings.vocab_size:,}")
    if not (log_probs <= 1e-4).all():
        wrong = log_probs[~(log_probs <= 1e-4)][0]
        raise DataError(f"{place}: {wrong} is not a log-probability")


def _plan(settings: ImportSettings, survey: _Survey) -> Plan:
    tail: Tail = "estimated" if settings.estimate_tail else "none"
    spec = TargetSpec(kind="top-k", k=settings.k or survey.width, tail=tail)
    layout = RecordLayout(spec=spec, vocab_size=settings.vocab_size)
    caps = CacheSettings(shard_tokens=settings.shard_tokens, shard_bytes=settings.shard_bytes)
    pairs = zip(survey.lengths[::2], survey.lengths[1::2], strict=True)
    return Plan(
        layout=layout,
        fingerprints={
            "teacher": settings.teacher,
            "tokenizer": settings.tokenizer,
            "data": survey.data,
            "settings": survey.content,
        },
        firsts=partition_lengths(pairs, layout.stride, caps),
        batch_size=1,
        seed=0,
        samples=1,
        device="none",
        dtype="float32",
        threads=1,
        build=_version.__version__,
    )


def _pack(row: Row, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids int32 [R,K] and log_probs float32 [R,K] of the k most likely, by id, and the log_tail [R] they leave."""
    ids, values = np.empty((len(row.entries), k), np.int32), np.empty((len(row.entries), k))
    for n, (entry_ids, log_probs) in enumerate(row.entries):
        order = np.lexsort((entry_ids, -log_probs))[:k]
        order = order[np.argsort(entry_ids[order])]
        ids[n], values[n] = entry_ids[order], log_probs[order]
    rest = np.maximum(1 - np.exp(values).sum(1), _SMALLEST_TAIL)
    return ids, np.minimum(values, 0).astype(np.float32), np.log(rest).astype(np.float32)


def _write(directory: Path, plan: Plan, shard: int, rows: Iterator[Row]) -> None:
    """Write a shard from the next rows."""
    layout, none = plan.layout.native, np.empty(0, np.float32)
    writer = _native.ShardWriter(shard_path(directory, shard), plan.metadata(shard))
    try:
        for number, row in zip(plan.shard(shard), rows, strict=True):
            ids, log_probs, tail = _pack(row, plan.layout.spec.k)
            tails = tail if plan.layout.spec.tail == "estimated" else none
            writer.records(layout.encode_top_k(ids, log_probs, tails, none))
            s = row.sequence
            writer.sequence((number, s.example, s.sample), s.prompt_id, s.prompt_ids, s.response_ids)
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
    from safetensors.numpy import save

    from thack.cache.format.reader import Cache

    cache, out = Cache.open(directory), Path(out).expanduser()
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", hint="give a directory that is new or empty")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty", hint="give a directory that is new or empty")
    names = [f"part-{shard:05d}.safetensors" for shard in range(cache.plan.num_shards)]
    metadata = {"kind": cache.meta.kind, "vocab_size": str(cache.meta.vocab_size)}
    metadata |= {"tokenizer": cache.meta.tokenizer, "teacher": cache.meta.teacher}
    with progress.task("export", len(names), "shards") as task, atomic_directory(out, replace=True) as whole:
        for shard, name in enumerate(names):
            data = save(_tensors(cache, cache.plan.shard(shard)), metadata)
            (whole / name).write_bytes(data)
            task.advance(1)
    return [out / name for name in names]


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
