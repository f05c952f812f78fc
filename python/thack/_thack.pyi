from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

Buffer = bytes | bytearray | memoryview | np.ndarray[Any, Any]

__version__: str

# store ---------------------------------------------------------------------------------------------------

TEMPORARY: str

class RecordLayout:
    def __new__(cls, metadata: Mapping[str, str]) -> RecordLayout: ...
    @property
    def stride(self) -> int: ...
    def encode_dense(self, log_probs: Buffer) -> bytearray: ...
    def decode_dense(self, records: Buffer, log_probs: Buffer) -> None: ...
    def encode_top_k(self, ids: Buffer, log_probs: Buffer, log_tails: Buffer, log_tails_at: Buffer) -> bytearray: ...
    def decode_top_k(
        self, records: Buffer, ids: Buffer, log_probs: Buffer, log_tails: Buffer, log_tails_at: Buffer
    ) -> None: ...
    def encode_sampled(
        self,
        ids: Buffer,
        weights: Buffer,
        counts: Buffer,
        taus: Buffer,
        entropies: Buffer,
        keys: Buffer,
        seed: int,
    ) -> bytearray: ...
    def decode_sampled(
        self, records: Buffer, ids: Buffer, weights: Buffer, counts: Buffer, taus: Buffer, entropies: Buffer
    ) -> None: ...

class ShardWriter:
    def __new__(cls, path: str | PathLike[str], metadata: Mapping[str, str]) -> ShardWriter: ...
    def records(self, records: Buffer) -> None: ...
    def sequence(self, numbers: tuple[int, int, int], prompt_id: str, prompt: Buffer, response: Buffer) -> None: ...
    def finish(self) -> tuple[int, int, int, str, bool]: ...
    def abandon(self) -> None: ...

class CacheReader:
    def __new__(
        cls, directory: str | PathLike[str], firsts: Sequence[int], expected: Mapping[str, str]
    ) -> CacheReader: ...
    def read(
        self, sequences: Sequence[int], with_records: bool
    ) -> tuple[bytearray, list[str], bytearray, bytearray, bytearray]: ...

def publish(path: str | PathLike[str], data: bytes) -> bool: ...
def sweep(directory: str | PathLike[str]) -> int: ...
def verify_shard(path: str | PathLike[str], full: bool) -> tuple[int, int, int, str]: ...
def shard_metadata(path: str | PathLike[str]) -> dict[str, str]: ...
def shard_name(shard: int) -> str: ...

# kernels -------------------------------------------------------------------------------------------------

def num_threads() -> int: ...
def set_num_threads(threads: int) -> None: ...
def simd_level() -> str: ...
def topk_logsumexp(
    logits: Buffer,
    format: str,
    vocab: int,
    k: int,
    temperatures: Sequence[float],
    ids: Buffer,
    log_probs: Buffer,
    logsumexp: Buffer,
    tails: Buffer,
) -> None: ...
def sample_rows(
    logits: Buffer,
    format: str,
    vocab: int,
    seed: int,
    keys: Buffer,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    greedy: bool,
    ids: Buffer,
) -> None: ...
def threshold_sample(
    logits: Buffer,
    format: str,
    vocab: int,
    k: int,
    seed: int,
    keys: Buffer,
    ids: Buffer,
    weights: Buffer,
    counts: Buffer,
    taus: Buffer,
    entropies: Buffer,
) -> None: ...
def sparse_divergence(
    logits: Buffer,
    format: str,
    vocab: int,
    ids: Buffer,
    values: Buffer,
    rests: Buffer,
    kind: str,
    parameter: float,
    temperature: float,
    losses: Buffer,
) -> None: ...
