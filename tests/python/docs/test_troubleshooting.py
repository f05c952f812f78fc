"""docs/troubleshooting.md quotes messages that thack prints, and names flags and settings that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import hooks

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
ROWS = [
    line.strip("| \n").split(" | ") for line in PAGE.splitlines() if line.startswith("| ") and line.count(" | ") == 2
]
QUOTED = [quote for row in ROWS for quote in re.findall(r"`([^`]+)`", row[0])]


@pytest.fixture(scope="module")
def written() -> str:
    """All strings of the sources: messages are pieces of them, with values between."""
    found = [path.read_text("utf-8") for path in (ROOT / "rust").rglob("*.rs")]
    for path in (ROOT / "python/thack").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        found += [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
    return "\n".join(found)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return hooks.pages()


@pytest.mark.parametrize("quoted", QUOTED)
def test_thack_prints_the_message(quoted: str, written: str) -> None:
    for piece in quoted.split("…"):
        assert piece.strip() in written, piece


def test_flags_and_settings_exist(pages: dict[str, str]) -> None:
    assert len(ROWS) > 30 and all(len(row) == 3 for row in ROWS)
    advice = " ".join(row[2] for row in ROWS)
    for flag in set(re.findall(r"`[^`]*?(?<![\w-])(--[a-z][a-z-]+)", advice)) - {"--set"}:
        assert f"`{flag}`" in pages["reference/commands.md"], flag
    for key in set(re.findall(r"--set ([\w.]+)", advice)) | set(re.findall(r"`([a-z]+\.[a-z_]+)[`=]", advice)):
        assert f"`{key}`" in pages["reference/settings.md"], key
