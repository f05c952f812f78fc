"""How much of a response's information comes from its prompt: a task's seeds together, and as a reason for a claim."""

from __future__ import annotations

from collections.abc import Iterable

from thack.experiments.plan import PlannedRun
from thack.reading import read_json
from thack.reporting.effects import effect_of
from thack.schema.evaluation import PROMPT_INFORMATION_FILE, PromptInformation
from thack.schema.experiment import TaskInformation


def task_information(planned: Iterable[PlannedRun]) -> tuple[TaskInformation, ...]:
    """What was measured of each task, over its seeds; a task without a complete measurement is left out.

    Raises:
        DataError: a measurement cannot be read.
    """
    found: dict[str, dict[int, PromptInformation]] = {}
    for one in planned:
        by_seed = found.setdefault(one.cell.arm.task, {})
        if one.information is not None and one.information.is_complete and one.cell.seed not in by_seed:
            path = one.information.path / PROMPT_INFORMATION_FILE
            by_seed[one.cell.seed] = PromptInformation.parse(read_json(path), str(path))
    return tuple(
        TaskInformation(
            task=task,
            with_prompt=effect_of({seed: one.with_prompt for seed, one in by_seed.items()}),
            without_prompt=effect_of({seed: one.without_prompt for seed, one in by_seed.items()}),
            from_prompt=effect_of({seed: one.from_prompt for seed, one in by_seed.items()}),
            share=effect_of({seed: one.share for seed, one in by_seed.items()}),
        )
        for task, by_seed in found.items()
        if by_seed
    )


def as_reason(found: TaskInformation | None) -> str:
    """In words: `the prompt gives 2.95 nats a response token, 78 % of its information`; empty without a measurement."""
    if found is None:
        return ""
    nats, share = found.from_prompt.mean, found.share.mean
    return f"the prompt gives {nats:.2f} nats a response token, {100 * share:.0f} % of its information"
