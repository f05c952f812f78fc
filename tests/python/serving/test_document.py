"""The commands of docs/servers.md, run against the test's own server."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from serving.server import World, serving
from thack.cache import verify
from thack.cli import app
from thack.models.protocol import LanguageModel

DOCUMENT = Path(__file__).parents[3] / "docs" / "servers.md"


def commands(word: str) -> list[list[str]]:
    found = re.findall(r"^    (thack .*)$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line)[1:] for line in found if line.split()[1] == word]


def test_the_run_runs_as_it_stands(
    teacher: LanguageModel, teacher_directory: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("student").symlink_to(teacher_directory)
    Path("pairs.jsonl").symlink_to(data)
    with serving(World(teacher, "sglang")) as url:
        (words,) = commands("distill")
        said = [url if word.startswith("http:") else word for word in words]
        assert app.run([*said, "--set", "data.max_response_tokens=4", "--steps", "3", "--device", "cpu"]) == 0
    assert verify(Path("runs/a/cache"), full=True).ok


def test_captures_run_as_they_stand(
    teacher: LanguageModel, teacher_directory: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tokenizer").symlink_to(teacher_directory)
    Path("pairs.jsonl").symlink_to(data)
    Path("prompts.jsonl").write_text(json.dumps({"prompt": "read the file"}) + "\n")
    with serving(World(teacher, "vllm")) as url:
        found = commands("cache-logits")
        assert len(found) == 2
        for words in found:
            said = [url if word.startswith("http:") else "tiny" if word == "big" else word for word in words]
            assert app.run([*said, "--set", "data.max_response_tokens=4"]) == 0
    assert verify(Path("cache"), full=True).ok and verify(Path("written"), full=True).ok
