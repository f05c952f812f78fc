"""What a settings class accepts, read from its annotations: one walk for loading, help texts and documents."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Hashable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

from thack.schema.fields import Bound, Each, Help

Kind: TypeAlias = Any  # a type, a Literal, tuple[T, ...] or a union: what an annotation may be
REQUIRED = dataclasses.MISSING  # the default of a field that has none
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a settings class: its type without annotations, its bound and its help."""

    name: str
    type: Kind
    bound: Bound | None
    help: str
    default: object

    @property
    def is_group(self) -> bool:
        """Whether its value is a settings class."""
        return dataclasses.is_dataclass(self.type)

    @property
    def choices(self) -> tuple[str, ...]:
        """The accepted values, of it or of each item of its list; empty if any value of the type is."""
        kind = get_args(self.type)[0] if origin_of(self.type) is tuple else self.type
        return tuple(map(str, get_args(kind))) if origin_of(kind) is Literal else ()

    @property
    def accepts(self) -> str:
        """Its type and bound, as one phrase."""
        bound = self.bound.bound if isinstance(self.bound, Each) else self.bound
        return describe_type(self.type) if bound is None else f"{describe_type(self.type)}, {bound}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key as users type it.

    Args:
        key: names of the groups and of the field, joined by dots.
        field: the field with its value.
        default: its value where nothing is given; `REQUIRED` if there is none.
    """

    key: str
    field: Field
    default: object


def fields_of(cls: type[object]) -> Mapping[str, Field]:
    """The fields of a settings class by name, in order."""
    return _fields_of(cast(Hashable, cls))


@cache
def _fields_of(cls: Hashable) -> Mapping[str, Field]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: _read(field, hints[field.name]) for field in dataclasses.fields(cast(type, cls))}


def describe(cls: type[object]) -> tuple[Setting, ...]:
    """Every key of a settings class in order; keys of groups are dotted.

    Example:
        >>> from thack.config import SamplingSettings, describe
        >>> [setting.key for setting in describe(SamplingSettings)]
        ['temperature', 'top_k', 'top_p', 'min_p', 'greedy']
    """
    return tuple(_walk(cls, None, ""))


def describe_type(kind: Kind) -> str:
    """What values of a type look like in TOML."""
    if origin_of(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    if origin_of(kind) is tuple:
        return f"a list, each {describe_type(get_args(kind)[0])}"
    if is_union(kind):
        return " or ".join(describe_type(option) for option in get_args(kind) if option is not type(None))
    return _NAMES.get(kind, str(getattr(kind, "__name__", kind)))


def origin_of(kind: Kind) -> object:
    """`Literal`, `tuple` or `Annotated` for what is one of these; None for a class."""
    return get_origin(kind)


def is_union(kind: Kind) -> bool:
    """Whether a type is `A | B`."""
    return origin_of(kind) in (types.UnionType, Union)


def _read(field: dataclasses.Field[Any], hint: Kind) -> Field:
    kind: Kind
    extras: list[Any]
    kind, *extras = get_args(hint) if origin_of(hint) is Annotated else (hint,)
    texts = [extra.text for extra in extras if isinstance(extra, Help)]
    bounds: list[Bound] = [extra for extra in extras if not isinstance(extra, Help)]
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return Field(
        name=field.name,
        type=kind,
        bound=bounds[-1] if bounds else None,
        help=texts[-1] if texts else "",
        default=default,
    )


def _walk(cls: type[object], instance: object, prefix: str) -> Iterator[Setting]:
    for field in fields_of(cls).values():
        default = field.default if instance is None else getattr(instance, field.name)
        if field.is_group:
            yield from _walk(field.type, default, f"{prefix}{field.name}.")
        else:
            yield Setting(key=f"{prefix}{field.name}", field=field, default=default)
