"""What a `TargetSpec` keeps of a teacher's logits: one function for a capture and for a live teacher.

    dense         all of it
    top-k         the k most likely ids and the exact mass of all others, as one
    renormalised  the k most likely ids, scaled to a sum of 1: what most tools cache
                  (pitfall 1)
    sampled       k ids by threshold sampling, unbiased
    multinomial   k independent draws, as counts, unbiased
    projected     Wᵀp of a student's frozen head W, and the entropy (`losses.frozen_head`)
    mixed         the k most likely ids exactly; the tail's mass t as t·[(1 − λ)·draws + λ·prior], with
                  tail_draws ids drawn from the tail without bias (τ each), λ = tail_prior, and the prior the mean
                  tail of the training data, one vector for the whole run

So top-k with a tail shape that costs nothing per token is mixed with λ = 1. An unbiased target, top-k with draws that
correct it, is mixed with λ = 0.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from thack import kernels
from thack.errors import ModelError, UsageError
from thack.schema.targets import TargetSpec
from thack.targets.entropy import entropy_of
from thack.targets.frozen_head import FrozenHead
from thack.targets.keys import multinomial_sample
from thack.targets.types import DenseTarget, SampledTarget, Target, TopKTarget
from thack.targets.vocabulary import log_probs

MASKED_LOG_PROB = -1000.0  # no logits of a model lie so far apart: they were masked with −1e4 or the lowest float


def select(
    logits_NV: Tensor,
    spec: TargetSpec,
    *,
    width: int,
    seed: int = 0,
    keys_N4: Tensor | None = None,
    prior_V: Tensor | None = None,
    labels_N: Tensor | None = None,
    head: FrozenHead | None = None,
) -> Target:
    """What `spec` keeps of each row. A cache and a live teacher with the same seed get the same target.

    Args:
        logits_NV: the teacher's, on any device; V ≥ width.
        spec: what is kept; `live` and `redraw` make no difference here.
        width: ids that are compared; the distribution is over the first `width` ids.
        seed: of the draws.
        keys_N4: int64, the name of each row's draws (`keys.row_keys`); needed by the kinds that draw.
        prior_V: the shape of the tail, positive, over `width` ids; needed where spec.tail_prior > 0.
        labels_N: the token that followed each row, below width, on any device: its log-probability is kept. None: of
            no row.
        head: of the student, of `width` rows; needed by projected targets.

    Returns:
        A target on the device of the logits.

    Raises:
        ModelError: a row holds NaN or +inf, or too few finite logits, or a label is not below `width`.
        UsageError: keys_N4, prior_V or head is missing where it is needed, or a tensor has another shape.

    Example:
        >>> from thack.schema.targets import TargetSpec
        >>> target = select(torch.tensor([[0.0, 2.0, 1.0]]), TargetSpec.parse("top-k:2"), width=3)
        >>> target.ids_NK.tolist()
        [[1, 2]]
    """
    _check_shapes(logits_NV, width, labels_N, prior_V)
    if spec.kind == "top-k":
        return _top_k(logits_NV[:, :width], spec, labels_N)
    if spec.kind not in ("dense", "renormalised", "projected") and keys_N4 is None:
        raise UsageError(f"keys_N4 is missing: a {spec.kind} target draws by the keys of its rows")
    if spec.kind == "sampled":
        assert keys_N4 is not None
        found = kernels.threshold_sample(logits_NV[:, :width], spec.k, seed=seed, keys_N4=keys_N4, labels_N=labels_N)
        return SampledTarget(**found._asdict(), vocab_size=width)
    log_p_NV = teacher_log_probs(logits_NV, width)
    if spec.kind == "projected":
        if head is None:
            raise UsageError("head is missing: a projected target is of a student's head")
        target: Target = head.project(log_p_NV)
    else:
        target = _of_log_probs(log_p_NV, spec, prior_V, seed, keys_N4)
    return target if labels_N is None else replace(target, realised_logprob_N=_realised(log_p_NV, labels_N))


def _check_shapes(logits_NV: Tensor, width: int, labels_N: Tensor | None, prior_V: Tensor | None) -> None:
    """Of what broadcasting would take in another shape."""
    if not 0 < width <= logits_NV.shape[1]:
        raise UsageError(f"width = {width}: the logits have {logits_NV.shape[1]} ids")
    for name, given, shape in (("labels_N", labels_N, logits_NV.shape[:1]), ("prior_V", prior_V, (width,))):
        if given is not None and given.shape != shape:
            raise UsageError(f"{name} has shape {tuple(given.shape)}, not {tuple(shape)}")


def _of_log_probs(
    log_p_NV: Tensor, spec: TargetSpec, prior_V: Tensor | None, seed: int, keys_N4: Tensor | None
) -> Target:
    """The target of the kinds that need every log-probability."""
    if spec.kind == "dense":
        return DenseTarget(log_probs_NV=log_p_NV)
    if spec.kind == "renormalised":
        return _renormalised(log_p_NV, spec.k)
    assert keys_N4 is not None, "checked by select"
    if spec.kind == "multinomial":
        return _multinomial(log_p_NV, spec.k, seed, keys_N4)
    return _mixed(log_p_NV, spec, prior_V, seed, keys_N4)


def _realised(log_p_NV: Tensor, labels_N: Tensor) -> Tensor:
    """log p of each row's label, float32."""
    if len(labels_N) and not 0 <= int(labels_N.min()) <= int(labels_N.max()) < log_p_NV.shape[1]:
        wrong = labels_N[(labels_N < 0) | (labels_N >= log_p_NV.shape[1])][0]
        raise ModelError(f"label {int(wrong)} is outside the vocabulary of {log_p_NV.shape[1]}")
    return log_p_NV.gather(1, labels_N.to(log_p_NV.device).long()[:, None])[:, 0].float()


