"""Writes divergences.json: terms of every divergence from their definitions, to fifty digits.

f(p, q) and g = ∂f/∂log q = q·∂f/∂q for one outcome, by arithmetic that shares nothing with thack. A test compares the
file with what this prints; Python's and Rust's formulas are compared with the file.

    python tests/vectors/divergences.py > tests/vectors/divergences.json
"""

from __future__ import annotations

import json
from decimal import Context, Decimal, localcontext
from itertools import product

NOTE = "log_p, log_q: null is -infinity. f, g: null is +infinity. Written by divergences.py."
DIVERGENCES: list[tuple[str, float | None]] = [
    ("forward_kl", None),
    ("reverse_kl", None),
    ("jsd", 0.5),
    ("jsd", 0.1),
    ("skewed_kl", 0.1),
    ("skewed_kl", 0.35),
    ("total_variation", None),
]
LOGS = (0.0, -0.25, -0.7, -3.0, -12.5, -32.0, -60.0, None)
# The smallest floats are e^-103.3 and e^-744.4: a share of either rounds to 0, where a mixture has mass.
DEEP_LOGS = (-103.3, -300.0, -744.4, -800.0)
PRECISION = Context(prec=50)


def exp(log: float | None) -> Decimal:
    return Decimal(0) if log is None else Decimal(log).exp()


def weighted(x: Decimal, y: Decimal) -> Decimal | None:
    """x · log(x / y): 0 where x is, None (infinite) where only y is."""
    if x == 0:
        return Decimal(0)
    return None if y == 0 else x * (x / y).ln()


def terms(kind: str, parameter: float | None, p: Decimal, q: Decimal) -> tuple[Decimal | None, Decimal | None]:
    """(f, g), None where it is infinite."""
    if kind == "forward_kl":
        return weighted(p, q), -p
    if kind == "reverse_kl":
        found = weighted(q, p)
        return found, None if found is None else found + q
    if kind == "total_variation":
        sign = (q > p) - (q < p)
        return abs(p - q) / 2, q * sign / 2
    share = Decimal(parameter or 0)
    m = share * p + (1 - share) * q
    of_p, of_q = weighted(p, m), weighted(q, m)
    assert of_p is not None and of_q is not None
    if kind == "skewed_kl":
        return of_p, (-p * (1 - share) * q / m if m else Decimal(0))
    return share * of_p + (1 - share) * of_q, (1 - share) * of_q


def table() -> dict[str, object]:
    """The content of divergences.json."""
    with localcontext(PRECISION):
        found = []
        for kind, parameter in DIVERGENCES:
            outcomes = []
            for log_p, log_q in [*product(LOGS, LOGS), *product(DEEP_LOGS, DEEP_LOGS)]:
                values = terms(kind, parameter, exp(log_p), exp(log_q))
                f, g = (None if value is None else float(value) for value in values)
                outcomes.append({"log_p": log_p, "log_q": log_q, "f": f, "g": g})
            found.append({"kind": kind, "parameter": parameter, "outcomes": outcomes})
    return {"note": NOTE, "divergences": found}


def text() -> str:
    """One outcome a line."""
    content = table()
    parts = []
    for one in content["divergences"]:  # type: ignore[attr-defined]
        lines = ",\n".join(f"    {json.dumps(outcome)}" for outcome in one["outcomes"])
        head = f'  {{"kind": {json.dumps(one["kind"])}, "parameter": {json.dumps(one["parameter"])}, "outcomes": [\n'
        parts.append(f"{head}{lines}\n  ]}}")
    return f'{{"note": {json.dumps(content["note"])},\n"divergences": [\n' + ",\n".join(parts) + "\n]}\n"


if __name__ == "__main__":
    print(text(), end="")
