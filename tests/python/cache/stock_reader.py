"""A shard as a user without thack reads it."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from thack import _native


def open_with_stock_reader(path: Path) -> None:
    """Read every tensor of a shard by `safe_open`, as a user without thack would."""
    tokens, _, size, _, metadata = _native.verify_shard(path, False)
    with safe_open(path, framework="np") as file:
        shapes = {name: file.get_tensor(name).shape for name in file.keys()}  # noqa: SIM118 - not a dict
        assert file.metadata() == metadata
    assert shapes["records"][0] == shapes["response_tokens"][0] == tokens and size == path.stat().st_size
