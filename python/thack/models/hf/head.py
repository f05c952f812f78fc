"""What a transformers model does to its head's product, measured on the model itself.

The product is replaced by known numbers, and the logits that come out show the rest: a factor (Cohere, Granite,
Falcon-H1), a bound (Gemma, xLSTM, RecurrentGemma), or anything else, for which only the model's own logits are right.
No key of config.json is trusted: it may have another name, or no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thack.models.protocol import HeadForm

_TINY, _HUGE = 1e-4, 1e6  # products at which a bound has no effect, and at which nothing else is left
_SIZES = (_TINY, 0.1, 1.0, 3.0, 10.0, 100.0, _HUGE)


def measured_form(
    head: nn.Module, read: Callable[[], tuple[Tensor, Tensor]], config: dict[str, Any]
) -> HeadForm | None:
    """How logits follow from the product of `head`, or None where they are not factor and bound of it.

    Args:
        head: The output projection.
        read: Runs the model on a few tokens: (logits_NV, hidden_NH that the head read).
        config: The model's configuration, whose exact numbers replace measured ones that agree with them.
    """
    with _outputs(head) as outputs:
        logits_NV, hidden_NH = read()
    if not _projects(head, hidden_NH, outputs[-1]):
        return None
    product_NV = _known_products(logits_NV.shape, logits_NV.device)
    with _replaced(head, product_NV):
        shaped_NV, _ = read()
    tolerance = 1e-5 if shaped_NV.dtype in (torch.float32, torch.float64) else 1e-2
    shaped_NV = shaped_NV.float()
    scale = float((shaped_NV[0] / product_NV[0]).median())
    top = float(shaped_NV[_SIZES.index(_HUGE)].abs().max())
    numbers = list(_numbers(config))
    capped = top < abs(scale) * _HUGE * 0.9
    form = HeadForm(
        scale=_declared(scale, [1.0, *numbers, *(1 / n for n in numbers if n)], tolerance),
        softcap=_declared(top, numbers, tolerance) if capped else None,
    )
    expected_NV = product_NV * form.scale
    if form.softcap is not None:
        expected_NV = form.softcap * torch.tanh(expected_NV / form.softcap)
    exact = torch.allclose(shaped_NV, expected_NV, rtol=tolerance, atol=0.0)
    return form if exact and form.scale > 0 else None


def _known_products(shape: torch.Size, device: torch.device) -> Tensor:
    """float32 [N, V]: each row of one size, with both signs and several values among its ids."""
    sizes_N = torch.tensor(_SIZES, device=device)[torch.arange(shape[0], device=device) % len(_SIZES)]
    pattern_V = (torch.arange(shape[1], device=device) % 7 - 3.5) / 3.5  # never 0, up to 1 in size
    return sizes_N[:, None] * pattern_V


def _projects(head: nn.Module, hidden_NH: Tensor, product: Tensor) -> bool:
    """Whether the module is hidden · Wᵀ + b of its own weight and bias: not with an adapter, not quantised."""
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    if not isinstance(weight, Tensor) or weight.shape != (getattr(head, "out_features", 0), hidden_NH.shape[-1]):
        return False
    expected = nn.functional.linear(hidden_NH, weight, bias).float()
    tolerance = 1e-5 if product.dtype in (torch.float32, torch.float64) else 1e-2
    return bool((product.reshape(expected.shape).float() - expected).abs().max() <= tolerance * expected.abs().max())


@contextmanager
def _outputs(head: nn.Module) -> Iterator[list[Tensor]]:
    """What the head gives, call after call."""
    found: list[Tensor] = []
    hook = head.register_forward_hook(lambda module, inputs, output: found.append(output))
    try:
        yield found
    finally:
        hook.remove()


@contextmanager
def _replaced(head: nn.Module, product_NV: Tensor) -> Iterator[None]:
    """The head gives these numbers, in their number format, whatever it reads."""
    hook = head.register_forward_hook(lambda module, inputs, output: product_NV.clone().view(output.shape))
    try:
        yield
    finally:
        hook.remove()


def _declared(value: float, numbers: list[float], tolerance: float) -> float:
    """The number of config.json that was measured as `value`, or the measured one."""
    return next((n for n in numbers if abs(n - value) <= tolerance * abs(value)), value)


def _numbers(config: Any) -> Iterator[float]:
    """All positive numbers in a configuration."""
    if isinstance(config, dict):
        for value in config.values():
            yield from _numbers(value)
    elif isinstance(config, int | float) and not isinstance(config, bool) and config > 0:
        yield float(config)
