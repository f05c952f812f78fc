"""How fast a run is in this process, what is left of it, and the share of its evaluations."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter

_WORTH_A_LINE_S = 20.0  # runs that take less are over before a line about them is read


class Pace:
    """Seconds of steps and evaluations, measured from its creation on.

    Args:
        total: optimizer steps of the run.
        planned: steps at which it is evaluated.
        now: a clock, in seconds.
    """

    def __init__(self, total: int, planned: Iterable[int], now: Callable[[], float] = perf_counter) -> None:
        self._total, self._planned, self._now = total, sorted(planned), now
        self._started = now()
        self._evaluations: list[float] = []
        self._steps = self._tokens = 0
        self._told = False

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Measure one evaluation."""
        started = self._now()
        yield
        self._evaluations.append(self._now() - started)

    def count(self, num_tokens: int) -> None:
        """Note that a step on `num_tokens` response tokens is done."""
        self._steps, self._tokens = self._steps + 1, self._tokens + num_tokens

    def evaluating(self, step: int) -> str:
        """What happens now: which of the planned evaluations."""
        number = bisect_right(self._planned, step)
        return f"evaluating {number} of {len(self._planned)}" if step in self._planned else "evaluating"

    @property
    def tokens_per_s(self) -> float:
        """Response tokens trained per second, evaluations apart."""
        return self._tokens / max(self._training_s, 1e-9)

    def left(self, step: int) -> float:
        """Seconds until the end: the steps that are left, and the evaluations at the pace of the last one."""
        ahead = len(self._planned) - bisect_right(self._planned, step)
        return self._step_s * (self._total - step) + self._last_s * ahead

    def forecast(self, step: int) -> str | None:
        """A line about the evaluations' share, once: as soon as a step and a second evaluation are measured."""
        if self._told or self._steps == 0 or len(self._evaluations) < 2:  # the first one also prepares the others
            return None
        self._told = True
        left = self.left(step)
        if self._elapsed + left < _WORTH_A_LINE_S:
            return None
        ahead = len(self._planned) - bisect_right(self._planned, step)
        share = (sum(self._evaluations) + self._last_s * ahead) / (self._elapsed + left)
        each = f"{ahead} to come, {self._last_s:.1f} s each; a step takes {self._step_s:.2g} s"
        return f"evaluations: about {share:.0%} of the run's time ({each}); `evaluation.count` makes them fewer"

    def summary(self) -> str | None:
        """A line about the evaluations' share at the end; None where there is nothing to tell."""
        if not self._evaluations or self._elapsed < _WORTH_A_LINE_S:
            return None
        share = sum(self._evaluations) / self._elapsed
        return f"evaluations took {share:.0%} of {self._elapsed:.0f} s ({len(self._evaluations)} of them)"

    @property
    def _elapsed(self) -> float:
        return self._now() - self._started

    @property
    def _training_s(self) -> float:
        return self._elapsed - sum(self._evaluations)

    @property
    def _step_s(self) -> float:
        return self._training_s / self._steps if self._steps else 0.0

    @property
    def _last_s(self) -> float:
        return self._evaluations[-1] if self._evaluations else 0.0
