"""The routers of a mixture of experts: the balancing loss as the model defines it, and how many tokens each expert got.

L layers with experts, E experts, B·T input positions of a padded batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from thack.config import RouterLoss
from thack.errors import UsageError

ASKS = "output_router_logits"  # argument of a forward, and key of config.json


class Routers:
    """What one model is asked about its routers, and what the forwards since then have said.

    Args:
        model: of transformers, without what a trainer or peft put around it.
    """

    def __init__(self, model: Any) -> None:
        self._config = model.config.get_text_config(decoder=True)
        self._balances = False
        self._losses: list[tuple[Tensor, int]] = []  # of the forwards since `take_loss`, each with its rows
        self._counts_LE: Tensor | None = None

    @property
    def weight(self) -> float:
        """Of the balancing loss, as config.json says now."""
        return float(getattr(self._config, "router_aux_loss_coef", 0.0) or 0.0)

    @property
    def inputs(self) -> dict[str, bool]:
        """Further arguments of a forward."""
        asks = (self._balances and torch.is_grad_enabled()) or self._counts_LE is not None
        return {ASKS: True} if asks else {}

    @classmethod
    def of(cls, model: Any) -> Routers | None:
        """Those of a model; None where it has none, or does not show them. Encoder-decoders define other losses."""
        asked = ASKS in inspect.signature(model.forward).parameters and not model.config.is_encoder_decoder
        found = asked and hasattr(model.config.get_text_config(decoder=True), "num_experts_per_tok")
        return cls(model) if found else None

    def balance(self, choice: RouterLoss) -> bool:
        """Whether training adds the balancing loss: `auto` where config.json says so."""
        says_so = bool(getattr(self._config, ASKS, False))
        self._balances = self.weight > 0 and (choice is True or (choice == "auto" and says_so))
        return self._balances

    def take(self, output: Any, mask_BT: Tensor | None, num_rows: int) -> None:
        """Keep what was asked for of a forward's output."""
        if self._balances and torch.is_grad_enabled():
            self._losses.append((output.aux_loss, num_rows))
        if self._counts_LE is not None:
            self._counts_LE += self._chosen(output.router_logits, mask_BT).to(self._counts_LE.device)

    def take_loss(self) -> Tensor | None:
        """The model's weight times its balancing loss, mean over the rows of the forwards since the last call."""
        losses, self._losses = self._losses, []
        if not losses:
            return None
        rows = sum(count for _, count in losses)
        return self.weight * torch.stack([loss * (count / rows) for loss, count in losses]).sum()

    @contextmanager
    def counting(self) -> Iterator[Tensor]:
        """counts_LE, float64: tokens that each expert gets in the forwards of the block; padding is not counted."""
        layers, experts = int(self._config.num_hidden_layers), self._num_experts()
        self._counts_LE = torch.zeros(layers, experts, dtype=torch.float64)
        try:
            yield self._counts_LE
        finally:
            self._counts_LE = None

    def _num_experts(self) -> int:
        names = ("num_local_experts", "num_experts")
        return next(int(found) for name in names if (found := getattr(self._config, name, None)))

    def _chosen(self, logits_LNE: tuple[Tensor, ...], mask_BT: Tensor | None) -> Tensor:
        """As the balancing loss counts them: the k largest logits. A layer without experts has a row of zeros."""
        assert self._counts_LE is not None
        layers, experts = self._counts_LE.shape
        counts_LE = torch.zeros(layers, experts, dtype=torch.float64)
        for layer, logits_NE in enumerate(logits_LNE):
            chosen_NK = logits_NE.topk(int(self._config.num_experts_per_tok), dim=-1).indices
            real = chosen_NK if mask_BT is None else chosen_NK[mask_BT.reshape(-1).bool().to(chosen_NK.device)]
            counts_LE[layer] = torch.bincount(real.reshape(-1), minlength=experts).double().cpu()
        return counts_LE


def balance_routers(routers: Routers | None, choice: RouterLoss) -> bool:
    """Whether training a model with these routers adds their balancing loss.

    Raises:
        UsageError: it is asked for, and the model defines none.
    """
    balances = routers is not None and routers.balance(choice)
    if choice is True and not balances:
        raise UsageError(
            "router_loss = true: the model defines no balancing loss of routers",
            hint="use `router_loss = auto`; or give its config.json a router_aux_loss_coef above 0",
        )
    return balances


@contextmanager
def counting_experts(routers: Routers | None) -> Iterator[Tensor | None]:
    """As `Routers.counting`; None where there are no experts."""
    if routers is None:
        yield None
        return
    with routers.counting() as counts_LE:
        yield counts_LE


def expert_health(counts_LE: Tensor) -> dict[str, float]:
    """Load of the layer that is balanced worst, as multiples of an even share, and the share of idle experts.

    Returns:
        expert_load_max, expert_load_min: 1 where all experts of a layer get the same. idle_experts: in [0, 1].

    Example:
        >>> expert_health(torch.tensor([[6.0, 2.0], [8.0, 0.0]]))
        {'expert_load_max': 2.0, 'expert_load_min': 0.0, 'idle_experts': 0.25}
    """
    used_LE = counts_LE[counts_LE.sum(1) > 0]
    if not len(used_LE):
        return {}
    load_LE = used_LE / used_LE.mean(1, keepdim=True)
    return {
        "expert_load_max": float(load_LE.max()),
        "expert_load_min": float(load_LE.min()),
        "idle_experts": float((used_LE == 0).double().mean()),
    }
