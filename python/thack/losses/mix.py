"""Hard and soft targets together, weighted by position: the response token's cross-entropy, and the divergence.

    loss_n = (1 − h_n) · Σ divergences + h_n · ce_weight · (−log q(y_n))

    confidence   h = p(y): hard where the teacher is sure of the response token
    entropy      h = 1 − S_γ(p) / S_γ(even): hard where the teacher is sure of any token; γ = 1 is H(p) / log V
    curriculum   h = 1 − step / (share · steps), at least 0: the same for all tokens, by `Objective.at`

The Bridge–Garden methods of arXiv 2605.26246: bridges need the exact token, gardens do not. They are defined as in its
released code (`adap_sft`, `entropy_sft_distill`, `curriculum_weight`; its static weights are `mix = sum`). h depends on
the teacher alone, so no gradient goes through it. Where a record only bounds the entropy, its middle is taken, and
`loss/hard_share_unsure` shows how far h may be off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from thack.config.training import MixKind
from thack.losses.tally import Tally
from thack.targets.entropy import entropy_bounds, most_entropy
from thack.targets.realised import realised_log_probs
from thack.targets.types import Target

SUMS = ("mixed", "hard", "unsure")  # of a tally


@dataclass(frozen=True, slots=True, kw_only=True)
class HardShare:
    """h of each token, and half the distance between its bounds."""

    share_N: Tensor
    unsure_N: Tensor

    def count(self, tally: Tally) -> None:
        """Add to `tally` what `columns` needs."""
        tally.add(mixed=torch.ones_like(self.share_N), hard=self.share_N, unsure=self.unsure_N)


def hard_share(kind: MixKind, target: Target, labels_N: Tensor, order: float = 1.0) -> HardShare:
    """The weight of the hard target at each token, float32 at least.

    Args:
        kind: confidence or entropy.
        target: of the teacher.
        labels_N: int64, the response tokens.
        order: γ of the entropy.

    Raises:
        UndefinedLoss: the target does not know the entropy, or the response token's log-probability.
    """
    if kind == "confidence":
        share_N = realised_log_probs(target, labels_N).exp().clamp(max=1)
        return HardShare(share_N=share_N, unsure_N=torch.zeros_like(share_N))
    assert kind == "entropy", f"{kind} is not a matter of positions"
    low_N, high_N = entropy_bounds(target, order)
    most = most_entropy(target.vocab_size, order)
    share_N = 1 - (low_N + high_N) / (2 * most)
    return HardShare(share_N=share_N.clamp(0, 1), unsure_N=(high_N - low_N) / (2 * most))


def curriculum(step: int, total_steps: int, share: float) -> float:
    """Soft share at `step`: from 0 to 1 over the first `share` of the steps.

    Example:
        >>> [curriculum(step, 8, 0.5) for step in (0, 1, 4, 8)]
        [0.0, 0.25, 1.0, 1.0]
    """
    return min(1.0, step / max(share * total_steps, 1))


def columns(sums: Mapping[str, float]) -> dict[str, float]:
    """Columns of metrics.jsonl from the sums of all ranks."""
    return {
        "loss/hard_share": sums["hard"] / sums["mixed"],
        "loss/hard_share_unsure": sums["unsure"] / sums["mixed"],
    }
