"""What a benchmark hands to `run.py`: measurements beside a peer, a floor and a target.

A module of `run.MODULES` has `measure() -> Iterable[Measurement]`. Times of ours and of peers are taken in one
process by `interleaved`, so that a busy machine slows both.
"""

from __future__ import annotations

import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from thack.data.tokenizer import Tokenizer

Work = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What must hold of the ratio to the peer, or of our own number, or of our number over the floor."""

    of: Literal["ratio", "ours", "over floor"]
    at_least: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        bound = f"≥ {self.at_least:.3g}" if self.at_least is not None else f"≤ {self.at_most:.3g}"
        return bound + {"ratio": "×", "ours": "", "over floor": "× floor"}[self.of]

    def met(self, value: float) -> bool:
        above = self.at_least is None or value >= self.at_least
        return above and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One line of the table: a cost (lower is better) in `unit`, or a rate where `is_rate`."""

    what: str
    ours: float
    unit: str  # "µs/row", "B/token", "M tokens/s", "s", "× forward"
    peer: str = ""  # who, and what they do; a published number says so
    theirs: float | None = None
    floor: float | None = None
    floor_is: str = ""  # "one read of the row"
    target: Target | None = None
    is_rate: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer."""
        if self.theirs is None:
            return None
        return self.ours / self.theirs if self.is_rate else self.theirs / self.ours

    @property
    def over_floor(self) -> float | None:
        """How far from the floor: 1 is on it."""
        if self.floor is None:
            return None
        return self.floor / self.ours if self.is_rate else self.ours / self.floor

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        value = {"ratio": self.ratio, "ours": self.ours, "over floor": self.over_floor}[self.target.of]
        return value is not None and self.target.met(value)

    def document(self) -> dict[str, Any]:
        """Everything, for last.json."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "target"}
        derived = {"ratio": self.ratio, "over_floor": self.over_floor, "met": self.met}
        return fields | derived | {"target": None if self.target is None else str(self.target)}


def interleaved(
    works: Sequence[Work], repeats: int = 9, warmups: int = 1, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Least seconds of each work, all of them by turns: a noisy neighbour disturbs every side.

    Each timed run follows an untimed one of the same work: nobody pays for the caches that the others left.
    For work of this thread alone, `time.thread_time` as the clock leaves out what other processes take.
    """
    for _ in range(warmups):
        for work in works:
            work()
    least = [float("inf")] * len(works)
    for _ in range(repeats):
        for i, work in enumerate(works):
            work()
            started = clock()
            work()
            least[i] = min(least[i], clock() - started)
    return least


def ratio(at_least: float) -> Target:
    return Target(of="ratio", at_least=at_least)


def at_most(ours: float) -> Target:
    return Target(of="ours", at_most=ours)


def at_least(ours: float) -> Target:
    return Target(of="ours", at_least=ours)


@cache
def tokenizer_of(size: int) -> Tokenizer:
    """A tokenizer that knows every one of `size` ids: ids that it does not know are in no record of a cache."""
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    tokenizer = Tokenizer.train([path.read_text(errors="ignore") for path in sources], size)
    assert tokenizer.size == size, f"the standard library's text gives {tokenizer.size} of {size} ids"
    return tokenizer
