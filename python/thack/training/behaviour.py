"""The writer of a batch's responses, as a policy gradient needs it: the student at an earlier step, or its start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thack.data.sequence import TokenSequence
from thack.losses.policy import Behaviour, floored, later_advantages
from thack.models.batch import Batch
from thack.models.precision import FLOAT32, Precision
from thack.models.protocol import LanguageModel, evaluating
from thack.schema.policy import PolicyGradient
from thack.targets.cells import CellTarget
from thack.targets.projected import ProjectedTeacher
from thack.targets.published import PublishedTarget
from thack.targets.realised import realised_log_probs, scored_log_probs
from thack.targets.types import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """The student that wrote the responses.

    Args:
        policy: what is computed of its log-probabilities.
        width: ids that are compared.
        start: the model that wrote given responses; None: newly sampled ones bring their log-probabilities along, or
            each was written by the student as it is.
        precision: of the start's products.
    """

    policy: PolicyGradient
    width: int
    start: LanguageModel | None = None
    precision: Precision = FLOAT32

    def behaviour(
        self,
        sequences: Sequence[TokenSequence],
        batch: Batch,
        target: Target | CellTarget | PublishedTarget | ProjectedTeacher | None,
    ) -> Behaviour:
        """What is known of the response tokens of `batch`.

        Raises:
            UndefinedLoss: the target does not know the teacher's log-probability of a response token.
        """
        log_b_N = self._log_probs(sequences, batch)
        if not self.policy.discount:
            return Behaviour(log_prob_N=log_b_N)
        assert log_b_N is not None and target is not None and not isinstance(target, CellTarget | PublishedTarget)
        gaps_N = floored(realised_log_probs(target, batch.labels_N)) - log_b_N
        lengths = [len(s.response_ids) for s in sequences]
        return Behaviour(log_prob_N=log_b_N, later_N=later_advantages(gaps_N, lengths, self.policy.discount))

    def _log_probs(self, sequences: Sequence[TokenSequence], batch: Batch) -> Tensor | None:
        if self.start is not None:
            with evaluating(self.start):
                return scored_log_probs(self.start, batch, self.width, self.precision)
        kept = [s.log_probs for s in sequences if s.log_probs is not None]
        return torch.from_numpy(np.concatenate(kept)).to(batch.device) if len(kept) == len(sequences) else None


def keeps_log_probs(policy: PolicyGradient, window_steps: int) -> bool:
    """Whether newly sampled responses need their log-probabilities: the student changes before it uses them."""
    return bool(policy.discount) or (policy.importance != "none" and window_steps > 1)


def needs_start(policy: PolicyGradient) -> bool:
    """Whether the writer of given responses has to score them."""
    return bool(policy.discount) or policy.importance != "none"
