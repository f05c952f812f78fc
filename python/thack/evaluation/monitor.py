"""The distance to the teacher on fixed responses to training prompts, for the detectors that need no oracle.

B sequences, N response tokens packed, V vocabulary. Forward KL only, in nats per token, full vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from thack.data.batching import by_length
from thack.data.sequence import TokenSequence
from thack.evaluation.divergences import PromptTotals
from thack.losses.dense import dense_divergence
from thack.models.batch import Batch
from thack.models.protocol import LanguageModel, evaluating
from thack.runtime.process_group import ALONE, ProcessGroup
from thack.schema.metrics import PromptSums
from thack.schema.targets import Divergence
from thack.targets.vocabulary import log_probs


class TrainingDistance(Protocol):
    """A distance between teacher and student on fixed responses to training prompts."""

    scored_tokens: int  # by the teacher, on this rank

    def measure(self, student: LanguageModel) -> PromptSums:
        """Sums over each response, in their order."""


@dataclass(slots=True)
class FixedKL:
    """KL(teacher‖student) on the tokens of `sequences`; the teacher's side is kept in memory up to a cap."""

    sequences: Sequence[TokenSequence]
    teacher: LanguageModel
    width: int
    batch_size: int = 64
    memory_bytes: int = 1 << 29
    group: ProcessGroup = ALONE  # ranks share the batches
    scored_tokens: int = field(default=0, init=False)  # by the teacher, on this rank
    _kept: dict[int, Tensor] = field(default_factory=dict)

    def measure(self, student: LanguageModel) -> PromptSums:
        """Sums over each sequence, in their order; the student's train mode is left as it was."""
        numbered = [replace(sequence, example=i) for i, sequence in enumerate(self.sequences)]
        totals = PromptTotals(len(numbered), num_values=1)
        with evaluating(student):
            for number, part in enumerate(by_length(numbered, self.batch_size)):
                if self.group.owns(number):
                    totals.add(part, self._nats(student, number, part)[:, None])
        (sums,) = totals.of_all_ranks(self.group)
        return sums

    def _nats(self, student: LanguageModel, number: int, part: Sequence[TokenSequence]) -> Tensor:
        batch = Batch.of(part, student.device)
        teacher_NV = self._kept.get(number)
        if teacher_NV is None:
            teacher_NV = log_probs(self.teacher(batch.for_teacher()), self.width)
            self.scored_tokens += len(batch.labels_N)
            if sum(kept.nbytes for kept in self._kept.values()) + teacher_NV.nbytes <= self.memory_bytes:
                self._kept[number] = teacher_NV
        return dense_divergence(student(batch)[:, : self.width], teacher_NV, Divergence(kind="forward_kl"))
