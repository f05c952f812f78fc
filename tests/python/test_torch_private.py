"""Each private operation of torch gives what its public form gives, on the installed version."""

from __future__ import annotations

import pytest
import torch

from thack import _torch_private as private


@pytest.mark.skipif(not private.HAS_ONEDNN, reason="this torch has no oneDNN")
def test_product() -> None:
    a, b = torch.randn(16, 24), torch.randn(32, 24)
    torch.testing.assert_close(private.onednn_product(a, b), a @ b.T, atol=1e-5, rtol=1e-5)
    for dtype in private.ONEDNN_DTYPES:  # on a processor without 16-bit products there is none in bfloat16
        assert private.onednn_product(a.to(dtype), b.to(dtype)).dtype == dtype


def test_softmax_backward() -> None:
    scores = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(5, 7, dtype=torch.float64)
    weights = torch.softmax(scores, dim=-1)
    weights.backward(grad)
    torch.testing.assert_close(private.softmax_backward(grad, weights.detach()), scores.grad)


def test_scaling_in_place() -> None:
    tensors = [torch.randn(3), torch.randn(2, 2), torch.randn(())]
    expected = [t * 0.3 for t in tensors]
    private.scale_all_(tensors, 0.3)
    assert all(torch.equal(a, b) for a, b in zip(tensors, expected, strict=True))
