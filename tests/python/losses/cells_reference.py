"""The loss on cells straight from its definition, in float64, through autograd: nothing shared with thack."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def loss(
    logits_V: Tensor,
    cell_V: Sequence[int],
    mass: dict[int, float],
    weights: dict[int, float],
    *,
    tail: float = 0.0,
    kept: Sequence[int] = (),
    inside: bool = False,
) -> Tensor:
    """Of one row. `mass` by cell, `weights` by id; `tail` is the mass of all cells but `kept`."""
    text = [u for u, cell in enumerate(cell_V) if cell >= 0]
    z = logits_V.double()[text]
    q = dict(zip(text, torch.softmax(z, 0), strict=True))
    zero = torch.zeros((), dtype=torch.float64)

    def cell(c: int) -> Tensor:
        return sum((q[u] for u in text if cell_V[u] == c), zero)

    total = zero
    for c, p in mass.items():
        total = total - p * cell(c).log() if p else total
    if tail:
        total = total - tail * sum((q[u] for u in text if cell_V[u] not in kept), zero).log()
    for u, w in weights.items():
        total = total - (w * (q[u].log() if inside else q[u].log() - cell(cell_V[u]).log()) if w else 0)
    return total
