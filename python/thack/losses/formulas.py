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

log M is the logarithm of the sum. Where the sum underflows to 0 it is logaddexp(log p + log β, log q + log(1−β))
instead, outcome by outcome, so that no pair of finite rows gives NaN or infinity and the others keep their last bit.

The dense loss, the sparse loss of any device and the metrics of an evaluation use these. rust/kernels/divergence has a
second copy; tests/vectors/divergences.json pins both.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from thack.errors import UndefinedLoss
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

    def log_mixture(self, share: float, *, underflows: bool) -> Tensor:
        """log M; with `underflows` also where M is below the smallest float."""
        mixture = self.mixture(share)
        if not underflows:
            return mixture.log()
        log_share = math.log(share) if share else -math.inf
        in_logs = torch.logaddexp(self.log_p + log_share, self.log_q + math.log1p(-share))
        return torch.where(mixture > 0, mixture.log(), in_logs)


class Part(NamedTuple):
    """Σ scale · weight · log_ratio: one of the sums that a divergence consists of, outcome by outcome."""

    scale: float
    weight: Tensor  # where it is 0 the term is 0, whatever the log-ratio is
    log_ratio: Tensor


def parts(divergence: Divergence, both: Outcomes, *, underflows: bool = True) -> list[Part]:
    """f as a sum of weighted log-ratios, for every divergence but total variation, at the temperature of `both`.

    Without `underflows` the ratio to a mixture that underflows is infinite, and all others are the same.
    """
    if divergence.kind == "forward_kl":
        return [Part(1, both.p, both.log_ratio)]
    if divergence.kind == "reverse_kl":
        return [Part(-1, both.q, both.log_ratio)]
    share = divergence.teacher_share
    log_m = both.log_mixture(share, underflows=underflows)
    if divergence.kind == "skewed_kl":
        return [Part(1, both.p, both.log_p - log_m)]
    assert divergence.kind == "jsd", f"{divergence.kind} is no sum of log-ratios"
    return [Part(share, both.p, both.log_p - log_m), Part(1 - share, both.q, both.log_q - log_m)]


def terms(divergence: Divergence, log_p: Tensor, log_q: Tensor, *, underflows: bool = True) -> tuple[Tensor, Tensor]:
    """(f, g) per outcome, shaped like the inputs; g is the derivative of f by log q.

    log_p, log_q: natural log-probabilities, −inf allowed. An outcome without mass on the side that weights it adds
    exactly 0; p > 0 = q gives +inf in forward_kl, q > 0 = p in reverse_kl. Without `underflows`, f is not finite where
    a mixture underflows, and all else is the same for less work.
    """
    both = Outcomes(log_p, log_q)
    p, q = both.p, both.q
    if divergence.kind == "total_variation":
        return (p - q).abs() / 2, q * torch.sign(q - p) / 2
    sums = parts(divergence, both, underflows=underflows)
    # Masked before the product: −inf − −inf and 0·inf are NaN (pitfall 12).
    found = [Part(scale, w, torch.where(w > 0, ratio, 0)) for scale, w, ratio in sums]
    values = [(one.weight if one.scale == 1 else one.scale * one.weight) * one.log_ratio for one in found]
    if divergence.kind == "forward_kl":
        return values[0], -p
    if divergence.kind == "reverse_kl":
        return values[0], q * (1 - found[0].log_ratio)
    if divergence.kind == "jsd":
        return values[0] + values[1], values[1]
    share = divergence.teacher_share
    if share == 0:  # M is q, which may be below what the quotient can tell
        return values[0], -p
    mixture = both.mixture(share)
    slope = torch.where(p > 0, -p * (1 - share) * q / mixture.clamp_min(torch.finfo(mixture.dtype).tiny), 0)
    return values[0], slope


def row_sums(divergence: Divergence, both: Outcomes) -> Tensor:
    """Σ_v f of each row [N] by dot products: what an evaluation measures. Not for total variation."""
    found = parts(divergence, both, underflows=False)
    sums: list[Tensor] = [torch.linalg.vecdot(part.weight, part.log_ratio) for part in found]
    finite = torch.stack([torch.isfinite(sums_N).all() for sums_N in sums]).cpu().tolist()  # one wait for the device
    if not all(finite):
        masked = [torch.where(part.weight > 0, part.weight * part.log_ratio, 0) for part in parts(divergence, both)]
        sums = [s if whole else m.sum(dim=1) for s, m, whole in zip(sums, masked, finite, strict=True)]
    scaled: list[Tensor] = [part.scale * sums_N for part, sums_N in zip(found, sums, strict=True)]
    return scaled[0] if len(scaled) == 1 else scaled[0] + scaled[1]


def check_reverse_kl(loss_N: Tensor) -> None:
    """UndefinedLoss where it is infinite, as its gradient would be. The host waits for the device to know."""
    infinite_N = torch.isinf(loss_N)
    if bool(infinite_N.any()):
        row = int(infinite_N.nonzero()[0])
        raise UndefinedLoss(
            f"row {row}: reverse KL is infinite, the student has mass where the teacher has none",
            hint="use forward_kl, jsd or skewed_kl",
        )
