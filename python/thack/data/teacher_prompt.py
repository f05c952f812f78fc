"""A prompt of the teacher's own: the teacher may see more than the student, in front of the same response.

The response has to be the same ids behind both prompts, since row n of the teacher predicts its token n. Both sides are
rendered and encoded alike, and a record whose response differs is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from thack.data.chat import Pair
from thack.data.chat_options import ChatOptions
from thack.data.records import Conversation, Message, Record, RecordRefusal
from thack.data.tokenizer import Tokenizer
from thack.errors import UsageError

SLOT = "{prompt}"


def for_teacher(record: Record, options: ChatOptions) -> Record | None:
    """The record as the teacher reads it: its own prompt, then the system text or template of the settings.

    Returns:
        None where the teacher reads what the student reads.

    Raises:
        RecordRefusal: its prompt is of another form than the student's, or a setting does not fit it.
    """
    given = record.teacher_prompt
    if given is None and not (options.teacher_system or options.teacher_template):
        return None
    if record.is_text:
        raise RecordRefusal("a raw `text` has no prompt in whose place the teacher could read another")
    if record.conversation is not None:
        return replace(record, conversation=_conversation(record.conversation, given, options))
    if not isinstance(given, str | None):
        raise RecordRefusal("`teacher_prompt` is a list of turns, and `prompt` a text")
    if options.teacher_system:
        raise RecordRefusal("data.teacher_system is for conversations: use data.teacher_template for a text")
    return replace(record, prompt=_filled(options.teacher_template, record.prompt if given is None else given))


def _conversation(own: Conversation, given: str | tuple[Message, ...] | None, options: ChatOptions) -> Conversation:
    if isinstance(given, str):
        raise RecordRefusal("`teacher_prompt` is a text, and the prompt a list of turns")
    asked = own.messages[: own.num_prompt_turns]
    turns = list(asked if given is None else given)
    if options.teacher_system:
        turns = [{"role": "system", "content": options.teacher_system}, *turns[_has_system(turns) :]]
    if options.teacher_template:
        content = turns[-1].get("content")
        if not isinstance(content, str):
            raise RecordRefusal("data.teacher_template needs a last turn of text")
        turns[-1] = {**turns[-1], "content": _filled(options.teacher_template, content)}
    shift = len(turns) - len(asked)
    return replace(
        own,
        messages=(*turns, *own.messages[own.num_prompt_turns :]),
        prompt_turns=own.prompt_turns + shift if own.prompt_turns else 0,
    )


def _has_system(turns: Sequence[Message]) -> bool:
    return bool(turns) and turns[0].get("role") == "system"


def _filled(template: str, prompt: str) -> str:
    return template.replace(SLOT, prompt) if template else prompt


def with_teacher_side(
    own: list[Pair] | RecordRefusal, teacher: list[Pair] | RecordRefusal, tokenizer: Tokenizer
) -> list[Pair] | RecordRefusal:
    """The student's pairs of a record with the prompts that the teacher reads; a refusal where the responses differ."""
    if isinstance(own, RecordRefusal):
        return own
    if isinstance(teacher, RecordRefusal):
        return RecordRefusal(f"as the teacher reads it: {teacher}")
    if len(own) != len(teacher):
        return RecordRefusal(f"{len(own)} trained turns, and {len(teacher)} as the teacher reads it")
    for one, other in zip(own, teacher, strict=True):
        if not np.array_equal(one.response_ids, other.response_ids):
            return RecordRefusal(_difference(one.response_ids, other.response_ids, tokenizer))
    return [replace(one, teacher_prompt_ids=other.prompt_ids) for one, other in zip(own, teacher, strict=True)]


def refuse_teacher_prompts(there_are: bool, why: str) -> None:
    """Refuse prompts of the teacher's own where only one prompt is read.

    Raises:
        UsageError: `there_are` some.
    """
    if there_are:
        raise UsageError(
            f"{why}, and the data has prompts that the teacher alone reads",
            hint="capture with cache-logits and a local `teacher` (`generate = true` lets it write the responses), or "
            "leave out `teacher_prompt`, `data.teacher_system` and `data.teacher_template`",
        )


def _difference(own: np.ndarray, teacher: np.ndarray, tokenizer: Tokenizer) -> str:
    size = min(len(own), len(teacher))
    differing = np.flatnonzero(own[:size] != teacher[:size])
    first = int(differing[0]) if len(differing) else size
    named = [repr(tokenizer.token(int(ids[first]))) if first < len(ids) else "its end" for ids in (own, teacher)]
    return (
        f"the response is rendered in another way behind the teacher's prompt: token {first} of it is {named[0]} for "
        f"the student and {named[1]} for the teacher"
    )
