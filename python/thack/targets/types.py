"""What the teacher knows about one batch of response tokens, as value types.

Shape legend, used in names throughout thack: B sequences, T positions, V vocabulary, K kept ids,
N response tokens packed sequence after sequence (row n is the distribution that predicts token n).
All probabilities are at temperature 1 and all logarithms are natural.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Tensors whose first dimension is N."""

    def __len__(self) -> int:
        """N."""
        values = (getattr(self, one.name) for one in fields(self))
        return next(len(value) for value in values if isinstance(value, Tensor))

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same target with `change` applied to each of its tensors."""
        return replace(self, **{f.name: _changed(getattr(self, f.name), change) for f in fields(self)})

    def rows(self, rows: slice) -> Self:
        """The target of these response tokens."""
        return self.map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> Self:
        """The target with its tensors on `device`."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


def _changed(value: object, change: Callable[[Tensor], Tensor]) -> object:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: change(tensor) for key, tensor in value.items()}
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseTarget(Packed):
    """The whole distribution.

    Args:
        log_probs_NV: float32 (or float64), natural logarithms, each row normalised; −inf is an id without mass.
        realised_logprob_N: float32, log p of the token that followed, NaN where it is not known; None: of no row. From
            a cache it has an error of at most 2.5e-4, and what lies below −32 nats is the number just below −32.

    Example:
        >>> target = DenseTarget(log_probs_NV=torch.log_softmax(torch.zeros(2, 3), dim=1))
        >>> len(target), target.vocab_size, len(target.rows(slice(1)))
        (2, 3, 1)
    """

    log_probs_NV: Tensor
    realised_logprob_N: Tensor | None = None

    @property
    def vocab_size(self) -> int:
        return self.log_probs_NV.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopKTarget(Packed):
    """K ids (usually the most likely), their log-probabilities, and the log of the mass of all others.

    Numbers of a cache are rounded: a row's mass, kept ids and tail together, is 1 within 0.4 %, and `normalised` makes
    it 1. Losses are computed on the numbers as they are stored.

    Args:
        ids_NK: int32, strictly increasing along K, below vocab_size.
        log_probs_NK: float32, natural logarithms at temperature 1.
        log_tail_N: float32, log Σ_{v∉S} p_v; −inf where nothing is left; None: unknown, and most losses are undefined.
        vocab_size: number of ids of the distribution.
        log_tail_at: T → log Σ_{v∉S} p_v^(1/T), float32 [N]: what a loss at temperature T needs.
        processed: a temperature, top-k, top-p or a mask changed the teacher's log-probabilities: forward KL alone is
            defined.
        realised_logprob_N: as of `DenseTarget`.

    Example:
        >>> half = torch.tensor([[0.5]]).log()
        >>> ids = torch.tensor([[7]], dtype=torch.int32)
        >>> len(TopKTarget(ids_NK=ids, log_probs_NK=half, log_tail_N=half[0], vocab_size=10))
        1
    """

    ids_NK: Tensor
    log_probs_NK: Tensor
    log_tail_N: Tensor | None
    vocab_size: int
    log_tail_at: Mapping[float, Tensor] = field(default_factory=dict)
    processed: bool = False
    realised_logprob_N: Tensor | None = None

    def normalised(self) -> TopKTarget:
        """The same target at temperature 1 with rows whose mass is 1; tails at other temperatures are left out.

        Where the tail is unknown, the kept ids alone sum to 1.
        """
        kept_N = torch.logsumexp(self.log_probs_NK, dim=1)
        if self.log_tail_N is None:
            return replace(self, log_probs_NK=self.log_probs_NK - kept_N[:, None], log_tail_at={})
        total_N = torch.logaddexp(kept_N, self.log_tail_N)
        return replace(
            self,
            log_probs_NK=self.log_probs_NK - total_N[:, None],
            log_tail_N=self.log_tail_N - total_N,
            log_tail_at={},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledTarget(Packed):
    """An unbiased sparse estimate of p: E[Σ_k weights_k · 1(v = ids_k)] = p_v for every v.

    Args:
        ids_NK: int32, strictly increasing over the first counts_N entries; padding repeats the last id.
        weights_NK: float32: p itself where p ≥ τ, τ for the sampled ids, 0 for padding and, in a mixture, for the ids
            of a teacher without a share of the row.
        counts_N: int32, valid entries of each row.
        tau_N: float32, the threshold τ.
        entropy_N: float32, H(p) in nats: it makes the cross-entropy an unbiased estimate of the KL divergence. Of a
            mixture, the mean of its teachers' (`join.mix`).
        vocab_size: number of ids of the distribution.
        entropy_above_N: float32, how far H(p) may be above entropy_N; None: it is entropy_N.
        realised_logprob_N: as of `DenseTarget`.

    Example:
        >>> one = torch.ones(1)
        >>> target = SampledTarget(
        ...     ids_NK=torch.tensor([[7]]).int(), weights_NK=one[:, None], counts_N=one.int(), tau_N=one,
        ...     entropy_N=0 * one, vocab_size=10)
        >>> len(target)
        1
    """

    ids_NK: Tensor
    weights_NK: Tensor
    counts_N: Tensor
    tau_N: Tensor
    entropy_N: Tensor
    vocab_size: int
    entropy_above_N: Tensor | None = None
    realised_logprob_N: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenHeadTarget(Packed):
    """What forward KL needs of a distribution p where the student's head W is frozen (`losses.frozen_head`).

    Args:
        mean_NH: float32, Wᵀp = Σ_v p_v W_v, the expected row of the head; H is the student's hidden width.
        entropy_N: as of `SampledTarget`.
        vocab_size: number of ids of the distribution.
        entropy_above_N: as of `SampledTarget`.
        realised_logprob_N: as of `DenseTarget`.

    Example:
        >>> target = FrozenHeadTarget(mean_NH=torch.zeros(2, 8), entropy_N=torch.zeros(2), vocab_size=10)
        >>> len(target)
        2
    """

    mean_NH: Tensor
    entropy_N: Tensor
    vocab_size: int
    entropy_above_N: Tensor | None = None
    realised_logprob_N: Tensor | None = None


SparseTarget = TopKTarget | SampledTarget
Target = DenseTarget | TopKTarget | SampledTarget | FrozenHeadTarget
