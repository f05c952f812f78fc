"""Settings from TOML files, key=value texts and overrides: strict about keys and types, all mistakes in one error.

Later layers win: defaults, then files in order, then texts in order, then overrides. Values keep the type of
their field; a whole number may stand for a fraction, nothing else is converted.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from thack.config.bounds import out_of_bounds
from thack.errors import DataError, UsageError

T = TypeVar("T")
Key = tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One key as users type it, for help and documentation."""

    key: str
    hint: Any  # its type
    accepts: str
    default: Any
    help: str


def load(
    cls: type[T],
    files: Sequence[Path] = (),
    sets: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> T:
    """Build `cls` from its defaults and the given layers; `overrides` maps dotted keys, None means not given.

    Raises `UsageError` with every unknown key, wrong type and value out of bounds.
    """
    problems: list[str] = []
    leaves: dict[Key, Any] = {}
    for file in files:
        _collect(cls, _read_toml(file), (), str(file), leaves, problems)
    for text in sets:
        _collect(cls, _parse_set(cls, text, problems), (), f"`sets` {text}", leaves, problems)
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    for key, value in given.items():
        _collect(cls, _nest(key.split("."), value), (), "", leaves, problems)
    missing = [key for key in _required(cls) if key not in leaves]
    problems += [f"{'.'.join(key)} is required ({_accepts(_hints(cls)[key[0]])})" for key in missing]
    if problems:
        count = "a setting is wrong" if len(problems) == 1 else f"{len(problems)} settings are wrong"
        raise UsageError(count, details=problems)
    return _build(cls, leaves, ())


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """The inverse of `to_dict`, as strict as `load`."""
    problems: list[str] = []
    leaves: dict[Key, Any] = {}
    _collect(cls, values, (), "", leaves, problems)
    if problems:
        raise UsageError(f"not the settings of {cls.__name__}", details=problems)
    return _build(cls, leaves, ())


def to_dict(instance: Any) -> dict[str, Any]:
    """Plain nested values, ready for JSON: paths become strings, tuples lists."""
    return {field.name: _plain(getattr(instance, field.name)) for field in dataclasses.fields(instance)}


def to_toml(instance: Any, *, comments: bool = False) -> str:
    """The settings as a TOML file that `load` reads back; with `comments`, each key's help beside it."""
    return "\n".join(_toml_table(instance, "", comments)).strip() + "\n"


def describe(cls: type[Any]) -> list[Setting]:
    """Every key of `cls` in order, nested ones dotted."""
    return _describe(cls(), "")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path}: not TOML ({error})") from error


