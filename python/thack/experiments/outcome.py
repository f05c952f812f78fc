"""What became of one cell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thack.detection import Curves, Verdict, verdict, verdict_without_oracle
from thack.errors import ThackError
from thack.experiments.plan import PlannedRun
from thack.experiments.tokens import response_tokens
from thack.files import write_text
from thack.schema.experiment import CellState, ResponseTokens, RunOutcome
from thack.schema.metrics import PROXY, MetricName, Role

_SAMPLED = MetricName(role=Role.ORACLE, divergence="reverse_kl", responses="student_sampled")


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOutcome:
    """A cell that finished with a verdict, failed with an error, or has not run."""

    planned: PlannedRun
    verdict: Verdict | None = None
    alarm: bool = False  # of the detector that decides without an oracle
    gap: float | None = None  # to the teacher at the end, nats per byte; None: not measured
    sampled_end: float | None = None  # golden's reverse KL on the student's own responses; None: not measured
    tokens: ResponseTokens | None = None
    error: ThackError | None = None

    @property
    def state(self) -> CellState:
        """Which of the three."""
        return "finished" if self.verdict else "failed" if self.error else "missing"


def judge(planned: PlannedRun, error: ThackError | None, online: Path | None = None) -> CellOutcome:
    """Judge a complete run by its curves, and write verdict.json beside them.

    `error` is why the run is missing, or what is to be measured beside it; `online` is the complete run of its online
    path, if the grid has one.
    """
    if not planned.run.is_complete:
        return CellOutcome(planned=planned, error=error)
    curves = planned.curves()
    found = verdict(curves, online=None if online is None else curves.like(online))
    write_text(planned.run.path / "verdict.json", found.to_json())
    alarm = verdict_without_oracle(curves).alarm_step is not None
    return CellOutcome(
        planned=planned,
        verdict=found,
        alarm=alarm,
        gap=_end(curves, PROXY.per_byte),
        sampled_end=_end(curves, _SAMPLED),
        tokens=response_tokens(planned, curves),
        error=error,
    )


def _end(curves: Curves, metric: MetricName) -> float | None:
    values = curves.columns.get(str(metric))
    return None if values is None or not np.isfinite(values[-1]) else float(values[-1])


def run_outcome(
    found: Verdict, *, alarm: bool, gap: float | None = None, sampled_end: float | None = None
) -> RunOutcome:
    """The numbers of a verdict that claims rest on, and what is measured beside it at the end of the run."""
    golden, proxy = found.golden, found.proxy
    return RunOutcome(
        verdict=found.name,
        rise=golden.rise if golden else None,
        golden_end=golden.end if golden else None,
        proxy_end=proxy.end if proxy else None,
        proxy_change=found.proxy_change,
        over_baseline=found.over_baseline,
        alarm=alarm,
        gap=gap,
        golden_start=golden.start if golden else None,
        golden_minimum=golden.minimum if golden else None,
        sampled_end=sampled_end,
        causes=found.cause.names if found.cause else (),
    )
