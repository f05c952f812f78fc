"""Selection and sampling by torch's own operations: what runs on other devices, and what tests compare with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import torch
from torch import Tensor

from thack.errors import ModelError
from thack.kernels.types import ThresholdSample, TopK

_MASK = 0xFFFF_FFFF
SAMPLE, THRESHOLD = 1, 2  # what a random number is for, as in rust/kernels/philox.rs
_NOTHING = 1e-32  # of the row's largest probability: less is no mass, as in rust/kernels/row.rs
_CHUNK = 1 << 25  # logits that threshold sampling looks at together: several copies of them exist, in 64 bits


def topk_logsumexp(
    logits_NV: Tensor, k: int, *, temperatures: Sequence[float] = (), labels_N: Tensor | None = None
) -> TopK:
    """See `thack.kernels.topk_logsumexp`."""
    z_NV = _checked(logits_NV)
    # A stable descending sort breaks ties to the lowest id, which torch.topk does not.
    ids_NK = torch.sort(z_NV, dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values
    highest_N1 = z_NV.amax(1, keepdim=True)
    kept_NK = z_NV.gather(1, ids_NK) - highest_N1
    _check_finite(kept_NK)
    # Sums are of differences from the maximum: logits far from 0 would leave few digits for a tail.
    others_NV = z_NV.scatter(1, ids_NK, float("-inf")).sub_(highest_N1)
    rest_N = torch.logsumexp(others_NV, dim=1)
    total_N = torch.logaddexp(torch.logsumexp(kept_NK, dim=1), rest_N)
    realised_N = None
    if labels_N is not None:
        realised_N = (z_NV.gather(1, labels_N.long()[:, None]) - highest_N1)[:, 0] - total_N
    return TopK(
        ids_NK=ids_NK.int(),
        log_probs_NK=kept_NK - total_N[:, None],
        logsumexp_N=total_N + highest_N1[:, 0],
        log_tail_N=rest_N - total_N,
        log_tail_at={t: torch.logsumexp(others_NV / t, dim=1) - total_N / t for t in temperatures},
        realised_logprob_N=realised_N,
    )


def _check_finite(kept_NK: Tensor) -> None:
    """ModelError where a row has fewer than k finite logits."""
    bad_N = torch.isinf(kept_NK).any(1)
    if bool(bad_N.any()):
        row = int(bad_N.nonzero()[0])
        raise ModelError(f"row {row} of the logits has only {int(torch.isfinite(kept_NK[row]).sum())} finite values")


def sample(
    logits_NV: Tensor,
    *,
    seed: int,
    keys_N4: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    greedy: bool,
) -> Tensor:
    """See `thack.kernels.sample`; one uniform number per row, by the same Philox keys."""
    z_NV = _checked(logits_NV).double() / temperature
    if greedy:
        return z_NV.argmax(dim=1)
    p_NV = torch.softmax(z_NV, dim=1)
    if 0 < top_k < z_NV.shape[1] or top_p < 1 or min_p > 0:
        p_NV = _filtered(p_NV, top_k, top_p, min_p)
    cumulative_NV = p_NV.cumsum(1)
    target_N1 = uniform(seed, keys_N4, SAMPLE).to(p_NV.device)[:, None] * cumulative_NV[:, -1:]
    return torch.searchsorted(cumulative_NV, target_N1, right=True).squeeze(1).clamp_max(z_NV.shape[1] - 1)


def _filtered(p_NV: Tensor, top_k: int, top_p: float, min_p: float) -> Tensor:
    """The probabilities that top-k, top-p and min-p leave, in that order, and 0 for the others."""
    ranked_NV, order_NV = torch.sort(p_NV, dim=1, descending=True, stable=True)
    if top_k:
        ranked_NV[:, top_k:] = 0
    above_NV = ranked_NV.cumsum(1) - ranked_NV
    kept_NV = (above_NV < top_p * ranked_NV.sum(1, keepdim=True)) & (ranked_NV >= min_p * ranked_NV[:, :1])
    return torch.zeros_like(p_NV).scatter(1, order_NV, ranked_NV * kept_NV)


def threshold_sample(
    logits_NV: Tensor, k: int, *, seed: int, keys_N4: Tensor, labels_N: Tensor | None = None
) -> ThresholdSample:
    """See `thack.kernels.threshold_sample`; k ≤ V. Rows are worked on a few at a time, which bounds the memory."""
    _check(logits_NV)
    u_N = uniform(seed, keys_N4, THRESHOLD).to(logits_NV.device)
    step = max(1, _CHUNK // logits_NV.shape[1])
    labels = repeat(None) if labels_N is None else labels_N.to(logits_NV.device).split(step)
    parts = [_threshold_rows(*rows) for rows in zip(logits_NV.split(step), repeat(k), u_N.split(step), labels)]
    return ThresholdSample(*(torch.cat(column) for column in zip(*parts, strict=True) if column[0] is not None))


def _threshold_rows(logits_NV: Tensor, k: int, u_N: Tensor, labels_N: Tensor | None) -> ThresholdSample:
    """The scheme of rust/kernels/threshold.rs; all masses here are relative to the largest of their row."""
    z_NV = logits_NV.float()
    mass_NV = torch.exp(z_NV - z_NV.amax(1, keepdim=True))
    mass_NV.masked_fill_(mass_NV < _NOTHING, 0.0)
    entropy_sum_N = torch.special.entr(mass_NV).sum(1, dtype=torch.float64)
    top = torch.topk(mass_NV, k, dim=1)
    mass_NV.scatter_(1, top.indices, 0.0)
    # Suffix sums from the small end: never a difference of large numbers.
    beyond_N1 = mass_NV.sum(1, keepdim=True, dtype=torch.float64)
    others_NK = top.values.double().flip(1).cumsum(1).flip(1) + beyond_N1
    rank_K = torch.arange(k, device=z_NV.device)
    uncertain_NK = top.values < others_NK / (k - rank_K)
    certain_N1 = torch.where(uncertain_NK.any(1), uncertain_NK.int().argmax(1), k)[:, None]
    is_certain_NK = rank_K < certain_N1
    rest_N1 = torch.where(certain_N1 < k, others_NK.gather(1, certain_N1.clamp_max(k - 1)), 0.0)
    tau_N1 = rest_N1 / (k - certain_N1).clamp_min(1)
    mass_NV.scatter_(1, top.indices, top.values.masked_fill(is_certain_NK, 0.0))
    drawn_NK, is_drawn_NK = _systematic(mass_NV, rest_N1, u_N[:, None] + rank_K - certain_N1, k - certain_N1)
    total_N1 = others_NK[:, :1]
    found = _in_order_of_id(
        torch.where(is_certain_NK, top.indices, drawn_NK),
        torch.where(is_certain_NK, top.values, tau_N1) / total_N1,
        torch.where(is_certain_NK, top.values > 0, is_drawn_NK),
        vocab=z_NV.shape[1],
        tau_N=(tau_N1 / total_N1)[:, 0],
        entropy_N=(entropy_sum_N / total_N1[:, 0] + total_N1[:, 0].log()).clamp_min(0.0),
    )
    if labels_N is None:
        return found
    realised_N1 = z_NV.gather(1, labels_N.long()[:, None]) - z_NV.amax(1, keepdim=True) - total_N1.log()
    return found._replace(realised_logprob_N=realised_N1[:, 0].float())


def _systematic(mass_NV: Tensor, rest_N1: Tensor, points_NK: Tensor, wanted_N1: Tensor) -> tuple[Tensor, Tensor]:
    """The ids under `points` / `wanted` of the cumulative mass, and which of them count: points ≥ 0, no id twice.

    Sums are of whole numbers. Those of floats depend on a device's order of summation, and could give a share to an
    id without any mass.
    """
    scale_N1 = torch.where(rest_N1 > 0, (1 << 61) / rest_N1, 0.0)
    cumulative_NV = (mass_NV * scale_N1).round_().long()
    total_N1 = cumulative_NV.cumsum_(1)[:, -1:]
    place_NK = (points_NK * total_N1.double() / wanted_N1.clamp_min(1)).long()
    ids_NK = torch.searchsorted(cumulative_NV, torch.minimum(place_NK, total_N1 - 1), right=True)
    is_drawn_NK = (points_NK > 0) & (total_N1 > 0)
    is_drawn_NK[:, 1:] &= (ids_NK[:, 1:] != ids_NK[:, :-1]) | (points_NK[:, 1:] < 1)
    return ids_NK, is_drawn_NK


def _in_order_of_id(
    ids_NK: Tensor, weights_NK: Tensor, is_kept_NK: Tensor, *, vocab: int, tau_N: Tensor, entropy_N: Tensor
) -> ThresholdSample:
    ids_NK, order_NK = ids_NK.masked_fill(~is_kept_NK, vocab).sort(dim=1)
    counts_N = is_kept_NK.sum(1)
    last_N1 = ids_NK.gather(1, counts_N[:, None] - 1)
    return ThresholdSample(
        ids_NK=torch.minimum(ids_NK, last_N1).int(),
        weights_NK=weights_NK.masked_fill(~is_kept_NK, 0.0).gather(1, order_NK).float(),
        counts_N=counts_N.int(),
        tau_N=tau_N.float(),
        entropy_N=entropy_N.float(),
    )


def uniform(seed: int, keys_N4: Tensor, purpose: int) -> Tensor:
    """float64 in (0, 1) per row: Philox4x32-10 as in rust/kernels/philox.rs, first try at a token."""
    mixed = _splitmix(seed ^ _splitmix(purpose))
    key = [mixed & _MASK, mixed >> 32]
    epoch, prompt, sample_, position = keys_N4.long().cpu().unbind(1)
    counter = [position, sample_, prompt, epoch]
    for _ in range(10):
        left, right = _product(0xD251_1F53, counter[0]), _product(0xCD9E_8D57, counter[2])
        counter = [right[0] ^ counter[1] ^ key[0], right[1], left[0] ^ counter[3] ^ key[1], left[1]]
        key = [(key[0] + 0x9E37_79B9) & _MASK, (key[1] + 0xBB67_AE85) & _MASK]
    bits = (counter[0] << 20) | (counter[1] >> 12)
    return (bits.double() + 0.5) / (1 << 52)


def _product(factor: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 64-bit product, without leaving int64."""
    low, high = factor * (word & 0xFFFF), factor * (word >> 16)
    total = high + (low >> 16)
    return (total >> 16) & _MASK, ((total & 0xFFFF) << 16) | (low & 0xFFFF)


def _splitmix(value: int) -> int:
    wide = (1 << 64) - 1
    z = (value + 0x9E37_79B9_7F4A_7C15) & wide
    z = ((z ^ (z >> 30)) * 0xBF58_476D_1CE4_E5B9) & wide
    z = ((z ^ (z >> 27)) * 0x94D0_49BB_1331_11EB) & wide
    return z ^ (z >> 31)


def _checked(logits_NV: Tensor) -> Tensor:
    """float32 logits; rows that cannot be a distribution are refused."""
    _check(logits_NV)
    return logits_NV.float()


def _check(logits_NV: Tensor) -> None:
    """ModelError where a row holds NaN or +inf, or nothing but −inf."""
    bad_N = ~torch.isfinite(logits_NV.amax(1))  # NaN is the largest of its row
    if bool(bad_N.any()):
        row = int(bad_N.nonzero()[0])
        raise ModelError(
            f"row {row} of the logits holds NaN, +inf, or nothing but -inf",
            hint="check the model's weights and number format",
        )
