"""A decoder of the Llama family (RMSNorm, RoPE, GQA, SwiGLU), laid out for short sequences on a CPU.

Tokens run packed: only attention sees the rectangle, so padding costs no matrix product. Under a causal
mask, padding on the right is invisible to real tokens and needs no mask. The last block and the head
work on the rows that predict response tokens, and no others.

Shape legend: B sequences, T positions, M packed tokens, N response tokens, H width, A heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thack.data.tokenizer import Tokenizer
from thack.errors import DataError
from thack.models import checkpoint
from thack.models.batch import Batch, CausalLayout
from thack.models.native.architecture import Architecture
from thack.models.native.decode import CachedDecoding, prefill
from thack.models.native.functions import attend, dropout, linear, rms_norm, round_rows, swiglu, unpack_heads
from thack.models.protocol import HeadForm, LoadFacts
from thack.models.routers import Routers

WRITTEN_OUT_UP_TO = 192  # positions; beyond, T² scores cost more than flash attention's overhead


class RMSNorm(nn.Module):
    """x / sqrt(mean x² + eps) · weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Linear(nn.Linear):
    """nn.Linear by the fastest matrix product at hand. Its weights are loaded, or set by `Llama.initialise`."""

    def reset_parameters(self) -> None:
        """Nothing: on the meta device, torch's own imports its compiler, which takes longer than loading a model."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Embedding(nn.Embedding):
    """nn.Embedding whose weights are loaded, or set by `Llama.initialise`."""

    def reset_parameters(self) -> None:
        """Nothing, as of `Linear`."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Places of each head's rows in packed tokens and in rectangles; the same for all blocks."""

    to_cells: Tensor  # [(A_q + 2·A_kv)·B·T] rows of packed heads: queries, then keys, then values
    to_packed: Tensor  # [M·(A_q + 2·A_kv)] its inverse on real tokens
    outputs: Tensor  # [M·A_q] rows of the attended rectangle that belong to each token
    outputs_N: Tensor  # the same for the tokens that predict a response token
    rows_in_M: Tensor  # [N]; M and N rounded up, by copies of token 0 that nothing depends on
    cos: Tensor  # [T, D/2]
    sin: Tensor
    mask: Tensor  # [G·T, T]: 0 where a query may look, −inf elsewhere
    num_sequences: int


def _rounded(rows: Tensor) -> Tensor:
    """The same indices and enough copies of the first for a round number (see `functions.round_rows`)."""
    missing = round_rows(len(rows)) - len(rows)
    return torch.cat((rows, rows[:1].expand(missing, *rows.shape[1:]))) if missing else rows


