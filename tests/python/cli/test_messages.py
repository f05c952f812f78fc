"""Messages name settings; the command line prints flags."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import thack
from thack.cli import app
from thack.cli.messages import Names, translated
from thack.errors import UsageError

NAMES = Names(
    flags={"out": "--out", "data.path": "--data", "guard.on": "--guard", "temperatures": "--temperatures"},
    switches={"guard.on"},
    keys=["out", "data.path", "guard.on", "temperatures", "memory.compile", "distill.device", "axes.budget"],
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("give another `out`", "give another --out"),
        ("set `data.path` to a file", "set --data to a file"),
        ("use `out = runs/b`", "use --out runs/b"),
        ("leave out `guard.on`", "leave out --guard"),
        ("use `guard.on = true`", "use --guard"),
        ("use `guard.on = false`", "use --set guard.on=false"),
        ("use `memory.compile = false`", "use --set memory.compile=false"),
        ("change `memory.compile`", "change --set memory.compile=…"),
        ("use `temperatures = [0.5, 2]`", "use --temperatures 0.5,2"),
        ("use `axes.budget = [1, 4]`", "use --set 'axes.budget=[1, 4]'"),
        ("use `device = cpu`", "use --set distill.device=cpu"),
        ("`unknown` stays, `unknown = 3` too", "`unknown` stays, `unknown = 3` too"),
        ("`thack doctor` is a command", "`thack doctor` is a command"),
    ],
)
def test_a_named_setting_becomes_what_can_be_typed(text: str, said: str) -> None:
    assert NAMES.translate(text) == said


def test_a_grid_names_the_key_that_has_an_effect() -> None:
    """What it decides cell by cell, below `distill`, is never what to set."""
    grid = Names(keys=["max_response_tokens", "distill.evaluation.count"])
    assert grid.translate("raise `data.max_response_tokens`") == "raise --set max_response_tokens=…"
    assert grid.translate("fewer `evaluation.count`") == "fewer --set distill.evaluation.count=…"


def test_message_details_and_hint_are_translated_and_the_kind_of_error_stays() -> None:
    error = translated(UsageError("`out` x", details=["`out` y"], hint="another `out`"), NAMES)
    assert (error.message, error.details, error.hint) == ("--out x", ("--out y",), "another --out")
    assert type(error) is UsageError and error.exit_code == 2


def test_python_callers_read_the_key_and_the_command_line_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    from thack.files import claim_output

    with pytest.raises(UsageError, match=r"^`out` .*file is a file"):
        claim_output(tmp_path / "file", "responses")
    app.run(["generate", "--model", "m", "--data", "d", "--out", str(tmp_path / "file")])
    assert capsys.readouterr().err.startswith(f"error: --out {tmp_path}/file is a file")


def test_no_message_outside_the_command_line_names_a_flag() -> None:
    """Flags are words of the command line; those of `git` and the variables of CSS are none."""
    root = Path(thack.__file__).parent
    other = {("runtime", "environment.py"), ("reporting", "page.py")}
    found = [
        f"{path.relative_to(root)}:{text.lineno}: {text.value!r}"
        for path in sorted(root.rglob("*.py"))
        if path.relative_to(root).parts[0] not in ("cli", "slurm") and path.relative_to(root).parts not in other
        for text in _texts(ast.parse(path.read_text()))
        if re.search(r"(?<![\w-])--[a-z]", str(text.value))
    ]
    assert not found, "\n".join(found)


def _texts(tree: ast.Module) -> list[ast.Constant]:
    """The strings of a module, without its docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and node.body
                  and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node for node in found if id(node) not in docstrings]
