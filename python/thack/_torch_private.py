"""Operations of torch that are not part of its public interface, each with the public one that it stands for.

They are here for speed alone. A test compares each with its public form on the installed torch; where one is missing,
the public form is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_MKLDNN = torch.ops.mkldnn if torch.backends.mkldnn.is_available() else None
_LINEAR = getattr(_MKLDNN, "_linear_pointwise", None)

HAS_ONEDNN = _LINEAR is not None
# Without AVX-512 or the like, oneDNN has no product in bfloat16; torch's own is always there.
_HAS_BF16 = getattr(_MKLDNN, "_is_mkldnn_bf16_supported", lambda: False)
ONEDNN_DTYPES = {torch.float32, torch.bfloat16} if _HAS_BF16() else {torch.float32}
_HAS_OUT_DTYPE = "dtype_out" in torch.ops.aten.mm.overloads()


def onednn_product(a_IK: Tensor, b_JK: Tensor) -> Tensor:
    """a · bᵀ by oneDNN: in float32 twice MKL's speed on AMD, the same rounding. If `HAS_ONEDNN`, in `ONEDNN_DTYPES`."""
    assert _LINEAR is not None
    product: Tensor = _LINEAR(a_IK, b_JK, None, "none", [], "")
    return product


def single_precision_product_(out_CV: Tensor, x_CH: Tensor, weight_VH: Tensor) -> Tensor:
    """out = x · Wᵀ in float32, of 16-bit x. A product of 16-bit numbers that rounds its result would move every logit.

    Where the device cannot keep the sums, the factors are made float32, a block of W at a time.
    """
    if _HAS_OUT_DTYPE and x_CH.device.type == "cuda":
        return torch.mm(x_CH, weight_VH.to(x_CH.dtype).t(), out_dtype=torch.float32, out=out_CV)
    wide_CH = x_CH.float()
    step = max(1, out_CV.numel() // weight_VH.shape[1])  # no more memory than the result
    for start in range(0, len(weight_VH), step):
        block = slice(start, start + step)
        torch.mm(wide_CH, weight_VH[block].float().t(), out=out_CV[:, block])
    return out_CV


def softmax_backward(grad: Tensor, weights: Tensor) -> Tensor:
    """The gradient of softmax over the last dimension, from its result: weights · (grad − Σ grad · weights)."""
    return torch._softmax_backward_data(grad, weights, -1, weights.dtype)


def scale_all_(tensors: Sequence[Tensor], factor: float) -> None:
    """`tensor.mul_(factor)` of many tensors in few calls."""
    torch._foreach_mul_(list(tensors), factor)


def plain_results() -> Any:
    """As `__torch_function__` of a subclass of Tensor: operations on it give plain tensors."""
    return torch._C._disabled_torch_function_impl
