"""Losses of a student with another tokenizer, by name, and facts of a comparison of two vocabularies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from thack.errors import UndefinedLoss
from thack.schema.defined import check_cells_defined
from thack.schema.targets import Divergence, TargetSpec

Published = Literal["alm", "uld", "uld-common", "gold"]
CrossTokenizer = Literal["auto", "cell", "cell-next", "alm", "uld", "uld-common", "gold", "refuse"]
PUBLISHED: tuple[Published, ...] = get_args(Published)

_SORTED = ("dense", "top-k")
_TAKES: dict[str, tuple[str, ...]] = {"uld": _SORTED, "uld-common": _SORTED, "gold": ("dense",)}
_OF_GOLD = ("forward_kl", "reverse_kl", "jsd")


def check_across_defined(loss: CrossTokenizer, divergence: Divergence) -> None:
    """Refuse a divergence that has no meaning in a loss between two tokenizers.

    Raises:
        UndefinedLoss: names divergence or temperature.
    """
    if loss not in PUBLISHED:
        check_cells_defined(divergence)
        return
    defined = _OF_GOLD if loss == "gold" else ("forward_kl",)
    if divergence.kind not in defined or divergence.temperature != 1:
        raise UndefinedLoss(
            f"{divergence} is not defined by loss.cross_tokenizer = {loss}",
            hint=f"use `loss.divergence = {' or '.join(defined)}`, and `loss.temperature = 1`",
        )


def check_published_target(loss: CrossTokenizer, target: TargetSpec) -> None:
    """Refuse what a published loss cannot be computed from.

    Raises:
        UndefinedLoss: names the loss and the target.
    """
    kinds = _TAKES.get(loss)
    if kinds is not None and (target.kind not in kinds or target.tail in ("none", "processed")):
        raise UndefinedLoss(
            f"loss.cross_tokenizer = {loss} is not defined on {target}",
            details=("it compares the teacher's probabilities themselves, largest first",)
            if loss != "gold"
            else ("which ids hold the rest of the mass decides how it is compared",),
            hint=f"use a target of kind {' or '.join(kinds)} that knows its tail, or `loss.cross_tokenizer = cell`",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CellsFacts:
    """Of which tokenizers cells are.

    Args:
        teacher: fingerprint of the teacher's tokenizer.
        student: fingerprint of the student's.
        num_cells: number of cells.
        cpu_s: processor time that the comparison took.
    """

    SCHEMA: ClassVar[int] = 1

    teacher: str
    student: str
    num_cells: int
    cpu_s: float = 0.0
