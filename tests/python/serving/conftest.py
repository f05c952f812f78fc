"""A tiny teacher in a directory, data for it, and settings of a capture from a server that runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serving.server import tiny_model, tiny_tokenizer
from thack.config import CacheSettings, DataSettings, ServerSettings
from thack.models.protocol import LanguageModel

PAIRS = [
    ("read the file", " and return its text"),
    ("a place in", " the file system"),
    ("def read", "(path): read"),
] * 4


@pytest.fixture(scope="session")
def teacher() -> LanguageModel:
    return tiny_model(tiny_tokenizer())


@pytest.fixture(scope="session")
def teacher_directory(teacher: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served") / "teacher"
    teacher.save(directory)
    return directory


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [{"prompt": f"{prompt} {n}", "response": response} for n, (prompt, response) in enumerate(PAIRS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


Make = Callable[..., CacheSettings]


@pytest.fixture
def make(teacher_directory: Path, data: Path, tmp_path: Path) -> Make:
    """Settings for a server at an address; three shards or so."""

    def settings(
        url: str, *, out: str = "cache", server: dict[str, object] | None = None, **changes: object
    ) -> CacheSettings:
        found = CacheSettings(
            out=tmp_path / out,
            data=DataSettings(path=str(data), max_response_tokens=5),
            server=replace(
                ServerSettings(url=url, tokenizer=str(teacher_directory), retries=2, concurrency=4),
                **(server or {}),  # type: ignore[arg-type]  # fields of the settings
            ),
            top_k=12,
            shard_tokens=25,
        )
        return replace(found, **changes)  # type: ignore[arg-type]  # fields of the settings

    return settings
