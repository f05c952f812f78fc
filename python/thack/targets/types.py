"""What the teacher knows about one batch of response tokens: value types with shapes, nothing else.

Shape legend, used in names throughout thack: B sequences, T positions, V vocabulary, K kept ids,
N response tokens packed sequence after sequence (row n is the distribution that predicts token n).
All probabilities are at temperature 1 and all logarithms are natural.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseTarget:
    """The whole distribution."""

    log_probs_NV: Tensor  # float32

    @property
    def vocab_size(self) -> int:
        return self.log_probs_NV.shape[1]

    def __len__(self) -> int:
        return self.log_probs_NV.shape[0]

    def to(self, device: torch.device | str) -> DenseTarget:
        return DenseTarget(log_probs_NV=self.log_probs_NV.to(device, non_blocking=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class TopKTarget:
    """The K most likely ids, their log-probabilities, and the log of the mass of all others."""

    ids_NK: Tensor  # int32, strictly increasing along K, < vocab_size
    log_probs_NK: Tensor  # float32
    log_tail_N: Tensor | None  # float32, log Σ_{v∉S} p_v (−inf where nothing is left); None: unknown
    vocab_size: int
    log_tail_at: Mapping[float, Tensor] = field(default_factory=dict)  # T → log Σ_{v∉S} p_v^(1/T), float32 [N]

    def __len__(self) -> int:
        return self.ids_NK.shape[0]

    def to(self, device: torch.device | str) -> TopKTarget:
        return TopKTarget(
            ids_NK=self.ids_NK.to(device, non_blocking=True),
            log_probs_NK=self.log_probs_NK.to(device, non_blocking=True),
            log_tail_N=None if self.log_tail_N is None else self.log_tail_N.to(device, non_blocking=True),
            vocab_size=self.vocab_size,
            log_tail_at={t: tail.to(device, non_blocking=True) for t, tail in self.log_tail_at.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledTarget:
    """An unbiased sparse estimate of p: E[Σ_k weights_k · 1(v = ids_k)] = p_v for every v."""

    ids_NK: Tensor  # int32, strictly increasing over the first counts_N entries; padding repeats the last id
    weights_NK: Tensor  # float32: p itself for heads (p ≥ τ), τ for sampled ids, 0 for padding
    counts_N: Tensor  # int32, valid entries per row
    tau_N: Tensor  # float32
    entropy_N: Tensor  # float32, H(p) in nats: makes the cross-entropy an unbiased KL estimate
    vocab_size: int

    def __len__(self) -> int:
        return self.ids_NK.shape[0]

    def to(self, device: torch.device | str) -> SampledTarget:
        return SampledTarget(
            ids_NK=self.ids_NK.to(device, non_blocking=True),
            weights_NK=self.weights_NK.to(device, non_blocking=True),
            counts_N=self.counts_N.to(device, non_blocking=True),
            tau_N=self.tau_N.to(device, non_blocking=True),
            entropy_N=self.entropy_N.to(device, non_blocking=True),
            vocab_size=self.vocab_size,
        )


Target = DenseTarget | TopKTarget | SampledTarget
