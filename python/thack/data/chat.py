"""Conversations as token ids: rendered once, whole, and split into the prompt and the turn that is trained.

The ids of prompt and response together are those of transformers' `apply_chat_template` on the conversation up to
and with that turn. A conversation of which several turns are trained gives one sequence for each: what stands before
a turn is its prompt, so that no text of a user or a tool is ever a label.

An encoder-decoder reads two texts: the rendered prompt, with what the tokenizer puts around a text for its encoder, and
the turn, which begins a text of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from thack.data.control_tokens import control_tokens, encode_marked, is_marked, keeps_text, marked
from thack.data.heads import UNBOUNDED, Bounds, Heads
from thack.data.records import Conversation, Message
from thack.data.template import ChatTemplate, TemplateRefusal, common_start
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError

TrainOn = Literal["last", "all", "marked"]


def trained_turns(conversation: Conversation, train_on: TrainOn) -> list[int]:
    """Numbers of the turns that are trained: the assistant's, behind the prompt.

    Raises:
        TemplateRefusal: a mark is no truth value, or stands at a turn that is not the assistant's.
    """
    messages = conversation.messages
    first = max(conversation.prompt_turns, 1)
    own = [i for i, message in enumerate(messages) if i >= first and message.get("role") == "assistant"]
    if train_on == "marked":
        return [i for i, message in enumerate(messages) if _is_marked(message, is_own=i in own)]
    return own if train_on == "all" else [i for i in own if i == len(messages) - 1]


def _is_marked(message: Message, *, is_own: bool) -> bool:
    """`train` (true, false) or `weight` (1, 0) of a message."""
    mark = message.get("train", message.get("weight"))
    if mark not in (None, True, False):
        raise TemplateRefusal(f"a turn's mark is {mark!r}: `train` is true or false, `weight` 1 or 0")
    if mark and not is_own:
        raise TemplateRefusal("a turn is marked that is not an answer of the assistant")
    return bool(mark)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedTurn:
    """The assistant's last turn, and what stands before it, as text.

    Args:
        text: the whole conversation.
        boundary: that number of its characters is the prompt.
        continues: the turn continues the text with which the template prompts for it.
        generated: range of characters that the template marks as the assistant's turn; None: it marks nothing.
    """

    text: str
    boundary: int
    continues: bool
    generated: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and its response as token ids.

    Args:
        prompt_ids: int32 [P].
        response_ids: int32 [R].
        continues: the response continues the prompt with which a model is asked for it.
        teacher_prompt_ids: int32: what the teacher reads in place of the prompt; None: the prompt.
    """

    prompt_ids: np.ndarray
    response_ids: np.ndarray
    continues: bool = True
    teacher_prompt_ids: np.ndarray | None = None


