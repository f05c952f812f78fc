"""Rows of ids and log-probabilities, of any length and order, as top-k records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thack.cache.exchange.source_row import SourceRow
from thack.cache.exchange.survey import without_stand_ins
from thack.cache.exchange.tails import RowTail
from thack.cache.format.layout import RecordLayout
from thack.cache.format.mass import heavy_row
from thack.cache.format.records import decode
from thack.errors import DataError
from thack.serving.answers import Entry
from thack.targets.types import TopKTarget

_SMALLEST_TAIL = 1e-7  # the least mass that 1 − Σ of float32 numbers can tell from 0


def pack(entries: Sequence[Entry], layout: RecordLayout, place: str, given: RowTail | None = None) -> bytearray:
    """The records of a response: of each token the k most likely ids, by id, and the tail, 1 − Σ of them if not given.

    What only stands for −inf is −inf. A row without a tail whose sum is above 1 by more than float32 rounding is scaled
    to 1. To a given tail the ids that are not kept are added.

    Args:
        entries: at least k ids for each token.
        layout: top-k records; of the temperatures that are given.
        place: names the response in errors.
        given: the tails of all ids that are not in the entries.

    Raises:
        DataError: a row is stored with more mass than a distribution has.
    """
    k, none = layout.spec.k, np.empty(0, np.float32)
    ids, values = np.empty((len(entries), k), np.int32), np.empty((len(entries), k))
    dropped = []
    for n, (entry_ids, of_entry) in enumerate(entries):
        log_probs = without_stand_ins(of_entry)
        total = np.exp(log_probs).sum()
        log_probs = log_probs - np.log(total) if given is None and total > 1 + 1e-3 else log_probs
        order = np.lexsort((entry_ids, -log_probs))
        dropped.append(log_probs[order[k:]])
        order = order[:k][np.argsort(entry_ids[order[:k]])]
        ids[n], values[n] = entry_ids[order], log_probs[order]
    if given is None:
        tail, further = np.log(np.maximum(1 - np.exp(values).sum(1), _SMALLEST_TAIL)), [none]
    else:
        tail = _joined(given.at_one, dropped, 1.0)
        further = [_joined(given.further[t], dropped, t) for t in layout.spec.temperatures] or [none]
    kept = np.minimum(values, 0).astype(np.float32)
    tail = tail.astype(np.float32) if layout.spec.tail != "none" else none
    records = layout.native.encode_top_k(ids, kept, tail, np.stack(further).astype(np.float32))
    if (wrong := heavy_row(records, layout)) is not None:
        raise DataError(f"{place}, response token {wrong.row}: stored with a mass of {wrong.mass:.3f}")
    return records


def unpack(records: bytes, layout: RecordLayout) -> list[Entry]:
    """The entries that a response's records hold, rounded; ids and tail of a row sum to 1 as before they were."""
    target = decode(bytearray(records), layout)
    assert isinstance(target, TopKTarget)
    kept = target.normalised()
    return list(zip(kept.ids_NK.numpy().astype(np.int64), kept.log_probs_NK.double().numpy(), strict=True))


def _joined(log_sum: np.ndarray, dropped: Sequence[np.ndarray], temperature: float) -> np.ndarray:
    """log(e^log_sum + Σ p^(1/T) over the dropped ids), float64 [R]."""
    pairs = zip(log_sum, dropped, strict=True)
    return np.array([np.logaddexp.reduce(np.append(of / temperature, tail)) for tail, of in pairs])


def realised(row: SourceRow) -> np.ndarray:
    """float32 [R]: log-probability of each response token; NaN where the source does not say it."""
    labels = row.sequence.response_ids
    found = np.full(len(labels), np.nan)
    if row.given is not None:
        found[: len(row.given)] = row.given  # an end that was put behind the response is not among them
    for n, (ids, log_probs) in enumerate(row.entries):
        own = log_probs[ids == labels[n]]
        if len(own) and (np.isnan(found[n]) or not row.slack):  # of approximate entries the number apart is closer
            found[n] = own[0]
    log_probs = np.minimum(without_stand_ins(found), 0)
    return np.asarray(log_probs, np.float32)
