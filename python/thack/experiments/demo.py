"""`thack demo`: one recipe of the grid, from nothing to a verdict and a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from thack.config.experiment import ExperimentSettings
from thack.detection import Verdict
from thack.experiments.grid import run_grid
from thack.reporting import write_report
from thack.runtime.lock import locked
from thack.runtime.progress import SILENT, Progress
from thack.runtime.status import recorded
from thack.schema.experiment import SourceKind


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRun:
    """One student: who wrote its responses, where it is, and what became of it."""

    source: SourceKind
    seed: int
    path: Path
    verdict: Verdict
    seconds: float  # of its distillation


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """Every student of the demo, and the report about them."""

    runs: tuple[DemoRun, ...]
    report: Path
    seconds: float  # of this call


def run_experiment(settings: ExperimentSettings, out: Path, progress: Progress = SILENT) -> DemoResult:
    """Run every arm and seed of an experiment, and write one report of its runs; the first failure is raised."""
    with locked(out, progress), recorded(out, "experiment"):
        result = run_grid(settings, out, progress)
        for outcome in result.outcomes:
            if outcome.error is not None:
                raise outcome.error
        runs = [
            DemoRun(
                source=outcome.planned.cell.arm.source,
                seed=outcome.planned.cell.seed,
                path=outcome.planned.run.path,
                verdict=outcome.verdict,
                seconds=outcome.planned.run.record().seconds,
            )
            for outcome in result.outcomes
            if outcome.verdict is not None
        ]
        report = write_report([run.path for run in runs], out / "report.html", title=settings.title)
    return DemoResult(runs=tuple(runs), report=report, seconds=result.seconds)
