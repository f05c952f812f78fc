"""Targets of a teacher whose vocabulary is wider than the student's (see `targets.vocabulary`)."""

from __future__ import annotations

from dataclasses import replace

import torch

from thack.errors import MismatchError
from thack.targets.types import DenseTarget, FrozenHeadTarget, Target


def crop(target: Target, width: int) -> Target:
    """The same target over the first `width` ids.

    A dense one is cut and renormalised. Of a top-k or sampled one every kept id must be below `width`: the ids beyond
    are padding that no text holds, and their mass stays in the tail.

    Raises:
        MismatchError: a kept id is not below `width`.
    """
    if target.vocab_size == width:
        return target
    if isinstance(target, DenseTarget):
        kept_NV = target.log_probs_NV[:, :width]
        realised_N = target.realised_logprob_N
        if realised_N is not None:
            realised_N = realised_N - torch.logsumexp(kept_NV, dim=1)
        return DenseTarget(log_probs_NV=torch.log_softmax(kept_NV, dim=1), realised_logprob_N=realised_N)
    if isinstance(target, FrozenHeadTarget):
        raise MismatchError(
            "a projected target is of all ids that its cache compares, and the student has fewer",
            details=(f"cache    {target.vocab_size:,}", f"student  {width:,}"),
            hint="write the cache again with this student",
        )
    highest = int(target.ids_NK.amax()) if len(target) else 0
    if highest >= width:
        raise MismatchError(
            "the cache holds an id that the student has no row for",
            details=(f"cached id   {highest:,}", f"student     {width:,} rows"),
            hint="distill into a student whose vocabulary is as wide as the teacher's",
        )
    return replace(target, vocab_size=width)
