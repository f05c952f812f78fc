"""The result of a selection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """The k most likely ids of each row, in increasing order of id."""

    ids_NK: Tensor  # int32
    log_probs_NK: Tensor  # float32
    logsumexp_N: Tensor  # float32
    log_tail_N: Tensor  # float32
    log_tail_at: Mapping[float, Tensor] = field(default_factory=dict)
