"""The decoder's inner steps with their gradients written out, for short sequences on a CPU.

torch's own operations are right but slow here: at width 160 its matrix products reach half of oneDNN's
speed on AMD, the backward of its RMSNorm takes three times a LayerNorm's, and its dropout costs more
than the layer it follows. Each function has the plain formula beside it as test oracle.

Shape legend: M packed tokens, B sequences, T positions, H width, I inner width, A heads (of queries and
keys and values together), D head width, G query heads per key head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from thack._torch_private import HAS_ONEDNN, ONEDNN_DTYPES, onednn_product, softmax_backward


def round_rows(rows: int) -> int:
    """The next round number of rows.

    oneDNN compiles a kernel for every new shape, at ten times the cost of running it; packed batches have
    another number of tokens every time, so without rounding most of a step is compilation.
    """
    step = 16 if rows <= 256 else 64
    return rows + -rows % step


def rounded(x_MI: Tensor, dtype: torch.dtype) -> Tensor:
    """x in `dtype`, with rows of zeros up to a round number of rows: one pass over memory, or none."""
    rows = round_rows(x_MI.shape[0])
    if rows == x_MI.shape[0]:
        return x_MI.to(dtype)
    padded = torch.empty(rows, x_MI.shape[1], dtype=dtype, device=x_MI.device)
    padded[: x_MI.shape[0]].copy_(x_MI)
    padded[x_MI.shape[0] :].zero_()
    return padded


def by_onednn(tensor: Tensor) -> bool:
    """Whether oneDNN multiplies matrices of this kind."""
    return HAS_ONEDNN and tensor.device.type == "cpu" and tensor.dtype in ONEDNN_DTYPES and tensor.shape[0] > 0


def input_gradient(grad_MO: Tensor, weight_OI: Tensor) -> Tensor:
    """grad · W, of x · Wᵀ."""
    return onednn_product(grad_MO, weight_OI.t()) if by_onednn(grad_MO) else grad_MO @ weight_OI


def weight_gradient(grad_MO: Tensor, x_MI: Tensor) -> Tensor:
    """gradᵀ · x, of x · Wᵀ."""
    if not by_onednn(grad_MO):
        return grad_MO.t() @ x_MI
    if grad_MO.shape[1] > x_MI.shape[1]:  # oneDNN is faster with the wider matrix on the right
        return onednn_product(x_MI.t(), grad_MO.t()).t()
    return onednn_product(grad_MO.t(), x_MI.t())


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MI: Tensor, weight_OI: Tensor, dtype: torch.dtype) -> Tensor:
        prepared, weight = rounded(x_MI, dtype), weight_OI.to(dtype)
        ctx.save_for_backward(prepared, weight)
        ctx.dtypes = x_MI.dtype, weight_OI.dtype
        return onednn_product(prepared, weight)[: x_MI.shape[0]]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MO: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_MI, weight_OI = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        rows = grad_MO.shape[0]
        grad_MO = rounded(grad_MO, x_MI.dtype)  # zeros against zeros: the weight's gradient stays exact
        grad_x = input_gradient(grad_MO, weight_OI)[:rows].to(x_dtype) if ctx.needs_input_grad[0] else None
        grad_weight = weight_gradient(grad_MO, x_MI).to(weight_dtype) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None


def linear(x_MI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x · Wᵀ + b; under autocast in its number format, as torch would do it, the result too."""
    usable = (
        HAS_ONEDNN
        and x_MI.device.type == "cpu"
        and x_MI.dim() == 2
        and x_MI.shape[0] > 0
        and {x_MI.dtype, weight_OI.dtype} <= {torch.float32, torch.bfloat16}
    )
    cast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if cast else weight_OI.dtype
    if not usable or dtype not in ONEDNN_DTYPES or not (cast or x_MI.dtype == dtype == torch.float32):
        return F.linear(x_MI, weight_OI, bias_O)
    if torch.is_grad_enabled():
        product: Tensor = _Linear.apply(x_MI, weight_OI, dtype)
    else:
        product = onednn_product(rounded(x_MI, dtype), weight_OI.to(dtype))[: x_MI.shape[0]]
    return product if bias_O is None else product + bias_O.to(dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_H: Tensor, eps: float) -> Tensor:
        # x / rms by one reduction: the norm is the fastest sum of squares that torch has.
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = inverse.square_().mul_(1.0 / x.shape[-1]).add_(eps).rsqrt_()
        unit = (x * inverse).to(x.dtype)
        ctx.save_for_backward(unit, inverse, weight_H)
        result: Tensor = unit * weight_H
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        unit, inverse, weight_H = ctx.saved_tensors
        width = unit.shape[-1]
        weighted = grad * unit
        grad_weight = weighted.view(-1, width).sum(0)
        shared = (weighted.view(-1, width) @ weight_H).view(*unit.shape[:-1], 1).mul_(-1.0 / width)
        # d x = (w·g − unit · mean(w·g·unit)) / rms
        grad_x = (grad * weight_H).addcmul_(unit, shared).mul_(inverse)
        return grad_x, grad_weight, None


