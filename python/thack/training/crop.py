"""Cached targets of a teacher whose head is wider than the student's (see losses/vocabulary)."""

from __future__ import annotations

import torch

from thack.errors import MismatchError
from thack.targets.types import DenseTarget, SampledTarget, Target, TopKTarget


def crop_target(target: Target, width: int) -> Target:
    """The same target over the first `width` ids.

    dense: cut and renormalised. top-k and sampled: every kept id must be below `width`, else MismatchError;
    what lies beyond is padding that no text holds, and stays in the tail.
    """
    if target.vocab_size == width:
        return target
    if isinstance(target, DenseTarget):
        return DenseTarget(log_probs_NV=torch.log_softmax(target.log_probs_NV[:, :width], dim=1))
    highest = int(target.ids_NK.max())
    if highest >= width:
        raise MismatchError(
            "the cache holds an id that the student has no row for",
            details=(f"cached id   {highest:,}", f"student     {width:,} rows"),
            hint="distill into a student whose vocabulary is as wide as the teacher's",
        )
    if isinstance(target, TopKTarget):
        return TopKTarget(
            ids_NK=target.ids_NK,
            log_probs_NK=target.log_probs_NK,
            log_tail_N=target.log_tail_N,
            vocab_size=width,
            log_tail_at=target.log_tail_at,
        )
    return SampledTarget(
        ids_NK=target.ids_NK,
        weights_NK=target.weights_NK,
        counts_N=target.counts_N,
        tau_N=target.tau_N,
        entropy_N=target.entropy_N,
        vocab_size=width,
    )
