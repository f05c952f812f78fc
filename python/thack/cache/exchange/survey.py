"""What an import finds in its source: counts to report, and rows that cannot be the teacher's own.

Every row is read once before anything is written. Each check here looks at a row as the source gives it.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Literal

import numpy as np

from thack.cache.exchange.source_row import SourceRow
from thack.cache.exchange.stale import FIRST_ROWS, StaleRows
from thack.data.eos import Ends
from thack.data.readers import other_prompt
from thack.errors import DataError
from thack.files import digest
from thack.serving import answers

# Log of the smallest normal float32. No softmax in float32 tells a lower value from 0. Servers write −100, −9999,
# −1e4 or the lowest float where a probability is 0, because JSON has no −inf.
LOWEST_LOG_PROB = -87.33
_SUM_TOLERANCE = 1e-3
_CODES = 255  # of a record: steps from its largest log-probability to its smallest
_CERTAIN = 0.9  # rows with a likelier id say nothing of how their tail was treated
_COMPLETE = 1e-5  # 1 − Σ of a row that leaves no tail
_CLIFF = 1e-4  # the least kept id of a row that was cut; where nothing was cut, it is as rare as what follows it
_CLIFF_TO_ZERO = 1e-13  # the same where ids without mass follow; −inf may stand for what float32 or float16 has as 0
_FEWEST_ROWS = 8  # uncertain rows, to call a source processed
_UNLIKELY = -6.0  # nats: a mean log-probability that no text has under a teacher that wrote or understood it
_SHIFTS = (-1, 0, 1)
_FEWEST_HITS = 32
_CLEAR = 4.0  # standard errors

Processing = Literal["auto", "raw", "processed"]


def without_stand_ins(log_probs: np.ndarray) -> np.ndarray:
    """float64: values that only stand for −inf, as −inf."""
    return np.where(log_probs < LOWEST_LOG_PROB, -np.inf, log_probs)


def without_padded(row: SourceRow, tokenizer_size: int) -> SourceRow:
    """The row on the tokenizer's ids alone, scaled to them, as a capture has it: padded ids take no part."""
    if all(ids.max() < tokenizer_size for ids, _ in row.entries):
        return row
    if row.tail is not None:
        raise DataError(
            f"{row.place}: holds padded ids, which its tail then counts among all others, too",
            hint="write rows without padded ids, or leave out log_tail and log_tail_at_T to have tails estimated",
        )
    places = (f"{row.place}, response token {n}" for n in range(len(row.entries)))
    entries = [
        answers.without_padded(entry, tokenizer_size, place) for entry, place in zip(row.entries, places, strict=True)
    ]
    return replace(row, entries=entries)


def completed(row: SourceRow, ends: Ends) -> SourceRow:
    """With an end behind a response that stopped without one: its server drew it, and gave no distribution."""
    if row.finish_reason != "stop" or ends.is_finished(row.sequence.response_ids):
        return row
    end = ends.eos if ends.turn is None else ends.turn
    ids = np.concatenate([[end], row.entries[-1][0][row.entries[-1][0] != end]])[: len(row.entries[-1][0])]
    log_probs = np.full(len(ids), -np.inf)
    log_probs[0] = 0.0
    response_ids = np.append(row.sequence.response_ids, np.int32(end)).astype(np.int32)
    sequence = replace(row.sequence, response_ids=response_ids)
    entries = [*row.entries, (ids.astype(np.int64), log_probs)]
    return replace(row, sequence=sequence, entries=entries, tail=row.tail and row.tail.with_end())


def rounding_excess(log_probs: np.ndarray) -> float:
    """How far Σp may exceed 1 because the log-probabilities were stored as float16 or bfloat16; 0 for wider ones.

    Rounding moves log p by at most |log p|/2^11 (float16) or |log p|/2^9 (bfloat16).
    """
    finite = log_probs[np.isfinite(log_probs)]
    with np.errstate(over="ignore"):
        if (finite.astype(np.float16) == finite).all():
            error = 2.0**-11
        elif (finite.astype(np.float32) == finite).all() and not (finite.astype(np.float32).view("u4") & 0xFFFF).any():
            error = 2.0**-9
        else:
            return 0.0
    return float((np.exp(finite) * np.expm1(-finite * error)).sum()) + _SUM_TOLERANCE


def _ends_at_a_cliff(probs: np.ndarray) -> bool:
    """Whether the least of the kept ids has mass, of a row that leaves none: a softmax falls off smoothly.

    A teacher that is sure leaves no tail either, where many ids are kept: then their least is as rare as what follows.
    """
    kept = probs[probs > 0]
    return bool(kept.min() > (_CLIFF if len(kept) == len(probs) else _CLIFF_TO_ZERO))


