"""One prompt with at most one response, or a conversation, or a raw text, as a file of data holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

Message = Mapping[str, object]  # role, content, tool_calls, …: plain JSON values, passed to the template as they are


class RecordRefusal(ValueError):
    """A record that cannot be encoded: why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What a chat template is given.

    Args:
        messages: turns, each with a role.
        tools: JSON schemas of the tools that the assistant may call; None: there are none.
        documents: texts that a template for retrieval shows.
        template_variables: further variables of the template, for this conversation alone.
        prompt_turns: the number of leading turns that belong to the prompt, whatever is trained.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, object], ...] | None = None
    documents: tuple[Mapping[str, object], ...] | None = None
    template_variables: Mapping[str, object] = field(default_factory=dict)
    prompt_turns: int = 0

    def until(self, turn: int) -> Conversation:
        """The conversation without its turns from number `turn` on."""
        return replace(self, messages=self.messages[:turn])

    @property
    def num_prompt_turns(self) -> int:
        """Turns before the response: all but a last one of the assistant."""
        is_answered = bool(self.messages) and self.messages[-1].get("role") == "assistant"
        return len(self.messages) - is_answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A prompt as text, and its response as text, as token ids that a model wrote, or not at all.

    Args:
        prompt_id: stable name of the prompt.
        prompt: the prompt as text; of a conversation, the JSON of its turns before the response.
        response: the response as text; of a conversation, the content of the assistant's last turn.
        response_ids: the response as the ids that a model wrote.
        conversation: the conversation, with the assistant's last turn if there is one.
        sample: which of several responses to the same prompt.
        stopped: `response_ids` ended by themselves, whether or not their end is among them.
        was_cut: `response_ids` reached the maximum length of what wrote them.
        is_text: `prompt` is empty, and `response` a raw text that is trained on as a whole.
        teacher_prompt: a prompt that the teacher alone reads, of the same form as the student's; None: there is none.
        place: file and line, for errors.
    """

    prompt_id: str
    prompt: str
    response: str | None = None
    response_ids: tuple[int, ...] | None = None
    conversation: Conversation | None = None
    sample: int = 0
    stopped: bool = False
    was_cut: bool = False
    is_text: bool = False
    teacher_prompt: str | tuple[Message, ...] | None = None
    place: str = field(default="", compare=False)

    @property
    def identity(self) -> str:
        """The text that an id stands for."""
        return (self.response or "") if self.is_text else self.prompt

    @property
    def name(self) -> str:
        """For errors: where the record stands, or which prompt it is."""
        return self.place or f"prompt {self.prompt_id}"


def prompt_id(prompt: str) -> str:
    """A stable name of a prompt: 16 hex digits of the hash of its text."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def prompt_row(record: Record) -> dict[str, object]:
    """The prompt as a row of JSON has it, so that it is read again as the same."""
    conversation = record.conversation
    if conversation is None:
        return {"prompt": record.prompt}
    beside: dict[str, object] = {
        "tools": conversation.tools,
        "documents": conversation.documents,
        "chat_template_kwargs": conversation.template_variables or None,
    }
    asked = conversation.messages[: conversation.num_prompt_turns]
    return {"messages": list(asked)} | {key: value for key, value in beside.items() if value is not None}
