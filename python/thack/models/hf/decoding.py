"""Generating responses with a transformers model, one token at a time.

    CausalDecoding, EncoderDecoderDecoding   the model's own key-value cache
    RecomputedDecoding                       no cache: every token reads the whole text again
    GroupedDecoding                          several of these side by side, each with the prompts that go together
    CrossingDecoding                         a text that outgrows the length up to which positions are encoded one way
    FixedRows                                finished rows stay in the batch, for caches that cannot drop them

Which of them a model gets is tested, not listed: see `probe`.
Shape legend: B sequences, P prompt columns, C columns seen so far, S encoder columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from thack.data.sequence import TokenSequence
from thack.errors import ModelError
from thack.models.batch import Batch, pad_left, pad_right, right_mask
from thack.models.protocol import DecodeState


class CachedForward(Protocol):
    """What generation with a key-value cache needs of a model."""

    @property
    def device(self) -> torch.device: ...

    def step(self, rows: Tensor, cache: Any, **inputs: Any) -> tuple[Tensor, Any]:
        """logits_BV of the given rows of the B·T tokens, and the cache behind them."""

    def encode(self, tokens_BS: Tensor, mask_BS: Tensor) -> Any:
        """What the encoder makes of the prompts."""


class _Cached:
    """The cache and the last logits, for both kinds of models."""

    def __init__(self, model: CachedForward, num_sequences: int, select: str) -> None:
        self._model = model
        self._select = select  # the cache's method that keeps some rows
        self._rows_B = torch.arange(num_sequences, device=model.device)
        self._logits_BV: Tensor
        self._cache: Any = None

    def logits(self) -> Tensor:
        """logits_BV of the next token."""
        return self._logits_BV

    def keep(self, rows: Tensor) -> None:
        """Continue with these rows only."""
        getattr(self._cache, self._select)(rows)
        self._rows_B = self._rows_B[: len(rows)]
        self._logits_BV = self._logits_BV[rows]

    def _run(self, rows: Tensor, **inputs: Any) -> None:
        """One call with the cache; the logits of the given rows are the next token's."""
        self._logits_BV, self._cache = self._model.step(rows, self._cache, **inputs)
        if self._cache is None:
            raise ModelError("the model keeps no key-value cache")


class CausalDecoding(_Cached):
    """Prompts left-padded to one column, with positions counted from each one's first token (pitfall 11).

    `offset` is the position of a first token, where the model takes positions; None where it counts them itself.
    """

    def __init__(
        self, model: CachedForward, prompts: Sequence[np.ndarray], *, pad_id: int, select: str, offset: int | None
    ) -> None:
        super().__init__(model, len(prompts), select)
        self._offset = offset
        tokens_BP = torch.from_numpy(pad_left(prompts, pad_id)).to(model.device)
        width = tokens_BP.shape[1]
        self._lengths_B = torch.tensor([len(p) for p in prompts], device=model.device)
        self._mask_BC = right_mask(self._lengths_B, width).flip(1)
        positions_BP = (self._mask_BC.cumsum(1) - 1).clamp_min(0)
        last_B = self._rows_B * width + width - 1
        self._run(last_B, input_ids=tokens_BP, attention_mask=self._mask_BC, **self._positions(positions_BP))

    def append(self, ids_B: Tensor) -> None:
        self._mask_BC = torch.cat((self._mask_BC, self._mask_BC.new_ones(len(ids_B), 1)), dim=1)
        positions = self._positions(self._lengths_B[:, None])
        # Where no layer keeps keys (Mamba), a mask is of the tokens that are fed, not of columns: all are real.
        mask_BC = None if all(getattr(self._cache, "is_linear", [False])) else self._mask_BC
        self._run(self._rows_B, input_ids=ids_B[:, None], attention_mask=mask_BC, **positions)
        self._lengths_B = self._lengths_B + 1

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self._mask_BC, self._lengths_B = self._mask_BC[rows], self._lengths_B[rows]

    def _positions(self, positions: Tensor) -> dict[str, Tensor]:
        return {} if self._offset is None else {"position_ids": positions + self._offset}


class EncoderDecoderDecoding(_Cached):
    """The prompts go through the encoder once; the decoder begins with its start token."""

    def __init__(
        self, model: CachedForward, prompts: Sequence[np.ndarray], *, pad_id: int, select: str, start_id: int
    ) -> None:
        super().__init__(model, len(prompts), select)
        tokens_BS = torch.from_numpy(pad_right(prompts, pad_id)).to(model.device)
        lengths_B = torch.tensor([len(p) for p in prompts], device=model.device)
        self._mask_BS = right_mask(lengths_B, tokens_BS.shape[1])
        self._encoded = model.encode(tokens_BS, self._mask_BS)
        self.append(torch.full_like(lengths_B, start_id))

    def append(self, ids_B: Tensor) -> None:
        self._run(
            self._rows_B,
            decoder_input_ids=ids_B[:, None],
            encoder_outputs=self._encoded,
            attention_mask=self._mask_BS,
        )

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self._mask_BS = self._mask_BS[rows]
        self._encoded = type(self._encoded)(last_hidden_state=self._encoded.last_hidden_state[rows])


