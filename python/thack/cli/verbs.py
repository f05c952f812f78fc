"""How a command is made from a settings class: flags are keys, so that the two cannot drift apart.

A verb names its settings, the keys that get a flag of their own, and an example; its function receives a
`Call` with the checked settings and prints what came out.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, get_origin

import typer
from typer.core import TyperCommand

from thack.cli.console import err, print_json
from thack.cli.messages import Names
from thack.config import describe, load, to_toml
from thack.errors import UsageError
from thack.runtime.progress import SILENT, Progress
from thack.runtime.ranks import current_rank

S = TypeVar("S")

KEYS = "Settings"  # panel of the flags that every verb has


@dataclass(slots=True)
class State:
    """What the handler of errors needs to know of the command line that runs in this process."""

    verbose: bool = False
    json: bool = False
    names: Names = field(default_factory=Names)

    def reset(self) -> None:
        """Forget the command line before."""
        self.verbose, self.json, self.names = False, False, Names()


state = State()


class Command(TyperCommand):
    """A command whose parameters are known to the handler of errors."""

    def invoke(self, ctx: Any) -> Any:
        """Run it, and remember how it spells its parameters."""
        options = [p for p in self.params if p.param_type_name == "option"]
        state.names = Names(
            flags={str(p.name): p.opts[0] for p in options} | {_key(p.opts[0]): p.opts[0] for p in options},
            switches={str(p.name) for p in options if getattr(p, "is_flag", False)},
        )
        return super().invoke(ctx)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A flag for one key; `implies` sets other keys when it is given, unless they are given too."""

    key: str
    help: str = ""
    implies: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[S]):
    """One use of a verb: its settings, where progress goes, how results are printed."""

    settings: S
    progress: Progress
    json: bool
    extras: Mapping[str, Any] = field(default_factory=dict)  # flags that are no settings

    def emit(self, document: Any, show: Callable[[], None]) -> None:
        """Print the result, once: as one JSON document, or by `show` for people."""
        if not current_rank().is_first:
            return
        if self.json:
            print_json(document)
        else:
            show()


def note_verbose(value: bool) -> bool:
    state.verbose = state.verbose or value
    return value


def note_json(value: bool) -> bool:
    state.json = state.json or value
    return value


Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", callback=note_verbose, help="Show tracebacks.", rich_help_panel=KEYS),
]
Json = Annotated[
    bool, typer.Option("--json", callback=note_json, help="Print one JSON document.", rich_help_panel=KEYS)
]
_Config = Annotated[
    list[Path] | None,
    typer.Option("--config", metavar="FILE", help="A TOML file of settings; may be repeated.", rich_help_panel=KEYS),
]
_Show = Annotated[
    bool, typer.Option("--show-settings", help="Print every setting as TOML, and stop.", rich_help_panel=KEYS)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=KEYS)]


