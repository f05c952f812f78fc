"""Selection and sampling by torch's own operations: what runs on other devices, and what tests compare with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thack.errors import ModelError
from thack.kernels.types import TopK

_MASK = 0xFFFF_FFFF


def topk_logsumexp(logits_NV: Tensor, k: int, *, temperatures: Sequence[float] = ()) -> TopK:
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
    return TopK(
        ids_NK=ids_NK.int(),
        log_probs_NK=kept_NK - total_N[:, None],
        logsumexp_N=total_N + highest_N1[:, 0],
        log_tail_N=rest_N - total_N,
        log_tail_at={t: torch.logsumexp(others_NV / t, dim=1) - total_N / t for t in temperatures},
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
    ranked_NV, order_NV = torch.sort(p_NV, dim=1, descending=True, stable=True)
    if 0 < top_k < z_NV.shape[1]:
        ranked_NV[:, top_k:] = 0
    above_NV = ranked_NV.cumsum(1) - ranked_NV
    kept_NV = (above_NV < top_p * ranked_NV.sum(1, keepdim=True)) & (ranked_NV >= min_p * ranked_NV[:, :1])
    p_NV = torch.zeros_like(p_NV).scatter(1, order_NV, ranked_NV * kept_NV)
    cumulative_NV = p_NV.cumsum(1)
    target_N1 = uniform(seed, keys_N4).to(p_NV.device)[:, None] * cumulative_NV[:, -1:]
    return torch.searchsorted(cumulative_NV, target_N1, right=True).squeeze(1).clamp_max(z_NV.shape[1] - 1)


def uniform(seed: int, keys_N4: Tensor) -> Tensor:
    """float64 in (0, 1) per row: Philox4x32-10 as in rust/kernels/philox.rs, first try at a token."""
    mixed = _splitmix(seed ^ _splitmix(1))
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
    z_NV = logits_NV.float()
    bad_N = torch.isnan(z_NV).any(1) | ~torch.isfinite(z_NV.amax(1))
    if bool(bad_N.any()):
        row = int(bad_N.nonzero()[0])
        raise ModelError(
            f"row {row} of the logits holds NaN, +inf, or nothing but -inf",
            hint="check the model's weights and number format",
        )
    return z_NV
