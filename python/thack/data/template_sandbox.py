"""The sandbox in which chat templates run: Jinja with what transformers offers, and every growth counted by a `Meter`.

Operators, calls and filters are intercepted. What Jinja compiles to plain Python (loops, `~`, slices, literals) is
rewritten to calls first. Imported with the first template: Jinja takes 50 ms, and most data has no conversation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any

from jinja2 import TemplateError, pass_context
from jinja2.utils import _PassArg

from thack.data.template_environment import Generation, Metered, PublicNamespace, as_text
from thack.data.template_meter import Meter, TemplateExhausted, meter, namespace_of, now

_MOST_ARGUMENT = 1 << 20  # an integer given to a filter
_SLOW = ("urlize", "striptags", "wordwrap", "xmlattr", "pprint")  # more than linear in the length of the text
_MOST_SLOW = 1 << 14
# Filters that do not make a text of their value.
_SEQUENCE = {
    *("attr", "batch", "count", "d", "default", "dictsort", "first", "groupby", "items", "join", "last", "length"),
    *("list", "map", "max", "min", "random", "reject", "rejectattr", "reverse", "select", "selectattr", "slice"),
    *("sort", "sum", "unique"),
}


@cache
def environment() -> Any:
    """The one environment of all templates."""

    def refuse(message: str) -> None:
        raise TemplateError(message)

    made = Metered(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation], finalize=_shown
    )
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = lambda form: (now.get() or datetime.now()).strftime(form)
    made.globals["namespace"] = PublicNamespace
    del made.globals["lipsum"]  # text at random
    made.filters["tojson"] = _as_json  # jinja's own escapes <, > and &
    for name, function in list(made.filters.items()):
        made.filters[name] = _metered_filter(name, function)
    return made


def _shown(value: object) -> object:
    """A value that is about to be written as text."""
    return as_text(value) if isinstance(value, list | tuple | dict | set) or namespace_of(value) is not None else value


def _metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    wanted = _PassArg.from_obj(function)

    @pass_context  # so that Jinja does not compute it when it compiles
    def filtered(context: Any, value: Any, *arguments: Any, **options: Any) -> Any:
        metered = meter.get()
        if metered is not None:
            metered.step()
            value = _before_filter(metered, name, value, [*arguments, *options.values()])
        first = {
            _PassArg.context: [context],
            _PassArg.eval_context: [context.eval_ctx],
            _PassArg.environment: [context.environment],
        }.get(wanted, [])  # type: ignore[arg-type]
        found = function(*first, value, *arguments, **options)
        if metered is not None:
            metered.made(found, is_new=False)
        return found

    return filtered


def _before_filter(metered: Meter, name: str, value: Any, arguments: list[Any]) -> Any:
    """Count what a filter is about to make; its value, as a list where it can be gone through only once."""
    for argument in arguments:
        if isinstance(argument, int) and abs(argument) > _MOST_ARGUMENT:
            raise TemplateExhausted(f"it calls the filter {name} with {argument:,}")
    size = 0 if name in _SEQUENCE else metered.characters(value)
    metered.spend(0 if isinstance(value, str) else size)
    if name in _SLOW and size > _MOST_SLOW:
        raise TemplateExhausted(f"it calls the filter {name} on {size:,} characters")
    widths = [len(one) if isinstance(one, str) else one for one in arguments if isinstance(one, str | int)]
    if name == "format":
        metered.before_format(str(value), arguments)
    elif name == "replace" and isinstance(value, str):
        metered.before_method(value, "replace", arguments)
    elif name == "indent":
        metered.spend((str(value).count("\n") + 1) * max([4, *widths]))
    elif name in ("center", "batch", "slice", "tojson", "wordwrap"):
        metered.spend(max([1, *widths]) * (size if name in ("tojson", "wordwrap") else 8))
    elif name in ("join", "sum"):
        value = list(value)
        metered.before_join(str(arguments[0]) if name == "join" and arguments else "", value)
    return value


def _as_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
