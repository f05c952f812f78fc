"""The frozen model below a student's adapter, in the role of its teacher: both are one copy of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from thack.models.hf.model import HuggingFaceModel


class WithoutAdapter(HuggingFaceModel):
    """The student with its adapter switched off, always in evaluation mode. It is neither trained nor saved.

    Args:
        student: trains an adapter; nothing in it is changed.
    """

    def __init__(self, student: HuggingFaceModel) -> None:
        base = student.facts.base
        assert base is not None, "the student trains an adapter"
        super().__init__(student.model, student.tokenizer, replace(student.facts, origin=base.origin, base=None))
        self.training = False
        self._base_fingerprint = base.fingerprint

    def train(self, mode: bool = True) -> WithoutAdapter:
        """Without effect: the modules are the student's, and each call sets their mode itself."""
        return self

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Those of the frozen model."""
        return (parameter for parameter in super().parameters(recurse) if not parameter.requires_grad)

    def fingerprint(self, *, full: bool | None = None) -> str:
        """Of the frozen model, taken before it got the adapter."""
        return self._base_fingerprint

    def _call(self, rows_N: Tensor, *, project: bool = True, **inputs: Any) -> tuple[Tensor, Tensor, Any]:
        was_training = self.model.training
        self.model.eval()
        try:
            with self.model.disable_adapter():
                return super()._call(rows_N, project=project, **inputs)
        finally:
            self.model.train(was_training)
