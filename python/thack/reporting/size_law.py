"""Power laws by the sizes of data and student, in words and as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator

from thack.reporting.table import DASH, Row, Table, strong, table
from thack.schema.size_law import NAMES, SizeLaw


def about_law(law: SizeLaw) -> str:
    """What the law says, and what it rests on."""
    return " ".join(_sentences(law))


def _sentences(law: SizeLaw) -> Iterator[str]:
    quantity, tasks = law.quantity.capitalize(), ", ".join(law.intercepts)
    yield (
        f"{quantity} on fixed responses, as constant of the task · Π size^exponent: fitted to {law.num_runs} runs of "
        f"batch {law.batch_size} and rate {law.learning_rate:g} ({tasks})."
    )
    if law.num_open:
        yield f"In {law.num_open} of them golden had not risen by the end, which is a bound."
    if law.num_undecided:
        yield f"{law.num_undecided} inconclusive runs are left out."
    yield f"One run differs from the law by a factor of {math.exp(law.spread):.2f} (one standard deviation)."


def law_table(law: SizeLaw) -> Table:
    """Each size with its exponent, and how well sizes are foretold that were left out of the fit."""
    rows: list[Row] = []
    for name, exponent in law.exponents.items():
        interval = law.intervals.get(name)
        missed = [f"{one.value:,.0f}: {one.factor:.2f}×" for one in law.left_out if one.covariate == name]
        low, high = law.ranges[name]
        rows.append(
            [
                NAMES[name],
                f"{low:,.0f} … {high:,.0f}",
                strong(_signed(exponent)),
                DASH if interval is None else f"{_signed(interval[0])} … {_signed(interval[1])}",
                "; ".join(missed) or DASH,
            ]
        )
    head = ["size", "seen", "exponent", "95 % over runs", "left out of the fit, foretold within a factor of"]
    return table(head, rows, "numbers stacked")


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
