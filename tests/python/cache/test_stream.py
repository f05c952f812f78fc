"""A capture of a file reads it in parts, and writes the bytes of a capture of all its sequences."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from thack.cache.capture.job import capture
from thack.config import ArchitectureSettings, CacheSettings, DataSettings
from thack.data.prepare import prepare
from thack.data.stream import DataStream
from thack.data.tokenizer import Tokenizer
from thack.models.load import new_decoder
from thack.models.protocol import LanguageModel
from thack.runtime.ranks import Rank


@pytest.fixture(scope="module")
def teacher() -> LanguageModel:
    tokenizer = Tokenizer.train(["def read(path): read the file at path"] * 3, 264)
    return new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), tokenizer, seed=0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    rows = [{"prompt": f"read {i % 17}", "response": f"the file {i}"} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("shards/shard-*"))}


@pytest.mark.parametrize("generate", [False, True])
def test_a_file_gives_the_bytes_of_its_sequences(
    teacher: LanguageModel, data: Path, tmp_path: Path, generate: bool
) -> None:
    settings = CacheSettings(
        out=tmp_path / "file",
        data=DataSettings(path=str(data), max_response_tokens=6),
        generate=generate,
        samples=2 if generate else 1,
        shard_tokens=40,
        batch_size=4,
        device="cpu",
    )
    for rank in (1, 0):
        capture(settings, teacher=teacher, rank=Rank(rank=rank, world_size=2))
    whole = prepare(settings.data, teacher.tokenizer, need_response=not generate).sequences
    capture(replace(settings, out=tmp_path / "list"), teacher=teacher, sequences=whole)
    assert len(shards(tmp_path / "file")) > 3
    assert shards(tmp_path / "file") == shards(tmp_path / "list")
    assert (tmp_path / "file" / "plan.json").read_bytes() == (tmp_path / "list" / "plan.json").read_bytes()


def test_a_shard_reads_its_own_lines_alone(
    teacher: LanguageModel, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second process, or a resumed one, finds the index: it encodes the lines of its shards and no others."""
    settings = CacheSettings(
        out=tmp_path / "file", data=DataSettings(path=str(data)), shard_tokens=60, batch_size=4, device="cpu"
    )
    capture(settings, teacher=teacher, rank=Rank(rank=0, world_size=4))
    read: list[int] = []
    given = DataStream.read

    def counted(self: DataStream, addresses: list[int], limit: int) -> object:
        read.extend(addresses)
        return given(self, addresses, limit)

    monkeypatch.setattr(DataStream, "read", counted)
    monkeypatch.setattr(DataStream, "__iter__", None)
    capture(settings, teacher=teacher, rank=Rank(rank=1, world_size=4))
    assert 0 < len(read) < 20
    assert len(set(read)) == len(read)
