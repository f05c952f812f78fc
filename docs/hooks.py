"""Pages of the site that are generated from the code: commands, settings, files, errors, the project's own documents.

mkdocs calls `on_files` before it builds, and `on_page_…` for each page (`hooks` in mkdocs.yml). Each generated page is
made from what the program itself uses: the command line's parameters, the annotations of the settings, the classes of
errors, the dataclasses of `thack.schema`.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

import schemas
from thack import config, errors
from thack.cli.app import make_app
from thack.config import describe
from thack.config.reference import REQUIRED

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page
    from typer.core import TyperCommand, TyperGroup, TyperOption

ROOT = Path(__file__).parents[1]
DOCUMENTS = {
    f"{name}.md": f"{name.upper()}.md" for name in ("architecture", "changelog", "contributing", "release", "security")
}
_MARKUP = re.compile(r"(?<!\\)\[/?[a-z ]*\]")  # rich's, as in [bold]…[/]
_COMMANDS = re.compile(r"(?<=\n\n)((?: {4}(?:thack|torchrun) .*\n(?: {5,}.*\n)*)+)(?=\n|\Z)")
_FENCE = re.compile(r"^(```[a-z]+) [a-z -]+$", re.MULTILINE)
_MARKDOWN = re.compile(r"^\||\n *(?:\||[-*] |\d\. )|```|\]\(|\*\*|\n    ")
_OUTSIDE = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)#]*)(#[^)]*)?\)")  # a link to a file


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the files of the site."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """A page as the site understands it: languages of one word, indented commands as a shell's, links to pages only."""
    fenced = _COMMANDS.sub(lambda found: f"```sh\n{textwrap.dedent(found[1])}```\n", markdown)
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def linked(found: re.Match[str]) -> str:
        inside = (folder / found[2]).resolve().is_relative_to(ROOT / "docs")
        return found[0] if inside else found[1]

    return _OUTSIDE.sub(linked, _FENCE.sub(r"\1", fenced))


def on_page_content(html: str, page: Page, **_: object) -> str:
    """Warn of Markdown that was not understood, which --strict makes an error."""
    for text in unrendered(html):
        logging.getLogger("mkdocs.hooks").warning("%s shows Markdown as text: %s", page.file.src_uri, text)
    return html


def unrendered(html: str) -> list[str]:
    """Beginnings of paragraphs that hold a fence, a row of a table, a list or a link as text.

    Example:
        >>> unrendered("<p>see <code>| a |</code></p><p>| cell | cell |</p>")
        ['| cell | cell |']
    """
    prose = re.sub(r"<(pre|code)\b.*?</\1>", "", html, flags=re.DOTALL)
    texts = [re.sub(r"<[^>]+>", "", found[1]) for found in re.finditer(r"<(?:p|li|td)>(.*?)</", prose, re.DOTALL)]
    return [text[:60] for text in texts if _MARKDOWN.search(text)]


def pages() -> dict[str, str]:
    """The text of every generated page by its path."""
    found = {
        "reference/commands.md": "\n".join(_commands()),
        "reference/settings.md": "\n".join(_settings()),
        "reference/files.md": schemas.page(),
        "reference/errors.md": "\n".join(_errors()),
    }
    notebooks = {
        f"notebooks/{path.stem}.md": _notebook(path) for path in sorted((ROOT / "docs/notebooks").glob("*.py"))
    }
    return found | notebooks | {page: _document(ROOT / source) for page, source in DOCUMENTS.items()}


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    yield "Results go to stdout, progress to stderr. Every command has `--json`, `--quiet`, `--verbose` and `--help`."
    group = cast("TyperGroup", typer.main.get_command(make_app()))
    for name, command in group.commands.items():
        inner = getattr(command, "commands", {"": command})
        for part, leaf in inner.items():
            yield from _command(f"{name} {part}".strip(), leaf)


def _command(name: str, command: TyperCommand) -> Iterator[str]:
    yield f"\n## thack {name}\n\n{_plain(command.help or '')}\n"
    example = _plain(command.epilog or "").removeprefix("Example:").strip()
    yield f"```\n{example}\n```\n"
    yield "| parameter | what it is |\n|---|---|"
    for parameter in command.params:
        yield _parameter(cast("TyperOption", parameter))


