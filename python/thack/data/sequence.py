"""A prompt with its response as token ids: what is trained on, scored and cached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from thack.errors import UsageError
from thack.files import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """One prompt with one response, as token ids. The response includes the id that ended it, if one did."""

    example: int  # index in the data set: with `sample`, it names every random number drawn for this sequence
    prompt_id: str  # stable id of the prompt, from its content
    prompt_ids: np.ndarray  # int32 [P], P ≥ 1
    response_ids: np.ndarray  # int32 [R], R ≥ 1; empty where only the prompt is given
    sample: int = 0  # which of several responses to the same prompt
    position: int | None = None  # index in the cache that the sequence was read from; None: not from a cache
    log_probs: np.ndarray | None = None  # float32 [R], of each response token under its writer, where that is needed
    teacher_prompt_ids: np.ndarray | None = None  # int32: what the teacher reads before the response; None: the prompt

    def with_response(self, response_ids: np.ndarray, sample: int) -> TokenSequence:
        """The same prompt with another response, which no cache stores."""
        return replace(self, response_ids=response_ids, sample=sample, position=None, log_probs=None)


def cache_positions(sequences: Iterable[TokenSequence]) -> list[int]:
    """Index in the cache of each sequence; UsageError for one that was not read from a cache."""
    found = []
    for s in sequences:
        if s.position is None:
            raise UsageError(
                f"prompt {s.prompt_id}: the sequence was not read from a cache",
                hint="take sequences from Cache.sequences or CacheDataset",
            )
        found.append(s.position)
    return found


def repeats(sequences: Sequence[TokenSequence]) -> np.ndarray:
    """int64 per sequence: how many before it are of the same example, so of the same prompt.

    One more response to each needs distinct sample numbers among those.
    """
    examples = np.fromiter((s.example for s in sequences), np.int64, len(sequences))
    order = np.argsort(examples, kind="stable")
    places = np.arange(len(order))
    begins = np.r_[True, np.diff(examples[order]) != 0][: len(order)]
    found = np.empty_like(places)
    found[order] = places - np.maximum.accumulate(np.where(begins, places, 0))
    return found


def data_fingerprint(sequences: Iterable[TokenSequence]) -> str:
    """Of the ids that the teacher sees, their order and the names of the prompts; not of files or times."""

    return digest(fingerprint_parts(sequences))


def fingerprint_parts(sequences: Iterable[TokenSequence], samples: int = 1) -> Iterator[bytes]:
    """What `data_fingerprint` hashes; with `samples` above 1, every sequence under each sample number below it."""
    for s in sequences:
        name = s.prompt_id.encode()
        ids = s.prompt_ids.astype("<i4").tobytes() + s.response_ids.astype("<i4").tobytes()
        for sample in [s.sample] if samples == 1 else range(samples):
            yield b"%d %d %d %d " % (len(name), len(s.prompt_ids), len(s.response_ids), sample)
            yield name
            yield ids
            if s.teacher_prompt_ids is not None:
                yield b"teacher %d " % len(s.teacher_prompt_ids)
                yield s.teacher_prompt_ids.astype("<i4").tobytes()
