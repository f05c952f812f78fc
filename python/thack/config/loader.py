"""Settings from TOML files, `key=value` texts and overrides: strict about keys, types and bounds.

Later layers win: defaults, then what flags imply, then files in order, then texts in order, then overrides. Values
keep the type of their field; a whole number is accepted as a fraction, nothing else is converted. One error lists every
mistake.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from thack.config.reference import REQUIRED, Field, Kind, describe, describe_type, fields_of, is_union, origin_of
from thack.config.toml import to_dict
from thack.errors import UsageError
from thack.reading import BadToml, parse_toml, read_toml

T = TypeVar("T")
Key = tuple[str, ...]


def load_settings(
    cls: type[T],
    files: Sequence[Path] = (),
    sets: Sequence[str] = (),
    overrides: Mapping[str, object] | None = None,
    implied: Mapping[str, Mapping[str, object]] | None = None,
) -> T:
    """Build settings from their defaults and the given layers.

    Args:
        cls: a settings class, such as `thack.DistillSettings`.
        files: TOML files.
        sets: texts of the form `key=value`, such as `loss.beta=0.1`; a text without quotation marks is a string.
        overrides: values by dotted key; None means not given.
        implied: values by dotted key for what none of these gives, by the key that implies them.

    Returns:
        An instance of `cls`.

    Raises:
        UsageError: unknown keys, wrong types and values out of bounds; all of them, with what is accepted.
        DataError: a file that cannot be read or is not TOML.

    Example:
        >>> from thack.config import LossSettings, load_settings
        >>> load_settings(LossSettings, sets=["divergence=jsd", "beta=0.1"]).beta
        0.1
    """
    layers = _Layers(cls)
    for file in files:
        layers.add(_read_toml(file), str(file))
    for text in sets:
        layers.add_text(text)
    for key, value in (overrides or {}).items():
        if value is not None:
            layers.add(_nest(_parts(key), value))
    layers.add_implied(implied or {})
    layers.check_required()
    if layers.problems:
        count = "a setting is wrong" if len(layers.problems) == 1 else f"{len(layers.problems)} settings are wrong"
        raise UsageError(count, details=layers.problems)
    return layers.build(cls)


def from_dict(cls: type[T], values: Mapping[str, object]) -> T:
    """The inverse of `to_dict`, as strict as `load_settings`.

    Raises:
        UsageError: `values` are not those of a `cls`.
    """
    layers = _Layers(cls)
    layers.add(values)
    layers.check_required()
    if layers.problems:
        raise UsageError(f"not the settings of {cls.__name__}", details=layers.problems)
    return layers.build(cls)


def checked(settings: T) -> T:
    """The same settings, if all their values are allowed; texts become paths where paths are meant.

    Raises:
        UsageError: a value of another type, or out of its bounds.
    """
    return from_dict(type(settings), to_dict(settings))


class _Layers:
    """The values of all layers so far, and what is wrong with them."""

    def __init__(self, cls: type[object]) -> None:
        self._cls = cls
        self._values: dict[Key, object] = {}
        self.problems: list[str] = []

    def add(self, values: Mapping[str, object], place: str = "") -> None:
        """One layer of nested values; `place` names their source in errors."""
        self._add(self._cls, values, (), f" (in {place})" if place else "")

    def add_text(self, text: str) -> None:
        """`a.b=value`: the value as TOML reads it, or else the text itself."""
        key, equals, raw = (part.strip() for part in text.partition("="))
        if not equals or not key:
            self.problems.append(f"`sets` {text}: not of the form key=value")
            return
        try:
            value = parse_toml(f"value = {raw}")["value"]
        except BadToml:
            value = raw
        if not isinstance(value, str | list) and _is_text(self._cls, _parts(key)):
            value = raw  # a directory called 1e3, or 2024-01-01
        self.add(_nest(_parts(key), value), f"`sets` {text}")

    def add_implied(self, implied: Mapping[str, Mapping[str, object]]) -> None:
        """Values of keys that no layer so far gives, by the key that implies them: two of these may not differ."""
        first: dict[str, str] = {}
        for source, values in implied.items():
            for key, value in values.items():
                if _parts(key) not in self._values:
                    first[key] = source
                    self.add(_nest(_parts(key), value))
                elif key in first and self._values[_parts(key)] != value:
                    self.problems.append(
                        f"`{first[key]}` asks for {key} = {self._values[_parts(key)]}, `{source}` for {value}: "
                        f"give one of them, or `{key}` too"
                    )

    def check_required(self) -> None:
        """Note the fields without a default that no layer gives."""
        missing = [f for f in fields_of(self._cls).values() if f.default is REQUIRED and (f.name,) not in self._values]
        self.problems += [f"{field.name} is required ({field.accepts})" for field in missing]

    def build(self, cls: type[T]) -> T:
        """The instance with every value; groups keep the defaults that their parent chose."""
        required = {f.name: self._values[(f.name,)] for f in fields_of(cls).values() if f.default is REQUIRED}
        built: T = self._replace(cls(**required), ())
        return built

    def _replace(self, instance: Any, prefix: Key) -> Any:
        changes: dict[str, object] = {}
        for name, field in fields_of(type(instance)).items():
            key = (*prefix, name)
            if field.is_group:
                changes[name] = self._replace(getattr(instance, name), key)
            elif key in self._values:
                changes[name] = self._values[key]
        return dataclasses.replace(instance, **changes)

    def _add(self, cls: type[object], values: Mapping[str, object], prefix: Key, place: str) -> None:
        for name, value in values.items():
            key, field = (*prefix, name), fields_of(cls).get(name)
            if field is None:
                self.problems.append(f"{'.'.join(key)}: no such key{_did_you_mean(cls, prefix, name)}{place}")
            elif field.is_group and isinstance(value, Mapping):
                self._add(field.type, value, key, place)
            elif field.is_group:
                names = ", ".join(f"{'.'.join(key)}.{one}" for one in fields_of(field.type))
                self.problems.append(f"{'.'.join(key)} is a group of keys, not a value: {names}{place}")
            else:
                self._add_value(key, field, value, place)

    def _add_value(self, key: Key, field: Field, value: object, place: str) -> None:
        shown = f"{'.'.join(key)} = {json.dumps(value, ensure_ascii=False, default=str)}"
        try:
            self._values[key] = converted = _convert(field.type, value)
        except TypeError:
            self._values[key] = None  # given, if wrongly: not reported as missing too
            self.problems.append(f"{shown}: must be {describe_type(field.type)}{_near(field, value)}{place}")
            return
        try:
            str(converted).encode()
        except UnicodeEncodeError:  # a name of a file, as the system gave it
            self.problems.append(
                f"{'.'.join(key)} = {str(converted)!a}: not UTF-8, which settings are written in; "
                f"rename it, or set PYTHONUTF8=1 where the locale has no UTF-8{place}"
            )
            return
        if field.bound is not None and converted is not None and not field.bound.accepts(converted):
            self.problems.append(f"{shown}: must be {field.bound}{place}")


def _read_toml(path: Path) -> dict[str, object]:
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    return read_toml(path)


def _is_text(cls: type[object], parts: Sequence[str]) -> bool:
    kind: Kind = cls
    for part in parts:
        field = fields_of(kind).get(part) if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None
        kind = field.type if field else None
    return kind in (str, Path) or (is_union(kind) and str in get_args(kind))


def _parts(key: str) -> Key:
    return tuple(key.split("."))


def _nest(parts: Sequence[str], value: object) -> dict[str, object]:
    first, *rest = parts
    return {first: _nest(rest, value) if rest else value}


def _convert(kind: Kind, value: object) -> object:
    """`value` as the type `kind`, or TypeError."""
    if origin_of(kind) is Literal:
        if any(type(value) is type(choice) and value == choice for choice in get_args(kind)):  # 1 == True
            return value
        raise TypeError
    if origin_of(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(_convert(get_args(kind)[0], item) for item in value)
    if is_union(kind):
        return _convert_union(kind, value)
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is str and isinstance(value, Path):
        return str(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = _fraction(value)
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
        raise TypeError
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError
    return value


def _convert_union(kind: Kind, value: object) -> object:
    for option in get_args(kind):
        try:
            return _convert(option, value)
        except TypeError:
            continue
    raise TypeError


def _fraction(value: int) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise TypeError from error


def _near(field: Field, value: object) -> str:
    wrong = [str(item) for item in (value if isinstance(value, list) else [value]) if str(item) not in field.choices]
    close = difflib.get_close_matches(wrong[0], field.choices, n=1) if wrong else []
    return f"; did you mean {close[0]}?" if close else ""


def _did_you_mean(cls: type[object], prefix: Key, name: str) -> str:
    """The nearest key of the same group, or the full name of a nested key or group that was written without it."""
    names = [setting.key.split(".") for setting in describe(cls)]
    paths = dict.fromkeys(".".join(parts[:depth]) for parts in names for depth in range(1, len(parts) + 1))
    shallow_last = sorted(reversed(list(paths)), key=lambda path: -path.count("."))
    by_last = {path.rpartition(".")[2]: path for path in shallow_last}
    close = [name] if name in by_last else difflib.get_close_matches(name, by_last, n=1)
    return f"; did you mean {'.'.join((*prefix, by_last[close[0]]))}?" if close else ""