def _parse_set(cls: type[Any], text: str, problems: list[str]) -> dict[str, Any]:
    """`a.b=value`: the value as TOML would read it, bare words as strings."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        problems.append(f"`sets` {text}: not of the form key=value")
        return {}
    parts = key.strip().split(".")
    try:
        value = tomllib.loads(f"value = {raw.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw.strip()
    if isinstance(value, bool | int | float) and _is_text(cls, parts):
        value = raw.strip()  # a directory called 1e3
    return _nest(parts, value)


def _is_text(cls: type[Any], parts: Sequence[str]) -> bool:
    hint: Any = cls
    for part in parts:
        if not dataclasses.is_dataclass(hint):
            return False
        hint = _hints(typing.cast("type[Any]", hint)).get(part)
    return hint in (str, Path)


def _nest(parts: Sequence[str], value: Any) -> dict[str, Any]:
    for part in reversed(parts):
        value = {part: value}
    return dict(value)


def _collect(
    cls: type[Any],
    values: Mapping[str, Any],
    prefix: Key,
    source: str,
    leaves: dict[Key, Any],
    problems: list[str],
) -> None:
    """Check one layer against the fields of `cls`; good values go to `leaves`, mistakes to `problems`."""
    place = f" (in {source})" if source else ""
    for name, value in values.items():
        key = (*prefix, name)
        dotted = ".".join(key)
        hint = _hints(cls).get(name)
        if hint is None:
            problems.append(f"{dotted}: no such key{_did_you_mean(cls, prefix, name)}{place}")
        elif dataclasses.is_dataclass(hint):
            if isinstance(value, Mapping):
                _collect(typing.cast("type[Any]", hint), value, key, source, leaves, problems)
            else:
                names = ", ".join(f"{dotted}.{field.name}" for field in dataclasses.fields(hint))
                problems.append(f"{dotted} is a group of keys, not a value: {names}{place}")
        else:
            try:
                converted = _convert(hint, value)
            except TypeError:
                problems.append(f"{dotted} = {_show(value)}: must be {_accepts(hint)}{_near(hint, value)}{place}")
                continue
            complaint = out_of_bounds(name, converted)
            if complaint:
                problems.append(f"{dotted} = {_show(value)}: must be {complaint}{place}")
            leaves[key] = converted


def _convert(hint: Any, value: Any) -> Any:
    """`value` as the type `hint`, or TypeError."""
    origin = get_origin(hint)
    if origin is Literal:
        # type and value: 1 == True
        if not any(type(value) is type(choice) and value == choice for choice in get_args(hint)):
            raise TypeError
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(_convert(get_args(hint)[0], item) for item in value)
    if origin in (types.UnionType, typing.Union):
        return _convert_union(hint, value)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint is str and isinstance(value, Path):
        return str(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise TypeError
    if value is None and isinstance(None, hint):
        return None
    if isinstance(value, bool) != (hint in (bool,)) or not isinstance(value, hint):
        raise TypeError
    return value


def _convert_union(hint: Any, value: Any) -> Any:
    for option in get_args(hint):
        try:
            return _convert(option, value)
        except TypeError:
            continue
    raise TypeError


def _accepts(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Literal:
        return " | ".join(map(str, get_args(hint)))
    if origin is tuple:
        return f"a list, each {_accepts(get_args(hint)[0])}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_accepts(option) for option in get_args(hint))
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return names.get(hint, str(getattr(hint, "__name__", hint)))


def _near(hint: Any, value: Any) -> str:
    choices = [str(choice) for choice in get_args(hint)] if get_origin(hint) is Literal else []
    close = difflib.get_close_matches(str(value), choices, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _did_you_mean(cls: type[Any], prefix: Key, name: str) -> str:
    """The nearest key of the same group, or the full name of a nested key that was written without it."""
    head = ".".join(prefix) + "." if prefix else ""
    nested = [setting.key for setting in describe(cls) if setting.key.split(".")[-1] == name]
    if nested:
        return f"; did you mean {head}{nested[0]}?"
    candidates = {setting.key.split(".")[-1]: setting.key for setting in reversed(describe(cls))}
    candidates.update({group: group for group in _hints(cls)})
    close = difflib.get_close_matches(name, candidates, n=1)
    return f"; did you mean {head}{candidates[close[0]]}?" if close else ""


def _show(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _required(cls: type[Any]) -> list[Key]:
    missing = dataclasses.MISSING
    return [
        (field.name,)
        for field in dataclasses.fields(cls)
        if field.default is missing and field.default_factory is missing
    ]


def _build(cls: type[T], leaves: Mapping[Key, Any], prefix: Key) -> T:
    required = {key[-1]: leaves[(*prefix, *key)] for key in _required(cls) if (*prefix, *key) in leaves}
    built: T = _replace(cls(**required), leaves, prefix)
    return built


def _replace(instance: Any, leaves: Mapping[Key, Any], prefix: Key) -> Any:
    """`instance` with the leaves under `prefix`: nested groups keep the defaults that their parent chose."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(instance):
        key = (*prefix, field.name)
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = _replace(value, leaves, key)
        elif key in leaves:
            changes[field.name] = leaves[key]
    return dataclasses.replace(instance, **changes)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _toml_table(instance: Any, prefix: str, comments: bool) -> list[str]:
    lines, tables = [], []
    texts = _comments(type(instance)) if comments else {}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            name = f"{prefix}{field.name}"
            tables += ["", f"[{name}]", *_toml_table(value, f"{name}.", comments)]
        elif value is not None:  # TOML has no null: an absent key is the default
            line = f"{field.name} = {_toml_value(value)}"
            text = _hint_text(type(instance), field.name, texts) if comments else ""
            lines.append(f"{line:<40} # {text}" if text else line)
    return lines + tables


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _hint_text(cls: type[Any], name: str, texts: Mapping[str, str]) -> str:
    choices = _accepts(_hints(cls)[name]) if get_origin(_hints(cls)[name]) is Literal else ""
    return "; ".join(part for part in (choices, texts.get(name, "")) if part)


def _describe(instance: Any, prefix: str) -> list[Setting]:
    found: list[Setting] = []
    hints, texts = _hints(type(instance)), _comments(type(instance))
    for field in dataclasses.fields(instance):
        value, key = getattr(instance, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            found += _describe(value, f"{key}.")
        else:
            hint = hints[field.name]
            found.append(Setting(key, hint, _accepts(hint), value, texts.get(field.name, "")))
    return found


def _comments(cls: Any) -> dict[str, str]:
    """The comment behind each field in the source of `cls`: written once, for readers and for help."""
    import inspect

    try:
        lines = inspect.getsource(cls).splitlines()
    except (OSError, TypeError):  # no source at hand: help without comments
        return {}
    names = {field.name for field in dataclasses.fields(cls)}
    found = {}
    for line in lines:
        code, _, comment = line.partition("  # ")
        name = code.strip().partition(":")[0]
        if name in names and comment:
            found[name] = comment.strip()
    return found
