"""How a chat template closes the assistant's turn, found by rendering short conversations."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from thack.data.records import Conversation, Message
from thack.data.template import ChatTemplate, Rendering, TemplateRefusal, common_start

_ANSWER = "thackanswer"  # a word that no template writes
_ASKED: Message = {"role": "user", "content": "question"}
_ANSWERED: Message = {"role": "assistant", "content": _ANSWER}


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The end of a turn.

    Args:
        end: the id that closes it; None: the template writes none.
        behind: text that the template marks as the assistant's behind that end, such as a line break.
    """

    end: int | None
    behind: str = ""


def turn_end(template: ChatTemplate, added: Mapping[str, int], declared: Collection[int]) -> TurnEnd:
    """What the template writes behind an answer.

    Args:
        template: the chat template.
        added: ids of the tokenizer's added tokens; an end of turn is one of these.
        declared: ids that the model's files name as ends.

    Returns:
        Of the added tokens behind an answer, the one that ends a last turn and an earlier turn alike; a declared one
        first. Where a template writes nothing behind a last answer, the first token of the next turn, if declared.
    """
    last, between = _answered(template), _answered(template, _ASKED)
    tail, tail_between = _tail(last.text), _tail(between.text)
    shared = common_start(tail, tail_between)
    for text, fallback in ((shared, -1), (tail, 0)):
        tokens = _tokens(text, added)
        if tokens:
            chosen = next((token for token in tokens if added[token] in declared), tokens[fallback])
            return TurnEnd(added[chosen], _marked_behind(last, chosen))
    following = [added[token] for token in _tokens(tail_between, added)[:1] if added[token] in declared]
    return TurnEnd(following[0] if following else None)


def _answered(template: ChatTemplate, *later: Message) -> Rendering:
    """An answered question that `later` turns follow; empty if the template refuses the conversation."""
    try:
        return template.render(Conversation(messages=(_ASKED, _ANSWERED, *later)))
    except TemplateRefusal:
        return Rendering("", ())


def _tail(text: str) -> str:
    return text.partition(_ANSWER)[2]


def _tokens(text: str, added: Mapping[str, int]) -> list[str]:
    """The added tokens in a text, in its order; blank ones are text."""
    known = sorted((token for token in added if token.strip()), key=len, reverse=True)
    return re.findall("|".join(map(re.escape, known)), text) if known else []


def _marked_behind(last: Rendering, end: str) -> str:
    """Text inside the last answer's `{% generation %}` behind the end of turn."""
    if not last.generated:
        return ""
    start = last.text.index(end, last.text.index(_ANSWER)) + len(end)
    return last.text[start : last.generated[-1][1]]
