"""Tails in plain files: what columns or tensors say of all ids that a row leaves out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from thack.errors import DataError
from thack.schema.targets import Tail
from thack.targets.types import TopKTarget

_AT_ONE = "log_tail"
_FURTHER = "log_tail_at_"


@dataclass(frozen=True, slots=True)
class RowTail:
    """The tails of one response, where its source says them; of padded or dropped ids they know nothing.

    Args:
        kind: how their source came to know them.
        at_one: float64 [R], log of the mass of all other ids.
        further: temperature T → float64 [R], log Σ p^(1/T) over all other ids.
    """

    kind: Tail
    at_one: np.ndarray
    further: Mapping[float, np.ndarray]

    def with_end(self) -> RowTail:
        """The same, and behind it a token that leaves nothing."""
        nothing = -np.inf
        return RowTail(
            self.kind, np.append(self.at_one, nothing), {t: np.append(of, nothing) for t, of in self.further.items()}
        )


@dataclass(frozen=True, slots=True)
class TailColumns:
    """Where a file has the tails of its rows."""

    kind: Tail
    further: Mapping[float, str]  # temperature → name

    @property
    def names(self) -> tuple[str, ...]:
        return _AT_ONE, *self.further.values()

    def read(self, column: Callable[[str], np.ndarray]) -> RowTail:
        """The tails of one response, whose part of each column `column` gives."""
        return RowTail(
            self.kind,
            np.asarray(column(_AT_ONE), np.float64),
            {t: np.asarray(column(name), np.float64) for t, name in self.further.items()},
        )


def find_tails(names: Collection[str], facts: Mapping[str, str], path: Path) -> TailColumns | None:
    """The columns of tails among these; None where there is none. `facts` of a cache's export say what kind they are.

    Raises:
        DataError: a column is of no temperature, or the tail at temperature 1 is missing.
    """
    further = {}
    for name in (name for name in names if name.startswith(_FURTHER)):
        try:
            further[float(name.removeprefix(_FURTHER))] = name
        except ValueError:
            raise DataError(f"{path}: {name} is of no temperature", hint=f"such as {_FURTHER}2") from None
    if _AT_ONE not in names:
        if further:
            raise DataError(f"{path}: no {_AT_ONE} beside {', '.join(further.values())}")
        return None
    kind = facts.get("tail", "exact")
    if kind not in get_args(Tail) or kind == "none":
        raise DataError(f"{path}: its tails are {kind!r}")
    return TailColumns(kind, dict(sorted(further.items())))  # type: ignore[arg-type]  # checked above


def tails_of(target: TopKTarget) -> Iterator[tuple[str, np.ndarray]]:
    """Name and numbers [N] of each column that holds a target's tails."""
    if target.log_tail_N is not None:
        yield _AT_ONE, target.log_tail_N.numpy()
    for temperature, tail in target.log_tail_at.items():
        yield f"{_FURTHER}{repr(temperature).removesuffix('.0')}", tail.numpy()
