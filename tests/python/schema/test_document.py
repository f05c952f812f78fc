"""Dataclasses to JSON documents and back; what does not fit is refused, with its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from thack.errors import DataError
from thack.schema.document import dump, parse


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
