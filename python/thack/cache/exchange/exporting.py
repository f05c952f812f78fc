"""Caches as plain safetensors or Parquet files that need nothing of thack to be read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.numpy import save

from thack.cache.exchange.parquet_files import check_columns, write_parquet
from thack.cache.exchange.tails import tails_of
from thack.cache.format.reader import Cache
from thack.errors import UsageError
from thack.files import atomic_directory
from thack.runtime.lock import locked
from thack.runtime.progress import SILENT, Progress
from thack.targets.types import DenseTarget, SampledTarget, Target, TopKTarget

Format = Literal["safetensors", "parquet", "axolotl"]


def export_cache(
    directory: Path | str, out: Path | str, progress: Progress = SILENT, to: Format = "safetensors"
) -> list[Path]:
    """Write a cache as plain files, one per shard.

    Every safetensors file has the tensors response_tokens [N], response_starts [S+1], prompt_tokens [P] and
    prompt_starts [S+1]. By kind of the cache it also has:

        dense    log_probs [N,V]
        top-k    ids [N,K], log_probs [N,K], log_tail [N], log_tail_at_T [N] for each further temperature T:
                 log of the mass of all other ids, and log of the sum of their p^(1/T)
        sampled  ids [N,K], weights [N,K], counts [N], tau [N], entropy [N]

    A Parquet file has a row for each sequence: prompt_id, sample, prompt_ids and response_ids, and of the tensors above
    what belongs to the sequence, a list with an entry for each response token; log-probabilities are `logprobs`.
    With `to = axolotl` its columns are input_ids, attention_mask, labels, target_token_ids, target_logprobs and
    target_mask, as axolotl's KD trainer reads them: the k log-probabilities scaled to a sum of 1, without the tail.

    N response tokens, S sequences, P prompt tokens, K kept ids, V ids of the vocabulary; log-probabilities in nats.

    Args:
        directory: of a complete cache.
        out: a directory that is new or empty.
        progress: counts shards.
        to: kind of the files.

    Returns:
        The files, in the order of the shards.

    Raises:
        UsageError: `out` is a file or is not empty, or `to` cannot hold this kind of cache.
        CacheError: the cache is incomplete or damaged.

    Example:
        >>> export_cache("no/such/cache", "plain")
        Traceback (most recent call last):
        ...
        thack.errors.CacheError: no/such/cache does not exist
          make a cache with: thack cache-logits
    """
    cache, out = Cache.open(directory), Path(out).expanduser()
    with locked(out, progress):
        return _export(cache, out, progress, to)


def _export(cache: Cache, out: Path, progress: Progress, to: Format) -> list[Path]:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", hint="give a directory that is new or empty")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty", hint="give a directory that is new or empty")
    if cache.meta.kind == "projected":
        raise UsageError(
            f"{cache.directory} holds projected records, which only a student with its frozen head can use",
            hint="write a top-k cache of the same responses, and export that",
        )
    if to != "safetensors":
        check_columns(cache, to)
    suffix = "safetensors" if to == "safetensors" else "parquet"
    names = [f"part-{shard:05d}.{suffix}" for shard in range(cache.plan.num_shards)]
    metadata = {"kind": cache.meta.kind, "vocab_size": str(cache.meta.vocab_size)}
    metadata |= {"tokenizer": cache.meta.tokenizer, "teacher": cache.meta.teacher}
    if cache.meta.kind == "top-k":
        metadata["tail"] = cache.plan.layout.spec.tail
    with progress.task("export", len(names), "shards") as task, atomic_directory(out, replace=True) as temporary:
        for shard, name in enumerate(names):
            positions = cache.plan.shard(shard)
            if to == "safetensors":
                (temporary / name).write_bytes(save(_tensors(cache, positions), metadata))
            else:
                write_parquet(cache, positions, temporary / name, to, metadata)
            task.advance(1)
    return [out / name for name in names]


def _tensors(cache: Cache, positions: range) -> dict[str, np.ndarray]:
    sequences, target = cache.targets(positions)
    responses, prompts = [s.response_ids for s in sequences], [s.prompt_ids for s in sequences]
    tokens = {
        "response_tokens": np.concatenate(responses),
        "response_starts": np.cumsum([0, *map(len, responses)]).astype(np.int64),
        "prompt_tokens": np.concatenate(prompts),
        "prompt_starts": np.cumsum([0, *map(len, prompts)]).astype(np.int64),
    }
    return tokens | _target_tensors(target)


def _target_tensors(target: Target) -> dict[str, np.ndarray]:
    if isinstance(target, DenseTarget):
        return {"log_probs": target.log_probs_NV.numpy()}
    if isinstance(target, TopKTarget):
        kept = {"ids": target.ids_NK.numpy(), "log_probs": target.log_probs_NK.numpy()}
        return kept | dict(tails_of(target))
    assert isinstance(target, SampledTarget)
    return {
        "ids": target.ids_NK.numpy(),
        "weights": target.weights_NK.numpy(),
        "counts": target.counts_N.numpy(),
        "tau": target.tau_N.numpy(),
        "entropy": target.entropy_N.numpy(),
    }
