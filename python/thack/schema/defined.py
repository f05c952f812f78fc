"""Which divergences are defined on which targets: what is kept of a teacher has to say what a loss asks of it."""

from __future__ import annotations

from thack.errors import UndefinedLoss
from thack.schema.targets import Divergence, TargetSpec, exactly


def check_defined(spec: TargetSpec, divergence: Divergence) -> None:
    """Refuse a divergence that is not defined on a target.

    Raises:
        UndefinedLoss: says why, and what to use instead.
    """
    if spec.kind in ("sampled", "multinomial"):
        _check_unbiased(spec, divergence)
    if spec.kind in ("top-k", "renormalised"):
        _check_truncated(spec, divergence)
    if spec.kind == "projected" and (divergence.kind != "forward_kl" or divergence.temperature != 1):
        raise UndefinedLoss(
            f"{divergence} is not defined on projected targets",
            details=("Wᵀp gives the expected logit alone, and only forward KL at temperature 1 is linear in p",),
            hint="use `loss.divergence = forward_kl` and `loss.temperature = 1`, or another kind of target",
        )


def _check_unbiased(spec: TargetSpec, divergence: Divergence) -> None:
    others = "`target.kind` dense, top-k or mixed" if spec.live else "a dense or top-k cache"
    if divergence.kind != "forward_kl":
        raise UndefinedLoss(
            f"{divergence.kind} is not defined on {spec.kind} targets",
            details=("the samples are an unbiased estimate of p, and only forward KL is linear in p",),
            hint=f"use `loss.divergence = forward_kl`, or {others}",
        )
    if divergence.temperature != 1:
        raise UndefinedLoss(
            f"temperature {divergence.temperature:g} is not defined on {spec.kind} targets",
            details=("they are drawn at temperature 1, and p^(1/T) is not linear in p",),
            hint=f"use `loss.temperature = 1`, or {others}",
        )


def _check_truncated(spec: TargetSpec, divergence: Divergence) -> None:
    temperature = divergence.temperature
    if spec.tail == "none":
        raise UndefinedLoss(
            f"{divergence.kind} is not defined on a top-k target without its tail",
            details=("truncated forward KL goes negative, renormalised it is over-confident",),
            hint="cache the teacher with `thack cache-logits`, which stores the exact tail",
        )
    if spec.tail == "processed" and divergence.kind != "forward_kl":
        raise UndefinedLoss(
            f"{divergence.kind} is not defined on processed log-probabilities",
            details=("a temperature, top-k, top-p or a mask changed them: 0 there is not 0 of the teacher",),
            hint="use forward_kl, or import raw log-probabilities",
        )
    if temperature != 1 and temperature not in spec.temperatures:
        kept, asked = ", ".join(map(exactly, sorted({1.0, *spec.temperatures}))), exactly(temperature)
        others = "`target.kind` dense or mixed" if spec.live else f"a cache with `temperatures = [{asked}]`"
        raise UndefinedLoss(
            f"temperature {temperature:g} needs the tail at that temperature, which is not kept",
            details=(f"asked  {asked}", f"kept   {kept}"),
            hint=f"use `loss.temperature = 1`, or {others}",
        )


def check_cells_defined(divergence: Divergence) -> None:
    """Refuse what is not linear in the teacher's probabilities: masses of cells are all that is known of them."""
    if divergence.kind != "forward_kl":
        raise UndefinedLoss(
            f"{divergence.kind} is not defined where teacher and student have different tokenizers",
            details=("what is known of the teacher is the mass of each cell, and only forward KL is linear in it",),
            hint="use `loss.divergence = forward_kl`, or a student with the teacher's tokenizer",
        )
    if divergence.temperature != 1:
        raise UndefinedLoss(
            f"temperature {divergence.temperature:g} is not defined between different tokenizers",
            details=("the mass of a cell at another temperature does not follow from its mass",),
            hint="use `loss.temperature = 1`, or a student with the teacher's tokenizer",
        )
