"""Each divergence once: its terms and their derivatives by the student's log-probabilities.

Every divergence here is a sum over outcomes f(p, q) of a teacher probability p and a student probability q, so the
gradient by the student's logits z follows from g_v = ∂f_v/∂log q_v alone:

    ∂L/∂z_v = g_v − q_v · Σ_w g_w

    forward_kl          KL(p‖q)   f = p (log p − log q)                 g = −p
    reverse_kl          KL(q‖p)   f = q (log q − log p)                 g = q (log q − log p + 1)
    jsd                 M = β p + (1−β) q                               g = (1−β) q (log q − log M)
                        f = β p (log p − log M) + (1−β) q (log q − log M)
    skewed_kl           M = s p + (1−s) q;  f = p (log p − log M)       g = −p (1−s) q / M
    total_variation     f = |p − q| / 2                                 g = q · sign(q − p) / 2

jsd is forward_kl at β = 0 and reverse_kl at β = 1, as in GKD (arXiv 2306.13649, eq. 1), whose limits β → 0, 1 do not
meet these special cases: there the scale falls with β. skewed_kl is DistiLLM's (arXiv 2402.03898, eq. 3).

The dense loss, the sparse loss of any device and the metrics of an evaluation use these. rust/kernels/divergence has a
second copy; tests/vectors/divergences.json pins both.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from thack.schema.targets import Divergence


class Outcomes:
    """The two distributions' natural log-probabilities (−inf allowed), and what follows from them, computed once."""

    def __init__(self, log_p: Tensor, log_q: Tensor) -> None:
        self.log_p, self.log_q = log_p, log_q

    @cached_property
    def p(self) -> Tensor:
        return self.log_p.exp()

    @cached_property
    def q(self) -> Tensor:
        return self.log_q.exp()

    @cached_property
    def log_ratio(self) -> Tensor:
        return self.log_p - self.log_q

    def mixture(self, share: float) -> Tensor:
        """M = share · p + (1 − share) · q."""
        return share * self.p + (1 - share) * self.q


class Part(NamedTuple):
    """Σ scale · weight · log_ratio: one of the sums that a divergence consists of, outcome by outcome."""

    scale: float
    weight: Tensor  # where it is 0 the term is 0, whatever the log-ratio is
    log_ratio: Tensor


def parts(divergence: Divergence, both: Outcomes) -> list[Part]:
    """f as a sum of weighted log-ratios, for every divergence but total variation, at the temperature of `both`."""
    if divergence.kind == "forward_kl":
        return [Part(1, both.p, both.log_ratio)]
    if divergence.kind == "reverse_kl":
        return [Part(-1, both.q, both.log_ratio)]
    share = divergence.teacher_share
    log_m = both.mixture(share).log()
    if divergence.kind == "skewed_kl":
        return [Part(1, both.p, both.log_p - log_m)]
    assert divergence.kind == "jsd", f"{divergence.kind} is no sum of log-ratios"
    return [Part(share, both.p, both.log_p - log_m), Part(1 - share, both.q, both.log_q - log_m)]


def terms(divergence: Divergence, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """(f, g) per outcome, shaped like the inputs; g is the derivative of f by log q.

    log_p, log_q: natural log-probabilities, −inf allowed. An outcome without mass on the side that weights it adds
    exactly 0; p > 0 = q gives +inf in forward_kl, q > 0 = p in reverse_kl.
    """
    both = Outcomes(log_p, log_q)
    p, q = both.p, both.q
    if divergence.kind == "total_variation":
        return (p - q).abs() / 2, q * torch.sign(q - p) / 2
    # Masked before the product: −inf − −inf and 0·inf are NaN (pitfall 12).
    found = [Part(scale, w, torch.where(w > 0, ratio, 0)) for scale, w, ratio in parts(divergence, both)]
    values = [(one.weight if one.scale == 1 else one.scale * one.weight) * one.log_ratio for one in found]
    if divergence.kind == "forward_kl":
        return values[0], -p
    if divergence.kind == "reverse_kl":
        return values[0], q * (1 - found[0].log_ratio)
    if divergence.kind == "jsd":
        return values[0] + values[1], values[1]
    share = divergence.teacher_share
    mixture = both.mixture(share)
    slope = torch.where(p > 0, -p * (1 - share) * q / mixture.clamp_min(torch.finfo(mixture.dtype).tiny), 0)
    return values[0], slope


def row_sums(divergence: Divergence, both: Outcomes) -> Tensor:
    """Σ_v f of each row [N] by dot products: what an evaluation measures. Not for total variation."""
    sums = [one.scale * _dot(one) for one in parts(divergence, both)]
    return sums[0] if len(sums) == 1 else sums[0] + sums[1]


def _dot(part: Part) -> Tensor:
    sums_N: Tensor = torch.linalg.vecdot(part.weight, part.log_ratio)
    if torch.isfinite(sums_N).all():
        return sums_N
    return torch.where(part.weight > 0, part.weight * part.log_ratio, 0).sum(dim=1)
