"""AdamW, its learning rate and its clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from thack._torch_private import scale_all_
from thack.config import OptimizerSettings
from thack.training.adamw import AdamW
from thack.training.compensated import CompensatedAdamW, has_sixteen_bits


class Optimizer:
    """AdamW over the trained parameters of a model, with the schedule and the clipping of the settings."""

    def __init__(self, model: nn.Module, settings: OptimizerSettings) -> None:
        self.settings = settings
        self.adamw = build_optimizer(model, settings)
        self.parameters: Sequence[nn.Parameter] = [p for p in model.parameters() if p.requires_grad]

    def learning_rate(self, step: int, total_steps: int) -> float:
        """The rate of optimizer step `step`, counted from 0."""
        return learning_rate(self.settings, step, total_steps)

    def clip(self) -> float:
        """Clip all gradients; returns their norm before."""
        return clip_gradients(self.parameters, self.settings.clip_norm)

    def step(self, rate: float) -> None:
        """One update at this learning rate; the gradients are gone afterwards."""
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> AdamW:
    """AdamW with weight decay on matrices only, in torch's fused form (on CPU it halves the step).

    Weights of 16 bits get `CompensatedAdamW`.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    rounds = any(has_sixteen_bits(p) for p in parameters)
    return (CompensatedAdamW if rounds else AdamW)(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        fused=not rounds,
    )


def learning_rate(settings: OptimizerSettings, step: int, total_steps: int) -> float:
    """The rate of optimizer step `step`, counted from 0: linear warm-up, then constant or cosine to 0."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warmup_steps) / max(1, total_steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def clip_gradients(parameters: Iterable[nn.Parameter], clip_norm: float) -> float:
    """Scale all gradients so that their joint 2-norm is at most `clip_norm` (0: leave them); returns the norm."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm: Tensor = torch.nn.utils.get_total_norm(gradients, foreach=True)
    if hasattr(norm, "full_tensor"):  # FSDP shards the gradients, and the norm with them
        norm = norm.full_tensor()
    value = float(norm)
    if clip_norm and math.isfinite(value) and value > clip_norm:
        scale_all_(gradients, clip_norm / (value + 1e-6))
    return value
