"""The distance to the teacher on fixed responses to training prompts, for the detectors that need no oracle.

B sequences, N response tokens packed, V vocabulary. Forward KL only, in nats per token, full vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from torch import Tensor

from thack.data.batching import by_length
from thack.data.sequence import TokenSequence
from thack.evaluation.divergences import PromptTotals
from thack.losses import divergence
from thack.losses.dense import dense_divergence
from thack.models.batch import Batch
from thack.models.protocol import LanguageModel, evaluating
from thack.runtime.process_group import ALONE, ProcessGroup
from thack.schema.metric_rows import PromptSums
from thack.schema.targets import Divergence
from thack.targets.types import Target
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
        return _measured(self.sequences, student, partial(self._nats, student), self.batch_size, self.group)

    def _nats(self, student: LanguageModel, number: int, part: Sequence[TokenSequence]) -> Tensor:
        batch = Batch.of(part, student.device)
        teacher_NV = self._kept.get(number)
        if teacher_NV is None:
            teacher_NV = log_probs(self.teacher(batch.for_teacher()), self.width)
            self.scored_tokens += len(batch.labels_N)
            if sum(kept.nbytes for kept in self._kept.values()) + teacher_NV.nbytes <= self.memory_bytes:
                self._kept[number] = teacher_NV
        return dense_divergence(student(batch)[:, : self.width], teacher_NV, Divergence(kind="forward_kl"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedKL:
    """KL(teacher‖student) by the records of a cache: of the teacher that wrote them, which need not be there.

    Exact by dense records, a lower bound by top-k ones (K+1 outcomes), unbiased by sampled ones. The responses are
    those that are trained on.
    """

    sequences: Sequence[TokenSequence]
    target: Callable[[Sequence[TokenSequence], Batch], Target]
    batch_size: int = 64
    group: ProcessGroup = ALONE  # ranks share the batches

    def measure(self, student: LanguageModel) -> PromptSums:
        """Sums over each sequence, in their order; the student's train mode is left as it was."""
        return _measured(self.sequences, student, partial(self._nats, student), self.batch_size, self.group)

    def _nats(self, student: LanguageModel, number: int, part: Sequence[TokenSequence]) -> Tensor:
        batch = Batch.of(part, student.device)
        target = self.target(part, batch)
        return divergence(student(batch)[:, : target.vocab_size].detach(), target, Divergence(kind="forward_kl"))


def _measured(
    sequences: Sequence[TokenSequence],
    student: LanguageModel,
    nats: Callable[[int, Sequence[TokenSequence]], Tensor],
    batch_size: int,
    group: ProcessGroup,
) -> PromptSums:
    numbered = [replace(sequence, example=i) for i, sequence in enumerate(sequences)]
    totals = PromptTotals(len(numbered), num_values=1)
    with evaluating(student):
        for number, part in enumerate(by_length(numbered, batch_size)):
            if group.owns(number):
                totals.add(part, nats(number, part)[:, None])
    (sums,) = totals.of_all_ranks(group)
    return sums
