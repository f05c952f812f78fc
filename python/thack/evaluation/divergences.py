"""KL in both directions and JSD, row by row and summed up by prompt.

N response tokens packed, V vocabulary, P prompts of the evaluation set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from thack.data.sequence import TokenSequence
from thack.losses.formulas import Outcomes, row_sums
from thack.runtime.process_group import ProcessGroup
from thack.schema.metric_rows import PromptSums
from thack.schema.metrics import DIVERGENCES, LOG_RATIO, DivergenceName
from thack.schema.targets import Divergence

_DIVERGENCES = (Divergence(kind="forward_kl"), Divergence(kind="reverse_kl"), Divergence(kind="jsd", parameter=0.5))
# Elements of one [n, V] temporary: on a CPU it stays in the second-level cache, elsewhere it fills the device.
_CHUNK_ELEMENTS, _CHUNK_ELEMENTS_OF_A_DEVICE = 1 << 18, 1 << 25


def three_divergences(log_p_NV: Tensor, log_q_NV: Tensor) -> Tensor:
    """nats_N3: KL(p‖q), KL(q‖p) and JSD(p, q; β = ½) per row, in the order of `DIVERGENCES`.

    Outcomes without mass on the side that weights them add exactly 0, also where both are −inf.
    """
    nats_N3 = torch.empty(log_p_NV.shape[0], 3, dtype=log_p_NV.dtype, device=log_p_NV.device)
    elements = _CHUNK_ELEMENTS if log_p_NV.device.type == "cpu" else _CHUNK_ELEMENTS_OF_A_DEVICE
    step = max(1, elements // log_p_NV.shape[1])
    for start in range(0, log_p_NV.shape[0], step):
        rows = slice(start, start + step)
        nats_N3[rows] = _three(log_p_NV[rows], log_q_NV[rows])
    return nats_N3


def _three(log_p_NV: Tensor, log_q_NV: Tensor) -> Tensor:
    both = Outcomes(log_p_NV, log_q_NV)
    return torch.stack([row_sums(divergence, both) for divergence in _DIVERGENCES], dim=1)


def log_ratios(log_p_NV: Tensor, log_q_NV: Tensor, labels_N: Tensor) -> Tensor:
    """nats_N: log p − log q of the token that was written, p being its writer's."""
    found: Tensor = (log_p_NV.gather(1, labels_N[:, None]) - log_q_NV.gather(1, labels_N[:, None]))[:, 0]
    return found


class PromptTotals:
    """Sums of `num_values` values per token, prompt by prompt, in float64; batches are added one by one."""

    def __init__(self, num_prompts: int, num_values: int = len(DIVERGENCES)) -> None:
        self._nats_DP = np.zeros((num_values, num_prompts))
        self._tokens_P = np.zeros(num_prompts, dtype=np.int64)

    def add(self, sequences: Sequence[TokenSequence], nats_ND: Tensor) -> None:
        """The rows of one batch of `sequences`."""
        prompt_N = np.repeat([s.example for s in sequences], [len(s.response_ids) for s in sequences])
        values_ND = nats_ND.double().cpu().numpy()
        for row, nats_P in enumerate(self._nats_DP):
            nats_P += np.bincount(prompt_N, weights=values_ND[:, row], minlength=len(nats_P))
        self._tokens_P += np.bincount(prompt_N, minlength=len(self._tokens_P))

    def of_all_ranks(self, group: ProcessGroup) -> list[PromptSums]:
        """One per value. Every prompt was summed by one of the ranks."""
        nats_DP, tokens_P = group.all_reduce_array(self._nats_DP), group.all_reduce_array(self._tokens_P)
        return [PromptSums(nats_P=nats_P, tokens_P=tokens_P) for nats_P in nats_DP]


def by_divergence(sums: Sequence[PromptSums], bytes_P: np.ndarray | None = None) -> dict[DivergenceName, PromptSums]:
    """What `three_divergences` was summed up to, by name; and `log_ratios` behind it where there are bytes."""
    found: dict[DivergenceName, PromptSums] = dict(zip(DIVERGENCES, sums, strict=False))
    return found if bytes_P is None else found | {LOG_RATIO: replace(sums[len(DIVERGENCES)], bytes_P=bytes_P)}
