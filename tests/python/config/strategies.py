"""Instances of any settings class, drawn from its own annotations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from hypothesis import strategies as st

from thack.config.reference import Field, fields_of, is_union
from thack.schema.fields import Above, AtLeast, Between, Bound, Each, Matches

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def settings_of(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Any instance of a settings class that its annotations accept."""
    return st.builds(cls, **{name: _value(field) for name, field in fields_of(cls).items()})


def _value(field: Field) -> st.SearchStrategy[Any]:
    if field.is_group:
        return settings_of(field.type)
    bound = field.bound
    drawn = _typed(field.type, bound.bound if isinstance(bound, Each) else bound)
    return drawn if bound is None else drawn.filter(lambda value: value is None or bound.accepts(value))


def _typed(kind: Any, bound: Bound | None) -> st.SearchStrategy[Any]:
    if dataclasses.is_dataclass(kind):
        raise AssertionError("a group inside a list")
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) is tuple:
        return st.lists(_typed(get_args(kind)[0], bound), max_size=3).map(tuple)
    if is_union(kind):
        return st.one_of(*(_typed(option, bound) for option in get_args(kind)))
    if isinstance(bound, Matches):
        return st.from_regex(bound.pattern, fullmatch=True, alphabet=st.characters(codec="ascii"))
    low, high = _limits(bound)
    return {
        type(None): st.none(),
        bool: st.booleans(),
        int: st.integers(None if low is None else int(low), None if high is None else int(high)),
        float: st.floats(low, high, allow_nan=False, allow_infinity=False),
        str: _TEXT,
        Path: _TEXT.filter(lambda text: "\0" not in text).map(Path),
    }[kind]


def _limits(bound: Bound | None) -> tuple[float | None, float | None]:
    match bound:
        case AtLeast(minimum):
            return minimum, None
        case Above(limit):
            return limit, None
        case Between(low, high):
            return low, high
    return None, None
