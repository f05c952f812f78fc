"""How commands are registered: parameters, arguments, flags made from settings, and what a command receives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer

from thack.cli.command import Call, Flag, Given, SettingsCommand, add_command
from thack.cli.session import session
from thack.errors import UsageError
from thack.runtime.progress import SILENT
from thack.schema.fields import AtLeast, Help


@dataclass(frozen=True, kw_only=True)
class _Group:
    size: Annotated[int, AtLeast(1), Help("size of it")] = 3
    on: Annotated[bool, Help("whether it is on, with `group.size`")] = False


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """Settings of a command."""

    out: Annotated[Path, Help("where it goes")] = Path("o")
    kind: Annotated[Literal["one", "two"], Help("which")] = "one"
    rates: Annotated[tuple[float, ...], Help("rates")] = ()
    names: Annotated[tuple[str, ...], Help("names")] = ("a", "b")
    group: Annotated[_Group, Help("a group")] = field(default_factory=_Group)


FLAGS = (
    Flag(key="out"),
    Flag(key="kind"),
    Flag(key="rates"),
    Flag(key="names", help="names, joined by plus signs", parse=lambda text: text.split("+")),
    Flag(key="group.size", implies={"kind": "two"}),
    Flag(key="group.on", name="switch"),
)
WORD = Annotated[str, typer.Argument(help="A word.")]
COUNT = Annotated[int | None, typer.Option(help="A number.")]

Use = Callable[..., list[Call[_Settings]]]


@pytest.fixture
def use() -> Use:
    """Runs a command of a command line of its own; gives its calls."""

    def run(*arguments: str, **changes: Any) -> list[Call[_Settings]]:
        calls: list[Call[_Settings]] = []

        def work(call: Call[_Settings]) -> None:
            """Do it."""
            calls.append(call)

        app = typer.Typer()
        app.callback()(lambda: None)
        shape: dict[str, Any] = {"flags": FLAGS, "parameters": {"word": WORD, "count": COUNT}} | changes
        SettingsCommand(
            name="do-it", settings=_Settings, run=work, example="x", set_example="group.size=4", **shape
        ).add_to(app)
        session.reset()
        app(["do-it", *arguments], standalone_mode=False)
        return calls

    return run


def test_a_command_receives_settings_and_its_own_parameters(use: Use) -> None:
    (call,) = use("hello", "--count", "3", "--quiet")
    assert call.settings == _Settings()
    assert call.values == {"word": "hello", "count": 3}
    assert call.progress is SILENT


def test_flags_become_settings(use: Use) -> None:
    (call,) = use("w", "--out", "p", "--kind", "two", "--rates", "0.5, 2", "--names", "x+y", "--size", "7", "--switch")
    assert call.settings == _Settings(
        out=Path("p"), kind="two", rates=(0.5, 2.0), names=("x", "y"), group=_Group(size=7, on=True)
    )


def test_what_a_flag_implies_gives_way_to_all_that_is_given(use: Use, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('kind = "one"\n')
    assert use("w", "--size", "7")[0].settings.kind == "two"
    for given in (["--kind", "one"], ["--set", "kind=one"], ["--config", str(file)]):
        assert use("w", "--size", "7", *given)[0].settings == _Settings(group=_Group(size=7)), given


def test_a_flag_may_imply_nothing_with_one_value(use: Use) -> None:
    flags = (Flag(key="kind", implies={"group.size": 5}, unless="one"),)
    assert use("w", "--kind", "two", flags=flags)[0].settings.group.size == 5
    assert use("w", "--kind", "one", flags=flags)[0].settings == _Settings()


def test_the_settings_can_be_typed_again(use: Use, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("rates = [1]\n")
    typed = ["--kind", "two", "--size", "7", "--switch", "--config", str(tmp_path / "c.toml"), "--set", "group.size=2"]
    (call,) = use("w", *typed, "--count", "3", "--json")
    assert list(call.typed) == typed
    assert use("w", *call.typed)[0].settings == call.settings


def test_a_list_that_is_no_list_of_numbers_is_refused(use: Use) -> None:
    with pytest.raises(UsageError) as caught:
        use("w", "--rates", "0.5,x")
    assert caught.value.details == ('rates = [0.5, "x"]: must be a list, each a number',)


def test_required_arguments_are_required(use: Use) -> None:
    with pytest.raises(Exception, match=r"(?i)missing"):
        use()


def test_a_loader_of_its_own_gets_all_that_was_given(use: Use, tmp_path: Path) -> None:
    seen: list[Given] = []

    def load(given: Given) -> _Settings:
        seen.append(given)
        return _Settings(kind="two")

    (call,) = use("w", "--size", "7", "--set", "rates=[1]", "--config", str(tmp_path / "c.toml"), load=load)
    assert call.settings.kind == "two"
    (given,) = seen
    assert (given.files, given.sets) == ([tmp_path / "c.toml"], ["rates=[1]"])
    assert given.overrides == {"group.size": 7}
    assert given.implied == {"group.size": {"kind": "two"}}
    assert given.values == {"word": "w", "count": None}


def test_show_settings_prints_and_does_nothing(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    assert use("w", "--size", "7", "--show-settings") == []
    assert "size = 7 " in capsys.readouterr().out


@pytest.mark.parametrize(("many", "refused"), [(False, True), (True, False)])
def test_only_some_commands_run_in_many_processes(
    use: Use, many: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    if refused:
        with pytest.raises(UsageError, match="do-it runs as one process, but 4 were started"):
            use("w", many=many)
        assert use("w", "--show-settings", many=many) == []
    else:
        assert len(use("w", many=many)) == 1


def test_names_of_settings_flags_and_own_parameters_are_known(use: Use) -> None:
    use("w")
    spelled = {
        "`out`": "--out",
        "`group.size`": "--size",
        "`group.on`": "--switch",
        "`group.on = true`": "--switch",
        "`group.on = false`": "--set group.on=false",
        "`rates = [1, 2]`": "--rates 1,2",
        "`count`": "--count",
        "`sets` a=1": "--set a=1",
        "`nothing`": "`nothing`",
    }
    assert {text: session.names.translate(text) for text in spelled} == spelled


@pytest.mark.parametrize(
    ("flag", "parameter", "typed"),
    [
        (Flag(key="seed"), "seed", "--seed"),
        (Flag(key="data.max_response_tokens"), "max_response_tokens", "--max-response-tokens"),
        (Flag(key="data.path", name="data"), "data", "--data"),
    ],
)
def test_a_flag_is_named_by_the_last_part_of_its_key(flag: Flag, parameter: str, typed: str) -> None:
    assert (flag.parameter, flag.flag) == (parameter, typed)


def test_a_plain_function_gets_the_common_flags(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, int]] = []

    def greet(name: Annotated[str, typer.Argument()], times: int = 1) -> None:
        """Greet somebody."""
        seen.append((name, times))

    app = typer.Typer()
    app.callback()(lambda: None)
    add_command(app, "greet", greet, example="greet you")
    session.reset()
    app(["greet", "you", "--times", "2", "--json", "-q"], standalone_mode=False)
    assert seen == [("you", 2)]
    assert (session.json, session.quiet, session.verbose) == (True, True, False)
    assert session.names.translate("`times`") == "--times"
    app(["greet", "--help"], standalone_mode=False)
    out = capsys.readouterr().out
    assert "Greet somebody." in out and "greet you" in out and "--verbose" in out
