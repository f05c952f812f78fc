"""Chat templates: Jinja text of a model's directory that turns a conversation into one text, as in transformers.

A template is code of a stranger. It runs in Jinja's sandbox, sees plain JSON values alone, and may use up so much time
and memory (`template_meter`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from thack.data import template_meter
from thack.data.records import Conversation, RecordRefusal
from thack.data.template_meter import Meter

_REASONING = ("reasoning_content", "thinking", "reasoning")  # names of one thing; the first is the standard one


class TemplateRefusal(RecordRefusal):
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
        from jinja2 import TemplateError  # slow to import, as below

        own: dict[str, object] = {
            "messages": _messages(conversation.messages),
            "tools": None if conversation.tools is None else list(conversation.tools),
            "documents": None if conversation.documents is None else list(conversation.documents),
            "add_generation_prompt": add_generation_prompt,
        }
        beside = {**self.tokens, **self.variables, **conversation.template_variables}
        if taken := sorted(own.keys() & beside.keys()):
            raise TemplateRefusal(f"{taken[0]} is no template variable: it is the conversation's own")
        try:
            return self._rendered({**own, **beside})
        except TemplateError as error:
            raise TemplateRefusal(f"the chat template refuses the conversation: {error}") from error
        except Exception as error:  # whatever a stranger's code raises
            reason = str(error) or type(error).__name__
            raise TemplateRefusal(f"the chat template fails on the conversation: {reason}") from error

    def _rendered(self, given: Mapping[str, object]) -> Rendering:
        meter = Meter(given)
        spans: list[tuple[int, int]] = []
        blocks: list[str] = []
        tokens = (
            template_meter.now.set(self.now),
            template_meter.spans.set(spans),
            template_meter.meter.set(meter),
        )
        try:
            for block in _compiled(self.source).generate(given):
                blocks.append(block)
                meter.spend(len(block))
                meter.written += len(block)
        finally:
            template_meter.now.reset(tokens[0])
            template_meter.spans.reset(tokens[1])
            template_meter.meter.reset(tokens[2])
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
    except (TemplateError, RecursionError):  # `render` says what is wrong
        return _Parsed(False, frozenset())
    literals = {node.data for node in tree.find_all(nodes.TemplateData)}
    literals |= {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    marks = any(getattr(node.call.node, "name", "") == "_generated" for node in tree.find_all(nodes.CallBlock))
    return _Parsed(marks, frozenset(literals))


def _environment() -> Any:
    from thack.data.template_sandbox import environment  # with Jinja, which takes 50 ms: most data has no conversation

    return environment()


@cache
def _compiled(source: str) -> Any:
    return _environment().from_string(source)


def common_start(a: str, b: str) -> str:
    """The longest text with which both begin."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return a[:low]
