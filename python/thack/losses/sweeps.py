"""Sparse divergences in two passes over a row, on any device: one reads the tail, one writes its gradient.

Between them stands arithmetic on K+1 numbers. With s the student's softmax, q_S its mass on the K ids, u its tail, r
the softmax over the tail alone, g_k = ∂f/∂log q_k, h = ∂f/∂log u and G = Σ g_k:

    outside S:  grad_v = r_v · (h·q_S − G·u)        at S_k:  grad = g_k − s_k · (G + h)

On a GPU each pass is one Triton program per row; elsewhere it is torch, which tests compare with. Ids that are not in
the tail hold −inf. C tokens of a chunk, V vocabulary, K kept ids.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from thack.kernels import SparseRows
from thack.losses.formulas import check_reverse_kl, terms
from thack.schema.targets import Divergence


def sparse_by_sweeps_(logits_CV: Tensor, teacher: SparseRows, divergence: Divergence) -> Tensor:
    """loss_C (float32 at least), times T²; the logits become its gradient, row by row.

    Raises:
        UndefinedLoss: reverse KL is infinite: the student has mass where the teacher has none; names the row.
    """
    wide = torch.promote_types(logits_CV.dtype, torch.float32)
    temperature, ids_CK = divergence.temperature, teacher.ids_NK.long()
    # Padding of a sampled target repeats its last id, which must be seen once. A weight of 0 does not mean padding: so
    # weighs an id of a teacher that has no share of a mixture.
    counted_CK = torch.ones_like(ids_CK, dtype=torch.bool)
    counted_CK[:, 1:] = ids_CK[:, 1:] != ids_CK[:, :-1]
    kept_CK = logits_CV.gather(1, ids_CK).to(wide) / temperature
    logits_CV.scatter_(1, ids_CK, float("-inf"))
    highest_C, sum_C = tail_sums(logits_CV, 1 / temperature)
    log_tail_C = highest_C / temperature + sum_C.log()
    log_kept_C = torch.where(counted_CK, kept_CK, float("-inf")).logsumexp(1)
    log_all_C = torch.logaddexp(log_kept_C, log_tail_C)
    log_q = torch.cat([kept_CK, log_tail_C[:, None]], 1) - log_all_C[:, None]
    loss_C, g = _outcomes(teacher, divergence, log_q)
    total_C1, h_C = g[:, :-1].sum(1, keepdim=True), g[:, -1]
    q_kept_C, u_C = (log_kept_C - log_all_C).exp(), log_q[:, -1].exp()
    outside_C = (h_C * q_kept_C - total_C1[:, 0] * u_C) * temperature
    fill_tail(logits_CV, highest_C, torch.where(sum_C > 0, outside_C / sum_C, 0), 1 / temperature)
    grad_CK = (g[:, :-1] - log_q[:, :-1].exp() * (total_C1 + h_C[:, None])) * temperature
    if teacher.sampled:  # padding writes what the id that it repeats gets
        grad_CK = torch.where(counted_CK, grad_CK, grad_CK.gather(1, counted_CK.sum(1, keepdim=True) - 1))
    logits_CV.scatter_(1, ids_CK, grad_CK.to(logits_CV.dtype))
    return loss_C * temperature**2


def _outcomes(teacher: SparseRows, divergence: Divergence, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """(loss_C, g [C, K+1]) on the kept ids and the tail."""
    if teacher.sampled:
        no_tail = torch.zeros_like(teacher.tail_N)[:, None]
        weights = torch.cat([teacher.values_NK, no_tail], 1).to(log_q.dtype)
        return -torch.where(weights > 0, weights * log_q, 0).sum(1) - teacher.tail_N, -weights
    log_p = torch.cat([teacher.values_NK, teacher.tail_N[:, None]], 1).to(log_q.dtype)
    f, g = terms(divergence, log_p, log_q)
    loss_C = f.sum(1)
    if divergence.kind == "reverse_kl":
        check_reverse_kl(loss_C)
    return loss_C, g


def tail_sums(logits_CV: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(highest_C, sum_C): the largest logit and Σ exp((logit − highest)·scale); (0, 0) where all are −inf."""
    if _by_triton(logits_CV):
        from thack.losses import triton_sweeps  # Triton is there on GPUs only

        return triton_sweeps.tail_sums(logits_CV, scale)
    return tail_sums_by_torch(logits_CV, scale)


def fill_tail(logits_CV: Tensor, highest_C: Tensor, factor_C: Tensor, scale: float) -> None:
    """logits ← factor · exp((logit − highest)·scale), in place."""
    if _by_triton(logits_CV):
        from thack.losses import triton_sweeps  # Triton is there on GPUs only

        triton_sweeps.fill_tail(logits_CV, highest_C, factor_C, scale)
        return
    fill_tail_by_torch(logits_CV, highest_C, factor_C, scale)


def tail_sums_by_torch(logits_CV: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """See `tail_sums`."""
    wide_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    highest_C = wide_CV.amax(1)
    highest_C = torch.where(highest_C == float("-inf"), 0, highest_C)
    return highest_C, ((wide_CV - highest_C[:, None]) * scale).exp().sum(1)


def fill_tail_by_torch(logits_CV: Tensor, highest_C: Tensor, factor_C: Tensor, scale: float) -> None:
    """See `fill_tail`."""
    wide_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    logits_CV.copy_(((wide_CV - highest_C[:, None]) * scale).exp_().mul_(factor_C[:, None]))


def _by_triton(logits_CV: Tensor) -> bool:
    usable = logits_CV.device.type == "cuda" and logits_CV.dtype != torch.float64
    return usable and importlib.util.find_spec("triton") is not None
