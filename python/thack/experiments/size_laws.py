"""Power laws from a grid's runs on fixed responses: when golden turned, and how far it rose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from thack.config.experiment import ExperimentSettings
from thack.detection import Verdict
from thack.detection.size_law import fit_size_law
from thack.experiments.cells import base_arm
from thack.experiments.outcome import CellOutcome
from thack.reading import read_json
from thack.schema.experiment import ExperimentArm
from thack.schema.run import Manifest, RunFacts
from thack.schema.size_law import SizedRun, SizeLaw

_SEEN = 0.01  # a smaller rise is known as at most this


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    arm: ExperimentArm
    facts: RunFacts
    verdict: Verdict

    def sized(self, low: float, high: float | None) -> SizedRun:
        assert self.facts.cache_costs is not None, "asked before"
        return SizedRun(
            task=self.arm.task,
            tokens=self.facts.cache_costs.tokens,
            responses_per_prompt=self.arm.budget * self.arm.diversity,
            parameters=self.facts.parameters["student"],
            low=low,
            high=high,
        )


def size_laws(settings: ExperimentSettings, outcomes: Sequence[CellOutcome]) -> tuple[SizeLaw, ...]:
    """The laws of all runs that differ from the plain offline one in task and sizes alone; none of too few runs.

    Raises:
        DataError: a run's manifest cannot be read.
    """
    distill, runs = settings.distill, list(_runs(base_arm(settings), outcomes))
    fit = partial(fit_size_law, batch_size=distill.batch_size, learning_rate=distill.optimizer.learning_rate)
    decided = [run for run in runs if run.verdict.name != "inconclusive"]
    found = (
        fit(
            [_onset(run, distill.batch_size) for run in decided],
            "passes until golden turns",
            num_undecided=len(runs) - len(decided),
        ),
        fit([_rise(run) for run in runs], "rise of golden"),
    )
    return tuple(law for law in found if law is not None)


def _runs(base: ExperimentArm, outcomes: Sequence[CellOutcome]) -> Iterator[_Run]:
    for outcome in outcomes:
        arm, path = outcome.planned.cell.arm, outcome.planned.run.path / "manifest.json"
        golden = outcome.verdict.golden if outcome.verdict else None
        if outcome.verdict is None or golden is None or golden.rise is None or _without_sizes(arm, base) != base:
            continue
        if path.is_file():  # it may be copied without it
            facts = Manifest.parse(read_json(path), str(path)).facts
            if facts.cache_costs is not None:  # a live target's tokens were not counted once each
                yield _Run(arm=arm, facts=facts, verdict=outcome.verdict)


def _without_sizes(arm: ExperimentArm, base: ExperimentArm) -> ExperimentArm:
    same = ("task", "num_prompts", "diversity", "budget", "student")
    return replace(arm, **{name: getattr(base, name) for name in same})


def _onset(run: _Run, batch_size: int) -> SizedRun:
    assert run.verdict.golden is not None, "asked before"
    passes = batch_size / run.facts.sequences  # a step
    after, before = run.verdict.onset_interval or (run.verdict.golden.end_step, None)
    return run.sized(after * passes, None if before is None else before * passes)


def _rise(run: _Run) -> SizedRun:
    assert run.verdict.golden is not None and run.verdict.golden.rise is not None, "asked before"
    rise = run.verdict.golden.rise
    return run.sized(rise, rise) if rise > _SEEN else run.sized(0.0, _SEEN)
