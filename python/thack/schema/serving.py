"""served.json: the teacher behind a server, as a cache was begun with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from thack.schema.document import Document

LogProbs = Literal["raw", "processed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAnswer:
    """The most likely ids behind one probe prompt.

    Args:
        prompt: its ids.
        ids: the most likely next ids.
        log_probs: of these ids, in nats.
    """

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    log_probs: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedTeacher(Document):
    """What identifies a served teacher: servers have no hash of weights, so it is known by its answers.

    Args:
        model: name on the server.
        dialect: what the server speaks.
        log_probs: what its log-probabilities of generated tokens are: of the logits, or of what sampling made of them.
        probes: its answers to the probe prompts.
    """

    SCHEMA: ClassVar[int] = 1
    FILE: ClassVar[str] = "served.json"

    model: str
    dialect: str
    log_probs: LogProbs
    probes: tuple[ProbeAnswer, ...]
