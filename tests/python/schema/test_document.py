"""Dataclasses to JSON documents and back; what does not fit is refused, with its place."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import Enum, StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from thack import schema
from thack.errors import DataError
from thack.schema.document import Document, dump, parse

for _module in pkgutil.iter_modules(schema.__path__):
    importlib.import_module(f"thack.schema.{_module.name}")


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    name: str
    size: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    SCHEMA: ClassVar[int] = 3

    leaf: Leaf
    leaves: tuple[Leaf, ...] = ()
    by_name: Mapping[str, Leaf] = field(default_factory=dict)
    by_colour: Mapping[Colour, int] = field(default_factory=dict)
    kind: Literal["oak", "elm"] = "oak"
    colour: Colour | None = None
    path: Path = Path()
    grows: bool = False
    counts: tuple[int, ...] = ()
    pair: tuple[int, str] = (0, "")
    anything: object = None


TREE = Tree(
    leaf=Leaf(name="a"),
    leaves=(Leaf(name="b", size=2.5), Leaf(name="c")),
    by_name={"d": Leaf(name="d")},
    by_colour={Colour.RED: 2},
    kind="elm",
    colour=Colour.RED,
    path=Path("x/y"),
    grows=True,
    counts=(1, 2),
    pair=(3, "f"),
    anything={"free": [1]},
)


def test_a_document_comes_back_as_it_was() -> None:
    raw = json.loads(json.dumps(dump(TREE)))
    assert raw["schema"] == 3 and list(raw)[1:3] == ["leaf", "leaves"]
    assert parse(Tree, raw, "tree.json") == TREE


def test_absent_fields_take_their_defaults_and_unknown_names_are_passed_over() -> None:
    assert parse(Tree, {"schema": 3, "leaf": {"name": "a"}, "later": 1}, "t") == Tree(leaf=Leaf(name="a"))
    assert parse(Leaf, {"name": "a", "size": 2}, "t") == Leaf(name="a", size=2.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "t.json: schema 2, but this version of thack reads 3"),
        ({"leaf": {}}, "t.json: leaf: name is missing"),
        ({"leaf": 3}, "t.json: leaf: a int, not an object"),
        ({"leaves": [{"name": 1}]}, r"t.json: leaves\[0\]: name is 1, which does not fit str"),
        ({"kind": "fir"}, "t.json: kind is 'fir'"),
        ({"colour": "blue"}, "t.json: colour is 'blue'"),
        ({"grows": 1}, "t.json: grows is 1, which does not fit bool"),
        ({"counts": [True]}, r"t.json: counts\[0\] is True"),
        ({"counts": 3}, "t.json: counts is 3"),
        ({"pair": [3]}, "t.json: pair holds 1 values, not 2"),
        ({"pair": [3, "f", "g"]}, "t.json: pair holds 3 values, not 2"),
        ({"pair": [3, 4]}, r"t.json: pair\[1\] is 4, which does not fit str"),
        ({"by_name": {"d": None}}, r"t.json: by_name.d: a NoneType"),
        ({"path": 3}, "t.json: path is 3"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse(Tree, dump(TREE) | changes, "t.json")
    with pytest.raises(DataError, match="a list, not an object"):
        parse(Tree, [], "t.json")


def an_example(hint: Any) -> Any:
    """A value of a field's type, none of its parts absent or empty."""
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        needed = [f for f in fields(hint) if f.default is MISSING and f.default_factory is MISSING]
        return hint(**{f.name: an_example(hints[f.name]) for f in needed})  # type: ignore[operator]
    if origin in (Union, UnionType):
        return an_example(next(one for one in arguments if one is not NoneType))
    if origin is tuple:
        return tuple(an_example(one) for one in arguments if one is not Ellipsis)
    if origin is Literal:
        return arguments[0]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {an_example(arguments[0]): an_example(arguments[1])}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return next(iter(hint))
    return {int: 3, float: 1.5, str: "some", bool: True, object: "any", Path: Path("some")}[hint]


def documents() -> list[type[Document]]:
    """By name: a class with slots is made twice, and the first one stays for as long as it likes."""
    found = {one.__name__: one for one in Document.__subclasses__()}
    return [found[name] for name in sorted(found)]


@pytest.mark.parametrize("kind", documents(), ids=lambda kind: kind.__name__)
def test_every_document_of_the_package_comes_back_as_it_was(kind: type[Document]) -> None:
    for hint in get_type_hints(kind).values():
        if get_origin(hint) is not ClassVar:
            an_example(hint)  # a type that JSON cannot give back has no example
    value = an_example(kind)
    assert kind.parse(json.loads(json.dumps(value.dump()))) == value
    with pytest.raises(DataError, match=kind.FILE):
        kind.parse([])