def _tolerance(log_probs: np.ndarray, slack: float) -> float:
    """How far the mass of a row may be from 1 by the rounding of its numbers, or by that of a record."""
    if not slack:
        return rounding_excess(log_probs)
    finite = log_probs[np.isfinite(log_probs)]
    return max(slack, min(float(np.ptp(finite)), -LOWEST_LOG_PROB) / _CODES / 2)


def _check_tail(log_probs: np.ndarray, tail: float, place: str, slack: float) -> None:
    """Refuse a tail that is no log of a mass, or not of what the row leaves.

    Raises:
        DataError: says how much mass there is.
    """
    kept = without_stand_ins(log_probs)
    total = float(np.exp(kept).sum() + np.exp(tail))
    if not abs(total - 1) <= max(_SUM_TOLERANCE, _tolerance(kept, slack)):
        raise DataError(
            f"{place}: the probabilities and the tail {tail:g} sum to {total:.4f}",
            hint="log_tail must be the natural logarithm of the mass of all ids that the row does not have",
        )


@dataclass(slots=True)
class Survey:
    """Counts over the whole source; memory grows with the number of sequences alone."""

    processing: Processing
    vocab_size: int
    setting: str = "logprobs"  # what states the processing, for messages
    rows: int = 0
    widths: Counter[int] = field(default_factory=Counter)  # number of ids → rows
    sequences: int = 0
    stand_ins: int = 0  # entries
    rounded: int = 0  # rows
    uncertain: int = 0  # rows without an id above `_CERTAIN`
    complete: int = 0  # of those, rows that leave no tail, though their least id has mass: they were cut
    completed: int = 0  # responses that were given an end
    padded: int = 0  # entries of ids that the tokenizer does not have
    _stale: StaleRows = field(init=False)
    _first_rows: dict[str, tuple[str, str]] = field(default_factory=dict)  # row → its prefix and place
    _prompts: dict[str, str] = field(default_factory=dict)  # name that the source gives → that prompt
    _starts: array[float] = field(default_factory=lambda: array("d"))
    _masses: dict[int, tuple[int, int, float, float]] = field(default_factory=dict)  # shift → hits, n, Σ, Σ²

    def __post_init__(self) -> None:
        self._stale = StaleRows(self.vocab_size)

    def add(self, row: SourceRow, source: str) -> None:
        """Count one sequence.

        Raises:
            DataError: its first row or its name is another sequence's, or no id of a row has mass.
        """
        self.count(row, source)
        self._check_first_row(row, source)
        self._check_name(row, source)

    def count(self, row: SourceRow, source: str = "") -> None:
        """As `add`, of a row whose numbers were rounded since: its first row may equal another one's."""
        self.sequences += 1
        self.rows += len(row.entries)
        for n, (_, log_probs) in enumerate(row.entries):
            place = f"{source}: {row.place}, response token {n}"
            rounded = self._count_row(log_probs, place, row.slack)
            if row.tail is None:
                self.rounded += rounded
            else:
                _check_tail(log_probs, float(row.tail.at_one[n]), place, row.slack)
        self._count_fit(row)
        self._stale.add(row)

    def _count_row(self, log_probs: np.ndarray, place: str, slack: float) -> bool:
        """Count a row; whether its probabilities sum to more than 1, by their rounding."""
        self.widths[len(log_probs)] += 1
        kept = without_stand_ins(log_probs)
        self.stand_ins += int((np.isneginf(kept) & np.isfinite(log_probs)).sum())
        probs = np.exp(kept)
        total, highest = probs.sum(), probs.max()
        if highest == 0:
            raise DataError(f"{place}: no id has mass")
        if total > 1 + max(_SUM_TOLERANCE, _tolerance(kept, slack)):
            raise DataError(
                f"{place}: the probabilities sum to {total:.4f}",
                hint="log-probabilities must be natural logarithms at temperature 1",
            )
        if highest < _CERTAIN and len(log_probs) <= self.vocab_size // 2:
            self.uncertain += 1
            self.complete += abs(total - 1) <= _COMPLETE and _ends_at_a_cliff(probs)
        return bool(total > 1 + _SUM_TOLERANCE)

    def _count_fit(self, row: SourceRow) -> None:
        """The mass of row t on token t + shift, and how likely the first tokens are."""
        labels = row.sequence.response_ids
        starts = []
        for n, (ids, log_probs) in enumerate(row.entries):
            for shift in _SHIFTS:
                if 0 <= n + shift < len(labels):
                    found = log_probs[ids == labels[n + shift]]
                    mass = float(np.exp(found[0])) if len(found) else 0.0
                    hits, count, first, second = self._masses.get(shift, (0, 0, 0.0, 0.0))
                    self._masses[shift] = (hits + (mass > 0), count + 1, first + mass, second + mass * mass)
            if n < FIRST_ROWS:
                found = log_probs[ids == labels[n]]
                starts.append(float(found[0]) if len(found) else float(log_probs.min()))
        self._starts.append(float(np.mean(starts)))

    def _check_first_row(self, row: SourceRow, source: str) -> None:
        """A row depends on all tokens before it: two sequences that differ there have no row in common.

        A server's prefix cache that answers with rows of an earlier request begins at the first one.
        """
        ids, log_probs = row.entries[0]
        if len(ids) < 4 or np.exp(log_probs).max() > _CERTAIN:
            return
        name, prefix = digest(ids.tobytes() + log_probs.tobytes()), digest(row.sequence.prompt_ids.tobytes())
        other, place = self._first_rows.setdefault(name, (prefix, row.place))
        if other != prefix:
            raise DataError(
                f"{source}: {row.place} has the first row of {place}, whose prompt is another",
                hint="the server answered with stale rows: ask again without its prefix cache",
            )

    def _check_name(self, row: SourceRow, source: str) -> None:
        """Held-out splits, weights by prompt and coverage of data go by names."""
        name, prompt = row.sequence.prompt_id, digest(row.sequence.prompt_ids.tobytes())
        if row.is_named and self._prompts.setdefault(name, prompt) != prompt:
            raise DataError(f"{source}: {row.place}: {other_prompt(name)}")

    def check(self, source: str) -> None:
        """Refuse a source that as a whole cannot be the teacher's raw rows.

        Raises:
            DataError: its rows are shifted; or they are stale or were processed, and nothing is said of them.
        """
        self._check_shift(source)
        if self._stale.count and self.processing == "auto":
            raise DataError(
                f"{source}: {self._stale.count:,} of {self.sequences:,} responses begin with rows of another text: "
                "they are sure of other tokens, and the rows behind them are not",
                details=[f"such as {', '.join(self._stale.places)}"],
                hint=f"ask again without the server's prefix cache, or state `{self.setting} = raw` if they are right",
            )
        if self.is_processed and self.processing == "auto":
            raise DataError(
                f"{source}: the log-probabilities were processed: {self.complete:,} of {self.uncertain:,} uncertain "
                f"rows sum to 1 on a few of {self.vocab_size:,} ids",
                hint=f"ask the server for raw log-probabilities, or state `{self.setting} = processed` (or raw)",
            )

    @property
    def is_processed(self) -> bool:
        """Whether the rows leave no tail where a softmax over the vocabulary would: top-k or top-p was applied."""
        return self.uncertain >= _FEWEST_ROWS and 2 * self.complete >= self.uncertain

    def _check_shift(self, source: str) -> None:
        if self._masses.get(0, (0,))[0] < _FEWEST_HITS and max((m[0] for m in self._masses.values()), default=0) < 32:
            return
        means = {shift: first / count for shift, (_, count, first, _) in self._masses.items()}
        best = max(means, key=lambda shift: means[shift])
        noise = sum(
            max(second / count - means[shift] ** 2, 0) / count
            for shift, (_, count, _, second) in self._masses.items()
            if shift in (0, best)
        )
        if best and means[best] - means[0] > _CLEAR * noise**0.5:
            raise DataError(
                f"{source}: the rows are off by {best:+d} token",
                details=[f"mean mass on the token at shift {s:+d}: {means[s]:.4f}" for s in sorted(means)],
                hint="row t must hold the distribution that predicts response token t",
            )

    def _usual_width(self) -> int:
        """The number of ids that half of the rows have at least."""
        ordered = sorted(self.widths.items(), reverse=True)
        counts = accumulate(count for _, count in ordered)
        return next(width for (width, _), count in zip(ordered, counts, strict=True) if 2 * count >= self.rows)

    def notes(self, top_k: int = 0) -> Iterable[str]:
        """What a user should know, one line each; `top_k`: ids that all rows keep, 0: as many as every row has."""
        width, usual = min(self.widths), self._usual_width()
        if not top_k and width + 1 < usual:  # by one: the actual token was added to the k most likely ids
            yield (
                f"warning: all rows keep {width:,} ids, as many as the shortest of them has: of {self.rows:,} rows, "
                f"{self.widths[width]:,} are so short, and half have {usual:,} ids or more"
            )
        if self.stand_ins:
            yield f"{self.stand_ins:,} log-probabilities below {LOWEST_LOG_PROB:g} stand for −inf and are read as such"
        if self.rounded:
            yield f"{self.rounded:,} of {self.rows:,} rows sum to more than 1 by their rounding and were scaled to 1"
        if self.padded:
            yield f"{self.padded:,} entries of ids that the tokenizer does not have were left out, their rows scaled"
        if self.completed:
            yield f"{self.completed:,} responses that stopped held no end and were given one"
        starts = np.asarray(self._starts)
        unlikely = int(((starts < _UNLIKELY) & (starts < np.median(starts) - 4)).sum()) if len(starts) else 0
        if unlikely:
            yield (
                f"{unlikely:,} of {self.sequences:,} responses begin with rows that give their own tokens less than "
                "e^-6 on average: are these rows of another text (a stale prefix cache)?"
            )
