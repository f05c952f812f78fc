"""The compiled extension, re-exported: the only module that imports it."""

from __future__ import annotations

from pathlib import Path

from thack._thack import (
    INTERFACE,
    TEMPORARY,
    BpeVocabulary,
    CacheReader,
    RecordLayout,
    ShardWriter,
    cells_divergence,
    dense_forward_kl,
    num_threads,
    publish,
    sample_rows,
    set_num_threads,
    shard_name,
    simd_level,
    sparse_divergence,
    sweep,
    threshold_sample,
    topk_logsumexp,
    verify_shard,
)
from thack._thack import __version__ as version
from thack.errors import ThackError

__all__ = [
    "INTERFACE",
    "TEMPORARY",
    "BpeVocabulary",
    "CacheReader",
    "RecordLayout",
    "ShardWriter",
    "cells_divergence",
    "check_interface",
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
    "version",
]


def check_interface(interface: str) -> None:
    """Refuse an extension that was built for another stub; in a checkout the two are built apart."""
    stub = Path(__file__).with_name("_thack.pyi")
    if (stub.parents[2] / "Cargo.toml").is_file() and interface != stub.read_text("utf-8"):
        raise ThackError("the native module is older than the Python code", hint="next: make install")


check_interface(INTERFACE)