class Block(nn.Module):
    """Attention and SwiGLU, each on a residual branch behind its norm."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.architecture = a
        self.heads = a.num_heads + 2 * a.num_kv_heads
        self.attention_norm = RMSNorm(a.hidden_size, a.rms_eps)
        self.qkv = Linear(a.hidden_size, self.heads * a.head_dim, bias=a.qkv_bias)
        self.q_norm = RMSNorm(a.head_dim, a.rms_eps) if a.qk_norm else None
        self.k_norm = RMSNorm(a.head_dim, a.rms_eps) if a.qk_norm else None
        self.output = Linear(a.num_heads * a.head_dim, a.hidden_size, bias=a.output_bias)
        self.mlp_norm = RMSNorm(a.hidden_size, a.rms_eps)
        self.gate_up = Linear(a.hidden_size, 2 * a.intermediate_size, bias=a.mlp_bias)
        self.down = Linear(a.intermediate_size, a.hidden_size, bias=a.mlp_bias)

    def project_heads(self, x_MH: Tensor) -> Tensor:
        """Queries, keys and values of each token, not yet rotated: [M, A_q + 2·A_kv, D]."""
        a = self.architecture
        heads: Tensor = self.qkv(self.attention_norm(x_MH)).view(-1, self.heads, a.head_dim)
        if self.q_norm is None or self.k_norm is None:
            return heads
        q, k, v = torch.split(heads, [a.num_heads, a.num_kv_heads, a.num_kv_heads], dim=1)
        return torch.cat((self.q_norm(q), self.k_norm(k), v), dim=1)

    def finish(self, x_MH: Tensor, attended_MH: Tensor) -> Tensor:
        """Add the attention branch, then the SwiGLU branch."""
        p = self.architecture.dropout
        # The residual stream keeps its format under autocast; adding mixed formats is slow.
        x_MH = x_MH + dropout(self.output(attended_MH).to(x_MH.dtype), p, self.training)
        inner = swiglu(self.gate_up(self.mlp_norm(x_MH)))
        return x_MH + dropout(self.down(inner).to(x_MH.dtype), p, self.training)

    def forward(self, x_MH: Tensor, cells: Cells, *, only_responses: bool = False) -> Tensor:
        a = self.architecture
        packed = self.project_heads(x_MH).reshape(-1, a.head_dim)
        attended = self._attend(packed, cells)
        rows = cells.outputs_N if only_responses else cells.outputs
        attended_MH = attended.reshape(-1, a.head_dim).index_select(0, rows).view(-1, a.num_heads * a.head_dim)
        if only_responses:
            x_MH = x_MH.index_select(0, cells.rows_in_M)
        return self.finish(x_MH, attended_MH)

    def _attend(self, packed: Tensor, cells: Cells) -> Tensor:
        """[A_q·B, T, D], in the order sequence, head."""
        a, B = self.architecture, cells.num_sequences
        num_q, num_kv, T = a.num_heads * B, a.num_kv_heads * B, cells.cos.shape[0]
        rotated = unpack_heads(packed, cells.to_cells, cells.to_packed, num_q + num_kv, cells.cos, cells.sin)
        q, k, v = torch.split(rotated, [num_q, num_kv, num_kv])
        scale = a.head_dim**-0.5
        if packed.device.type == "cpu" and T <= WRITTEN_OUT_UP_TO:
            return attend(q.view(num_kv, -1, a.head_dim), k, v, cells.mask, scale).view(num_q, T, a.head_dim)
        q, k, v = (x.view(B, -1, T, a.head_dim) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=num_q != num_kv)


class Llama(nn.Module):
    """The native decoder: a `LanguageModel`."""

    is_encoder_decoder = False
    head_form = HeadForm()

    def __init__(self, architecture: Architecture, tokenizer: Tokenizer, facts: LoadFacts | None = None) -> None:
        super().__init__()
        self.architecture = architecture
        self.tokenizer = tokenizer.for_architecture(encoder_decoder=False).for_rows(architecture.vocab_size)
        self.facts = facts or LoadFacts()
        self.routers: Routers | None = None
        self.embedding: nn.Embedding = Embedding(architecture.vocab_size, architecture.hidden_size)
        self.blocks = nn.ModuleList(Block(architecture) for _ in range(architecture.num_layers))
        self.norm = RMSNorm(architecture.hidden_size, architecture.rms_eps)
        self.lm_head = Linear(architecture.hidden_size, architecture.vocab_size, bias=False)
        if architecture.tie_head:
            self.lm_head.weight = self.embedding.weight
        self._tables: tuple[Tensor, Tensor] | None = None

    @property
    def vocab_size(self) -> int:
        return self.architecture.vocab_size

    @property
    def max_positions(self) -> int:
        return self.architecture.max_positions

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def head(self) -> nn.Linear:
        return self.lm_head

    def initialise(self, seed: int) -> None:
        """Normal weights of σ = 0.02, those that end a residual branch divided by sqrt(2·layers)."""
        generator = torch.Generator().manual_seed(seed)
        shrink = (2 * self.architecture.num_layers) ** -0.5
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() < 2:
                    parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                    continue
                std = 0.02 * (shrink if name.endswith(("output.weight", "down.weight")) else 1.0)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    def forward(self, batch: Batch, *, project: bool = True) -> Tensor:
        layout = batch.causal(self.tokenizer.pad_id)
        self._check_length(layout.tokens_BT.shape[1])
        cells = self._cells(layout)
        tokens_M = layout.tokens_BT.view(-1).index_select(0, _rounded(layout.cells_M))
        x = dropout(self.embedding(tokens_M), self.architecture.dropout, self.training)
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            x = block(x, cells, only_responses=i == last)
        hidden_NH: Tensor = self.norm(x)[: len(layout.rows_in_M)]
        return self.lm_head(hidden_NH) if project else hidden_NH

    def start(self, prompts: Sequence[np.ndarray], max_new_tokens: int) -> CachedDecoding:
        """Read the prompts and be ready for the first response token."""
        self._check_length(max(len(p) for p in prompts) + max_new_tokens - 1)
        return prefill(self, prompts, max_new_tokens)

    def rope(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin [length, D/2] on this model's device, from a table that grows as needed."""
        if self._tables is None or self._tables[0].shape[0] < length or self._tables[0].device != self.device:
            # The table outlives the call: one made in inference mode could not take part in training.
            with torch.inference_mode(False):
                cos, sin = self.architecture.rope_tables(max(length, 64))
                self._tables = cos.to(self.device), sin.to(self.device)
        return self._tables[0][:length], self._tables[1][:length]

    def _check_length(self, length: int) -> None:
        if length > self.max_positions:
            raise DataError(
                f"a sequence of {length:,} tokens exceeds the model's {self.max_positions:,} positions",
                hint="lower data.max_prompt_tokens or data.max_response_tokens",
            )

    def _cells(self, layout: CausalLayout) -> Cells:
        """Index arithmetic between packed heads and rectangles, once per forward."""
        a = self.architecture
        B, T = layout.tokens_BT.shape
        heads = a.num_heads + 2 * a.num_kv_heads
        token_BT = layout.packed_BT * heads
        groups, packed_of_head, first = [], [], 0
        for count, head in (
            (a.num_heads, 0),
            (a.num_kv_heads, a.num_heads),
            (a.num_kv_heads, a.num_heads + a.num_kv_heads),
        ):
            ids_A = torch.arange(count, device=token_BT.device)
            groups.append((token_BT[:, None, :] + (head + ids_A)[None, :, None]).reshape(-1))
            # Cell (b, t) of head i of this kind is at ((b·count + i)·T + t) behind the kinds before it.
            b_M, t_M = layout.cells_M // T, layout.cells_M % T
            packed_of_head.append(first + (b_M[:, None] * count + ids_A) * T + t_M[:, None])
            first += B * count * T
        outputs, rows_in_M = packed_of_head[0], _rounded(layout.rows_in_M)
        cos, sin = self.rope(T)
        visible = torch.ones(T, T, dtype=torch.bool, device=token_BT.device).tril()
        mask = torch.zeros(T, T, device=token_BT.device).masked_fill_(~visible, float("-inf"))
        return Cells(
            to_cells=torch.cat(groups),
            to_packed=torch.cat(packed_of_head, dim=1).reshape(-1),
            outputs=_rounded(outputs).reshape(-1),
            outputs_N=outputs.index_select(0, rows_in_M).reshape(-1),
            rows_in_M=rows_in_M,
            cos=cos,
            sin=sin,
            mask=mask.repeat(a.num_heads // a.num_kv_heads, 1),
            num_sequences=B,
        )

    def save(self, directory: Path, *, dtype: torch.dtype | None = None) -> None:
        """Write config.json, model.safetensors and the tokenizer's files, as transformers lays them out."""
        t, dtype = self.tokenizer, dtype or self.embedding.weight.dtype
        config = self.architecture.to_config(eos_id=t.eos_id, pad_id=t.pad_id, bos_id=t.bos_id, dtype=dtype)
        weights = checkpoint.to_transformers(self.state_dict(), self.architecture)
        rounded = {name: weight.to(dtype) for name, weight in weights.items()}
        checkpoint.save(directory, config, rounded, t, self.facts.generation_config)

    def fingerprint(self, *, full: bool | None = None) -> str:
        weights = checkpoint.to_transformers(self.state_dict(), self.architecture)
        return checkpoint.fingerprint(self.architecture, weights, full=self.facts.full_hash if full is None else full)
