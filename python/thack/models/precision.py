"""In which number format a model runs inference: one rule for scoring, for writing responses and for live targets.

The weights stay as they were loaded, and products run in the chosen format (torch's autocast). So a capture,
`generate`, a guard and a live teacher see the same logits for the same settings. Evaluation is always in float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from thack.config import DTypeName
from thack.models.protocol import LanguageModel
from thack.runtime.device import choose_dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The number format of a model's products, and why it was chosen."""

    dtype: torch.dtype
    reason: str = ""
    casts: bool = True  # False: the weights themselves are in `dtype`

    @property
    def name(self) -> str:
        """As settings and plans spell it: float32, bfloat16."""
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name

    def autocast(self, model: LanguageModel) -> AbstractContextManager[object]:
        """Around forwards of `model`: products in this format; in float32 nothing is cast."""
        casts = self.casts and self.dtype != torch.float32
        return torch.autocast(model.device.type, dtype=self.dtype) if casts else nullcontext()

    def round_weights(self, model: LanguageModel) -> None:
        """Store the weights of linear layers in this format: autocast would round them alike, at every call.

        Only for a model that nothing reads in float32 afterwards. A head that shares its weights with the embedding
        keeps them.
        """
        assert isinstance(model, nn.Module)
        shared = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        for module in model.modules():
            if (
                isinstance(module, nn.Linear)
                and module.weight.dtype == torch.float32
                and id(module.weight) not in shared
            ):
                module.to(self.dtype)


FLOAT32 = Precision(dtype=torch.float32)


def inference_precision(model: LanguageModel, dtype: DTypeName) -> Precision:
    """How `model` runs where it is not trained.

    Args:
        model: On its device, with its weights.
        dtype: The setting: auto, float32 or bfloat16. auto asks the device, and on a CPU the model's width.
    """
    chosen, reason = choose_dtype(dtype, model.device, width=model.head().in_features)
    weights = model.head().weight.dtype
    if weights != torch.float32:
        reason = f"{reason}, on weights in {str(weights).removeprefix('torch.')}"
    return Precision(dtype=chosen, reason=reason)
