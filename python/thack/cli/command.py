"""How a command is registered: its own parameters, those that every command has, and flags that set settings.

`Command` is a function whose parameters are the command's. `SettingsCommand` gets its flags from a settings class, so
that flags and settings cannot differ.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar, get_args

import typer

from thack.cli.console import print_file
from thack.cli.messages import Names
from thack.cli.parsing import KnownCommand
from thack.cli.session import session, shown_progress
from thack.config import Kind, Setting, describe, load_settings, to_toml
from thack.config.reference import is_union, origin_of
from thack.errors import UsageError
from thack.runtime.progress import Progress
from thack.runtime.ranks import current_rank

S = TypeVar("S")
Values: TypeAlias = Mapping[str, Any]  # of parameters, of the types that typer has checked
_SETTINGS, _OUTPUT = "Settings", "Output"  # panels of the help

_JSON = typer.Option("--json", help="Print one JSON document.", rich_help_panel=_OUTPUT)
_QUIET = typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=_OUTPUT)
_VERBOSE = typer.Option("--verbose", "-v", help="Show tracebacks.", rich_help_panel=_OUTPUT)
_CONFIG = typer.Option(
    "--config", metavar="FILE", help="A TOML file of settings; repeatable.", rich_help_panel=_SETTINGS
)
_SHOW = typer.Option("--show-settings", help="Print every setting as TOML, and stop.", rich_help_panel=_SETTINGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A flag for one key.

    Args:
        key: the setting.
        name: of the flag, without dashes; the last part of the key if empty.
        help: instead of the setting's own, where the flag accepts something else.
        parse: makes the setting's value from the text of the flag.
        implies: values of other keys that this flag sets, unless they are given in any way.
        unless: the text of the flag with which it implies nothing.
    """

    key: str
    name: str = ""
    help: str = ""
    parse: Callable[[str], object] | None = None
    implies: Mapping[str, object] = field(default_factory=dict)
    unless: str = ""

    @property
    def parameter(self) -> str:
        """The name of its parameter."""
        return self.name or self.key.rpartition(".")[2]

    @property
    def flag(self) -> str:
        """As it is typed."""
        return f"--{self.parameter.replace('_', '-')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[S]):
    """One use of a command.

    Args:
        settings: checked.
        progress: where progress goes.
        values: of the command's own parameters, by name.
        typed: the settings as they were typed, to type them again.
    """

    settings: S
    progress: Progress
    values: Values = field(default_factory=dict)
    typed: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a command line gives for the settings, before they are loaded."""

    files: Sequence[Path]
    sets: Sequence[str]
    overrides: Mapping[str, object]
    implied: Mapping[str, Mapping[str, object]]
    values: Values


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsCommand(Generic[S]):
    """A command whose flags are settings.

    Args:
        name: as it is typed.
        settings: the class.
        run: receives the call.
        flags: the settings that have a flag of their own.
        example: shown at the end of the help.
        set_example: a setting without a flag, for the help of `--set`.
        parameters: annotations of arguments and flags that are no settings, by name.
        many: whether several processes may run it together.
        load: builds the settings; by default from `settings` and what was given.
        unsettable: keys, with all below them, that no message tells to set.
    """

    name: str
    settings: type[S]
    run: Callable[[Call[S]], None]
    flags: Sequence[Flag]
    example: str
    set_example: str
    parameters: Mapping[str, Kind] = field(default_factory=dict)
    many: bool = False
    load: Callable[[Given], S] | None = None
    unsettable: Collection[str] = ()

    def add_to(self, app: typer.Typer) -> None:
        """Register it."""

        def command(**values: Any) -> None:
            self._use(values)

        command.__name__ = self.name.replace("-", "_")
        command.__doc__ = self.run.__doc__
        command.__signature__ = inspect.Signature([*self._parameters(), *_COMMON])  # type: ignore[attr-defined]
        _register(app, self.name, command, self.example)

    def _use(self, values: dict[str, Any]) -> None:
        _note_common(values)
        session.names = self._names(session.names)
        files, sets = values.pop("config") or [], values.pop("sets") or []
        show_settings = values.pop("show_settings")
        _check_sets(sets)
        own = {name: values.pop(name) for name in self.parameters}
        typed = self._typed(values, files, sets)
        settings = self._load(self._given(values, files, sets, own))
        if show_settings:
            print_file(to_toml(settings, comments=True))
            return
        if current_rank().world_size > 1 and not self.many:
            raise UsageError(
                f"thack {self.name} runs as one process, but {current_rank().world_size} were started",
                hint="start it once; only sft, distill and cache-logits run in several processes",
            )
        with shown_progress() as progress:
            self.run(Call(settings=settings, progress=progress, values=own, typed=typed))

    def _load(self, given: Given) -> S:
        try:
            if self.load is not None:
                return self.load(given)
            return load_settings(self.settings, given.files, given.sets, given.overrides, given.implied)
        except UsageError as error:
            hint = error.hint or "--show-settings lists every key with its default"
            raise UsageError(error.message, details=error.details, hint=hint) from error

    def _typed(self, values: Values, files: Sequence[Path], sets: Sequence[str]) -> list[str]:
        words: list[str] = []
        for flag in self.flags:
            value = values[flag.parameter]
            if isinstance(value, bool):
                words += [flag.flag]
            elif value is not None:
                words += [word for one in _each(value) for word in (flag.flag, str(one))]
        words += [word for file in files for word in ("--config", str(file))]
        return words + [word for text in sets for word in ("--set", text)]

    def _names(self, own: Names) -> Names:
        """How settings are spelled, and the parameters that are no settings, as in `own`."""
        settings = describe(self.settings)
        no_settings = {name: flag for name, flag in own.flags.items() if name in (*self.parameters, "sets")}
        return Names(
            flags=no_settings | {flag.key: flag.flag for flag in self.flags},
            switches={setting.key for setting in settings if setting.field.type is bool} | set(own.switches),
            keys=[s.key for s in settings if not any(f"{s.key}.".startswith(f"{one}.") for one in self.unsettable)],
        )

    def _given(self, values: Values, files: Sequence[Path], sets: Sequence[str], own: Values) -> Given:
        """What was typed: of the flags, their values by key and what they imply."""
        kinds = {setting.key: setting.field.type for setting in describe(self.settings)}
        used = [(flag, values[flag.parameter]) for flag in self.flags if values[flag.parameter] not in (None, [])]
        return Given(
            files=files,
            sets=sets,
            overrides={flag.key: _value(flag, kinds[flag.key], value) for flag, value in used},
            implied={flag.key: flag.implies for flag, value in used if value != flag.unless},
            values=own,
        )

    def _parameters(self) -> list[inspect.Parameter]:
        settings = {setting.key: setting for setting in describe(self.settings)}
        names = self._names(Names())
        set_help = f"Any setting, e.g. {self.set_example}."
        set_option = typer.Option("--set", metavar="KEY=VALUE", help=set_help, rich_help_panel=_SETTINGS)
        return [
            *(_parameter(name, annotation, _default(annotation)) for name, annotation in self.parameters.items()),
            *(_parameter(flag.parameter, _option(flag, settings[flag.key], names), None) for flag in self.flags),
            _parameter("config", Annotated[list[Path] | None, _CONFIG], None),
            _parameter("sets", Annotated[list[str] | None, set_option], None),
            _parameter("show_settings", Annotated[bool, _SHOW], False),
        ]


def add_command(app: typer.Typer, name: str, function: Callable[..., None], *, example: str) -> None:
    """Register a function whose parameters are the command's own; the common flags are added."""

    def command(**values: Any) -> None:
        _note_common(values)
        function(**values)

    own = inspect.signature(function, eval_str=True).parameters.values()
    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    command.__name__ = name
    command.__doc__ = function.__doc__
    command.__signature__ = inspect.Signature([*keywords, *_COMMON])  # type: ignore[attr-defined]
    _register(app, name, command, example)


