"""What a cache would have kept of a live teacher's distribution, batch by batch, without the cache.

    dense         all of it
    top-k         the k most likely ids and the exact mass of all others, as one bucket
    renormalised  the k most likely ids, scaled to a sum of 1: what most tools cache (pitfall 1)
    sampled       k ids by threshold sampling, unbiased
    multinomial   k independent draws, as counts, unbiased
    mixed         the k most likely ids exactly; the tail's mass t as t·[(1 − λ)·draws + λ·prior], with
                  m = tail_draws ids drawn from the tail without bias (τ each), λ = tail_prior, and the prior
                  the mean tail of the training data, one vector for the whole run

So top-k with a tail shape that costs nothing per token is mixed with λ = 1; top-k with samples as its
correction, an unbiased target, is mixed with λ = 0.

Draws are keyed by (seed, epoch, prompt, sample, position): the same in every epoch where the responses are,
as in a cache, unless they are to be fresh.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thack import kernels
from thack.config import LossSettings, TargetSettings
from thack.data.sequence import TokenSequence
from thack.errors import ModelError, UndefinedLoss, UsageError
from thack.losses.fused import ProjectedTeacher, Projection
from thack.losses.vocabulary import log_probs
from thack.models.batch import Batch
from thack.models.precision import FLOAT32, Precision
from thack.models.protocol import LanguageModel
from thack.targets.types import DenseTarget, SampledTarget, Target, TopKTarget

# The `sample` words of multinomial draw number d are _DRAWS + d: no response is written under them.
_DRAWS = 1 << 31
_PRIOR_SEQUENCES = 256


class LiveTeacher:
    """Scores rows with the teacher and keeps what `settings` say of them."""

    def __init__(
        self,
        teacher: LanguageModel,
        width: int,
        settings: TargetSettings,
        *,
        seed: int,
        examples: Sequence[TokenSequence] = (),
        projects: bool = True,
        precision: Precision = FLOAT32,
    ) -> None:
        """`examples`: responses of the data set, for the prior; empty where all are written afresh.

        `projects`: False leaves a dense target before the teacher's head, for a loss that projects it in chunks.
        """
        self._teacher, self._width, self._settings, self._seed = teacher, width, settings, seed
        self._examples = examples[:_PRIOR_SEQUENCES]
        self._redraws = settings.redraw or not examples
        self._projects = projects
        self._precision = precision
        self._prior_V: Tensor | None = None

    def target(self, sequences: Sequence[TokenSequence], batch: Batch, epoch: int) -> Target | ProjectedTeacher:
        """The target of the rows of `batch`; `epoch` names the draws where they are fresh."""
        s = self._settings
        if s.kind == "dense" and not self._projects:
            with torch.no_grad(), self._precision.autocast(self._teacher):
                hidden_NH = self._teacher(batch, project=False)
            if self._precision.dtype != torch.float32:
                hidden_NH = hidden_NH.to(self._precision.dtype)  # the head's product is in this format too
            return ProjectedTeacher(hidden_NH=hidden_NH, head=Projection.of(self._teacher))
        log_p_NV = self._score(batch)
        if s.kind == "dense":
            return DenseTarget(log_probs_NV=log_p_NV)
        if s.kind in ("top-k", "renormalised"):
            return top_k_target(log_p_NV, s.k, renormalised=s.kind == "renormalised")
        keys_N4 = draw_keys(sequences, epoch if self._redraws else 0)
        if s.kind == "sampled":
            return kernels.threshold_sample(log_p_NV, s.k, seed=self._seed, keys_N4=keys_N4)
        if s.kind == "multinomial":
            return multinomial_target(log_p_NV, s.k, seed=self._seed, keys_N4=keys_N4)
        prior_V = self._prior() if s.tail_prior else None
        return mixed_target(log_p_NV, s, prior_V, seed=self._seed, keys_N4=keys_N4)

    def _score(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            with self._precision.autocast(self._teacher):
                logits_NV = self._teacher(batch)
            found = log_probs(logits_NV, self._width)
            if torch.isnan(found.sum()):
                raise ModelError("the teacher gives NaN logits", hint="check its weights, or use `dtype = float32`")
        return found

    def _prior(self) -> Tensor:
        """The teacher's mean tail over the examples, Σ_n p_nv·1(v ∉ S_n), made once."""
        if self._prior_V is None:
            total_V = torch.zeros(self._width, dtype=torch.float64)
            for start in range(0, len(self._examples), 64):
                p_NV = self._score(Batch.of(self._examples[start : start + 64], self._teacher.device)).exp()
                p_NV.scatter_(1, p_NV.topk(min(self._settings.k, self._width), dim=1).indices, 0.0)
                total_V += p_NV.sum(0, dtype=torch.float64).cpu()
            # No id is impossible in a tail: every one gets at least a thousandth of an even share.
            total_V = total_V / total_V.sum().clamp_min(1e-30) + 1e-3 / self._width
            self._prior_V = (total_V / total_V.sum()).float().to(self._teacher.device)
        return self._prior_V