def teacher_log_probs(logits_NV: Tensor, width: int) -> Tensor:
    """log softmax over the first `width` ids, float32 at least; ModelError where a row of logits holds NaN or +inf."""
    found_NV = log_probs(logits_NV, width)
    if torch.isnan(found_NV.sum()):
        row = int(torch.isnan(found_NV).any(dim=1).nonzero()[0])
        raise ModelError(
            f"row {row}: the teacher gives NaN or infinite logits", hint="check its weights, or use `dtype = float32`"
        )
    return found_NV


def _top_k(logits_NV: Tensor, spec: TargetSpec, labels_N: Tensor | None) -> TopKTarget:
    labels_N = None if labels_N is None else labels_N.to(logits_NV.device)
    top = kernels.topk_logsumexp(logits_NV, spec.k, temperatures=spec.temperatures, labels_N=labels_N)
    # A mask of the lowest float is finite, and would be a mass that only seems to exist.
    masked_NK = top.log_probs_NK < MASKED_LOG_PROB
    return TopKTarget(
        ids_NK=top.ids_NK,
        log_probs_NK=top.log_probs_NK.masked_fill(masked_NK, float("-inf")),
        log_tail_N=top.log_tail_N,
        vocab_size=logits_NV.shape[1],
        log_tail_at=top.log_tail_at,
        realised_logprob_N=top.realised_logprob_N,
    )


def _renormalised(log_p_NV: Tensor, k: int) -> TopKTarget:
    """Without any tail."""
    top = kernels.topk_logsumexp(log_p_NV, k)
    return TopKTarget(
        ids_NK=top.ids_NK,
        log_probs_NK=torch.log_softmax(top.log_probs_NK, dim=1),
        log_tail_N=torch.full_like(top.log_tail_N, float("-inf")),
        vocab_size=log_p_NV.shape[1],
    )


def _multinomial(log_p_NV: Tensor, draws: int, seed: int, keys_N4: Tensor) -> SampledTarget:
    """`draws` independent ids per row with weight count/draws each: E[weights] = p. τ is the weight of one draw."""
    drawn = []  # one after the other: rows for all draws would be [N·draws, V]
    samples_N, keys_N4 = keys_N4[:, 2], keys_N4.clone()
    for draw in range(draws):
        keys_N4[:, 2] = multinomial_sample(samples_N, draw, draws)
        drawn.append(kernels.sample(log_p_NV, seed=seed, keys_N4=keys_N4))
    ids_ND = torch.stack(drawn, dim=1).sort(dim=1).values
    is_new_ND = torch.ones_like(ids_ND, dtype=torch.bool)
    is_new_ND[:, 1:] = ids_ND[:, 1:] != ids_ND[:, :-1]
    place_ND = is_new_ND.long().cumsum(1) - 1  # the column of each draw once equal ids are one
    ids_NK = ids_ND[:, -1:].repeat(1, draws).scatter(1, place_ND, ids_ND)
    weights_NK = torch.zeros(ids_ND.shape, device=ids_ND.device).scatter_add_(
        1, place_ND, torch.full(ids_ND.shape, 1 / draws, device=ids_ND.device)
    )
    return SampledTarget(
        ids_NK=ids_NK.int(),
        weights_NK=weights_NK,
        counts_N=is_new_ND.sum(1).int(),
        tau_N=torch.full((len(ids_ND),), 1 / draws, device=ids_ND.device),
        entropy_N=entropy_of(log_p_NV),
        vocab_size=log_p_NV.shape[1],
    )


def _mixed(log_p_NV: Tensor, spec: TargetSpec, prior_V: Tensor | None, seed: int, keys_N4: Tensor) -> DenseTarget:
    """The k most likely ids as they are, and t·[(1 − λ)·draws + λ·prior], as a whole distribution.

    Ids of no mass get the smallest float instead of 0: rows without −inf take the faster path through the loss.
    """
    top = kernels.topk_logsumexp(log_p_NV, spec.k)
    kept_NK = top.ids_NK.long()
    tail_N1 = top.log_tail_N.exp()[:, None]
    shape_NV = torch.zeros_like(log_p_NV)
    if spec.tail_prior:
        if prior_V is None:
            raise UsageError("prior_V is missing: tail_prior is above 0")
        shape_NV += prior_V
        shape_NV.scatter_(1, kept_NK, 0.0)
        shape_NV *= spec.tail_prior / shape_NV.sum(1, keepdim=True).clamp_min(1e-30)
    if spec.tail_prior < 1:
        tail_only_NV = log_p_NV.scatter(1, kept_NK, float("-inf"))
        drawable_NV = torch.where(tail_N1 > 0, tail_only_NV, log_p_NV)  # a row without a tail has nothing to draw from
        drawn = kernels.threshold_sample(drawable_NV, spec.tail_draws, seed=seed, keys_N4=keys_N4)
        shape_NV.scatter_add_(1, drawn.ids_NK.long(), (1 - spec.tail_prior) * drawn.weights_NK)
    mixed_NV = (shape_NV * tail_N1).scatter(1, kept_NK, top.log_probs_NK.exp())
    return DenseTarget(log_probs_NV=mixed_NV.clamp_min_(torch.finfo(torch.float32).tiny).log_())
