"""The peer of the sparse divergences: torch eager on K+1 outcomes, the tail by a masked log-sum-exp."""

from __future__ import annotations

import torch
from torch import Tensor

from thack.losses.formulas import terms
from thack.schema.targets import Divergence, DivergenceKind
from thack.targets import TopKTarget


def eager_divergence(logits_NV: Tensor, target: TopKTarget, kind: DivergenceKind = "forward_kl") -> Tensor:
    """loss_N at temperature 1, differentiable by torch's autograd, on any device."""
    assert target.log_tail_N is not None
    z_NV, ids_NK = logits_NV.float(), target.ids_NK.long()
    log_all_N1 = torch.logsumexp(z_NV, dim=1, keepdim=True)
    tail_N1 = torch.logsumexp(z_NV.scatter(1, ids_NK, float("-inf")), dim=1, keepdim=True)
    log_q = torch.cat([z_NV.gather(1, ids_NK), tail_N1], dim=1) - log_all_N1
    log_p = torch.cat([target.log_probs_NK, target.log_tail_N[:, None]], dim=1)
    return terms(Divergence(kind=kind), log_p, log_q)[0].sum(1)