def check_target(settings: TargetSettings, loss: LossSettings, *, has_responses: bool) -> None:
    """Refuse what cannot be made, and settings that would be passed over in silence."""
    if settings.kind in ("sampled", "multinomial") and loss.divergence != "forward_kl":
        raise UndefinedLoss(
            f"{loss.divergence} is not defined on target.kind = {settings.kind}",
            details=["the samples are an unbiased estimate of p, and only forward KL is linear in p"],
            hint="use `loss.divergence = forward_kl`, or `target.kind` dense, top-k or mixed",
        )
    if settings.kind not in ("dense", "mixed") and loss.temperature != 1:
        raise UndefinedLoss(
            f"loss.temperature = {loss.temperature:g} is not defined on target.kind = {settings.kind}",
            hint="use `loss.temperature = 1`, or `target.kind` dense or mixed",
        )
    if settings.kind != "mixed":
        if settings.tail_draws or settings.tail_prior:
            raise UsageError(
                f"target.tail_draws and target.tail_prior belong to target.kind = mixed, not {settings.kind}",
                hint="use `target.kind = mixed`",
            )
        return
    if settings.tail_prior < 1 and settings.tail_draws < 1:
        raise UsageError(
            "target.kind = mixed leaves a share of the tail to no id",
            details=[f"tail_prior  {settings.tail_prior:g}", f"tail_draws  {settings.tail_draws}"],
            hint="use `target.tail_prior = 1` (a prior alone), or `target.tail_draws = 4`",
        )
    if settings.tail_prior and not has_responses:
        raise UsageError(
            "target.tail_prior needs given responses: the prior is the mean tail over them",
            hint="use `source.kind = offline`, or `target.tail_prior = 0` with `target.tail_draws = 4`",
        )


def draw_keys(sequences: Sequence[TokenSequence], epoch: int) -> Tensor:
    """int64 [N, 4], one row per response token: epoch, prompt, sample, position."""
    lengths = np.array([len(s.response_ids) for s in sequences])
    columns = (
        np.full(int(lengths.sum()), epoch, dtype=np.int64),
        np.repeat(np.array([s.example for s in sequences], dtype=np.int64), lengths),
        np.repeat(np.array([s.sample for s in sequences], dtype=np.int64), lengths),
        np.concatenate([np.arange(length, dtype=np.int64) for length in lengths]),
    )
    return torch.from_numpy(np.stack(columns, axis=1))


def top_k_target(log_p_NV: Tensor, k: int, *, renormalised: bool = False) -> TopKTarget:
    """The k most likely ids with the rest as a bucket, or, renormalised, with no rest at all."""
    top = kernels.topk_logsumexp(log_p_NV, k)
    kept_NK, tail_N = top.log_probs_NK, top.log_tail_N
    if renormalised:
        kept_NK, tail_N = torch.log_softmax(kept_NK, dim=1), torch.full_like(tail_N, float("-inf"))
    return TopKTarget(ids_NK=top.ids_NK, log_probs_NK=kept_NK, log_tail_N=tail_N, vocab_size=log_p_NV.shape[1])


def multinomial_target(log_p_NV: Tensor, draws: int, *, seed: int, keys_N4: Tensor) -> SampledTarget:
    """`draws` independent ids per row with weight count/draws each: E[weights] = p.

    τ is 1/draws, the weight of one draw.
    """
    keys_ND4 = keys_N4[:, None, :].repeat(1, draws, 1)
    keys_ND4[:, :, 2] = _DRAWS + torch.arange(draws)
    rows_NDV = log_p_NV[:, None, :].expand(-1, draws, -1)
    drawn = kernels.sample(rows_NDV.reshape(-1, log_p_NV.shape[1]), seed=seed, keys_N4=keys_ND4.view(-1, 4))
    ids_ND = drawn.view(-1, draws).sort(dim=1).values
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
        entropy_N=entropy(log_p_NV),
        vocab_size=log_p_NV.shape[1],
    )


def mixed_target(
    log_p_NV: Tensor, settings: TargetSettings, prior_V: Tensor | None, *, seed: int, keys_N4: Tensor
) -> DenseTarget:
    """head exact + t·[(1 − λ)·draws + λ·prior], as a whole distribution.

    Ids of no mass get the smallest float instead of 0: rows without −inf take the fast way through the loss.
    """
    top = kernels.topk_logsumexp(log_p_NV, settings.k)
    head_NK = top.ids_NK.long()
    tail_N1 = top.log_tail_N.exp()[:, None]
    rest_NV = torch.zeros_like(log_p_NV)
    if prior_V is not None:
        rest_NV += prior_V
        rest_NV.scatter_(1, head_NK, 0.0)
        rest_NV *= settings.tail_prior / rest_NV.sum(1, keepdim=True).clamp_min(1e-30)
    if settings.tail_prior < 1:
        tail_only_NV = log_p_NV.scatter(1, head_NK, float("-inf"))
        has_tail_N1 = tail_N1 > 0  # a row that is all head has nothing to draw from
        drawable_NV = torch.where(has_tail_N1, tail_only_NV, log_p_NV)
        drawn = kernels.threshold_sample(drawable_NV, settings.tail_draws, seed=seed, keys_N4=keys_N4)
        rest_NV.scatter_add_(1, drawn.ids_NK.long(), (1 - settings.tail_prior) * drawn.weights_NK)
    mixed_NV = (rest_NV * tail_N1).scatter(1, head_NK, top.log_probs_NK.exp())
    return DenseTarget(log_probs_NV=mixed_NV.clamp_min_(torch.finfo(torch.float32).tiny).log_())


def entropy(log_p_NV: Tensor) -> Tensor:
    """H(p)_N = −Σ p log p, in nats; 0·log 0 counts as 0."""
    return -torch.where(log_p_NV > float("-inf"), log_p_NV.exp() * log_p_NV, 0.0).sum(1)
