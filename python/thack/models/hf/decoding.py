"""Writing responses with a transformers model, one token at a time, with its own key-value cache.

Shape legend: B sequences, P prompt columns, C columns seen so far, S encoder columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from thack.errors import ModelError
from thack.models.batch import pad_left, pad_right, right_mask

if TYPE_CHECKING:
    from thack.models.hf.model import HuggingFaceModel


class _Decoding:
    """What both kinds of generation share: the cache, and the hidden rows of the last step's head."""

    def __init__(self, model: HuggingFaceModel, num_sequences: int) -> None:
        self._model = model
        self._rows_B = torch.arange(num_sequences, device=model.device)
        self._logits_BV: Tensor
        self._cache: Any = None

    def logits(self) -> Tensor:
        """logits_BV of the next token."""
        return self._logits_BV

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        # By its name for beam search: alone that is there for recurrent states too (Mamba, Qwen3-Next).
        self._cache.reorder_cache(rows)
        self._rows_B = self._rows_B[: len(rows)]
        self._logits_BV = self._logits_BV[rows]

    def _run(self, rows: Tensor, **inputs: Any) -> None:
        """One call with the cache; the logits of the given rows are the next token's."""
        name = self._model.cache_name
        self._logits_BV, _, output = self._model.run(rows, use_cache=True, **{name: self._cache}, **inputs)
        self._cache = getattr(output, name, None)
        if self._cache is None:
            raise ModelError(
                f"{type(self._model.model).__name__} keeps no key-value cache",
                hint="thack can score responses with it, but not write them",
            )


class CausalDecoding(_Decoding):
    """Prompts left-padded to one column, with positions counted from each one's first token (pitfall 11)."""

    def __init__(self, model: HuggingFaceModel, prompts: Sequence[np.ndarray], *, takes_positions: bool) -> None:
        super().__init__(model, len(prompts))
        self._takes_positions = takes_positions
        tokens_BP = torch.from_numpy(pad_left(prompts, model.tokenizer.pad_id)).to(model.device)
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
        return {"position_ids": positions} if self._takes_positions else {}


class EncoderDecoderDecoding(_Decoding):
    """The prompts go through the encoder once; the decoder begins with its start token."""

    def __init__(self, model: HuggingFaceModel, prompts: Sequence[np.ndarray], start_id: int) -> None:
        super().__init__(model, len(prompts))
        tokens_BS = torch.from_numpy(pad_right(prompts, model.tokenizer.pad_id)).to(model.device)
        lengths_B = torch.tensor([len(p) for p in prompts], device=model.device)
        self._mask_BS = right_mask(lengths_B, tokens_BS.shape[1])
        encoder = model.model.get_encoder()
        self._encoded = encoder(input_ids=tokens_BS, attention_mask=self._mask_BS, return_dict=True)
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