class Scores(Protocol):
    """A model that scores whole texts: what generation without a cache needs."""

    is_encoder_decoder: bool

    @property
    def device(self) -> torch.device: ...

    def __call__(self, batch: Batch) -> Tensor: ...


class RecomputedDecoding:
    """Every token costs a forward of the whole text: for models without a cache, or with one that is not exact."""

    def __init__(self, model: Scores, prompts: Sequence[np.ndarray]) -> None:
        self._model = model
        self._prompts = list(prompts)
        self._written = [np.zeros(0, dtype=np.int32) for _ in prompts]
        self._logits_BV: Tensor | None = None

    def logits(self) -> Tensor:
        if self._logits_BV is None:
            self._logits_BV = self._score()
        return self._logits_BV

    def append(self, ids_B: Tensor) -> None:
        new = ids_B.cpu().numpy().astype(np.int32)
        self._written = [np.append(ids, new[i : i + 1]) for i, ids in enumerate(self._written)]
        self._logits_BV = None

    def keep(self, rows: Tensor) -> None:
        kept = rows.tolist()
        self._prompts, self._written = ([values[i] for i in kept] for values in (self._prompts, self._written))
        self._logits_BV = None if self._logits_BV is None else self._logits_BV[rows]

    def _score(self) -> Tensor:
        """The row behind the last token of each text; the response token there is any id, and is not read."""
        any_id = np.zeros(1, dtype=np.int32)
        pairs = zip(self._prompts, self._written, strict=True)
        if self._model.is_encoder_decoder:
            parts = [(prompt, np.append(written, any_id)) for prompt, written in pairs]
        else:
            parts = [(np.append(prompt, written), any_id) for prompt, written in pairs]
        batch = Batch.of(
            [
                TokenSequence(example=i, prompt_id=str(i), prompt_ids=prompt, response_ids=response)
                for i, (prompt, response) in enumerate(parts)
            ],
            self._model.device,
        )
        last_B = batch.lengths_B.cumsum(0) - 1
        return self._model(batch)[last_B]


class GroupedDecoding:
    """Several states side by side, each with its rows of the batch."""

    def __init__(self, states: Sequence[DecodeState], groups: Sequence[Sequence[int]], device: torch.device) -> None:
        self._states = list(states)
        self._groups = [torch.tensor(rows, device=device) for rows in groups]

    def logits(self) -> Tensor:
        order_B = torch.argsort(torch.cat(self._groups))
        return torch.cat([state.logits() for state in self._states])[order_B]

    def append(self, ids_B: Tensor) -> None:
        for state, rows in zip(self._states, self._groups, strict=True):
            state.append(ids_B[rows])

    def keep(self, rows: Tensor) -> None:
        states, groups = [], []
        for state, own in zip(self._states, self._groups, strict=True):
            kept = torch.isin(own, rows)
            if not bool(kept.any()):
                continue
            if not bool(kept.all()):
                state.keep(kept.nonzero().flatten())
            states.append(state)
            groups.append(torch.searchsorted(rows, own[kept]))
        self._states, self._groups = states, groups


class CrossingDecoding:
    """Texts of one length, read anew where they become longer than `boundary`: then a cache's keys count no more.

    Args:
        read: begins a state with texts.
        prompts: of one length, at most `boundary`.
        boundary: tokens of the longest text whose positions are encoded as the prompts' are (LongRoPE).
    """

    def __init__(
        self, read: Callable[[Sequence[np.ndarray]], DecodeState], prompts: Sequence[np.ndarray], boundary: int
    ) -> None:
        self._read, self._boundary = read, boundary
        self._texts = list(prompts)
        self._state = read(prompts)

    def logits(self) -> Tensor:
        return self._state.logits()

    def append(self, ids_B: Tensor) -> None:
        new = ids_B.cpu().numpy().astype(np.int32)
        self._texts = [np.append(text, new[i : i + 1]) for i, text in enumerate(self._texts)]
        if len(self._texts[0]) == self._boundary + 1:
            self._state = self._read(self._texts)
        else:
            self._state.append(ids_B)

    def keep(self, rows: Tensor) -> None:
        self._texts = [self._texts[i] for i in rows.tolist()]
        self._state.keep(rows)


class FixedRows:
    """A state whose cache cannot drop rows: they stay and are fed `filler_id`, without a reader of their logits."""

    def __init__(self, state: DecodeState, num_sequences: int, filler_id: int, device: torch.device) -> None:
        self._state = state
        self._fed_B = torch.full((num_sequences,), filler_id, device=device)
        self._live = torch.arange(num_sequences, device=device)

    def logits(self) -> Tensor:
        return self._state.logits()[self._live]

    def append(self, ids_B: Tensor) -> None:
        fed_B = self._fed_B.clone()
        fed_B[self._live] = ids_B.to(fed_B.dtype)
        self._state.append(fed_B)

    def keep(self, rows: Tensor) -> None:
        self._live = self._live[rows]


def grouped(keys: Sequence[int]) -> list[list[int]]:
    """Indices of equal keys, by ascending key, in the order given."""
    groups: dict[int, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return [groups[key] for key in sorted(groups)]
