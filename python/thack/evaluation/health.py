"""Health beside the metrics, so that a student that rambles, repeats itself or is too sure is seen.

N response tokens, V vocabulary. Columns of metrics.jsonl, all under `health/`, once per evaluation:

    on the student's own responses (`student_sampled`, where evaluation.student_samples is on)
      response_tokens        mean length, in tokens
      truncated_share        responses that reached the maximum without an end
      repeated_share         4-grams that occurred before in the same response
      entropy                mean entropy of the student's next-token distribution, nats

    on a reference's fixed responses (`reference_sampled`), under golden | judge | proxy as the metrics
      entropy                the student's, nats
      reference_entropy      the reference's, nats
      top_10_overlap         share of the reference's ten most likely tokens among the student's ten
      calibration_error      Σ_bins |confidence − accuracy| · share of tokens (ECE, arXiv 1706.04599), 15 bins; the
                             accuracy of the student's first choice is its probability under the reference, so that
                             the luck of one sampled token plays no part
      expert_load_max        mixture of experts: tokens of the busiest expert of any layer, over an even share
      expert_load_min        the same of the idlest one
      idle_experts           share of experts that got no token
      forward_kl/tokens_a_b  KL(reference‖student) over response positions a … b, nats per token: late positions
                             show whether the student drifts

Example: `health/proxy/top_10_overlap/reference_sampled`, `health/truncated_share/student_sampled`.
Entropies, overlap and calibration use every sixth row of large batches; they cost about 0.6 of the divergences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thack.data.eos import EndCounts, Ends
from thack.data.sequence import TokenSequence
from thack.models.routers import expert_health
from thack.runtime.process_group import ALONE, ProcessGroup
from thack.schema.metrics import HealthName, Role

SPANS = ((0, 3), (4, 15), (16, 63), (64, None))  # response positions, the last one open
_TOP = 10
_BINS = 15
_GRAM = 4
_STRIDE = 6  # one row in six of a batch is looked at, …
_ENOUGH_ROWS = 128  # … and at least this many of a large one


class FixedHealth:
    """What the rows of a reference's fixed responses show of the student; batches are added one by one."""

    def __init__(self) -> None:
        self._rows = 0
        self._entropy_nats = 0.0
        self._reference_entropy_nats = 0.0
        self._shared = 0.0
        self._bins_3 = np.zeros((3, _BINS))  # confidence, accuracy, rows
        self._nats_S = np.zeros(len(SPANS))
        self._tokens_S = np.zeros(len(SPANS), dtype=np.int64)

    def add(
        self, sequences: Sequence[TokenSequence], reference_NV: Tensor, student_NV: Tensor, forward_kl_N: Tensor
    ) -> None:
        """One batch: log-probabilities of both models, and the forward KL of every row."""
        self._add_positions(sequences, forward_kl_N.double().cpu().numpy())
        stride = max(1, min(_STRIDE, len(reference_NV) // _ENOUGH_ROWS))
        log_p_NV, log_q_NV = reference_NV[::stride], student_NV[::stride]
        self._rows += len(log_p_NV)
        self._entropy_nats += float(entropies(log_q_NV).sum())
        self._reference_entropy_nats += float(entropies(log_p_NV).sum())
        top = min(_TOP, log_p_NV.shape[1])
        theirs, ours = log_p_NV.topk(top).indices, log_q_NV.topk(top).indices
        self._shared += float((theirs.unsqueeze(2) == ours.unsqueeze(1)).any(2).double().mean(1).sum())
        self._add_bins(log_p_NV, log_q_NV)

    def _add_bins(self, log_p_NV: Tensor, log_q_NV: Tensor) -> None:
        confidence_N, choice_N = log_q_NV.max(dim=1)
        accuracy_N = log_p_NV.gather(1, choice_N[:, None])[:, 0].exp().double().cpu().numpy()
        confidence = confidence_N.exp().double().cpu().numpy()
        bin_N = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
        for row, values in enumerate((confidence, accuracy_N, np.ones_like(confidence))):
            self._bins_3[row] += np.bincount(bin_N, weights=values, minlength=_BINS)

    def _add_positions(self, sequences: Sequence[TokenSequence], nats_N: np.ndarray) -> None:
        position_N = np.concatenate([np.arange(len(s.response_ids)) for s in sequences])
        span_N = np.searchsorted([first for first, _ in SPANS], position_N, side="right") - 1
        self._nats_S += np.bincount(span_N, weights=nats_N, minlength=len(SPANS))
        self._tokens_S += np.bincount(span_N, minlength=len(SPANS))

    def columns(
        self, role: Role, group: ProcessGroup = ALONE, experts_LE: Tensor | None = None
    ) -> dict[HealthName, float]:
        """The columns of reference `role`; spans that no response reaches are left out.

        Over all ranks, each of which added its own batches; `experts_LE`: tokens that each expert got of this rank's.
        """
        sums = group.all_reduce_sum(self._rows, self._entropy_nats, self._reference_entropy_nats, self._shared)
        num_rows, entropy_nats, reference_entropy_nats, shared = sums
        confidence, accuracy, rows = group.all_reduce_array(self._bins_3)
        nats_S, tokens_S = group.all_reduce_array(self._nats_S), group.all_reduce_array(self._tokens_S)
        values = {
            "entropy": entropy_nats / num_rows,
            "reference_entropy": reference_entropy_nats / num_rows,
            "top_10_overlap": shared / num_rows,
            "calibration_error": float(np.abs(confidence - accuracy).sum() / rows.sum()),
        }
        if experts_LE is not None:
            values |= expert_health(torch.from_numpy(group.all_reduce_array(experts_LE.numpy())))
        found = {HealthName(quantity=quantity, role=role): value for quantity, value in values.items()}
        for span, nats, tokens in zip(SPANS, nats_S, tokens_S, strict=True):
            if tokens:
                found[HealthName(quantity="forward_kl", role=role, positions=span)] = float(nats / tokens)
        return found


def entropies(log_p_NV: Tensor) -> Tensor:
    """nats_N = −Σ p log p; an outcome without mass adds 0."""
    found: Tensor = torch.special.entr(log_p_NV.exp()).double().sum(dim=1)
    return found


def sample_health(
    responses: Sequence[np.ndarray], *, ends: Ends, max_new_tokens: int, entropy: float
) -> dict[HealthName, float]:
    """The columns of the student's own responses; `entropy` is its mean along them."""
    found = {
        "response_tokens": float(np.mean([len(r) for r in responses])),
        "truncated_share": EndCounts.of(responses, ends, maximum=max_new_tokens).truncated_share,
        "repeated_share": repeated_share(responses),
        "entropy": entropy,
    }
    return {HealthName(quantity=quantity): value for quantity, value in found.items()}


def repeated_share(responses: Sequence[np.ndarray]) -> float:
    """4-grams that occurred before in the same response, over all 4-grams; 0 where there are none."""
    total = distinct = 0
    for response in responses:
        grams = {tuple(response[i : i + _GRAM].tolist()) for i in range(len(response) - _GRAM + 1)}
        total += max(0, len(response) - _GRAM + 1)
        distinct += len(grams)
    return 1 - distinct / total if total else 0.0
