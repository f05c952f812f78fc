"""Chat templates: Jinja text of a model's directory that turns a conversation into one text, as in transformers.

A template is code of a stranger. It runs in Jinja's sandbox and sees plain JSON values alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from thack.data.records import Conversation

_REASONING = ("reasoning_content", "thinking", "reasoning")  # names of one thing; the first is the standard one
_LONGEST_TEXT = 1 << 26  # characters: a template that loops fills the memory
_now: ContextVar[datetime | None] = ContextVar("now", default=None)
_spans: ContextVar[tuple[list[str], list[tuple[int, int]]] | None] = ContextVar("spans", default=None)


class TemplateRefusal(ValueError):
    """A conversation that the template does not accept: why."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """A conversation as text.

    Args:
        text: what the template writes.
        generated: ranges of characters, [start, end), that the template marks by `{% generation %}` as the assistant's.
    """

    text: str
    generated: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """One template, and what it is rendered with.

    Args:
        source: Jinja text.
        tokens: texts of the tokenizer's special tokens, by name: bos_token, eos_token, …
        variables: the user's template variables, such as enable_thinking.
        now: what `strftime_now` formats; None: the time of the call.
    """

    source: str
    tokens: Mapping[str, str]
    variables: Mapping[str, object]
    now: datetime | None = None

    @property
    def marks_generation(self) -> bool:
        """Whether the template says itself which text is the assistant's."""
        return _parsed(self.source).marks_generation

    @property
    def asks_for_date(self) -> bool:
        """Whether the text may depend on the day."""
        return "strftime_now" in self.source

    @property
    def literals(self) -> str:
        """Every text that stands in the template itself, with NUL between two."""
        return "\0".join(sorted(_parsed(self.source).literals))

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = False) -> Rendering:
        """The conversation as text; with `add_generation_prompt` it ends where the assistant is to begin.

        Raises:
            TemplateRefusal: the template does not accept the conversation, or is no template.
        """
        from jinja2 import TemplateError  # jinja2 takes 50 ms, and most data has no conversation

        blocks: list[str] = []
        spans: list[tuple[int, int]] = []
        values = {**self.tokens, **self.variables, **conversation.template_variables}
        tokens = (_now.set(self.now), _spans.set((blocks, spans)))
        try:
            size = 0
            for block in _compiled(self.source).generate(
                messages=_messages(conversation.messages),
                tools=None if conversation.tools is None else list(conversation.tools),
                documents=None if conversation.documents is None else list(conversation.documents),
                add_generation_prompt=add_generation_prompt,
                **values,
            ):
                blocks.append(block)
                size += len(block)
                if size > _LONGEST_TEXT:
                    raise TemplateRefusal(f"the chat template writes more than {_LONGEST_TEXT:,} characters")
        except TemplateError as error:
            raise TemplateRefusal(f"the chat template refuses the conversation: {error}") from error
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
            if isinstance(error, TemplateRefusal):
                raise
            raise TemplateRefusal(f"the chat template fails on the conversation: {error}") from error
        finally:
            _now.reset(tokens[0])
            _spans.reset(tokens[1])
        return Rendering("".join(blocks), tuple(spans))


def _messages(messages: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """As transformers hands them to a template: keys without a value left out, reasoning under all its names."""
    found = []
    for given in messages:
        message = {key: value for key, value in given.items() if value is not None}
        reasoning = next((message[key] for key in _REASONING if key in message), None)
        if reasoning is not None:
            message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
        found.append(message)
    return found


@dataclass(frozen=True, slots=True)
class _Parsed:
    marks_generation: bool
    literals: frozenset[str]


@cache
def _parsed(source: str) -> _Parsed:
    from jinja2 import TemplateError, nodes

    try:
        tree = _environment().parse(source)
    except TemplateError:  # `render` says what is wrong
        return _Parsed(False, frozenset())
    literals = {node.data for node in tree.find_all(nodes.TemplateData)}
    literals |= {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    marks = any(getattr(node.call.node, "name", "") == "_generated" for node in tree.find_all(nodes.CallBlock))
    return _Parsed(marks, frozenset(literals))


@cache
def _compiled(source: str) -> Any:
    return _environment().from_string(source)


@cache
def _environment() -> Any:
    """Jinja with what transformers offers to templates."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %}` marks what the assistant writes. It changes no text."""

        tags = {"generation"}  # noqa: RUF012 - as jinja declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_generated"), [], [], body).set_lineno(line)

        def _generated(self, caller: Callable[[], str]) -> str:
            text = caller()
            found = _spans.get()
            if found is not None:
                start = len("".join(found[0]))
                found[1].append((start, start + len(text)))
            return text

    class PublicNamespace(Namespace):
        """A namespace without names that begin with an underscore."""

        def __setitem__(self, name: str, value: object) -> None:
            if str(name).startswith("_"):
                raise TemplateError(f"a template may not set {name}")
            super().__setitem__(name, value)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def as_json(
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: (_now.get() or datetime.now()).strftime(form)
    environment.globals["namespace"] = PublicNamespace
    environment.filters["tojson"] = as_json  # jinja's own escapes <, > and &
    return environment


def common_start(a: str, b: str) -> str:
    """The longest text with which both begin."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return a[:low]
