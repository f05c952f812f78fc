"""AdamW on weights of 16 bits, with the rest that each rounding leaves behind (Kahan's compensation).

A weight of bfloat16 has steps of 0.4 %. Most updates are smaller: alone they round to nothing, and a norm weight of 1
never moves. So two numbers of 16 bits stand for a weight, its rounded value and the rest; the second moment, which
moves by 1 − β₂ of itself, has a rest too. All arithmetic is in float32, one parameter at a time. No random numbers:
a resumed run continues to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from thack.training.adamw import AdamW

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
RESTS = ("weight_rest", "exp_avg_sq_rest")
_SIXTEEN_BITS = (torch.bfloat16, torch.float16)


def has_sixteen_bits(parameter: Tensor) -> bool:
    """Whether its updates need a rest."""
    return parameter.dtype in _SIXTEEN_BITS


def slots_of(parameter: Tensor) -> tuple[str, ...]:
    """What the optimizer keeps of a parameter that had a gradient."""
    return (*MOMENTS, *RESTS) if has_sixteen_bits(parameter) else MOMENTS


class CompensatedAdamW(AdamW):
    """AdamW (arXiv 1711.05101, algorithm 2) whose 16-bit weights move as float32 ones do, up to 16 bits of mantissa."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= {slot: torch.zeros_like(parameter) for slot in slots_of(parameter) if slot != "step"}
            state["step"] = torch.zeros((), device=_local(parameter).device)
        state["step"] += 1
        step, (beta1, beta2), rate = state["step"], group["betas"], group["lr"]
        assert parameter.grad is not None
        grad = _local(parameter.grad).float()
        weight = _sum(parameter, state.get("weight_rest"))
        mean = _local(state["exp_avg"]).float().lerp_(grad, 1 - beta1)
        square = (
            _sum(state["exp_avg_sq"], state.get("exp_avg_sq_rest")).mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        )
        scale = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        weight.mul_(1 - rate * group["weight_decay"]).sub_(mean / scale * (rate / (1 - beta1**step)))
        _local(state["exp_avg"]).copy_(mean)
        _split_(square, state["exp_avg_sq"], state.get("exp_avg_sq_rest"))
        _split_(weight, parameter, state.get("weight_rest"))


def _local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, in the same memory."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


def _sum(value: Tensor, rest: Tensor | None) -> Tensor:
    """float32, in new memory."""
    found = _local(value).to(torch.float32, copy=True)
    return found if rest is None else found.add_(_local(rest))


def _split_(exact: Tensor, value: Tensor, rest: Tensor | None) -> None:
    """value + rest ← exact."""
    _local(value).copy_(exact)
    if rest is not None:
        _local(rest).copy_(exact.sub_(_local(value)))
