"""Where a step's time goes: data, forward, loss, backward, optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch

PARTS = ("data", "forward", "loss", "backward", "optimizer")


class Clock:
    """Adds up seconds per part; `precise` waits for the device at each boundary (what `profile` asks for)."""

    def __init__(self, precise: bool = False) -> None:
        self._precise = precise and torch.cuda.is_available()
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self.seconds[part] += self._now() - start

    def _now(self) -> float:
        if self._precise:
            torch.cuda.synchronize()
        return perf_counter()

    def row(self) -> dict[str, float]:
        """The split so far, as columns."""
        return {f"seconds/{part}": round(seconds, 6) for part, seconds in self.seconds.items()}

    def __str__(self) -> str:
        total = sum(self.seconds.values()) or 1.0
        return " · ".join(f"{part} {seconds / total:.0%}" for part, seconds in self.seconds.items())
