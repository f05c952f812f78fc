"""What a run keeps of its evaluations for people to read: samples.jsonl, and held_out.jsonl with the prompts' texts."""

from __future__ import annotations

from dataclasses import dataclass

from thack.schema import document
from thack.schema.metrics import Role

SAMPLES_FILE = "samples.jsonl"
PROMPTS_FILE = "held_out.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """A line of samples.jsonl: a response to a held-out prompt, token by token."""

    step: int
    prompt_id: str
    writer: Role | None  # None: the student
    reference: Role  # whose distance to the student is given
    tokens: tuple[str, ...]  # pieces of the response's text, with its end written out
    nats: tuple[float, ...]  # KL(reference‖student) at each token; where tokenizers differ, the log ratio of its chunk
    dropped: int = 0  # further tokens that were not kept

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return document.dump(self)

    @classmethod
    def parse(cls, raw: object, what: str = SAMPLES_FILE) -> SampleRow:
        """The inverse of `dump`.

        Raises:
            DataError: `raw` is not a sample.
        """
        return document.parse(cls, raw, what)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow:
    """A line of held_out.jsonl: a prompt of the evaluation set, in its order, as in per_prompt.jsonl."""

    prompt_id: str
    text: str  # its beginning

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return document.dump(self)

    @classmethod
    def parse(cls, raw: object, what: str = PROMPTS_FILE) -> PromptRow:
        """The inverse of `dump`.

        Raises:
            DataError: `raw` is not a prompt.
        """
        return document.parse(cls, raw, what)
