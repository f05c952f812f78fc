"""experiment.json: what came of every cell, the claims that follow, and the costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thack.cache.format.layout import bytes_per_token
from thack.config import to_dict
from thack.config.experiment import ExperimentSettings
from thack.experiments.arms import FinishedArms
from thack.experiments.cells import base_arm, chosen_figures
from thack.experiments.claims import claims
from thack.experiments.information import task_information
from thack.experiments.loss_gaps import loss_gaps
from thack.experiments.outcome import CellOutcome, run_outcome
from thack.experiments.plan import PlannedRun
from thack.experiments.size_laws import size_laws
from thack.experiments.stages import Stage, with_upstream
from thack.models.directory import read_config
from thack.schema.experiment import CellResult, RunOutcome, StageCosts, StageRecord, Summary
from thack.schema.targets import TargetSpec


def summarise(settings: ExperimentSettings, out: Path, outcomes: Sequence[CellOutcome]) -> Summary:
    """Every cell with its place on the axes and what became of it, and the claims of the chosen figures."""
    complete = [
        stage for stage in with_upstream(s for one in outcomes for s in one.planned.stages) if stage.is_complete
    ]
    records = [stage.record() for stage in complete]
    runs = tuple(_cell(outcome, out) for outcome in outcomes)
    base, figures = base_arm(settings), chosen_figures(settings)
    information = task_information(one.planned for one in outcomes)
    arms = FinishedArms.of(base, runs, information)
    return Summary(
        title=settings.title,
        figures=figures,
        base=base,
        seeds=settings.seeds,
        runs=runs,
        claims=claims(arms, figures),
        information=information,
        laws=size_laws(settings, outcomes),
        gaps=loss_gaps(arms, settings.distill.optimizer.learning_rate),
        stages=_costs(complete, records),
        seconds=round(sum(record.seconds for record in records), 1),
        cpu_seconds=round(sum(record.cpu_seconds for record in records), 1),
        settings=to_dict(settings),
    )


def _cell(outcome: CellOutcome, out: Path) -> CellResult:
    planned = outcome.planned
    record = planned.run.record() if planned.run.is_complete else None
    return CellResult(
        cell=planned.number,
        path=planned.run.path.relative_to(out).as_posix(),
        arm=planned.name,
        seed=planned.cell.seed,
        figures=planned.cell.figures,
        axes=planned.cell.arm,
        state=outcome.state,
        error=str(outcome.error) if outcome.error else None,
        outcome=_numbers(outcome),
        bytes_per_token=_bytes_per_token(planned) if record else None,
        seconds=record.seconds if record else None,
        cpu_seconds=record.cpu_seconds if record else None,
        tokens=outcome.tokens,
    )


def _numbers(one: CellOutcome) -> RunOutcome | None:
    if one.verdict is None:
        return None
    return run_outcome(one.verdict, alarm=one.alarm, gap=one.gap, sampled_end=one.sampled_end)


def _bytes_per_token(planned: PlannedRun) -> int:
    teacher = next(stage for stage in planned.run.needs if stage.kind == "teacher")
    vocab_size = read_config(teacher.path / "model")["vocab_size"]
    return bytes_per_token(TargetSpec.parse(planned.cell.arm.target), vocab_size)


def _costs(stages: Sequence[Stage], records: Sequence[StageRecord]) -> tuple[StageCosts, ...]:
    """Count and processor time of each kind of stage."""
    found: dict[str, list[float]] = {}
    for stage, record in zip(stages, records, strict=True):
        found.setdefault(stage.kind, []).append(record.cpu_seconds)
    return tuple(StageCosts(name=name, count=len(s), cpu_seconds=round(sum(s), 1)) for name, s in found.items())
