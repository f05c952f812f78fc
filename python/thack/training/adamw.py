"""torch's AdamW without torch's compiler.

torch wraps the methods of its optimizers so that its compiler leaves them alone, and the first call of a wrapped one
imports the compiler: 1.5 CPU seconds, which no run has a use for, since thack compiles no optimizer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch


class AdamW(torch.optim.AdamW):
    """AdamW of the same numbers; torch's own class stays as it is."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        inspect.unwrap(torch.optim.AdamW.step)(self)
