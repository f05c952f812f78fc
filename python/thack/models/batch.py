"""Ragged sequences as the rectangles that models read. Lengths rule; no id marks padding.

Shape legend: B sequences, T input positions of the longest, S prompt positions of the longest,
M input tokens of all sequences, N response tokens of all sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from thack.data.sequence import TokenSequence
from thack.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalLayout:
    """Prompt and response in one row, without the last response token: it is predicted, never read.

    Right-padded: under a causal mask no real token sees the padding, so attention needs no mask for it.
    """

    tokens_BT: Tensor  # int64, right-padded
    lengths_B: Tensor  # int64, real tokens of each row
    rows_N: Tensor  # int64, index into B·T of the position that predicts each response token
    cells_M: Tensor  # int64, index into B·T of each real token
    packed_BT: Tensor  # int64, index into M of each cell; padding points at token 0
    rows_in_M: Tensor  # int64, rows_N as index into M


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderDecoderLayout:
    """The prompt for the encoder; for the decoder, the start token and the response without its last token."""

    encoder_BS: Tensor  # int64, right-padded
    encoder_lengths_B: Tensor  # int64
    decoder_BT: Tensor  # int64, right-padded
    rows_N: Tensor  # int64, index into B·T of the position that predicts each response token


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Sequences that go through a model together, in the order given."""

    prompts: tuple[np.ndarray, ...]
    responses: tuple[np.ndarray, ...]
    labels_N: Tensor  # int64: the response tokens, sequence after sequence
    lengths_B: Tensor  # int64: response lengths
    sequence_of_N: Tensor  # int64: the sequence each label belongs to
    teacher_prompts: tuple[np.ndarray, ...] | None = None  # what the teacher reads; None: the prompts
    _layouts: dict[tuple[str, int, int], CausalLayout | EncoderDecoderLayout] = field(default_factory=dict)

    @classmethod
    def of(cls, sequences: Sequence[TokenSequence], device: torch.device | str = "cpu") -> Batch:
        """Lay `sequences` out; an empty prompt or response is refused, with its prompt id."""
        if not sequences:
            raise ValueError("a batch needs at least one sequence")
        for s in sequences:
            if len(s.prompt_ids) == 0 or len(s.response_ids) == 0:
                side = "response" if len(s.prompt_ids) else "prompt"
                raise DataError(f"prompt {s.prompt_id}: empty {side}", hint="drop it, or give it a BOS token")
        responses = tuple(s.response_ids for s in sequences)
        lengths_B = _lengths(responses)
        return cls(
            prompts=tuple(s.prompt_ids for s in sequences),
            responses=responses,
            labels_N=_tensor(np.concatenate(responses), device),
            lengths_B=_tensor(lengths_B, device),
            sequence_of_N=_tensor(np.repeat(np.arange(len(responses)), lengths_B), device),
            teacher_prompts=_teacher_prompts(sequences),
        )

    def for_teacher(self) -> Batch:
        """The same responses behind the prompts that the teacher reads."""
        if self.teacher_prompts is None:
            return self
        return replace(self, prompts=self.teacher_prompts, teacher_prompts=None, _layouts={})

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def device(self) -> torch.device:
        return self.labels_N.device

    def causal(self, pad_id: int) -> CausalLayout:
        """Rows for a decoder-only model; built once."""
        key = ("causal", pad_id, 0)
        if key not in self._layouts:
            self._layouts[key] = _causal(self.prompts, self.responses, pad_id, self.device)
        layout = self._layouts[key]
        assert isinstance(layout, CausalLayout)
        return layout

    def encoder_decoder(self, pad_id: int, start_id: int) -> EncoderDecoderLayout:
        """Rows for an encoder-decoder model; built once."""
        key = ("encoder-decoder", pad_id, start_id)
        if key not in self._layouts:
            self._layouts[key] = _encoder_decoder(self.prompts, self.responses, pad_id, start_id, self.device)
        layout = self._layouts[key]
        assert isinstance(layout, EncoderDecoderLayout)
        return layout