def rms_norm(x: Tensor, weight_H: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean x² + eps) · w, over the last dimension."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return F.rms_norm(x, (x.shape[-1],), weight_H, eps)
    result: Tensor = _RMSNorm.apply(x.contiguous(), weight_H, eps)
    return result


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)
        grad_gate, grad_up = out.chunk(2, dim=-1)
        torch.mul(grad, F.silu(gate), out=grad_up)
        torch.mul(torch.ops.aten.silu_backward(grad, gate), up, out=grad_gate)
        return out


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up, where the last dimension holds gate and up side by side."""
    result: Tensor = _SwiGLU.apply(gate_up)
    return result


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        # Four 16-bit draws from each 64-bit one: torch's own dropout draws each element with a
        # generator call of its own and is ten times slower. p is kept to 1/65536.
        bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
        draws = bits.random_(-(2**63), None).view(torch.int16)[: x.numel()].view(x.shape)
        threshold = round(p * 65536) - 32768
        scale = (draws >= threshold).to(x.dtype).mul_(1.0 / (1.0 - p))
        ctx.save_for_backward(scale)
        return x * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return grad * scale, None


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each element with probability p and scale the rest by 1/(1−p), while training."""
    if not training or p == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    result: Tensor = _Dropout.apply(x, p)
    return result


def rotate(x_ATD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Turn the pairs (d, d + D/2) of every position by its angles; cos and sin hold D/2 columns.

    Broadcasts over leading dimensions. Su et al., RoFormer (arXiv 2104.09864), in transformers' order.
    """
    out = torch.empty_like(x_ATD)
    half = x_ATD.shape[-1] // 2
    first, second = x_ATD[..., :half], x_ATD[..., half:]
    torch.mul(first, cos_TD, out=out[..., :half]).addcmul_(second, sin_TD, value=-1.0)
    torch.mul(second, cos_TD, out=out[..., half:]).addcmul_(first, sin_TD)
    return out


class _Unpack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, packed_XD: Tensor, to_cells: Tensor, to_packed: Tensor, turned: int, cos: Tensor, sin: Tensor
    ) -> Tensor:
        """Gather head rows into their cells and rotate the first `turned` blocks of T rows."""
        # Factors of the same format: mixed ones would be widened and copied element by element.
        cos, sin = cos.to(packed_XD.dtype), sin.to(packed_XD.dtype)
        ctx.save_for_backward(to_packed, cos, sin)
        ctx.turned, ctx.rows = turned, packed_XD.shape[0]
        cells = packed_XD.index_select(0, to_cells).view(-1, cos.shape[0], packed_XD.shape[1])
        cells[:turned] = rotate(cells[:turned], cos, sin)
        return cells

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ATD: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        to_packed, cos, sin = ctx.saved_tensors
        grad_ATD = grad_ATD.contiguous()
        turned_back = rotate(grad_ATD[: ctx.turned], cos, -sin)
        grad_ATD = torch.cat((turned_back, grad_ATD[ctx.turned :])).view(-1, grad_ATD.shape[-1])
        # Padding cells are copies of some token; no real query sees them, so their gradient is zero.
        packed = grad_ATD.new_empty(ctx.rows, grad_ATD.shape[-1])
        torch.index_select(grad_ATD, 0, to_packed, out=packed[: len(to_packed)])
        packed[len(to_packed) :].zero_()  # rows that only round the number of tokens
        return packed, None, None, None, None, None


def unpack_heads(
    packed_XD: Tensor, to_cells: Tensor, to_packed: Tensor, turned: int, cos: Tensor, sin: Tensor
) -> Tensor:
    """Rows of heads, token after token, to [A·B, T, D], with the first `turned` of A·B rotated.

    Rows beyond those that `to_packed` names belong to no cell, and get no gradient.
    """
    result: Tensor = _Unpack.apply(packed_XD, to_cells, to_packed, turned, cos, sin)
    return result


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scale)
        weights = torch.softmax(scores, -1, dtype=scores.dtype)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale = scale
        return torch.bmm(weights, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, weights = ctx.saved_tensors
        grad_v = torch.bmm(weights.transpose(1, 2), grad)
        grad_weights = torch.bmm(grad, v.transpose(1, 2))
        grad_scores = softmax_backward(grad_weights, weights).mul_(ctx.scale)
        return torch.bmm(grad_scores, k), torch.bmm(grad_scores.transpose(1, 2), q), grad_v, None, None


def attend(q_XTD: Tensor, k_XTD: Tensor, v_XTD: Tensor, mask_TT: Tensor, scale: float) -> Tensor:
    """softmax(scale · q kᵀ + mask) v. Written out: on a CPU, flash attention doubles a step at T = 50."""
    result: Tensor = _Attend.apply(q_XTD, k_XTD, v_XTD, mask_TT.to(q_XTD.dtype), scale)
    return result
