"""Each divergence once: its terms and their derivatives by the student's log-probabilities.

Every divergence here is a sum over outcomes f(p, q) of a teacher probability p and a student
probability q, so the gradient by the student's logits z follows from g_v = ∂f_v/∂log q_v alone:

    ∂L/∂z_v = g_v − q_v · Σ_w g_w

    forward_kl          KL(p‖q)   f = p (log p − log q)                 g = −p
    reverse_kl          KL(q‖p)   f = q (log q − log p)                 g = q (log q − log p + 1)
    jsd                 M = β p + (1−β) q                               g = (1−β) q (log q − log M)
                        f = β p (log p − log M) + (1−β) q (log q − log M)
    skewed_kl           M = s p + (1−s) q;  f = p (log p − log M)       g = −p (1−s) q / M
    total_variation     f = |p − q| / 2                                 g = q · sign(q − p) / 2

jsd is forward_kl at β = 0 and reverse_kl at β = 1, as in GKD (arXiv 2306.13649, eq. 1), whose limits
β → 0, 1 do not meet these special cases: there the scale falls with β. skewed_kl is DistiLLM's
(arXiv 2402.03898, eq. 3).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from thack.config import LossSettings
from thack.errors import UndefinedLoss
from thack.schema.targets import DivergenceKind

LossTerm = DivergenceKind | Literal["cross_entropy"]
DIVERGENCES: tuple[DivergenceKind, ...] = ("forward_kl", "reverse_kl", "jsd", "skewed_kl", "total_variation")


def resolve(kind: str, beta: float, skew: float, temperature: float) -> DivergenceKind:
    """The divergence that `kind` means at these parameters: jsd at β = 0 and 1 is a KL.

    Raises UndefinedLoss for an unknown kind or a parameter outside its range.
    """
    if kind not in DIVERGENCES:
        raise UndefinedLoss(f"unknown divergence {kind!r}", hint=f"accepted: {', '.join(DIVERGENCES)}")
    if not (math.isfinite(temperature) and temperature > 0):
        raise UndefinedLoss(f"temperature must be finite and above 0, got {temperature}")
    if kind == "jsd" and not 0 <= beta <= 1:
        raise UndefinedLoss(f"beta must lie in [0, 1], got {beta}")
    if kind == "skewed_kl" and not 0 <= skew < 1:
        raise UndefinedLoss(f"skew must lie in [0, 1), got {skew}", hint="skew = 1 compares the teacher with itself")
    if kind == "jsd" and beta == 0:
        return "forward_kl"
    if kind == "jsd" and beta == 1:
        return "reverse_kl"
    return next(known for known in DIVERGENCES if known == kind)


def weighted_terms(settings: LossSettings) -> list[tuple[LossTerm, float]]:
    """The sum that `settings` name, as (divergence or cross_entropy, weight); terms of weight 0 are left out.

    Raises UndefinedLoss for an entry of loss.add that is not NAME:WEIGHT.
    """
    found: list[tuple[LossTerm, float]] = [(settings.divergence, settings.weight)]
    found += [_term(text) for text in settings.add]
    found.append(("cross_entropy", settings.ce_weight))
    kept = [(kind, weight) for kind, weight in found if weight]
    if not kept:
        raise UndefinedLoss(
            "the loss has no term of weight above 0", hint="set loss.weight, loss.add or loss.ce_weight"
        )
    return kept


def _term(text: str) -> tuple[LossTerm, float]:
    name, _, number = text.partition(":")
    kind = next((known for known in DIVERGENCES if known == name.strip()), None)
    try:
        weight = float(number)
    except ValueError:
        weight = -1.0
    if kind is None or not (math.isfinite(weight) and weight >= 0):
        raise UndefinedLoss(
            f"loss.add: {text!r} is not a divergence and its weight",
            hint=f'write it as "reverse_kl:0.5"; accepted: {", ".join(DIVERGENCES)}',
        )
    return kind, weight


def terms(kind: DivergenceKind, log_p: Tensor, log_q: Tensor, *, beta: float, skew: float) -> tuple[Tensor, Tensor]:
    """(f, g) per outcome, shaped like the inputs; not differentiable, g is the derivative.

    log_p, log_q: natural log-probabilities, −inf allowed. An outcome without mass on the side that
    weights it adds exactly 0; p > 0 = q gives +inf in forward_kl, q > 0 = p in reverse_kl.
    """
    p, q = log_p.exp(), log_q.exp()
    if kind == "forward_kl":
        return p * _difference(log_p, log_q, p), -p
    if kind == "reverse_kl":
        ratio = _difference(log_q, log_p, q)
        return q * ratio, q * (ratio + 1)
    if kind == "jsd":
        log_m = (beta * p + (1 - beta) * q).log()
        of_q = (1 - beta) * q * _difference(log_q, log_m, q)
        return beta * p * _difference(log_p, log_m, p) + of_q, of_q
    if kind == "skewed_kl":
        m = skew * p + (1 - skew) * q
        g = torch.where(p > 0, -p * (1 - skew) * q / m.clamp_min(torch.finfo(m.dtype).tiny), 0)
        return p * _difference(log_p, m.log(), p), g
    return (p - q).abs() / 2, q * torch.sign(q - p) / 2


def _difference(log_a: Tensor, log_b: Tensor, weight: Tensor) -> Tensor:
    """log a − log b where `weight` > 0, else 0: −inf − −inf and 0·inf never come to be (pitfall 12)."""
    return torch.where(weight > 0, log_a - log_b, 0)
