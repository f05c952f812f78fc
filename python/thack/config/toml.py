"""Settings as plain values and as TOML text."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from thack.config.reference import Field, fields_of


def to_dict(settings: object) -> dict[str, object]:
    """Plain nested values, ready for JSON: paths become strings, tuples lists."""
    return {name: _plain(getattr(settings, name)) for name in fields_of(type(settings))}


def to_toml(settings: object, *, comments: bool = False) -> str:
    """The settings as a TOML file that `load` reads back; with `comments`, each key's help beside it."""
    return "\n".join(_table(settings, "", comments)).strip() + "\n"


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _table(settings: object, prefix: str, comments: bool) -> list[str]:
    lines: list[str] = []
    tables: list[str] = []
    for name, field in fields_of(type(settings)).items():
        value = getattr(settings, name)
        if field.is_group:
            tables += ["", f"[{prefix}{name}]", *_table(value, f"{prefix}{name}.", comments)]
        elif value is not None:  # TOML has no null
            line = f"{name} = {_value(value)}"
            lines.append(f"{line:<40} # {_comment(field)}" if comments else line)
    return lines + tables


def _comment(field: Field) -> str:
    return "; ".join(filter(None, (" | ".join(field.choices), field.help)))


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