def verb(
    app: typer.Typer,
    name: str,
    cls: type[S],
    *,
    flags: Mapping[str, Flag],
    example: str,
    set_example: str,
    many: bool = False,
    extras: Mapping[str, Any] | None = None,
) -> Callable[[Callable[[Call[S]], None]], Callable[..., None]]:
    """Register a function of a `Call` as command `name`.

    `many`: several processes may run it together.
    `extras`: annotations of flags that are no settings, for the function to read from its call.
    """

    def decorate(function: Callable[[Call[S]], None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            state.names = _names(cls, flags)
            common = {key: values.pop(key) for key in _COMMON}
            given = {key: values.pop(key) for key in extras or {}}
            settings = _load(cls, common["config"] or [], common["sets"] or [], _overrides(cls, flags, values))
            if common["show_settings"]:
                sys.stdout.write(to_toml(settings, comments=True))
                return
            if current_rank().world_size > 1 and not many:
                raise UsageError(
                    f"thack {name} runs as one process, but {current_rank().world_size} were started",
                    hint="start it once; sft, distill and cache-logits are those to start many times",
                )
            with shown_progress(common["quiet"]) as progress:
                function(Call(settings=settings, progress=progress, json=common["as_json"], extras=given))

        command.__name__ = name.replace("-", "_")
        command.__doc__ = function.__doc__
        command.__signature__ = _signature(cls, flags, extras or {}, set_example)  # type: ignore[attr-defined]
        app.command(name, epilog=epilog(example), cls=Command)(command)
        return command

    return decorate


def _key(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _load(cls: type[S], files: Sequence[Path], sets: Sequence[str], overrides: Mapping[str, Any]) -> S:
    try:
        return load(cls, files, sets, overrides)
    except UsageError as error:
        raise UsageError(
            error.message, details=error.details, hint=error.hint or "--show-settings lists every key with its default"
        ) from error


def _names(cls: type[Any], flags: Mapping[str, Flag]) -> Names:
    settings = describe(cls)
    switches = {setting.key for setting in settings if setting.field.type is bool}
    spelled = {flag.key: f"--{name.replace('_', '-')}" for name, flag in flags.items()}
    spelled |= {"sets": "--set", "config": "--config"}
    return Names(flags=spelled, switches=switches, keys=[setting.key for setting in settings])


def epilog(example: str) -> str:
    """An example at the end of --help, on a line of its own."""
    return f"Example:\n\n[bold]  {example}[/]"


def shown_progress(quiet: bool) -> AbstractContextManager[Progress]:
    """Bars on a terminal, lines elsewhere, nothing if `quiet`."""
    if quiet:
        return nullcontext(SILENT)
    from thack.cli.progress import make_progress

    return make_progress()


def _overrides(cls: type[Any], flags: Mapping[str, Flag], values: Mapping[str, Any]) -> dict[str, Any]:
    hints = {setting.key: setting.field.type for setting in describe(cls)}
    given = {
        flags[name].key: _list(value) if get_origin(hints[flags[name].key]) is tuple else value
        for name, value in values.items()
        if value is not None
    }
    implied: dict[str, Any] = {}
    for name in (name for name in flags if values.get(name) is not None):
        for key, value in flags[name].implies.items():
            if implied.setdefault(key, value) != value and key not in given:
                raise UsageError(
                    f"--{name.replace('_', '-')} asks for {key} = {value}, another flag for {implied[key]}",
                    hint=f"give one of them, or --{key} too",
                )
    return implied | given


def _list(text: str) -> list[Any]:
    """`0.5,2` as a list of numbers; what is none stays as it is, for `load` to complain about."""
    items: list[Any] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            items.append(float(part))
        except ValueError:
            items.append(part)
    return items


def _signature(
    cls: type[Any], flags: Mapping[str, Flag], extras: Mapping[str, Any], set_example: str
) -> inspect.Signature:
    settings = {setting.key: setting for setting in describe(cls)}
    parameters = []
    for name, flag in flags.items():
        setting = settings[flag.key]
        shown = "" if setting.default in ("", ()) else f" [dim]\\[{_plain(setting.default)}][/]"
        text = _sentence(flag.help or setting.field.help)
        if get_origin(setting.field.type) is Literal:
            text = f"{text[:-1]}: {setting.field.accepts}."
        option = typer.Option(f"--{name.replace('_', '-')}", help=text + shown, metavar=_metavar(setting.field.type))
        parameters.append(_parameter(name, Annotated[_option_type(setting.field.type), option], None))
    parameters += [_parameter(name, annotation, None) for name, annotation in extras.items()]
    set_help = typer.Option(
        "--set", metavar="KEY=VALUE", help=f"Any setting, e.g. {set_example}.", rich_help_panel=KEYS
    )
    common = [
        _parameter("config", _Config, None),
        _parameter("sets", Annotated[list[str] | None, set_help], None),
        _parameter("show_settings", _Show, False),
        _parameter("as_json", Json, False),
        _parameter("quiet", Quiet, False),
        _parameter("verbose", Verbose, False),
    ]
    return inspect.Signature([*parameters, *common])


_COMMON = ("config", "sets", "show_settings", "as_json", "quiet", "verbose")


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _option_type(hint: Any) -> Any:
    """Texts and numbers by typer; words from a list are checked by `load`, which says "did you mean"."""
    if hint in (bool, int, float):
        return hint | None
    return str | None


def _metavar(hint: Any) -> str | None:
    if hint is bool:
        return None
    if hint in (int, float):
        return "N"
    if hint is Path:
        return "PATH"
    return "WORD" if get_origin(hint) is Literal else "TEXT"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "." if text else ""


def command_line() -> str:
    """What the user typed, to type again."""
    import shlex

    return shlex.join(["thack", *sys.argv[1:]])


def warn(message: str) -> None:
    """A yellow line on stderr."""
    err().print(f"warning: {message}", style="yellow", markup=False)
