"""What a chat template may use up: processor time, and the characters and values that it makes."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime

from thack.runtime.memory import memory_bytes

TEMPLATE_BYTES = 1 << 18  # of the text of a template; the longest ones have 30 kB
MOST_S = 20.0  # of processor time, for one conversation
_CHARACTERS = 1 << 26  # that a template may make in all, and besides
_PER_CHARACTER = 2048  # for each character that it is given: templates that join one turn after the other make squares
_LOOK_EVERY = 1 << 23  # characters made between two looks at the memory
_MEMORY = 1 << 28  # bytes that a template may hold at a time, and besides
_MEMORY_PER_CHARACTER = 64  # for each character that it is given
_STEP, _ITEM, _NODE = 16, 8, 64  # in characters: a call, an item of a list, a value looked at
_DIGITS = 1 << 14  # bits of an integer
_WIDTH = 1 << 16  # of a column in a format
_WIDTHS = re.compile(r"(?:%[^a-zA-Z%]*?|\{[^}]*?[:.][^}]*?)(\d{5,})")
_PADDING = ("center", "ljust", "rjust", "zfill", "expandtabs")


class TemplateExhausted(RuntimeError):
    """A template that uses up more time or memory than any conversation needs."""


class Meter:
    """Counts what one rendering uses up.

    Args:
        given: what the template is given; the more of it, the more may be made.
    """

    def __init__(self, given: object) -> None:
        self._left = self._unseen = 0
        size = self._walk(given, 0)
        self._left = _CHARACTERS + _PER_CHARACTER * size
        self._most_bytes = _MEMORY + _MEMORY_PER_CHARACTER * size
        self._began_bytes: int | None = None  # known once so much was made that it may matter
        self._ends_s = time.thread_time() + MOST_S  # of this thread: other threads and other programs do not count
        self._steps = 0
        self.written = 0  # characters of the text so far

    def spend(self, count: int) -> None:
        """Count characters that are about to be made, or have been.

        Raises:
            TemplateExhausted: there are too many.
        """
        self._left -= count
        if self._left < 0:
            raise TemplateExhausted("it makes more text and values than any conversation needs")
        self._unseen += count
        if self._unseen > _LOOK_EVERY:
            self._look(count)

    def _look(self, count: int) -> None:
        """See what the process has grown by, with `count` characters that are about to be made."""
        self._unseen, now = 0, memory_bytes()
        if self._began_bytes is None:
            self._began_bytes = now
        if now - self._began_bytes + 4 * count > self._most_bytes:  # a character may take four bytes
            raise TemplateExhausted("it holds more memory than any conversation needs")

    def step(self) -> None:
        """Count an iteration or a call."""
        self.spend(_STEP)
        self._steps += 1
        if self._steps % 64 == 0 and time.thread_time() > self._ends_s:
            raise TemplateExhausted(f"it computes for more than {MOST_S:.0f} seconds")

    def made(self, value: object, *, is_new: bool = True) -> None:
        """Count a value that was made: a list inside itself many times over counts many times.

        What is not new, such as one message of many, counts once; it was given, or counted when it was made.
        """
        if isinstance(value, str | bytes):
            self.spend(len(value))
        elif isinstance(value, list | tuple | dict | set):
            nests = is_new or any(isinstance(item, list | tuple) for item in value)
            self._walk(value, _NODE) if nests else self.spend(_ITEM * len(value))

    def characters(self, value: object) -> int:
        """About how many characters a value has as text; looking at it counts."""
        return len(value) if isinstance(value, str | bytes) else self._walk(value, _NODE)

    def _walk(self, value: object, cost: int) -> int:
        """The size of nested values as text, at a cost for each."""
        size, waiting = 0, [value]
        while waiting:
            one = waiting.pop()
            if isinstance(one, str | bytes):
                size += len(one)
                continue
            items = _items(one)
            self.spend(cost * (1 + len(items)))
            size += _ITEM * (1 + len(items))
            waiting.extend(items)
        return size

    def before_operator(self, operator: str, left: object, right: object) -> None:
        """Count what an operator is about to make."""
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(times, int) and isinstance(many, str | bytes | list | tuple):
                    self.spend(len(many) * max(times, 0) * (1 if isinstance(many, str | bytes) else _ITEM))
        if operator == "%" and isinstance(left, str):
            self.before_format(left, right if isinstance(right, tuple) else (right,))
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if operator in ("**", "*") and bits > _DIGITS:
                raise TemplateExhausted("it computes a number of thousands of digits")

    def before_format(self, form: str, values: Sequence[object]) -> None:
        """Count what `form % values` or `form.format(*values)` is about to make."""
        widest = max(map(int, _WIDTHS.findall(form)), default=0)
        if "*" in form or re.search(r"\{[^}]*\{", form):  # a width among the values
            widest = max([widest, *(abs(value) for value in values if isinstance(value, int))])
        if widest > _WIDTH:
            raise TemplateExhausted(f"it fills a column of {widest:,} characters")
        longest = max((self.characters(value) for value in values), default=0)
        self.spend(len(form) + max(form.count("%"), form.count("{")) * max(longest, widest))

    def before_method(self, text: str, name: str, arguments: Sequence[object]) -> None:
        """Count what a method of a text is about to make."""
        numbers = [argument for argument in arguments if isinstance(argument, int)]
        if name in _PADDING and numbers:
            self.spend(max(numbers[0], 0) * (text.count("\t") if name == "expandtabs" else 1))
        elif name == "replace" and len(arguments) >= 2:
            old, new = str(arguments[0]), str(arguments[1])
            self.spend(len(text) + text.count(old) * len(new))
        elif name in ("split", "rsplit", "splitlines"):
            between = arguments[0] if arguments and isinstance(arguments[0], str) and arguments[0] else None
            self.spend(_ITEM * (text.count(between) + 1) if between else len(text) * _ITEM // 2)
        elif name == "translate" and isinstance(arguments[0], Mapping):
            self.spend(len(text) * max(map(self.characters, arguments[0].values()), default=0))
        elif name == "join" and isinstance(arguments[0], str | list | tuple):
            self.before_join(text, arguments[0])

    def before_join(self, between: str, items: Sequence[object]) -> None:
        """Count what `between.join(items)` is about to make."""
        self.spend(len(between) * len(items))
        self.spend(len(items) if isinstance(items, str) else sum(map(self.characters, items)))


# Of the rendering that is under way.
meter: ContextVar[Meter | None] = ContextVar("meter", default=None)
spans: ContextVar[list[tuple[int, int]] | None] = ContextVar("spans", default=None)  # that the template marks
now: ContextVar[datetime | None] = ContextVar("now", default=None)  # what `strftime_now` formats


def _items(value: object) -> Sequence[object]:
    """What a container holds; a namespace of Jinja is one."""
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set):
        return list(value)
    return list(held.values()) if (held := namespace_of(value)) is not None else ()


def namespace_of(value: object) -> Mapping[str, object] | None:
    """What a namespace of Jinja holds; None of anything else. An undefined value refuses to be asked by `getattr`."""
    try:
        found = object.__getattribute__(value, "_Namespace__attrs")
    except AttributeError:
        return None
    return found if isinstance(found, dict) else None
