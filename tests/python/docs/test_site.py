"""The pages of the site that are generated from the code, and its list of pages; `make docs` builds the whole."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import hooks
import schemas

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


def test_every_file_has_its_keys(pages: dict[str, str]) -> None:
    page = pages["reference/files.md"]
    named = {what for *_, what in schemas.FILES if re.fullmatch(r"\w+", what)}
    assert named and named <= set(schemas.classes())
    for cls in schemas.classes().values():
        rows = page.split(f"\n### {cls.__name__}\n")[1].split("\n#")[0]
        shown = re.findall(r"^\| `(\w+)` \| (.+?) \|", rows, re.MULTILINE)
        assert [name for name, _ in shown if name != "schema"] == [f.name for f in dataclasses.fields(cls)]
    assert "| `rise` | number or null |  | end over minimum − 1; null:" in page, (
        "the comment behind a field says what it means"
    )


def test_markdown_that_a_page_shows_as_text_is_found() -> None:
    rendered = "<ul><li>a <code>| b |</code> in code</li></ul><pre>| c |</pre><p>of two lines,\nan | and a - b</p>"
    assert not hooks.unrendered(rendered)
    broken = [
        "<p>| a | b |</p>",
        "<p>```sh dry-run\nthack</p>",
        "<p>see:\n- one\n- two</p>",
        "<td>[text](page.md)</td>",
    ]
    assert all(hooks.unrendered(html) for html in broken)


def test_a_page_is_given_as_the_site_understands_it() -> None:
    def shown(text: str) -> str:
        return hooks.on_page_markdown(text, SimpleNamespace(file=SimpleNamespace(src_uri="concepts/cells.md")))

    assert shown("```sh dry-run\nthack\n```") == "```sh\nthack\n```"
    assert (
        shown("[a](../grid.md#b), [c](../../containers), [d](https://e.f)") == "[a](../grid.md#b), c, [d](https://e.f)"
    )
    indented = "so:\n\n    thack a \\\n        --b\n    thack c\n\nand\n\n    KL(p‖q)\n"
    fenced = "so:\n\n```sh\nthack a \\\n    --b\nthack c\n```\n\nand\n\n    KL(p‖q)\n"
    assert shown(indented) == fenced


def test_the_build_sees_its_warnings() -> None:
    """mkdocs drops the warnings under --quiet, and --strict has none to count."""
    (line,) = re.findall(r"mkdocs build.*", (ROOT / "Makefile").read_text("utf-8"))
    assert "--strict" in line and "--quiet" not in line


def test_documents_of_the_project_link_to_pages_only(pages: dict[str, str]) -> None:
    for page in hooks.DOCUMENTS:
        targets = re.findall(r"\]\(([^)#]+)", pages[page])
        assert all(t.startswith("https:") or t in pages or (ROOT / "docs" / t).is_file() for t in targets), targets
