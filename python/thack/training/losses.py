"""What one step minimises: the loss of its tokens, and beside it the balancing loss of a mixture of experts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from thack.runtime.process_group import ProcessGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Of a step or a part of it; both are per response token of the whole step.

    Args:
        loss: of the response tokens: what a verdict reads.
        router: weight times balancing loss, mean of the step's forwards by their tokens; None: there is none.
    """

    loss: float = 0.0
    router: float | None = None

    @classmethod
    def of(cls, part: Tensor, balance: Tensor | None, share: float) -> Losses:
        """Of one forward with that share of the step's tokens."""
        return cls(loss=float(part.detach()), router=None if balance is None else float(balance.detach()) * share)

    def __add__(self, other: Losses) -> Losses:
        router = None if self.router is other.router is None else (self.router or 0.0) + (other.router or 0.0)
        return Losses(loss=self.loss + other.loss, router=router)

    def summed(self, group: ProcessGroup) -> Losses:
        """Over all ranks."""
        if self.router is None:
            return Losses(loss=group.all_reduce_sum(self.loss)[0])
        loss, router = group.all_reduce_sum(self.loss, self.router)
        return Losses(loss=loss, router=router)

    def columns(self) -> dict[str, float]:
        """As columns of metrics.jsonl."""
        return {"loss": self.loss} | ({} if self.router is None else {"router_loss": self.router})
