"""Rows of another text at the beginning of a response, as a server's prefix cache may give them.

A row says itself how likely tokens are under it: on average over its own draws, −log p is its entropy. What lies above
is its surprise. A teacher is surprised by a text of others, but then by all of it, and where it does not know what
comes next its entropy is high. Rows of another text are sure of other tokens, as long as the stale block is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from thack.cache.exchange.source_row import SourceRow

FIRST_ROWS = 16  # a block of a server's prefix cache
_FEWEST = 8  # rows behind the block, to compare it with
_CLEAR_NATS = 4.0  # a token
_CLEAR_ERRORS = 5.0  # standard errors: a file of 10⁵ responses has one by chance with a probability of 3 %


@dataclass(slots=True)
class StaleRows:
    """Responses whose first rows are far more surprised than the others of the same response."""

    vocab_size: int
    count: int = 0
    places: list[str] = field(default_factory=list)  # of the first ones

    def add(self, row: SourceRow) -> None:
        """Compare the two parts of one sequence."""
        labels = row.sequence.response_ids
        if len(labels) < FIRST_ROWS + _FEWEST:
            return
        surprise_R = np.array(
            [
                surprise(ids, log_probs, int(label), self.vocab_size)
                for (ids, log_probs), label in zip(row.entries, labels, strict=False)
            ]
        )
        begin, rest = surprise_R[:FIRST_ROWS], surprise_R[FIRST_ROWS:]
        noise = np.hypot(begin.std() / len(begin) ** 0.5, rest.std() / len(rest) ** 0.5)
        if begin.mean() - max(rest.mean(), 0.0) > max(_CLEAR_NATS, _CLEAR_ERRORS * float(noise)):
            self.count += 1
            self.places += [row.place] if len(self.places) < 3 else []


def surprise(ids: np.ndarray, log_probs: np.ndarray, label: int, vocab_size: int) -> float:
    """−log p(label) − entropy, in nats; never more than that of the whole distribution.

    The mass that is not kept is taken as spread over all other ids, which has the highest entropy; a label that is
    not kept, as likely as the least of the kept ones.
    """
    kept = log_probs[np.isfinite(log_probs)]
    probs = np.exp(kept)
    tail, others = max(1.0 - float(probs.sum()), 0.0), max(vocab_size - len(ids), 1)
    entropy = -float((probs * kept).sum()) + (tail * float(np.log(others / tail)) if tail > 0 else 0.0)
    found = log_probs[ids == label]
    chosen = float(found[0]) if len(found) and np.isfinite(found[0]) else float(kept.min())
    return -chosen - entropy
