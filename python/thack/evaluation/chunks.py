"""Log ratios token by token, where tokenizers differ: from one boundary that both encodings share to the next.

W writer rows, R reader rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from thack.cross_tokenizer import Alignment
from thack.data.sequence import TokenSequence
from thack.runtime.process_group import ProcessGroup


class TokenNats:
    """−log q of each token of the responses to the first prompts; batches are added one by one."""

    def __init__(self, num_prompts: int) -> None:
        self._num_prompts = num_prompts
        self._found: dict[int, np.ndarray] = {}

    def add(self, sequences: Sequence[TokenSequence], nats_N: Tensor) -> None:
        """The rows of one batch of `sequences`."""
        if all(s.example >= self._num_prompts for s in sequences):
            return
        ends = np.cumsum([len(s.response_ids) for s in sequences])[:-1]
        parts = np.split(nats_N.double().cpu().numpy(), ends)
        self._found |= {
            s.example: part for s, part in zip(sequences, parts, strict=True) if s.example < self._num_prompts
        }

    def of_all_ranks(self, group: ProcessGroup) -> dict[int, np.ndarray]:
        """By prompt. Every prompt was scored by one of the ranks."""
        return dict(group.all_gather(list(self._found.items())))


def chunk_ratios(alignment: Alignment, writer_W: np.ndarray, reader_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log P − log Q of the text from each common boundary to the next, at every token in it.

    Args:
        alignment: of the writer's encoding and the reader's.
        writer_W: float64 −log P of the writer's tokens.
        reader_R: float64 −log Q of the reader's.

    Returns:
        ratio_W and ratio_R: the same numbers at the tokens of each.
    """
    chunk_R = np.cumsum(alignment.is_common_N) - 1
    chunk_W = np.searchsorted(alignment.common_teacher_B, np.arange(len(writer_W)), side="right") - 1
    ratio_C = np.bincount(chunk_R, reader_R) - np.bincount(chunk_W, writer_W)
    return ratio_C[chunk_W], ratio_C[chunk_R]
