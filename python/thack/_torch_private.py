"""Operations of torch that are not part of its public interface, each with the public one that it stands for.

They are here for speed alone. A test compares each with its public form on the installed torch; where one is missing,
the public form is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MKLDNN = torch.ops.mkldnn if torch.backends.mkldnn.is_available() else None
_LINEAR = getattr(_MKLDNN, "_linear_pointwise", None)

HAS_ONEDNN = _LINEAR is not None


def onednn_product(a_IK: Tensor, b_JK: Tensor) -> Tensor:
    """a · bᵀ by oneDNN: in float32 twice MKL's speed on AMD, the same rounding error. Only if `HAS_ONEDNN`."""
    assert _LINEAR is not None
    product: Tensor = _LINEAR(a_IK, b_JK, None, "none", [], "")
    return product


def softmax_backward(grad: Tensor, weights: Tensor) -> Tensor:
    """The gradient of softmax over the last dimension, from its result: weights · (grad − Σ grad · weights)."""
    return torch._softmax_backward_data(grad, weights, -1, weights.dtype)


def scale_all_(tensors: Sequence[Tensor], factor: float) -> None:
    """`tensor.mul_(factor)` of many tensors in few calls."""
    torch._foreach_mul_(list(tensors), factor)
