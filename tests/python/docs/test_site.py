"""The pages of the site that are generated from the code, and its list of pages; `make docs` builds the whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import hooks

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return hooks.pages()


def test_every_page_is_in_the_navigation(pages: dict[str, str]) -> None:
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    listed = re.findall(r"([\w/-]+\.md)$", text[text.index("\nnav:") :], re.MULTILINE)
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(listed) == sorted(written | set(pages))


def test_every_command_has_its_parameters_and_an_example(pages: dict[str, str]) -> None:
    sections = pages["reference/commands.md"].split("\n## ")[1:]
    names = [section.splitlines()[0] for section in sections]
    assert "thack distill" in names and "thack cache verify" in names
    for name, section in zip(names, sections, strict=True):
        assert f"\n```\n{name}" in section and "| `--json` |" in section
        assert not re.search(r"\[/?(bold|dim)\]", section)


def test_every_setting_has_help(pages: dict[str, str]) -> None:
    rows = [line for line in pages["reference/settings.md"].splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert all(len(re.split(r"(?<!\\)\|", row)) == 6 and re.split(r"(?<!\\)\|", row)[4].strip() for row in rows)


def test_documents_of_the_project_link_to_pages_only(pages: dict[str, str]) -> None:
    for page in hooks.DOCUMENTS:
        targets = re.findall(r"\]\(([^)#]+)", pages[page])
        assert all(t.startswith("https:") or t in pages or (ROOT / "docs" / t).is_file() for t in targets), targets
