"""What a card says of a run beside its verdict: how it ended, on what it was measured, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from thack.detection import Curves
from thack.errors import DataError
from thack.reporting.inputs import COSTS, JudgedRun, read_run
from thack.reporting.model_card import Fact
from thack.reporting.prose import baseline_name, golden_name
from thack.schema.metrics import CurveName, unit_of
from thack.schema.run import RunFacts


def read_judged(run: Path) -> JudgedRun | None:
    """A run with its verdict; None where it has no evaluations, as of a fine-tuning."""
    try:
        return read_run(run, None, None)
    except DataError:
        return None


def measured_facts(judged: JudgedRun | None) -> tuple[Fact, ...]:
    """Lines for a card."""
    return () if judged is None else tuple(_facts(judged))


def _facts(judged: JudgedRun) -> Iterator[Fact]:
    names: dict[CurveName, str] = {"golden": "", "proxy": "proxy (distance to the teacher)", "baseline": ""}
    for curve, name in names.items():
        column = judged.curves.column_of.get(curve)
        if column is not None:
            yield Fact(name=name or _name(curve, judged.curves.column_of["golden"]), text=_end(judged.curves, column))
    if judged.facts is not None:
        yield from _given(judged.facts)
    for column, value in judged.costs.items():
        yield Fact(name=f"cost, {COSTS[column]}", text=f"{value:,.10g}" if value < 1e15 else f"{value:.3g}")


def _given(facts: RunFacts) -> Iterator[Fact]:
    if facts.eval_prompts is not None:
        yield Fact(name="measured on", text=f"{facts.eval_prompts} held-out prompts, {facts.eval_set}")
    if facts.data is not None:
        yield Fact(name="data", code=facts.data)
    if facts.cache is not None:
        yield Fact(name="cache", code=facts.cache, text=f", {facts.target}" if facts.target else "")


def _name(curve: CurveName, golden: str) -> str:
    if curve == "golden":
        return f"golden ({golden_name(golden)})"
    return f"teacher baseline ({baseline_name(golden)})"


def _end(curves: Curves, column: str) -> str:
    """The last value with its interval, as the last evaluation logged them."""
    value, low, high = (curves.last(name) for name in (column, f"{column}/low", f"{column}/high"))
    between = "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"
    return f"{value:.4g}{between} {unit_of(column)} at step {curves.step_E[-1]:.10g}"
