"""--help: every command, in 80 columns, quickly."""

from __future__ import annotations

import re
import resource
import subprocess
import sys

import pytest

from thack.cli.command import Flag
from thack.config import Setting, describe
from thack.experiments.recipe import RECIPES

from .conftest import Run
from .test_flags import COMMANDS as SETTINGS_COMMANDS

COMMANDS = [
    *("demo", "experiment", "corpus", "sft", "generate", "cache-logits", "distill", "merge", "evaluate"),
    *("verdict", "report"),
    "data show",
    *("cache inspect", "cache verify", "cache probe", "cache export", "cache import", "cache import-hidden"),
    *("slurm", "doctor"),
]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_help_is_quick_and_imports_no_torch() -> None:
    script = (
        "import sys; from thack.cli.app import run; code = run(['--help']);"
        "heavy = {'torch', 'transformers', 'matplotlib', 'pyarrow'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "sys.exit(code)"
    )
    before = _children_cpu_s()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    took_s = _children_cpu_s() - before
    assert "distill" in done.stdout
    assert took_s < 1.5  # processor time: other tests run beside; the target is 0.5 s on an idle machine


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_every_recipe_is_named(run: Run) -> None:
    words = re.findall(r"[\w-]+", run("experiment", "--help").out)
    assert set(RECIPES) <= set(words)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.usefixtures("narrow")
def test_every_command_has_help_with_an_example_in_80_columns(name: str, run: Run) -> None:
    code, out, _ = run(*name.split(), "--help")
    assert "default:" not in out, "a default is in brackets, in every command alike"
    assert code == 0
    example = out[out.index("Example:") :].strip().splitlines()[1:]
    assert f"thack {name} " in " ".join(example)
    assert len([line for line in example if line.strip()]) == 1, "on one line, to be copied"
    assert max(map(len, out.splitlines())) <= 80
    cut = [line for line in out.splitlines() if "…" in line.replace("WORD=COLUMN,…", "")]
    assert not cut, "a word too long for its column"
    assert not re.search(r"<[a-z][a-zA-Z\[\]| ]*> ", out), "types of Python are no words for a user"
    assert "--json" in out and "--quiet" in out and "--verbose" in out


@pytest.mark.parametrize("group", [[], ["cache"], ["data"]])
@pytest.mark.usefixtures("narrow")
def test_a_flag_of_a_group_asks_for_no_value(group: list[str], run: Run) -> None:
    assert "<" not in run(*group, "--help").out


@pytest.mark.usefixtures("narrow")
def test_the_list_of_commands_has_a_line_for_each(run: Run) -> None:
    out = run("--help").out
    assert max(map(len, out.splitlines())) <= 80
    for name in COMMANDS:
        assert f"│ {name.split()[0]} " in out
    inner = run("cache", "--help").out
    for name in COMMANDS:
        assert not name.startswith("cache ") or f"│ {name.split()[1]} " in inner


def _flags() -> list[tuple[str, Flag, Setting]]:
    return [
        (name, flag, {setting.key: setting for setting in describe(cls)}[flag.key])
        for name, (flags, cls) in SETTINGS_COMMANDS.items()
        for flag in flags
    ]


@pytest.mark.parametrize("name", SETTINGS_COMMANDS)
def test_every_flag_shows_the_help_and_the_default_of_its_setting(
    name: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    arguments = ["runs/a"] if name == "verdict" else []
    out = run(*name.split(), *arguments, "--help").out
    for _, flag, setting in (found for found in _flags() if found[0] == name):
        line = next(line for line in out.splitlines() if f"│ {flag.flag} " in line)
        words = (flag.help or setting.field.help).split("`")[0].strip()
        assert words[1:40] in line, flag.flag
        if setting.default not in ("", ()) and not isinstance(setting.default, bool):
            shown = ",".join(map(str, setting.default)) if isinstance(setting.default, tuple) else setting.default
            assert f"[{shown}]" in line


def test_version_and_bare_call(run: Run) -> None:
    assert run("--version").out.startswith("thack 0.")
    code, out, err = run()
    assert code == 2
    assert "Usage" in out + err
    assert "error" not in err
