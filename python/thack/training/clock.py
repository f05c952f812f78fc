"""Where a step's time goes: data, forward, loss, backward, optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch

PARTS = ("data", "forward", "loss", "backward", "optimizer")


class Clock:
    """Adds up seconds per part. `profile` logs them, and waits for the device at each boundary."""

    def __init__(self, profile: bool = False) -> None:
        self.profile = profile
        self._waits = profile and torch.cuda.is_available()
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self.seconds[part] += self._now() - start

    def _now(self) -> float:
        if self._waits:
            torch.cuda.synchronize()
        return perf_counter()

    def columns(self) -> dict[str, float]:
        """The seconds so far, as columns of metrics.jsonl; none unless `profile` asks for them."""
        return {f"seconds/{part}": round(s, 6) for part, s in self.seconds.items()} if self.profile else {}

    def __str__(self) -> str:
        total = sum(self.seconds.values()) or 1.0
        return " · ".join(f"{part} {seconds / total:.0%}" for part, seconds in self.seconds.items())
