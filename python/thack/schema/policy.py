"""Losses that need the log-probability of the realised token alone: their estimator, and weights of stale samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from thack.errors import UndefinedLoss

Estimator = Literal["k1", "k3"]
Importance = Literal["none", "truncated", "ppo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyGradient:
    """One term of a loss: what the teacher says of the tokens that the student itself wrote (`losses.policy`).

    Args:
        estimator: k1: policy gradient of reverse KL; k3: its derivative, whose expectation is forward KL's gradient.
        importance: none; truncated: at most 1 + clip; ppo: the clipped surrogate of PPO, between 1 − clip and 1 + clip.
        clip: ≥ 0.
        discount: of what later tokens of a response add to the advantage, in [0, 1].

    Raises:
        UndefinedLoss: a combination that has no meaning.
    """

    estimator: Estimator = "k1"
    importance: Importance = "truncated"
    clip: float = 1.0
    discount: float = 0.0

    def __post_init__(self) -> None:
        if self.estimator not in get_args(Estimator) or self.importance not in get_args(Importance):
            raise UndefinedLoss(f"no policy gradient has estimator {self.estimator!r}, importance {self.importance!r}")
        if not (0 <= self.discount <= 1 and self.clip >= 0):
            raise UndefinedLoss(f"discount = {self.discount:g} must be in [0, 1], clip = {self.clip:g} at least 0")
        if self.estimator == "k3" and (self.discount or self.importance == "ppo"):
            what = f"loss.policy.discount = {self.discount:g}" if self.discount else "loss.policy.importance = ppo"
            raise UndefinedLoss(
                f"{what} does not go with loss.policy.estimator = k3",
                details=("k3 is differentiated itself: it has no advantage that could be summed or clipped",),
                hint="use `loss.policy.estimator = k1`",
            )

    def __str__(self) -> str:
        return f"policy_gradient({self.estimator})"
