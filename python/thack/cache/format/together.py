"""Several caches of one run: whether their records can stand in one batch, or be mixed. Read from plans alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from thack.cache.format.plan import CachePlan
from thack.errors import MismatchError, UndefinedLoss
from thack.schema.targets import TargetSpec


def joint_spec(plans: Mapping[Path, CachePlan], *, mixed: bool) -> TargetSpec:
    """What is kept of a distribution in a batch from all of these caches.

    Args:
        plans: of the caches by their directories, at least one.
        mixed: their distributions are mixed; False: every sequence is of one cache.

    Returns:
        Of sampled caches: with the most ids of one, or the ids of all if they are mixed.

    Raises:
        MismatchError: their tokenizers, kinds or sizes do not go together; names the caches.
        UndefinedLoss: a mixture of top-k records.
    """
    specs = {path: plan.layout.spec for path, plan in plans.items()}
    first, spec = next(iter(specs.items()))
    if len(plans) == 1:
        return spec
    for path, plan in plans.items():
        if plan.fingerprints.tokenizer != plans[first].fingerprints.tokenizer:
            raise MismatchError(
                "the caches were written with different tokenizers",
                details=[f"{p}  {each.fingerprints.tokenizer}" for p, each in plans.items()],
                hint="the same id would be another token: use caches of teachers that share a tokenizer",
            )
        if not _goes_with(specs[path], spec):
            raise MismatchError(
                f"{path} holds other records than {first}",
                details=[f"{p}  {_described(each)}" for p, each in specs.items()],
                hint="use caches that are all dense, all sampled, or all top-k with the same k, tail and temperatures",
            )
        if plan.fingerprints.head != plans[first].fingerprints.head:
            raise MismatchError(
                f"the projected records of {path} are of another head than those of {first}",
                details=[f"{p}  {each.fingerprints.head}" for p, each in plans.items()],
                hint="write both caches with the same `student`",
            )
    if mixed and spec.kind == "top-k":
        raise UndefinedLoss(
            "top-k caches cannot be mixed: of an id that one teacher kept, the other's mass is not known",
            details=[f"{path}  {_described(each)}" for path, each in specs.items()],
            hint="write them again with `sampled = 64` or `kind = dense`, which can be mixed; or leave out "
            "`cache_weights` and `cache_weight_key`: each sequence is then trained on one cache",
        )
    if mixed:
        _check_sizes(plans)
    if spec.kind != "sampled":
        return spec
    counts = [each.k for each in specs.values()]
    return replace(spec, k=sum(counts) if mixed else max(counts))


def _goes_with(spec: TargetSpec, first: TargetSpec) -> bool:
    if spec.kind == "sampled":
        return first.kind == "sampled"
    return replace(spec, value_bits=first.value_bits) == first


def _described(spec: TargetSpec) -> str:
    if spec.kind != "top-k":
        return str(spec)
    more = f", temperatures {', '.join(map(str, spec.temperatures))}" if spec.temperatures else ""
    return f"{spec} with {spec.tail} tail{more}"


def _check_sizes(plans: Mapping[Path, CachePlan]) -> None:
    if len({plan.num_sequences for plan in plans.values()}) > 1:
        raise MismatchError(
            "only caches of the same sequences can be mixed",
            details=[f"{path}  {plan.num_sequences:,} sequences" for path, plan in plans.items()],
            hint="cache the same data with each teacher; or leave out `cache_weights`: each sequence has its own cache",
        )