class ChatEncoder:
    """Renders and encodes conversations with one tokenizer and its options."""

    def __init__(self, tokenizer: Tokenizer, bounds: Bounds = UNBOUNDED) -> None:
        self._tokenizer = tokenizer
        self._heads, self._bounds = Heads(tokenizer), bounds
        self._to_mark = control_tokens(tokenizer) if keeps_text(tokenizer) else None

    def render_prompt(self, conversation: Conversation) -> str:
        """The text that the assistant continues.

        Raises:
            TemplateRefusal: the template does not accept the conversation.
            DataError: there is no template.
        """
        conversation = self._with_marks(conversation)
        return self._template(conversation).render(conversation, add_generation_prompt=True).text

    def render_turn(self, conversation: Conversation) -> RenderedTurn:
        """A conversation that ends with the assistant's turn, without what is not kept of it.

        Raises:
            TemplateRefusal: the template does not accept the conversation, or it writes the turns before the response
                in another way once that is there.
            DataError: there is no template.
        """
        conversation = self._with_marks(self._ended_once(conversation))
        template = self._template(conversation)
        before = conversation.until(len(conversation.messages) - 1)
        whole = template.render(conversation)
        generated = _of_last_turn(template, before, whole.generated) if template.marks_generation else None
        prompt = template.render(before, add_generation_prompt=True).text
        boundary = len(common_start(prompt, whole.text))
        if generated is None and boundary < len(prompt) and boundary < len(template.render(before).text):
            raise TemplateRefusal("the chat template writes the turns before the response anew once that is there")
        continues = boundary == len(prompt)
        turn = RenderedTurn(text=whole.text, boundary=boundary, continues=continues, generated=generated)
        return self._bounded(turn)  # now: of a long conversation every turn has all of the text before it

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of rendered texts. The template writes its special tokens itself, a BOS too."""
        plain = iter(self._tokenizer.encode_batch([text for text in texts if not is_marked(text)]))
        return [encode_marked(text, self._tokenizer).ids if is_marked(text) else next(plain) for text in texts]

    def encode_prompts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of rendered prompts, as the model reads them."""
        encoded = self.encode([self._bounded_prompt(text) for text in texts])
        return [self._tokenizer.as_prompt(ids) for ids in encoded] if self._reads_apart else encoded

    @property
    def _reads_apart(self) -> bool:
        return self._tokenizer.facts.encoder_decoder

    def encode_turns(self, turns: Sequence[RenderedTurn]) -> list[Pair]:
        """Prompt and response of every turn; the response is empty where the template writes none."""
        if self._reads_apart:
            return self._encode_apart(turns)
        wholes = self.encode([turn.text for turn in turns])
        prompts = self.encode([turn.text[: turn.boundary] for turn in turns])
        return [self._split(*each) for each in zip(turns, wholes, prompts, strict=True)]

    def _bounded(self, turn: RenderedTurn) -> RenderedTurn:
        """The turn without what is not kept of it; of a prompt that is dropped something longer than is kept."""
        start, end = turn.generated or (turn.boundary, len(turn.text))
        prompt = self._bounded_prompt(turn.text[:start])
        text = prompt + self._heads.of(turn.text[start:], self._bounds.response)
        missing = start - len(prompt)
        if missing and not self._bounds.prompt_end:
            return replace(turn, text=text, boundary=len(prompt), generated=None)
        kept = None if turn.generated is None else (len(prompt), min(end - missing, len(text)))
        if len(text) == len(turn.text) or missing > turn.boundary:
            return turn
        return replace(turn, text=text, boundary=turn.boundary - missing, generated=kept)

    def _bounded_prompt(self, text: str) -> str:
        # Marks come in pairs, and an end might begin within one.
        whole = self._bounds.prompt_end and is_marked(text)
        return text if whole else self._heads.of_prompt(text, self._bounds)

    def _encode_apart(self, turns: Sequence[RenderedTurn]) -> list[Pair]:
        ranges = [turn.generated or (turn.boundary, len(turn.text)) for turn in turns]
        prompts = self.encode_prompts([turn.text[:start] for turn, (start, _) in zip(turns, ranges, strict=True)])
        responses = self.encode([turn.text[start:end] for turn, (start, end) in zip(turns, ranges, strict=True)])
        return [
            Pair(prompt, self._apart(response if turn.generated else self._until_end(response)), turn.continues)
            for turn, prompt, response in zip(turns, prompts, responses, strict=True)
        ]

    def _apart(self, response: np.ndarray) -> np.ndarray:
        return self._tokenizer.behind_bos(response) if len(response) else response  # the template writes none

    def _split(self, turn: RenderedTurn, whole: np.ndarray, prompt: np.ndarray) -> Pair:
        if turn.generated is not None:
            first, last = self._tokens_of(turn.text, turn.generated)
            return Pair(whole[:first], whole[first:last], turn.continues)
        first = shared_length(prompt, whole)  # a token that holds characters of both sides belongs to the response
        return Pair(whole[:first], self._until_end(whole[first:]), turn.continues)

    def _tokens_of(self, text: str, generated: tuple[int, int]) -> tuple[int, int]:
        """First and last + 1 of the tokens that hold a character of the range."""
        found = encode_marked(text, self._tokenizer) if is_marked(text) else self._tokenizer.encode_with_spans(text)
        spans = found.spans
        inside = [i for i, (start, end) in enumerate(spans) if end > generated[0] and start < generated[1]]
        return (inside[0], inside[-1] + 1) if inside else (len(spans), len(spans))

    def _until_end(self, ids: np.ndarray) -> np.ndarray:
        """The response up to its end, and with one where the template writes none."""
        ends = self._tokenizer.ends
        start = len(ids)
        while start and self._may_follow(int(ids[start - 1])):
            start -= 1
        closing = ids[start:]
        found = np.flatnonzero(ends.is_end(closing))
        if not len(found):
            found = np.flatnonzero([self._token(int(i)) in self._tokenizer.special_tokens for i in closing])
        return ids[: start + int(found[0]) + 1] if len(found) else ends.close(ids, by=ends.turn)

    def _may_follow(self, token_id: int) -> bool:
        """Whether a token may stand behind an answer: a control token, or white space."""
        return self._is_control(token_id) or not self._tokenizer.decode([token_id]).strip()

    def _is_control(self, token_id: int) -> bool:
        return self._token(token_id) in self._tokenizer.added_tokens

    def _token(self, token_id: int) -> str:
        return self._tokenizer.token(token_id)

    def _template(self, conversation: Conversation) -> ChatTemplate:
        template = self._tokenizer.template(with_tools=conversation.tools is not None)
        if template is not None:
            return template
        names, chosen = ", ".join(self._tokenizer.facts.templates), self._tokenizer.options.template
        if names:
            raise DataError(
                f"the tokenizer has no chat template {chosen!r}" if chosen else "no chat template is the default one",
                hint=f"set `data.chat_template` to one of: {names}",
            )
        raise DataError(
            "these prompts are conversations, but the tokenizer has no chat template",
            hint="give the text itself as `prompt`, add chat_template.jinja to the model's directory, or name such a "
            "file as `data.chat_template`",
        )

    def _ended_once(self, conversation: Conversation) -> Conversation:
        """Without an end that is written out behind the last answer: the template writes one."""
        *before, last = conversation.messages
        content = last.get("content")
        if not isinstance(content, str) or self._to_mark is not None:
            return conversation
        kept = self._tokenizer.without_end(content)
        return replace(conversation, messages=(*before, {**last, "content": kept}))

    def _with_marks(self, conversation: Conversation) -> Conversation:
        return conversation if self._to_mark is None else marked(conversation, self._to_mark)


def shared_length(a: np.ndarray, b: np.ndarray) -> int:
    """Number of ids with which both begin."""
    size = min(len(a), len(b))
    differing = np.flatnonzero(a[:size] != b[:size])
    return int(differing[0]) if len(differing) else size


def _of_last_turn(
    template: ChatTemplate, before: Conversation, generated: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """The range that the template marks as the last turn; empty where it marks none.

    Raises:
        TemplateRefusal: it marks the turn in several pieces.
    """
    earlier = len(template.render(before).generated)
    own = [(start, end) for start, end in generated[earlier:] if end > start]
    if not own:
        return (0, 0)
    if any(first[1] != second[0] for first, second in pairwise(own)):
        raise TemplateRefusal("the chat template marks the response in several pieces, text between them")
    return own[0][0], own[-1][1]
