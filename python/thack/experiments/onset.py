"""When golden turned in a grid's runs on fixed responses, and the law of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from thack.config.experiment import ExperimentSettings
from thack.detection import Verdict
from thack.detection.onset_law import fit_onset_law
from thack.experiments.cells import base_arm
from thack.experiments.outcome import CellOutcome
from thack.reading import read_json
from thack.schema.experiment import ExperimentArm
from thack.schema.onset import OnsetLaw, OnsetRun
from thack.schema.run import Manifest, RunFacts


def onset_law(settings: ExperimentSettings, outcomes: Sequence[CellOutcome]) -> OnsetLaw | None:
    """The law of all runs that differ from the plain offline one in task and sizes alone; None of too few.

    Raises:
        DataError: a run's manifest cannot be read.
    """
    base = base_arm(settings)
    found, undecided = [], 0
    for outcome in outcomes:
        arm = outcome.planned.cell.arm
        if outcome.verdict is None or outcome.verdict.golden is None or _sizes_apart(arm, base) != base:
            continue
        path = outcome.planned.run.path / "manifest.json"
        if not path.is_file():  # copied without it
            continue
        facts = Manifest.parse(read_json(path), str(path)).facts
        if facts.cache_costs is None:  # a live target: its tokens were not counted once each
            continue
        if outcome.verdict.name == "inconclusive":
            undecided += 1
            continue
        found.append(_run(arm, facts, outcome.verdict, settings.distill.batch_size))
    law = fit_onset_law(found)
    return None if law is None else replace(law, num_undecided=undecided)


def _sizes_apart(arm: ExperimentArm, base: ExperimentArm) -> ExperimentArm:
    same = ("task", "num_prompts", "diversity", "budget", "student")
    return replace(arm, **{name: getattr(base, name) for name in same})


def _run(arm: ExperimentArm, facts: RunFacts, found: Verdict, batch_size: int) -> OnsetRun:
    assert facts.cache_costs is not None and found.golden is not None, "asked before"
    passes = batch_size / facts.sequences  # a step
    after, before = found.onset_interval or (found.golden.end_step, None)
    return OnsetRun(
        task=arm.task,
        tokens=facts.cache_costs.tokens,
        responses_per_prompt=arm.budget * arm.diversity,
        parameters=facts.parameters["student"],
        after=after * passes,
        before=None if before is None else before * passes,
    )