def _register(app: typer.Typer, name: str, command: Callable[..., None], example: str) -> None:
    app.command(name, epilog=f"Example:\n\n[bold]  {example}[/]", cls=KnownCommand)(command)


def _note_common(values: dict[str, Any]) -> None:
    session.json, session.quiet, session.verbose = (values.pop(name) for name in ("as_json", "quiet", "verbose"))


def _check_sets(sets: Sequence[str]) -> None:
    """Refuse a key that is set twice."""
    keys = Counter(text.partition("=")[0].strip() for text in sets)
    if repeated := [key for key, times in keys.items() if times > 1]:
        raise UsageError(f"`sets` {repeated[0]}: given twice", hint="give each key once")


def _default(annotation: Kind) -> object:
    """None where the annotation allows it; else the parameter is required."""
    return None if type(None) in get_args(get_args(annotation)[0]) else inspect.Parameter.empty


def _parameter(name: str, annotation: Kind, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


_COMMON = (
    _parameter("as_json", Annotated[bool, _JSON], False),
    _parameter("quiet", Annotated[bool, _QUIET], False),
    _parameter("verbose", Annotated[bool, _VERBOSE], False),
)


def _option(flag: Flag, setting: Setting, names: Names) -> Kind:
    """The annotation of a flag. Choices are checked by the loader, which says "did you mean"."""
    kind = setting.field.type
    text = _sentence(names.translate(flag.help or setting.field.help))
    if setting.field.choices and not flag.help:
        text = f"{text[:-1]}: {' | '.join(setting.field.choices)}."
    if setting.default not in ("", ()) and not isinstance(setting.default, bool):
        shown = ",".join(map(str, setting.default)) if isinstance(setting.default, tuple) else setting.default
        text += f" [dim]\\[{shown}][/]"
    typed: Kind = bool if kind is bool else str  # the loader reads numbers, and says what is wrong with them
    if _is_repeatable(kind):
        typed, text = list[str], f"{text[:-1]}; repeatable."
    metavar = None if kind is bool else "N" if flag.parse is None and _is_number(kind) else _metavar(setting)
    return Annotated[typed | None, typer.Option(flag.flag, help=text, metavar=metavar)]


def _is_number(kind: Kind) -> bool:
    return kind in (int, float) or (is_union(kind) and bool({int, float} & {*get_args(kind)}))


def _is_repeatable(kind: Kind) -> bool:
    """Whether a setting is one text, or a list of them: its flag is given once for each."""
    return is_union(kind) and any(origin_of(option) is tuple for option in get_args(kind))


def _each(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _metavar(setting: Setting) -> str:
    if setting.field.type is Path:
        return "PATH"
    return "WORD" if origin_of(setting.field.type) is Literal else "TEXT"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _value(flag: Flag, kind: Kind, value: object) -> object:
    if flag.parse is not None:
        return flag.parse(str(value))
    if isinstance(value, list):
        return value[0] if len(value) == 1 else value
    if origin_of(kind) is tuple:
        return [_number(part) for part in map(str.strip, str(value).split(",")) if part]
    return _number(str(value)) if _is_number(kind) else value


def _number(text: str) -> object:
    """A number; what is none stays text, for the loader to complain about."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
