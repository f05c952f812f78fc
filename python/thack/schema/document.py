"""Dataclasses as JSON documents: the one writer and reader of the values that schema/ defines.

A class whose values are whole files has a class variable `SCHEMA`, the number of its layout. It stands in the file as
`"schema"`, and a file of another number is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from thack.errors import DataError

T = TypeVar("T")


class Document:
    """Base of the dataclasses whose values are JSON files, lines of such files, or results that commands print.

    A whole file has its layout's number in `SCHEMA`. `FILE` names it in errors where no path is given.
    """

    __slots__ = ()
    FILE: ClassVar[str] = "document"

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return dump(self)

    @classmethod
    def parse(cls, raw: object, what: str = "") -> Self:
        """The inverse of `dump`.

        Args:
            raw: What was read from JSON.
            what: Names it in errors, such as its path.

        Raises:
            DataError: `raw` has another schema number, lacks a field, or holds a value of another type.
        """
        return parse(cls, raw, what or cls.FILE)


def dump(value: object) -> dict[str, object]:
    """A dataclass as plain values, in the order of its fields, nested ones included.

    Example:
        >>> from thack.schema.run import Status
        >>> dump(Status(state="finished", step=10))
        {'schema': 1, 'state': 'finished', 'step': 10, 'exit_code': 0, 'reason': '', 'start': ''}
    """
    assert is_dataclass(value)
    version = getattr(value, "SCHEMA", None)
    found: dict[str, object] = {} if version is None else {"schema": version}
    return found | {field.name: _plain(getattr(value, field.name)) for field in fields(value)}


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return dump(value)
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if callable(tolist := getattr(value, "tolist", None)):  # an array; numpy is not imported for it
        return cast(object, tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, PurePath) else value


def parse(cls: type[T], raw: object, what: str) -> T:
    """The inverse of `dump`. Fields that are absent take their defaults; unknown names are passed over.

    Args:
        cls: A dataclass of numbers, texts, truth values, literals, enums, paths, tuples, mappings and dataclasses.
        raw: What was read from JSON.
        what: Names the document in errors, such as its path.

    Raises:
        DataError: `raw` has another schema number, lacks a field, or holds a value of another type.
    """
    if not isinstance(raw, Mapping):
        raise DataError(f"{what}: a {_name(raw)}, not an object")
    version = getattr(cls, "SCHEMA", None)
    if version is not None and raw.get("schema") != version:
        raise DataError(f"{what}: schema {raw.get('schema')}, but this version of thack reads {version}")
    hints = get_type_hints(cls)
    values = {}
    for field in fields(cast(Any, cls)):
        if field.name in raw:
            values[field.name] = _parsed(hints[field.name], raw[field.name], f"{what}: {field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise DataError(f"{what}: {field.name} is missing")
    return cls(**values)


def _parsed(hint: Any, raw: object, what: str) -> object:
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return parse(cast(type, hint), raw, what)
    if origin in (Union, UnionType):
        return None if raw is None and NoneType in arguments else _first_fit(arguments, raw, what)
    if origin is tuple and isinstance(raw, list):
        hints = [arguments[0]] * len(raw) if Ellipsis in arguments else arguments
        if len(hints) != len(raw):
            raise DataError(f"{what} holds {len(raw)} values, not {len(hints)}")
        pairs = zip(hints, raw, strict=True)
        return tuple(_parsed(one, item, f"{what}[{i}]") for i, (one, item) in enumerate(pairs))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(raw, Mapping):
        return {_parsed(arguments[0], k, what): _parsed(arguments[1], v, f"{what}.{k}") for k, v in raw.items()}
    if origin is Literal and raw in arguments:
        return raw
    if isinstance(hint, type) and issubclass(hint, Enum) and raw in [member.value for member in hint]:
        return hint(raw)
    if isinstance(hint, type) and issubclass(hint, PurePath) and isinstance(raw, str):
        return hint(raw)
    if hint is object:
        return raw
    if hint is float and type(raw) is int:
        return float(raw)
    if isinstance(hint, type) and type(raw) is hint:  # type, since a truth value is no number here
        return raw
    raise DataError(f"{what} is {raw!r}, which does not fit {getattr(hint, '__name__', hint)}")


def _first_fit(hints: tuple[Any, ...], raw: object, what: str) -> object:
    failures = []
    for hint in hints:
        try:
            return _parsed(hint, raw, what)
        except DataError as error:
            failures.append(error)
    raise failures[0]


def _name(raw: object) -> str:
    return type(raw).__name__
