"""Shared by all Python tests: one thread per worker, no network, warnings are errors (see pyproject.toml)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

# before torch is imported: xdist runs one process per core
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="thack-cache-")

import torch

# Triton's kernels are compiled or interpreted as it is imported: without a card, interpreted in the whole process.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def stock_readers_open_every_shard(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every shard that a test left under its `tmp_path` is read afterwards, unless the test damaged it.

    By safetensors, and of each cache the first small one by the reader in NumPy alone, which must give what Rust gives.
    """
    from cache.stock_reader import SMALL, compare_with_reference, open_with_stock_reader
    from thack.errors import CacheError

    scratch: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    compared = set()
    for path in sorted(scratch.rglob("shard-*.safetensors")) if scratch else ():
        with suppress(CacheError):
            open_with_stock_reader(path)
            if path.parent not in compared and path.stat().st_size <= SMALL:
                compare_with_reference(path)
                compared.add(path.parent)
