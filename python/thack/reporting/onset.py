"""The law of onset in words and as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping

from thack.reporting.table import DASH, Row, Table, strong, table
from thack.schema.onset import Covariate, OnsetForecast, OnsetLaw

_NAMES: Mapping[Covariate, str] = {
    "tokens": "response tokens, each counted once",
    "responses_per_prompt": "responses per prompt",
    "parameters": "weights of the student",
}


def about_onset(law: OnsetLaw) -> str:
    """What the table says, and what it rests on."""
    tasks = ", ".join(law.intercepts)
    without = f"; in {law.num_without} of them golden had not turned by the end, which is a lower bound" * bool(
        law.num_without
    )
    undecided = f" {law.num_undecided} inconclusive runs are left out." * bool(law.num_undecided)
    return (
        "When golden turns on fixed responses: passes over them = constant of the task · Π size^exponent, fitted to "
        f"{law.num_runs} runs ({tasks}){without}.{undecided} One run differs from the law by a factor of "
        f"{_factor(law.spread)} (one standard deviation)."
    )


def onset_table(law: OnsetLaw) -> Table:
    """Each size with its exponent, and how well sizes are foretold that were left out of the fit."""
    rows: list[Row] = []
    for name, exponent in law.exponents.items():
        interval = law.intervals.get(name)
        missed = [f"{one.value:,.10g}: {one.factor:.2f}×" for one in law.left_out if one.covariate == name]
        low, high = law.ranges[name]
        rows.append(
            [
                _NAMES[name],
                f"{low:,.0f} … {high:,.0f}",
                strong(_signed(exponent)),
                DASH if interval is None else f"{_signed(interval[0])} … {_signed(interval[1])}",
                "; ".join(missed) or DASH,
            ]
        )
    head = ["size", "seen", "exponent", "95 % over runs", "left out of the fit, foretold within a factor of"]
    return table(head, rows, "numbers stacked")


def forecast_text(found: OnsetForecast) -> str:
    """`after about 4.9 passes [2.1, 11]`, with what lies outside of what the law has seen."""
    low, high = found.interval
    text = f"after about {_passes(found.passes)} passes [{_passes(low)}, {_passes(high)}]"
    if not found.outside:
        return text
    outside = ", ".join(f"{_NAMES[name]} {factor:,.2g} times" for name, factor in found.outside.items())
    return f"{text}, by a law that has not seen such sizes ({outside} outside)"


def _passes(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:,.0f}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _factor(spread: float) -> str:
    return f"{math.exp(spread):.2f}"
