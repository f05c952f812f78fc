"""The distance to the teacher on fixed responses to training prompts, for the detectors that need no oracle.

B sequences, N response tokens packed, V vocabulary. Forward KL only, in nats per token, full vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from thack.data.batching import by_length
from thack.data.sequence import TokenSequence
from thack.losses.dense import dense_divergence
from thack.models.batch import Batch
from thack.models.protocol import LanguageModel, evaluating
from thack.runtime.process_group import ALONE, ProcessGroup
from thack.schema.targets import Divergence
from thack.targets.vocabulary import log_probs


@dataclass(slots=True)
class FixedKL:
    """Mean KL(teacher‖student) over the tokens of `sequences`; the teacher's side is kept in memory up to a cap."""

    sequences: Sequence[TokenSequence]
    teacher: LanguageModel
    width: int
    batch_size: int = 64
    memory_bytes: int = 1 << 29
    group: ProcessGroup = ALONE  # ranks share the batches
    _kept: dict[int, Tensor] = field(default_factory=dict)

    def measure(self, student: LanguageModel) -> float:
        """Nats per token, Σ over rows / number of rows; the student's train mode is left as it was."""
        with evaluating(student):
            own = [
                (number, self._batch_nats(student, number, part))
                for number, part in enumerate(by_length(self.sequences, self.batch_size))
                if self.group.owns(number)
            ]
        parts = sorted(self.group.all_gather(own))  # added up in one order for any number of ranks
        return sum(nats for _, nats in parts) / sum(len(s.response_ids) for s in self.sequences)

    def _batch_nats(self, student: LanguageModel, number: int, part: Sequence[TokenSequence]) -> float:
        batch = Batch.of(part, student.device)
        teacher_NV = self._kept.get(number)
        if teacher_NV is None:
            teacher_NV = log_probs(self.teacher(batch), self.width)
            if sum(kept.nbytes for kept in self._kept.values()) + teacher_NV.nbytes <= self.memory_bytes:
                self._kept[number] = teacher_NV
        loss_N = dense_divergence(student(batch)[:, : self.width], teacher_NV, Divergence(kind="forward_kl"))
        return float(loss_N.double().sum())