def _teacher_prompts(sequences: Sequence[TokenSequence]) -> tuple[np.ndarray, ...] | None:
    if all(s.teacher_prompt_ids is None for s in sequences):
        return None
    return tuple(s.prompt_ids if s.teacher_prompt_ids is None else s.teacher_prompt_ids for s in sequences)


def _causal(
    prompts: Sequence[np.ndarray], responses: Sequence[np.ndarray], pad_id: int, device: torch.device
) -> CausalLayout:
    prompt_B, response_B = _lengths(prompts), _lengths(responses)
    lengths_B = prompt_B + response_B - 1
    width = int(lengths_B.max())
    cells_M = _cells(lengths_B, width)
    rows_in_M = _ranges(np.cumsum(lengths_B) - response_B, response_B)
    tokens_BT = np.full(len(prompts) * width, pad_id, dtype=np.int64)
    parts = [part for p, r in zip(prompts, responses, strict=True) for part in (p, r[:-1])]
    tokens_BT[cells_M] = np.concatenate(parts)
    packed_BT = np.zeros(len(prompts) * width, dtype=np.int64)
    packed_BT[cells_M] = np.arange(len(cells_M))
    return CausalLayout(
        tokens_BT=_tensor(tokens_BT.reshape(-1, width), device),
        lengths_B=_tensor(lengths_B, device),
        rows_N=_tensor(cells_M[rows_in_M], device),
        cells_M=_tensor(cells_M, device),
        packed_BT=_tensor(packed_BT.reshape(-1, width), device),
        rows_in_M=_tensor(rows_in_M, device),
    )


def _encoder_decoder(
    prompts: Sequence[np.ndarray],
    responses: Sequence[np.ndarray],
    pad_id: int,
    start_id: int,
    device: torch.device,
) -> EncoderDecoderLayout:
    response_B = _lengths(responses)
    start = np.asarray([start_id], dtype=np.int64)
    decoder_BT = pad_right([np.concatenate([start, r[:-1]]) for r in responses], pad_id)
    return EncoderDecoderLayout(
        encoder_BS=_tensor(pad_right(prompts, pad_id), device),
        encoder_lengths_B=_tensor(_lengths(prompts), device),
        decoder_BT=_tensor(decoder_BT, device),
        rows_N=_tensor(_cells(response_B, decoder_BT.shape[1]), device),
    )


def pad_right(rows: Sequence[np.ndarray], pad_id: int) -> np.ndarray:
    """int64 [B, longest]."""
    lengths_B = _lengths(rows)
    width = int(lengths_B.max())
    padded = np.full(len(rows) * width, pad_id, dtype=np.int64)
    padded[_cells(lengths_B, width)] = np.concatenate(list(rows))
    return padded.reshape(-1, width)


def pad_left(rows: Sequence[np.ndarray], pad_id: int) -> np.ndarray:
    """int64 [B, longest]: all rows end in the same column, where generation continues."""
    lengths_B = _lengths(rows)
    width = int(lengths_B.max())
    padded = np.full(len(rows) * width, pad_id, dtype=np.int64)
    padded[_ranges(np.arange(1, len(rows) + 1) * width - lengths_B, lengths_B)] = np.concatenate(list(rows))
    return padded.reshape(-1, width)


def right_mask(lengths_B: Tensor, width: int) -> Tensor:
    """int64 [B, width]: 1 on the first `length` columns of each row."""
    columns = torch.arange(width, device=lengths_B.device)
    return (columns < lengths_B[:, None]).long()


def _lengths(rows: Sequence[np.ndarray]) -> np.ndarray:
    return np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))


def _ranges(starts_B: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
    """start, start + 1, … of every range, one after the other."""
    ends_B = np.cumsum(lengths_B)
    ranges: np.ndarray = np.arange(ends_B[-1]) + np.repeat(starts_B - (ends_B - lengths_B), lengths_B)
    return ranges


def _cells(lengths_B: np.ndarray, width: int) -> np.ndarray:
    """Flat indices of the real cells of a right-padded [B, width] rectangle."""
    return _ranges(np.arange(len(lengths_B)) * width, lengths_B)


def _tensor(values: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(device)
