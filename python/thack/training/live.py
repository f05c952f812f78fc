"""A live teacher: scores the rows of a batch and keeps of them what a cache would have kept, without the cache.

Draws are named by (seed, epoch, example, sample, position), as in a cache: they stay the same in every epoch where the
responses do, unless the target is to be drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thack.data.sequence import TokenSequence
from thack.models.batch import Batch
from thack.models.precision import FLOAT32, Precision
from thack.models.protocol import LanguageModel
from thack.schema.targets import TargetSpec
from thack.targets.frozen_head import FrozenHead
from thack.targets.keys import OFFLINE_EPOCH, row_keys
from thack.targets.projected import ProjectedTeacher, before_head, teacher_logits
from thack.targets.select import select, teacher_log_probs
from thack.targets.types import Target

_PRIOR_SEQUENCES = 256


class LiveTeacher:
    """Scores rows with the teacher and keeps what `spec` says.

    Args:
        teacher: in evaluation mode.
        width: ids that are compared.
        spec: what is kept of each distribution.
        seed: of the draws.
        examples: responses of the data set, for the prior; empty where all responses are newly sampled.
        projects: False leaves a dense target before the teacher's LM head, for a loss that projects it in chunks.
        precision: of the teacher's products.
        head: of the student, for projected targets.
    """

    def __init__(
        self,
        teacher: LanguageModel,
        width: int,
        spec: TargetSpec,
        *,
        seed: int,
        examples: Sequence[TokenSequence] = (),
        projects: bool = True,
        precision: Precision = FLOAT32,
        head: FrozenHead | None = None,
    ) -> None:
        self._teacher, self._width, self._spec, self._seed = teacher, width, spec, seed
        self._examples = examples[:_PRIOR_SEQUENCES]
        self._redraws = spec.redraw or not examples
        self._projects, self._precision, self._head = projects, precision, head
        self._prior_V: Tensor | None = None

    def target(self, sequences: Sequence[TokenSequence], batch: Batch, epoch: int) -> Target | ProjectedTeacher:
        """The target of the rows of `batch`; `epoch` names the draws where they change with it."""
        batch = batch.for_teacher()
        if self._spec.kind == "dense" and not self._projects:
            return before_head(self._teacher, batch, self._precision, self._width)
        return select(
            teacher_logits(self._teacher, batch, self._precision),
            self._spec,
            width=self._width,
            seed=self._seed,
            keys_N4=row_keys(sequences, epoch if self._redraws else OFFLINE_EPOCH),
            prior_V=self._prior() if self._spec.tail_prior else None,
            labels_N=batch.labels_N,
            head=self._head,
        )

    def _prior(self) -> Tensor:
        """The teacher's mean tail over the examples, Σ_n p_nv·1(v ∉ S_n), computed once."""
        if self._prior_V is None:
            total_V = torch.zeros(self._width, dtype=torch.float64)
            for start in range(0, len(self._examples), 64):
                batch = Batch.of(self._examples[start : start + 64], self._teacher.device).for_teacher()
                logits_NV = teacher_logits(self._teacher, batch, self._precision)
                p_NV = teacher_log_probs(logits_NV, self._width).exp()
                p_NV.scatter_(1, p_NV.topk(min(self._spec.k, self._width), dim=1).indices, 0.0)
                total_V += p_NV.sum(0, dtype=torch.float64).cpu()
            # No id is impossible in a tail: every one gets at least a thousandth of an even share.
            total_V = total_V / total_V.sum().clamp_min(1e-30) + 1e-3 / self._width
            self._prior_V = (total_V / total_V.sum()).float().to(self._teacher.device)
        return self._prior_V
