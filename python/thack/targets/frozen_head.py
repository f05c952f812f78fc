"""A student's frozen head, and what it makes of a teacher's distribution (`losses.frozen_head`).

N response tokens, H hidden width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thack.errors import MismatchError, ModelError
from thack.models.checkpoint import fingerprint
from thack.models.protocol import LanguageModel
from thack.targets.entropy import entropy_of
from thack.targets.types import FrozenHeadTarget

_CHUNK_ELEMENTS = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenHead:
    """The rows of a head that are compared, in float32, and the hash of their numbers."""

    weight_VH: Tensor
    fingerprint: str

    @classmethod
    def of(cls, model: LanguageModel, width: int) -> FrozenHead:
        """The first `width` rows of `model`'s head.

        Raises:
            ModelError: it has a bias or a bound, or the model does something else to its logits.
            MismatchError: it has fewer rows.
        """
        head, form = model.head(), model.head_form
        bias: Tensor | None = head.bias
        if form is None or form.softcap is not None or bias is not None:
            raise ModelError(
                "the student's logits are more than its head's product and a factor: one vector of a token does not "
                "hold their forward KL",
                hint="use `kind = top-k`, or another student",
            )
        if width > len(head.weight):
            raise MismatchError(
                "the teacher's distribution is wider than the student's head",
                details=(f"teacher  {width:,} ids", f"student  {len(head.weight):,} rows"),
                hint="use a student whose vocabulary is as wide as the teacher's",
            )
        weight_VH = head.weight.detach()[:width].float()
        return cls(weight_VH=weight_VH, fingerprint=fingerprint({"scale": form.scale}, {"head": weight_VH}, full=True))

    def to(self, device: torch.device) -> FrozenHead:
        """With its rows on `device`."""
        return replace(self, weight_VH=self.weight_VH.to(device))

    def project(self, log_p_NV: Tensor) -> FrozenHeadTarget:
        """Wᵀp and H(p) of each row, p over all rows of this head; float32 at least."""
        dtype = torch.promote_types(log_p_NV.dtype, torch.float32)
        weight_VH = self.weight_VH.to(log_p_NV.device, dtype)
        mean_NH = log_p_NV.new_empty(len(log_p_NV), weight_VH.shape[1], dtype=dtype)
        size = max(1, _CHUNK_ELEMENTS // weight_VH.shape[0])
        for start in range(0, len(log_p_NV), size):
            mean_NH[start : start + size] = log_p_NV[start : start + size].to(dtype).exp() @ weight_VH
        return FrozenHeadTarget(mean_NH=mean_NH, entropy_N=entropy_of(log_p_NV), vocab_size=log_p_NV.shape[1])
