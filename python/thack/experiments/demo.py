"""`thack demo`: one recipe of the grid, from nothing to a verdict and a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from thack.config.experiment import ExperimentSettings
from thack.detection import Verdict
from thack.experiments.grid import run_grid
from thack.reporting import write_report
from thack.runtime.progress import SILENT, Progress
from thack.runtime.status import recorded
from thack.schema.experiment import SourceKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """One student: who wrote its responses, where it lies, and what became of it."""

    arm: SourceKind
    seed: int
    path: Path
    verdict: Verdict
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    arms: tuple[ArmResult, ...]
    report: Path
    seconds: float


def run_experiment(settings: ExperimentSettings, out: Path, progress: Progress = SILENT) -> DemoResult:
    """Every arm of every seed of one experiment, judged, with one report; the first failure is raised."""
    with recorded(out, "experiment"):
        return _run(settings, out, progress)


def _run(settings: ExperimentSettings, out: Path, progress: Progress) -> DemoResult:
    result = run_grid(settings, out, progress)
    for outcome in result.failed:
        assert outcome.error is not None
        raise outcome.error
    arms = [
        ArmResult(
            arm=outcome.planned.cell.arm.source,
            seed=outcome.planned.cell.seed,
            path=outcome.planned.run.path,
            verdict=outcome.verdict,
            seconds=outcome.planned.run.record().seconds,
        )
        for outcome in result.outcomes
        if outcome.verdict is not None
    ]
    report = write_report([arm.path for arm in arms], out / "report.html", title=settings.title)
    return DemoResult(arms=tuple(arms), report=report, seconds=result.seconds)
