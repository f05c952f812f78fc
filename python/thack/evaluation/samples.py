"""Responses of an evaluation kept token by token, with the student's distance at each: no forward more than it takes.

B sequences of a batch, N response tokens packed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.evaluation.eval_set import EvalSet
from thack.files import canonical_json, write_bytes
from thack.runtime.process_group import ProcessGroup
from thack.schema.metrics import Role
from thack.schema.samples import PROMPTS_FILE, PromptRow, SampleRow

_MOST_TOKENS = 160  # of a response
_MOST_TEXT = 400  # characters of a held-out prompt
_PARTIAL = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    example: int
    writer: Role | None
    ids: tuple[int, ...]
    nats: tuple[float, ...]


class KeptResponses:
    """Collects the responses to the first prompts of an evaluation set, over all ranks."""

    def __init__(self, num_prompts: int, reference: Role) -> None:
        self._num_prompts = num_prompts
        self.reference = reference
        self._kept: list[_Kept] = []

    @property
    def num_prompts(self) -> int:
        """Whose responses are kept, from the first one on."""
        return self._num_prompts

    def add_one(self, writer: Role | None, sequence: TokenSequence, nats_R: np.ndarray) -> None:
        """One response, with the log ratio of `chunk_ratios` at each token; on one rank alone."""
        ids, nats = tuple(sequence.response_ids.tolist()), tuple(nats_R.tolist())
        self._kept.append(_Kept(example=sequence.example, writer=writer, ids=ids, nats=nats))

    def add(self, writer: Role | None, sequences: Sequence[TokenSequence], nats_N: Tensor) -> None:
        """A batch of responses by `writer` (None: the student), with KL(reference‖student) at each token."""
        if all(sequence.example >= self._num_prompts for sequence in sequences):
            return
        values, first = nats_N.double().cpu().tolist(), 0
        for sequence in sequences:
            nats = values[first : first + len(sequence.response_ids)]
            first += len(sequence.response_ids)
            if sequence.example < self._num_prompts:
                ids = tuple(sequence.response_ids.tolist())
                self._kept.append(_Kept(example=sequence.example, writer=writer, ids=ids, nats=tuple(nats)))

    def rows(self, step: int, ids: Sequence[str], tokenizer: Tokenizer, group: ProcessGroup) -> list[SampleRow]:
        """All of them, by prompt; `ids` are the prompts' names."""
        return [
            SampleRow(
                step=step,
                prompt_id=ids[kept.example],
                writer=kept.writer,
                reference=self.reference,
                tokens=tuple(pieces(tokenizer, kept.ids[:_MOST_TOKENS])),
                nats=tuple(round(value, 4) for value in kept.nats[:_MOST_TOKENS]),
                dropped=max(0, len(kept.ids) - _MOST_TOKENS),
            )
            for kept in sorted(group.all_gather(self._kept), key=lambda kept: (kept.example, kept.writer or ""))
        ]


def write_prompts(directory: Path, eval_set: EvalSet) -> None:
    """held_out.jsonl: which prompts the rows of per_prompt.jsonl and samples.jsonl are about."""
    named = zip(eval_set.ids, eval_set.texts, strict=True)
    rows = [PromptRow(prompt_id=key, text=text[:_MOST_TEXT]) for key, text in named]
    write_bytes(directory / PROMPTS_FILE, b"".join(canonical_json(row.dump()) + b"\n" for row in rows))


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text that each id adds. Where a character takes several, its last id has it.

    Example:
        >>> from thack.data.tokenizer import Tokenizer
        >>> tokenizer = Tokenizer.train(["read the file"] * 3, 264)
        >>> "".join(pieces(tokenizer, tokenizer.encode("read the file").tolist()))
        'read the file'
    """
    found: list[str] = []
    shown = ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.text(ids[:end])
        if text.endswith(_PARTIAL) and end < len(ids):
            found.append("")
            continue
        found.append(text[len(shown) :] if text.startswith(shown) else text[-1:])
        shown = text
    return found
