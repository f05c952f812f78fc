"""Everything that reaches a terminal goes through the two modules that escape it, and no text is read as markup."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

import thack
from thack.cli.console import print_file, stdout
from thack.runtime.streams import say

PACKAGE = Path(thack.__file__).parent
WRITERS = {Path("cli/console.py"), Path("runtime/streams.py")}
MARKUP = "[bold]x[/] [link=http://e]y[/link] :smile: [/nothing]"


def raw_writes(source: str) -> Iterator[str]:
    """Places where text would reach a stream or rich's markup without being escaped."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "markup" and ast.unparse(node.value) != "False":
            yield f"{node.value.lineno}: markup={ast.unparse(node.value)}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        is_stream = called.startswith(("sys.stdout.write", "sys.stderr.write"))
        if called == "print" or is_stream or called.endswith(("Console", "from_markup", "secho", "rich.print")):
            yield f"{node.lineno}: {called}"


def test_only_the_modules_that_escape_write_to_the_streams() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}:{place}"
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE) not in WRITERS
        for place in raw_writes(path.read_text(encoding="utf-8"))
    }
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "print(f'{x}')",
        "sys.stderr.write(x)",
        "sys.stdout.writelines(x)",
        "rich.console.Console().print(x)",
        "stdout().print(x, markup=True)",
        "Text.from_markup(x)",
    ],
)
def test_the_check_sees_what_would_write_raw_text(source: str) -> None:
    assert list(raw_writes(source))


def test_data_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(MARKUP, box=None)
    table.add_row(MARKUP)
    table.add_row(Text(MARKUP))
    stdout().print(MARKUP)
    stdout().print(table)
    assert capsys.readouterr().out.count(MARKUP) == 4


class _Screen:
    """A stream that says whether it is a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        self.is_terminal, self.text = is_terminal, ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return self.is_terminal


def test_a_file_is_escaped_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal, written in ((True, "a\\u001b[2Jb"), (False, "a\x1b[2Jb")):
        screen = _Screen(is_terminal)
        monkeypatch.setattr("sys.stdout", screen)
        print_file("a\x1b[2Jb")
        assert screen.text == written


def test_a_line_on_stderr_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[2J\u202eb")
    assert capsys.readouterr().err == "a\\u001b[2J\\u202eb\n"
