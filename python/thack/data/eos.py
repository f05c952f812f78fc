"""The end-of-response rule: which ids end a response, and what follows from it. Whoever asks about ends asks here.

1. The ends of a model are its tokenizer's EOS, every token whose id its generation_config.json names as
   `eos_token_id`, and the token with which its chat template closes the assistant's turn.
2. Generation stops at the first end that it draws. That end belongs to the response.
3. A response that is given as text gets one end: EOS behind a text, and in a conversation what the template writes.
   A text that is followed by an end already gets no second one.
4. A response longer than its maximum is cut. It loses its end and gets no other, since it did not end there.
5. A response is finished if an end closes it. One that is not finished was truncated, if it has the maximum's length or
   what wrote it says so; otherwise whoever wrote it dropped the end. A student that trains on such responses does not
   learn to stop.
6. A checkpoint keeps the ends in generation_config.json, so that other tools stop where thack does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat

import numpy as np

from thack.data.sequence import TokenSequence

_WARN_ABOVE = 0.1  # share of responses without an end that is worth a warning


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The ids that end a response.

    Args:
        eos: the id that is put behind a response given as text.
        turn: the id with which the chat template closes a turn; None: there is no template, or it writes none.
        others: further ids that end a response.
        behind_turn: ids that the template writes behind `turn`, such as a line break.
    """

    eos: int
    turn: int | None = None
    others: frozenset[int] = frozenset()
    behind_turn: tuple[int, ...] = ()

    @property
    def ids(self) -> frozenset[int]:
        """All of them."""
        return self.others | {self.eos} | ({self.turn} if self.turn is not None else set())

    def is_end(self, ids_B: np.ndarray) -> np.ndarray:
        """bool [B]: which of these ids end a response."""
        return np.isin(ids_B, sorted(self.ids))

    def is_finished(self, response_ids: np.ndarray) -> bool:
        """Whether an end closes the response; what a template writes behind its end of turn is passed over."""
        size = len(self.behind_turn)
        if size and tuple(response_ids[-size:].tolist()) == self.behind_turn:
            response_ids = response_ids[:-size]
        return len(response_ids) > 0 and int(response_ids[-1]) in self.ids

    def close(self, response_ids: np.ndarray, *, by: int | None = None) -> np.ndarray:
        """The response with one end: as it is if an end closes it, else with `by` (default: EOS) behind it."""
        if self.is_finished(response_ids):
            return response_ids
        return np.append(response_ids, np.int32(self.eos if by is None else by))

    def generation_config(self, pad_id: int) -> dict[str, int | list[int]]:
        """What generation_config.json says of ends and padding."""
        others = sorted(self.ids - {self.eos})
        return {"eos_token_id": [self.eos, *others] if others else self.eos, "pad_token_id": pad_id}

    def named(self, end: int) -> Ends:
        """These ends, with `end` behind responses given as text."""
        return replace(self, eos=end, others=self.others | {self.eos})


def cut(response_ids: np.ndarray, maximum: int) -> np.ndarray:
    """At most `maximum` ids, int32 [R]; a longer response loses its end."""
    return response_ids[:maximum]


def configured_ends(configured: object, *, only: Collection[int] | None = None) -> Iterator[int]:
    """The ids that `eos_token_id` of a model's file names; with `only`, those among these ids.

    generation_config.json means what it names. config.json may hold the default of its class, which may be any word
    of another vocabulary: of that file only special tokens count.
    """
    for end in configured if isinstance(configured, list) else [configured]:
        if isinstance(end, int) and not isinstance(end, bool) and (only is None or end in only):
            yield end


@dataclass(frozen=True, slots=True, kw_only=True)
class EndCounts:
    """How responses ended.

    Args:
        responses: number of responses.
        finished: closed by an end.
        truncated: without an end, and as long as the maximum, or cut before.
    """

    responses: int = 0
    finished: int = 0
    truncated: int = 0

    @classmethod
    def of(
        cls, responses: Iterable[np.ndarray], ends: Ends, *, maximum: int, were_cut: Iterable[bool] = ()
    ) -> EndCounts:
        """Count responses that are at most `maximum` ids long; `were_cut`: each of them, by a lower maximum before.

        Example:
            >>> written = [np.array([5, 1]), np.array([5, 6, 7]), np.array([5])]
            >>> EndCounts.of(written, Ends(eos=1), maximum=3)
            EndCounts(responses=3, finished=1, truncated=1)
        """
        pairs = zip(responses, chain(were_cut, repeat(False)), strict=False)
        found = [(ends.is_finished(ids), len(ids) >= maximum or was_cut) for ids, was_cut in pairs]
        return cls(
            responses=len(found),
            finished=sum(finished for finished, _ in found),
            truncated=sum(full and not finished for finished, full in found),
        )

    @classmethod
    def of_sequences(cls, sequences: Sequence[TokenSequence], ends: Ends, *, maximum: int) -> EndCounts:
        """Count the responses of sequences."""
        return cls.of((s.response_ids for s in sequences), ends, maximum=maximum)

    def __add__(self, other: EndCounts) -> EndCounts:
        return EndCounts(
            responses=self.responses + other.responses,
            finished=self.finished + other.finished,
            truncated=self.truncated + other.truncated,
        )

    @property
    def dropped_end(self) -> int:
        """Responses that stopped before the maximum, and hold no end."""
        return self.responses - self.finished - self.truncated

    @property
    def truncated_share(self) -> float:
        """truncated / responses, 0 where there are none."""
        return self.truncated / max(self.responses, 1)

    @property
    def finished_share(self) -> float:
        """finished / responses, 0 where there are none."""
        return self.finished / max(self.responses, 1)

    def warnings(self) -> list[str]:
        """What a user should know of these responses, one line each; empty if all is well."""
        found = []
        if self.truncated_share > _WARN_ABOVE:
            found.append(
                f"{self.truncated:,} of {self.responses:,} responses ({self.truncated_share:.0%}) reached the maximum "
                "length and were cut: raise `data.max_response_tokens`"
            )
        if self.dropped_end:
            found.append(
                f"{self.dropped_end:,} of {self.responses - self.truncated:,} responses that stopped hold no end: "
                "a student would not learn to stop"
            )
        return found
