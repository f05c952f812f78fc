"""Documents of `schema/` in which every text is hostile: made from the classes, so that a new field is covered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

#: What acts: in a browser (it would set the title), in Markdown, in a spreadsheet, in a terminal, on the direction.
RAN = "document.title='ran'"
SCRIPT = f"<script>{RAN}</script>"
IMAGE = f'"><img src=x onerror="{RAN}">'
PAYLOAD = "\n".join(
    [
        f"=cmd|' /C calc'!A0 {SCRIPT}{IMAGE}'><svg/onload={RAN}>",
        f"</style></title></textarea>{SCRIPT}<!-- ]]> --> [a](javascript:{RAN}) `{RAN}` {{{{ 7 * 7 }}}} {{% x %}}",
        "\x1b]0;owned\x07\x1b[31m\x00 safe\u202egpj.exe\u2066 \"quotes\" 'more' | a | $x_1$ \\ &amp; &#60;script>",
    ]
)


def document(cls: type, text: str, **values: object) -> dict[str, Any]:
    """`cls` as plain values with `text` in every text field and in every key; `values` are fields that must fit."""
    hints = get_type_hints(cls)
    found = {field.name: _filled(hints[field.name], text) for field in fields(cls)}
    version = getattr(cls, "SCHEMA", None)
    return ({} if version is None else {"schema": version}) | found | values


def _filled(hint: Any, text: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return document(hint, text)
    if origin in (Union, UnionType):
        return _filled(next(one for one in arguments if one is not type(None)), text)
    if origin is Literal:
        return arguments[0]
    if origin is tuple or (isinstance(origin, type) and issubclass(origin, Sequence)):
        many = origin is not tuple or Ellipsis in arguments
        return [_filled(one, text) for one in (arguments[:1] if many else arguments)]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {_filled(arguments[0], text): _filled(arguments[1], text)}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return next(iter(hint)).value
    return {bool: True, int: 1, float: 1.5}.get(hint, text)