def _parameter(option: TyperOption) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    if option.param_type_name == "argument":
        names = f"`{option.metavar or (option.name or '').upper()}`"
    elif option.metavar:
        names += f" {option.metavar}"
    return f"| {names} | {schemas.cell(_plain(option.help or ''))} |"


def _settings() -> Iterator[str]:
    yield "# Settings\n"
    yield (
        "Every key of `--config` files and of `--set KEY=VALUE`, which are also the fields of the classes in Python.\n"
        "A dot stands for a group: `loss.divergence` is the key `divergence` under `[loss]`.\n"
    )
    for name in sorted(config.__all__):
        cls = getattr(config, name)
        if name.endswith("Settings") and dataclasses.is_dataclass(cls) and name not in _groups():
            yield from _settings_of(name, cast(type, cls))


def _groups() -> set[str]:
    """Classes that are groups of others: their keys are listed there."""
    classes = [getattr(config, name) for name in config.__all__ if name.endswith("Settings")]
    kinds = [field.type for cls in classes for field in config.reference.fields_of(cls).values() if field.is_group]
    return {str(kind.__name__) for kind in kinds}


def _settings_of(name: str, cls: type[object]) -> Iterator[str]:
    yield f"\n## {name}\n\n{(inspect.getdoc(cls) or '').splitlines()[0]}\n"
    yield "| key | accepts | default | what it is |\n|---|---|---|---|"
    for setting in describe(cls):
        field = setting.field
        default = "required" if setting.default is REQUIRED else f"`{_value(setting.default)}`"
        yield f"| `{setting.key}` | {schemas.cell(field.accepts)} | {default} | {schemas.cell(field.help)} |"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return "none" if value is None else f'"{value}"' if isinstance(value, str | Path) else str(value)


def _errors() -> Iterator[str]:
    yield "# Errors and exit codes\n"
    yield (
        "The command line prints an error without a traceback (`--verbose` shows it): what is wrong, details, and\n"
        "what to type next. Its exit code is the error's. In Python these are ordinary exceptions of `thack.errors`;\n"
        "all of them are a `ThackError`, and name settings by key (`data.limit`) where the command line names the\n"
        "flag. Anything else, such as a `TypeError` with a traceback, is a bug: please report it.\n"
    )
    yield "| error | exit code | meaning |\n|---|---|---|"
    yield "| none | 0 | done |"
    for name, cls in inspect.getmembers(errors, inspect.isclass):
        if issubclass(cls, errors.ThackError):
            yield f"| `{name}` | {cls.exit_code} | {schemas.cell((inspect.getdoc(cls) or '').splitlines()[0])} |"


def _document(path: Path) -> str:
    """A document of the project as a page: links into docs/ lead to pages, other links become plain text."""

    def page(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        if target.startswith("docs/") and target.endswith(".md"):
            return f"[{text}]({target.removeprefix('docs/')}{anchor})"
        own = {source: name for name, source in DOCUMENTS.items()}
        return f"[{text}]({own[target]}{anchor})" if target in own else text

    return _OUTSIDE.sub(page, path.read_text("utf-8"))


def _notebook(path: Path) -> str:
    """A notebook in jupytext's percent format as a page: its prose, its code, and how it is opened."""
    _, *cells = re.split(r"^# %%", path.read_text("utf-8"), flags=re.MULTILINE)
    parts = []
    for cell in cells:
        kind, _, text = cell.partition("\n")
        prose = "[markdown]" in kind
        parts.append(
            re.sub(r"^# ?", "", text.strip(), flags=re.MULTILINE) if prose else f"```python\n{text.strip()}\n```"
        )
    opened = (
        f"Open it: `jupytext --to notebook docs/notebooks/{path.name}`, in a checkout. `make notebooks` executes it."
    )
    return "\n\n".join([parts[0], opened, *parts[1:]]) + "\n"


def _plain(text: str) -> str:
    return _MARKUP.sub("", text).replace("\\[", "[")
