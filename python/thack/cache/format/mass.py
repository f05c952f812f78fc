"""Whether stored rows are distributions: their kept ids hold no more mass than 1, up to the rounding of a record."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from thack.cache.format.layout import RecordLayout

_MOST_MASS = 1.01
_MOST_SPREAD = 40.0  # nats that a record spans


class HeavyRow(NamedTuple):
    """A row whose kept ids hold more mass than a distribution has."""

    row: int
    mass: float


def heavy_row(records: bytes | bytearray | memoryview, layout: RecordLayout) -> HeavyRow | None:
    """The first row of top-k records with a mass above 1.01; None where there is none, and for other kinds.

    A record rounds log-probabilities to steps that grow with the distance from its largest value to its smallest. A
    row that spans many nats is given the mass that half a step makes.
    """
    spec = layout.spec
    if spec.kind != "top-k" or not len(records):
        return None
    n = len(records) // layout.stride
    ids, log_probs = np.empty((n, spec.k), np.int32), np.empty((n, spec.k), np.float32)
    tails = np.empty(n if spec.tail != "none" else 0, np.float32)
    layout.native.decode_top_k(records, ids, log_probs, tails, np.empty((len(spec.temperatures), n), np.float32))
    mass_N = np.exp(log_probs).sum(axis=1, dtype=np.float64)
    lowest_N = np.where(np.isfinite(log_probs), log_probs, np.inf).min(axis=1)
    spread_N = np.minimum(log_probs.max(axis=1) - lowest_N, _MOST_SPREAD)
    allowed_N = np.maximum(_MOST_MASS, 1 + spread_N / (3 * (2**spec.value_bits - 1)))
    heavy_N = ~(mass_N <= allowed_N)
    if not heavy_N.any():
        return None
    row = int(heavy_N.argmax())
    return HeavyRow(row, float(mass_N[row]))
