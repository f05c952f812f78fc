"""Caches as Parquet: a row for each sequence, so that other trainers read them as any data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from thack.cache.exchange.tails import tails_of
from thack.cache.format.reader import Cache
from thack.data.sequence import TokenSequence
from thack.errors import UsageError
from thack.targets.types import DenseTarget, FrozenHeadTarget, SampledTarget, Target, TopKTarget

Columns = Literal["parquet", "axolotl"]
_GROUP = 256  # sequences of a row group
_NOT_TRAINED = -100


def check_columns(cache: Cache, columns: Columns) -> None:
    """Refuse what these columns cannot hold, and a missing pyarrow.

    Raises:
        UsageError: says which.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UsageError("writing Parquet needs pyarrow", hint="pip install 'thack[data]'") from error
    if columns == "axolotl" and cache.meta.kind != "top-k":
        raise UsageError(
            f"to = axolotl: its columns hold the k most likely ids, and this cache is {cache.meta.kind}",
            hint="use `to = parquet`, or write a top-k cache",
        )


def write_parquet(cache: Cache, positions: range, path: Path, columns: Columns, facts: dict[str, str]) -> None:
    """Write the sequences at these positions, a row group at a time.

    Args:
        cache: complete.
        positions: of a shard.
        path: of the file.
        columns: parquet: as `export_cache` lists them; axolotl: as its KD trainer reads them.
        facts: go into the file's metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    writer = None
    try:
        for start in range(positions.start, positions.stop, _GROUP):
            sequences, target = cache.targets(range(start, min(start + _GROUP, positions.stop)))
            table = pa.table(_plain(sequences, target) if columns == "parquet" else _axolotl(sequences, target))
            table = table.replace_schema_metadata(facts)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _plain(sequences: Sequence[TokenSequence], target: Target) -> dict[str, Any]:
    import pyarrow as pa

    lengths = [len(s.response_ids) for s in sequences]
    return {
        "prompt_id": pa.array([s.prompt_id for s in sequences]),
        "sample": pa.array([s.sample for s in sequences], pa.int32()),
        "prompt_ids": _lists(np.concatenate([s.prompt_ids for s in sequences]), [len(s.prompt_ids) for s in sequences]),
        "response_ids": _lists(np.concatenate([s.response_ids for s in sequences]), lengths),
        **{name: _lists(values, lengths) for name, values in _of_target(target)},
    }


def _of_target(target: Target) -> Iterator[tuple[str, np.ndarray]]:
    if target.realised_logprob_N is not None:
        yield "realised_logprob", target.realised_logprob_N.numpy()
    if isinstance(target, DenseTarget):
        yield "logprobs", target.log_probs_NV.numpy()
        return
    assert not isinstance(target, FrozenHeadTarget), "refused before"
    yield "ids", target.ids_NK.numpy()
    if isinstance(target, TopKTarget):
        yield "logprobs", target.log_probs_NK.numpy()
        yield from tails_of(target)
        return
    assert isinstance(target, SampledTarget)
    yield "weights", target.weights_NK.numpy()
    yield "counts", target.counts_N.numpy()
    yield "tau", target.tau_N.numpy()
    yield "entropy", target.entropy_N.numpy()


def _lists(values: np.ndarray, lengths: Sequence[int]) -> Any:
    """A list of numbers, or of lists of equal size, for each sequence."""
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if values.ndim == 2:
        flat = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, flat)


def _axolotl(sequences: Sequence[TokenSequence], target: Target) -> dict[str, Any]:
    """Each list has an entry for every token of prompt and response; the entry of a token says what predicts it."""
    assert isinstance(target, TopKTarget)
    values = target.log_probs_NK.double().numpy()
    values = values - np.logaddexp.reduce(values, axis=1, keepdims=True)  # its loss takes them as a distribution
    k, lengths = values.shape[1], [len(s.prompt_ids) + len(s.response_ids) for s in sequences]
    total = sum(lengths)
    trained = np.concatenate([np.arange(n) >= len(s.prompt_ids) for n, s in zip(lengths, sequences, strict=True)])
    ids = np.tile(np.arange(k, dtype=np.int64), (total, 1))
    log_probs, mask = np.full((total, k), -np.inf, np.float32), np.zeros((total, k), np.int8)
    ids[trained], log_probs[trained], mask[trained] = target.ids_NK.numpy(), values, 1
    tokens = np.concatenate([part for s in sequences for part in (s.prompt_ids, s.response_ids)]).astype(np.int64)
    return {
        "input_ids": _lists(tokens, lengths),
        "attention_mask": _lists(np.ones(total, np.int8), lengths),
        "labels": _lists(np.where(trained, tokens, _NOT_TRAINED), lengths),
        "target_token_ids": _lists(ids, lengths),
        "target_logprobs": _lists(log_probs, lengths),
        "target_mask": _lists(mask, lengths),
    }
