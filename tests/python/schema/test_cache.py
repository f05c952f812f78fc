"""manifest.json of a cache: what is written is read back, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from thack.errors import DataError
from thack.schema.cache import CacheManifest, ShardEntry

SHARDS = [
    ShardEntry(tokens=3, sequences=2, bytes=4096, root="a0"),
    ShardEntry(tokens=5, sequences=1, bytes=8192, root="b1"),
]
MANIFEST = CacheManifest.of("sha256:plan", SHARDS)


def test_sums_are_those_of_the_shards() -> None:
    assert (MANIFEST.tokens, MANIFEST.sequences, MANIFEST.bytes) == (8, 3, 12288)
    assert MANIFEST.dump() == {
        "kind": "cache",
        "format": 1,
        "plan": "sha256:plan",
        "sequences": 3,
        "tokens": 8,
        "bytes": 12288,
        "shards": [
            {"tokens": 3, "sequences": 2, "bytes": 4096, "root": "a0"},
            {"tokens": 5, "sequences": 1, "bytes": 8192, "root": "b1"},
        ],
    }


def test_what_is_dumped_is_parsed() -> None:
    assert CacheManifest.parse(MANIFEST.dump()) == MANIFEST


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "run"}, "kind is 'run'"),
        ({"format": 2}, "format is 2"),
        ({"format": True}, "a sum is not"),
        ({"tokens": 9}, "a sum is not"),
        ({"tokens": 8.0}, "tokens is 8.0"),
        ({"note": float("nan")}, "a key is unknown"),
        ({"note": "\ud800"}, "a key is unknown"),
        ({"shards": [{"tokens": 8, "sequences": 3, "bytes": 12288}]}, "root is missing"),
        ({"shards": {}}, "shards is {}"),
    ],
)
def test_anything_else_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"m.json: .*{message}"):
        CacheManifest.parse(MANIFEST.dump() | change, "m.json")
    with pytest.raises(DataError, match=r"m\.json: a list, not an object"):
        CacheManifest.parse([], "m.json")
