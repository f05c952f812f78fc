"""What the kernels take and return beside tensors: rows of a truncated or sampled distribution.

Shape legend: N rows (response tokens), K kept ids or cells, V student ids, C cells, W weighted ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class TopK(NamedTuple):
    """The k most likely ids of each row, in increasing order of id."""

    ids_NK: Tensor  # int32
    log_probs_NK: Tensor  # float32, nats
    logsumexp_N: Tensor  # float32
    log_tail_N: Tensor  # float32: log of the mass of all other ids, −inf where there is none
    log_tail_at: Mapping[float, Tensor]  # T → log Σ p^(1/T) over the other ids, float32 [N]
    realised_logprob_N: Tensor | None = None  # float32: log p of each row's label, where labels were given


class ThresholdSample(NamedTuple):
    """An unbiased sparse estimate of each row's distribution: E[Σ_k weights_k · 1(v = ids_k)] = p_v for every v."""

    ids_NK: Tensor  # int32, strictly increasing over the first counts_N entries; padding repeats the last id
    weights_NK: Tensor  # float32: p itself where p ≥ τ, τ for sampled ids, 0 for padding
    counts_N: Tensor  # int32, valid entries of each row
    tau_N: Tensor  # float32
    entropy_N: Tensor  # float32, H(p) in nats
    realised_logprob_N: Tensor | None = None  # float32: log p of each row's label, where labels were given


class SparseRows(NamedTuple):
    """What is known of a teacher's distribution at the temperature of the loss, on K ids and all others as one.

    An id of −1 whose value is −inf is padding: only the Rust kernel takes it.

    Of a sampled target (`sampled`): weights instead of log-probabilities, and the entropy instead of the tail mass.
    """

    ids_NK: Tensor  # int32, increasing, below vocab_size; padding of a sampled target repeats the last one
    values_NK: Tensor  # float32: log p of each id; sampled: its weight, 0 for padding and for what does not count
    tail_N: Tensor  # float32: log of the mass of all other ids; sampled: H(p) in nats
    vocab_size: int
    sampled: bool = False


class CellMembers(NamedTuple):
    """Which of a student's ids are in which cell."""

    cell_V: Tensor  # int64; −1: no text
    members: Tensor  # int64, ids sorted by cell; those without a cell are absent
    start_C: Tensor  # int64, where a cell's ids begin in `members`
    size_C: Tensor  # int64, ids of each cell
    outside: Tensor  # int64, the ids without a cell


class CellRows(NamedTuple):
    """A teacher's mass of some cells, and weights of a student's ids inside them."""

    mass_NK: Tensor  # float32
    cells_NK: Tensor  # int64, distinct in a row; −1: none
    tail_N: Tensor  # float32, mass of all other cells as one outcome; 0 where nothing is left or known
    ids_NW: Tensor  # int64
    weights_NW: Tensor  # float32
    is_inside_N: Tensor  # bool, no cell counts: the weights are of the whole distribution
