"""A prompt with its response as token ids: what is trained on, scored and cached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from thack.files import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """One prompt with one response, as token ids. The response holds its EOS if it ended by itself."""

    index: int  # position in its data set: the `prompt` word of every random number drawn for it
    prompt_id: str  # stable id of the prompt, from its content
    prompt_ids: np.ndarray  # int32 [P], P ≥ 1
    response_ids: np.ndarray  # int32 [R], R ≥ 1
    sample: int = 0  # which of several responses to the same prompt


def data_fingerprint(sequences: Iterable[TokenSequence]) -> str:
    """Of the ids that the teacher sees, their order and the names of the prompts; not of files or times."""

    def parts() -> Iterator[bytes]:
        for s in sequences:
            name = s.prompt_id.encode()
            yield b"%d %d %d %d " % (len(name), len(s.prompt_ids), len(s.response_ids), s.sample)
            yield name
            yield s.prompt_ids.astype("<i4").tobytes()
            yield s.response_ids.astype("<i4").tobytes()

    return digest(parts())
