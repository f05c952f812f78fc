"""Targets of several teachers as one: their rows one after the other, or their distributions mixed.

C targets, N rows, V vocabulary, K kept ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from thack.errors import UndefinedLoss
from thack.targets.types import DenseTarget, FrozenHeadTarget, SampledTarget, Target, TopKTarget

_NO_ID = torch.iinfo(torch.int32).max


def concatenate(targets: Sequence[Target]) -> Target:
    """The rows of all targets, one target after the other.

    Args:
        targets: of one kind and vocabulary; top-k: with the same K, tail and temperatures.

    Returns:
        Their rows. Sampled ones of fewer ids are padded; where one target has no realised log-probs, they are NaN.
    """
    first = targets[0]
    if len(targets) == 1:
        return first
    realised_N = _realised(targets)
    dense = [t for t in targets if isinstance(t, DenseTarget)]
    if isinstance(first, DenseTarget):
        return DenseTarget(log_probs_NV=torch.cat([t.log_probs_NV for t in dense]), realised_logprob_N=realised_N)
    if isinstance(first, TopKTarget):
        kept = [t for t in targets if isinstance(t, TopKTarget)]
        tails = [t.log_tail_N for t in kept if t.log_tail_N is not None]
        return replace(
            first,
            ids_NK=torch.cat([t.ids_NK for t in kept]),
            log_probs_NK=torch.cat([t.log_probs_NK for t in kept]),
            log_tail_N=torch.cat(tails) if tails else None,
            log_tail_at={at: torch.cat([t.log_tail_at[at] for t in kept]) for at in first.log_tail_at},
            realised_logprob_N=realised_N,
        )
    if isinstance(first, FrozenHeadTarget):
        projected = [t for t in targets if isinstance(t, FrozenHeadTarget)]
        return replace(
            first,
            mean_NH=torch.cat([t.mean_NH for t in projected]),
            entropy_N=torch.cat([t.entropy_N for t in projected]),
            entropy_above_N=_entropy_above(projected),
            realised_logprob_N=realised_N,
        )
    drawn = [t for t in targets if isinstance(t, SampledTarget)]
    widest = max(t.ids_NK.shape[1] for t in drawn)
    return SampledTarget(
        ids_NK=torch.cat([_padded(t.ids_NK, widest, repeats_last=True) for t in drawn]),
        weights_NK=torch.cat([_padded(t.weights_NK, widest, repeats_last=False) for t in drawn]),
        counts_N=torch.cat([t.counts_N for t in drawn]),
        tau_N=torch.cat([t.tau_N for t in drawn]),
        entropy_N=torch.cat([t.entropy_N for t in drawn]),
        entropy_above_N=_entropy_above(drawn),
        vocab_size=first.vocab_size,
        realised_logprob_N=realised_N,
    )


def mix(targets: Sequence[Target], weights_NC: Tensor) -> Target:
    """The target of p = Σ_c w_c p_c, for the same tokens.

    dense:   log p = logsumexp_c(log w_c + log p_c).
    sampled: the ids of all targets, each with Σ_c w_c · weight_c: an unbiased estimate of p, since expectation is
             linear. Its entropy is Σ_c w_c H(p_c), as that of p is not known: the loss is an unbiased estimate of
             Σ_c w_c KL(p_c‖q), which has the gradient of KL(p‖q). H(p) is above it by at most H(w). Its τ is the
             largest w_c τ_c.
    projected: Wᵀp = Σ_c w_c Wᵀp_c, with the same entropy, and so the same loss.

    Args:
        targets: all dense, all sampled or all projected, of one vocabulary and with N rows each.
        weights_NC: ≥ 0; each row sums to 1.

    Raises:
        UndefinedLoss: top-k targets: what a teacher gives to the ids that only another one kept is not known.
    """
    realised_N = _mixed([_or_nan(t) for t in targets], weights_NC)
    if all(isinstance(t, DenseTarget) for t in targets):
        dense = [t.log_probs_NV for t in targets if isinstance(t, DenseTarget)]
        return DenseTarget(log_probs_NV=_mixed(dense, weights_NC), realised_logprob_N=realised_N)
    projected = [t for t in targets if isinstance(t, FrozenHeadTarget)]
    if len(projected) == len(targets):
        means_NHC = torch.stack([t.mean_NH for t in projected], dim=2)
        return replace(
            projected[0],
            mean_NH=(means_NHC * weights_NC.float()[:, None]).sum(dim=2),
            entropy_N=_mean_entropy(projected, weights_NC),
            entropy_above_N=torch.special.entr(weights_NC).sum(dim=1).float(),
            realised_logprob_N=realised_N,
        )
    drawn = [t for t in targets if isinstance(t, SampledTarget)]
    if len(drawn) < len(targets):
        raise UndefinedLoss(
            "a mixture of top-k targets is not defined: of an id that one teacher kept, the other's mass is not known",
            hint="mix dense or sampled caches",
        )
    ids_NK = torch.cat([_valid(t) for t in drawn], dim=1)
    scaled = [t.weights_NK * w_N[:, None] for t, w_N in zip(drawn, weights_NC.float().unbind(1), strict=True)]
    ids_NK, weights_NK, counts_N = _merged(ids_NK, torch.cat(scaled, dim=1))
    return SampledTarget(
        ids_NK=ids_NK,
        weights_NK=weights_NK,
        counts_N=counts_N,
        tau_N=(torch.stack([t.tau_N for t in drawn], dim=1) * weights_NC.float()).amax(dim=1),
        entropy_N=_mean_entropy(drawn, weights_NC),
        entropy_above_N=torch.special.entr(weights_NC).sum(dim=1).float(),
        vocab_size=drawn[0].vocab_size,
        realised_logprob_N=realised_N,
    )


def _mean_entropy(targets: Sequence[SampledTarget | FrozenHeadTarget], weights_NC: Tensor) -> Tensor:
    return (torch.stack([t.entropy_N for t in targets], dim=1) * weights_NC.float()).sum(dim=1)


def _mixed(log_probs: Sequence[Tensor], weights_NC: Tensor) -> Tensor:
    """logsumexp_c(log w_c + log p_c) of tensors whose first dimension is N; −inf where no teacher gives mass."""
    mixed: Tensor | None = None
    for log_p, w_N in zip(log_probs, weights_NC.unbind(1), strict=True):
        part = log_p + w_N.log().to(log_p.dtype).reshape(-1, *[1] * (log_p.ndim - 1))
        mixed = part if mixed is None else torch.logaddexp(mixed, part)
    assert mixed is not None
    return mixed


def _valid(target: SampledTarget) -> Tensor:
    """Its ids, with `_NO_ID` for padding."""
    is_padding_NK = torch.arange(target.ids_NK.shape[1]) >= target.counts_N[:, None]
    return target.ids_NK.masked_fill(is_padding_NK, _NO_ID)


def _merged(ids_NK: Tensor, weights_NK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ids strictly increasing, each once with the sum of its weights; and how many there are in each row."""
    ids_NK, order_NK = ids_NK.sort(dim=1)
    is_new_NK = torch.ones_like(ids_NK, dtype=torch.bool)
    is_new_NK[:, 1:] = ids_NK[:, 1:] != ids_NK[:, :-1]
    place_NK = is_new_NK.cumsum(dim=1) - 1
    summed_NK = torch.zeros_like(weights_NK).scatter_add_(1, place_NK, weights_NK.gather(1, order_NK))
    merged_NK = torch.full_like(ids_NK, _NO_ID).scatter_(1, place_NK, ids_NK)
    is_id_NK = merged_NK != _NO_ID
    counts_N = is_id_NK.sum(dim=1)
    last_N1 = merged_NK.gather(1, (counts_N - 1).clamp_min(0)[:, None])
    widest = int(counts_N.amax()) if len(counts_N) else 0
    return torch.where(is_id_NK, merged_NK, last_N1)[:, :widest], summed_NK[:, :widest], counts_N.int()


def _padded(values_NK: Tensor, width: int, *, repeats_last: bool) -> Tensor:
    missing = width - values_NK.shape[1]
    if not missing:
        return values_NK
    last_N1 = values_NK[:, -1:]
    return torch.cat([values_NK, (last_N1 if repeats_last else torch.zeros_like(last_N1)).expand(-1, missing)], dim=1)


def _entropy_above(targets: Sequence[SampledTarget | FrozenHeadTarget]) -> Tensor | None:
    if all(t.entropy_above_N is None for t in targets):
        return None
    return torch.cat([torch.zeros_like(t.entropy_N) if (n := t.entropy_above_N) is None else n for t in targets])


def _realised(targets: Sequence[Target]) -> Tensor | None:
    if all(t.realised_logprob_N is None for t in targets):
        return None
    return torch.cat([_or_nan(t) for t in targets])


def _or_nan(target: Target) -> Tensor:
    found_N = target.realised_logprob_N
    return torch.full((len(target),), torch.nan) if found_N is None else found_N
