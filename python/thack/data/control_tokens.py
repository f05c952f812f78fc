"""Control tokens that stand in the data as text: counted, and on request kept as text.

A tokenizer turns `<|im_start|>` in a user's text into the control token, as transformers does. With
`data.control_tokens = "text"` it stays text: strings of the data are marked before the template joins them, and what
was marked is encoded without control tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from thack.data.records import Conversation, Record
from thack.data.tokenizer import Encoded, Tokenizer
from thack.errors import DataError

_START, _END = "\U000f0000", "\U000f0001"  # around a control token of the data; characters of a private range


def control_tokens(tokenizer: Tokenizer) -> re.Pattern[str]:
    """Matches special tokens, and the other added tokens that the chat template writes."""
    template = tokenizer.template()
    literals = "" if template is None else template.literals
    return _any_of(
        token
        for token in tokenizer.added_tokens
        if token in tokenizer.special_tokens or (token.strip() and token in literals)
    )


def keeps_text(tokenizer: Tokenizer) -> bool:
    """Whether the options keep control tokens of the data as text."""
    return tokenizer.options.control_tokens == "text"


def encode_text(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """int32 ids of texts of the data, their control tokens as the options say."""
    return tokenizer.encode_batch(texts, as_text=keeps_text(tokenizer))


def encode_inside(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """int32 ids of a text of the data that stands behind another one."""
    return tokenizer.encode_inside(text, as_text=keeps_text(tokenizer))


def count_with_control_tokens(records: Sequence[Record], tokenizer: Tokenizer) -> int:
    """Records with a control token written out in a text."""
    known = control_tokens(tokenizer)
    return sum(_holds(_texts(record), known) for record in records)


def _texts(record: Record) -> list[object]:
    conversation = record.conversation
    if conversation is None:
        return [record.prompt, record.response]
    return [conversation.messages, conversation.tools, conversation.documents]


def _holds(value: object, known: re.Pattern[str]) -> bool:
    if isinstance(value, str):
        return known.search(value) is not None
    if isinstance(value, Mapping):
        return any(_holds(item, known) for item in value.values())
    return isinstance(value, list | tuple) and any(_holds(item, known) for item in value)


def marked(conversation: Conversation, known: re.Pattern[str]) -> Conversation:
    """The conversation with marks around the control tokens in its texts."""
    return Conversation(
        messages=_mark(conversation.messages, known),
        tools=_mark(conversation.tools, known),
        documents=_mark(conversation.documents, known),
        template_variables=_mark(conversation.template_variables, known),
        prompt_turns=conversation.prompt_turns,
    )


def _mark(value: Any, known: re.Pattern[str]) -> Any:
    """JSON values with every text marked; keys are left as they are."""
    if isinstance(value, str):
        return known.sub(rf"{_START}\g<0>{_END}", value.replace(_START, "").replace(_END, ""))
    if isinstance(value, Mapping):
        return {key: _mark(item, known) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mark(item, known) for item in value)
    return value


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the tokens, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


def is_marked(text: str) -> bool:
    """Whether a rendered text holds marks."""
    return _START in text or _END in text


def encode_marked(text: str, tokenizer: Tokenizer) -> Encoded:
    """A rendered text as ids: what is marked as ordinary text, all else as usual, the marks left out.

    Raises:
        DataError: the tokenizer turns a marked token into its control id even as text.
    """
    known = _any_of(tokenizer.added_tokens)
    ids: list[np.ndarray] = []
    spans: list[tuple[int, int]] = []
    for piece in re.finditer(rf"{_START}(?P<token>{known.pattern}){_END}|[{_START}{_END}]|[^{_START}{_END}]+", text):
        token = piece["token"]
        if token is None and piece[0] in (_START, _END):
            continue  # the template took a marked token apart: it joins nothing
        found = _encode_piece(token or piece[0], tokenizer, as_text=token is not None, begins=not ids)
        if token is not None and tokenizer.added_tokens[token] in found.ids:
            raise DataError(
                f"{token!r} cannot be kept as text: the tokenizer has no other ids for it",
                hint="use `data.control_tokens = control`, or take it out of the data",
            )
        offset = piece.start() + (token is not None)
        ids.append(found.ids)
        spans += [(offset + start, offset + end) for start, end in found.spans]
    return Encoded(np.concatenate(ids) if ids else np.empty(0, np.int32), tuple(spans))


def _encode_piece(piece: str, tokenizer: Tokenizer, *, as_text: bool, begins: bool) -> Encoded:
    """A piece from within a text: behind a line break, so that it gets no space of a beginning."""
    if begins:
        return tokenizer.encode_with_spans(piece, as_text=as_text)
    whole, line_break = (tokenizer.encode_with_spans(t, as_text=as_text) for t in ("\n" + piece, "\n"))
    size = len(line_break.ids)
    if not np.array_equal(whole.ids[:size], line_break.ids):
        return tokenizer.encode_with_spans(piece, as_text=as_text)
    return Encoded(whole.ids[size:], tuple((start - 1, end - 1) for start, end in whole.spans[size:]))
