from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, final

import numpy as np

_Buffer = bytes | bytearray | memoryview | np.ndarray[Any, Any]

__all__ = [
    "INTERFACE",
    "TEMPORARY",
    "BpeVocabulary",
    "CacheReader",
    "RecordLayout",
    "ShardWriter",
    "__version__",
    "cells_divergence",
    "dense_forward_kl",
    "num_threads",
    "publish",
    "sample_rows",
    "set_num_threads",
    "shard_name",
    "simd_level",
    "sparse_divergence",
    "sweep",
    "threshold_sample",
    "topk_logsumexp",
    "verify_shard",
]

__version__: str
INTERFACE: str

# store ---------------------------------------------------------------------------------------------------

TEMPORARY: str

@final
class RecordLayout:
    def __new__(cls, metadata: Mapping[str, str]) -> RecordLayout: ...
    @property
    def stride(self) -> int: ...
    def check_dense(self, log_probs: _Buffer) -> None: ...
    def decode_dense(self, records: _Buffer) -> None: ...
    def encode_top_k(
        self, ids: _Buffer, log_probs: _Buffer, log_tails: _Buffer, log_tails_at: _Buffer
    ) -> bytearray: ...
    def decode_top_k(
        self, records: _Buffer, ids: _Buffer, log_probs: _Buffer, log_tails: _Buffer, log_tails_at: _Buffer
    ) -> None: ...
    def encode_sampled(
        self,
        ids: _Buffer,
        weights: _Buffer,
        counts: _Buffer,
        taus: _Buffer,
        entropies: _Buffer,
        keys: _Buffer,
        seed: int,
    ) -> bytearray: ...
    def decode_sampled(
        self, records: _Buffer, ids: _Buffer, weights: _Buffer, counts: _Buffer, taus: _Buffer, entropies: _Buffer
    ) -> None: ...
    def encode_projected(self, entropies: _Buffer, numbers: _Buffer) -> bytearray: ...
    def decode_projected(self, records: _Buffer, entropies: _Buffer, numbers: _Buffer) -> None: ...

@final
class ShardWriter:
    def __new__(cls, path: str | PathLike[str], metadata: Mapping[str, str]) -> ShardWriter: ...
    def records(self, records: _Buffer) -> None: ...
    def sequence(
        self,
        numbers: tuple[int, int, int],
        prompt_id: str,
        prompt: _Buffer,
        response: _Buffer,
        realised: _Buffer | None = None,
    ) -> None: ...
    def finish(self) -> tuple[int, int, int, str, bool]: ...
    def abandon(self) -> None: ...

@final
class CacheReader:
    def __new__(
        cls, directory: str | PathLike[str], firsts: Sequence[int], expected: Mapping[str, str]
    ) -> CacheReader: ...
    def read(
        self, sequences: Sequence[int], with_records: bool, with_realised: bool = False
    ) -> tuple[bytearray, list[str], bytearray, bytearray, bytearray, bytearray]: ...

def publish(path: str | PathLike[str], data: bytes) -> bool: ...
def sweep(directory: str | PathLike[str]) -> int: ...
def verify_shard(path: str | PathLike[str], full: bool) -> tuple[int, int, int, str, dict[str, str]]: ...
def shard_name(shard: int) -> str: ...

# kernels -------------------------------------------------------------------------------------------------

@final
class BpeVocabulary:
    def __new__(
        cls,
        tokens: _Buffer,
        ends: _Buffer,
        merges: _Buffer,
        added: _Buffer,
        fallback: _Buffer,
        shapes: _Buffer,
        splits: _Buffer,
        ignore_merges: bool,
    ) -> BpeVocabulary: ...
    def can(self, previous: _Buffer, next: _Buffer, found: _Buffer) -> None: ...
    def first_tokens(self, other: BpeVocabulary, found: _Buffer) -> None: ...
    def first_of_pairs(self, other: BpeVocabulary, left: _Buffer, right: _Buffer, found: _Buffer) -> None: ...
    def settled(self, student: BpeVocabulary, first: _Buffer, found: _Buffer) -> None: ...

def num_threads() -> int: ...
def set_num_threads(threads: int) -> None: ...
def simd_level() -> str: ...
def topk_logsumexp(
    logits: _Buffer,
    format: str,
    vocab: int,
    k: int,
    temperatures: Sequence[float],
    ids: _Buffer,
    log_probs: _Buffer,
    logsumexp: _Buffer,
    tails: _Buffer,
    labels: _Buffer,
    realised: _Buffer,
) -> None: ...
def sample_rows(
    logits: _Buffer,
    format: str,
    vocab: int,
    seed: int,
    keys: _Buffer,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    greedy: bool,
    ids: _Buffer,
) -> None: ...
def threshold_sample(
    logits: _Buffer,
    format: str,
    vocab: int,
    k: int,
    seed: int,
    keys: _Buffer,
    ids: _Buffer,
    weights: _Buffer,
    counts: _Buffer,
    taus: _Buffer,
    entropies: _Buffer,
    labels: _Buffer,
    realised: _Buffer,
) -> None: ...
def sparse_divergence(
    logits: _Buffer,
    format: str,
    vocab: int,
    ids: _Buffer,
    values: _Buffer,
    rests: _Buffer,
    kind: str,
    parameter: float,
    temperature: float,
    losses: _Buffer,
    *,
    columns: int = 0,
    labels: _Buffer | None = None,
    weights: _Buffer | None = None,
    ce_weight: float = 0.0,
) -> None: ...
def cells_divergence(
    logits: _Buffer,
    cell: _Buffer,
    members: _Buffer,
    starts: _Buffer,
    sizes: _Buffer,
    outside: _Buffer,
    mass: _Buffer,
    cells: _Buffer,
    tails: _Buffer,
    ids: _Buffer,
    weights: _Buffer,
    inside: _Buffer,
    losses: _Buffer,
) -> None: ...
def dense_forward_kl(logits: _Buffer, log_probs: _Buffer, losses: _Buffer) -> None: ...
