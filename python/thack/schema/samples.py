"""What a run keeps of its evaluations for people to read: samples.jsonl, and held_out.jsonl with the prompts' texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from thack.schema.document import Document
from thack.schema.metrics import Role

SAMPLES_FILE = "samples.jsonl"
PROMPTS_FILE = "held_out.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow(Document):
    """A line of samples.jsonl: a response to a held-out prompt, token by token."""

    FILE: ClassVar[str] = SAMPLES_FILE

    step: int
    prompt_id: str
    writer: Role | None  # None: the student
    reference: Role  # whose distance to the student is given
    tokens: tuple[str, ...]  # pieces of the response's text, with its end written out
    nats: tuple[float, ...]  # KL(reference‖student) at each token; where tokenizers differ, the log ratio of its chunk
    dropped: int = 0  # further tokens that were not kept


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow(Document):
    """A line of held_out.jsonl: a prompt of the evaluation set, in its order, as in per_prompt.jsonl."""

    FILE: ClassVar[str] = PROMPTS_FILE

    prompt_id: str
    text: str  # its beginning
