"""Which column of a log is golden, the proxy, the baseline: thack's own columns, or others by a mapping."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from thack.errors import DataError, UsageError
from thack.schema.metrics import GOLDEN, PROXY, CurveName, MetricName, Role, TrainingKL, find_metric

#: What takes the oracle's place in golden where there is none, best first; the column says which it is.
STAND_INS = (Role.JUDGE, Role.HUMAN)
_STEPS = ("step", "global_step", "_step", "iteration")
_CURVES: Mapping[CurveName, tuple[str, ...]] = {
    "golden": (str(GOLDEN),),
    "proxy": (str(PROXY),),
    "baseline": (),  # follows from golden's column
    "monitor": (TrainingKL.MONITOR,),
    "fresh": (TrainingKL.FRESH,),
    "train_loss": ("loss", "train_loss"),
}
_NAMES = ("step", *_CURVES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The column of the step, and that of each curve which the log has."""

    step: str
    of: Mapping[CurveName, str]


def check_mapping(mapping: Mapping[str, str]) -> None:
    """Refuse a mapping of names that are no curves, before the log is read."""
    for name in mapping:
        if name not in _NAMES:
            raise UsageError(
                f"`mapping` names no curve {name!r}",
                details=[f"curves: {', '.join(_NAMES)}"],
                hint=_closest(name, _NAMES),
            )


def find_columns(present: set[str], mapping: Mapping[str, str], metric: MetricName, place: str) -> Columns:
    """Which column of a log is which curve. What the mapping names must be there; the rest is found or missing.

    Args:
        present: Every column of the log.
        mapping: Columns by curve, or by `step`.
        metric: Golden's where the mapping does not name it; the proxy's is the same against the teacher.
        place: Names the log in errors.

    Raises:
        DataError: a column of the mapping is missing, there is no step, or neither golden nor proxy.
    """
    found: dict[CurveName, str] = {}
    metric = _in_one_unit(metric, present)
    usual = {**_CURVES, "golden": (str(metric),), "proxy": (str(metric.against(Role.TEACHER)),)}
    for name, defaults in usual.items():
        column: str | None
        if name in mapping:
            column = _asked(mapping[name], name, present, place)
        elif name == "baseline":
            column = _baseline_of(found.get("golden"), present)
        else:
            column = next((one for one in defaults if one in present), None)
            if column is None and name == "golden":
                column = _stand_in(metric, present)
        if column is not None:
            found[name] = column
    step = _step(mapping, present, place)
    if "golden" not in found and "proxy" not in found:
        raise DataError(
            f"{place} has neither a golden nor a proxy column",
            details=[_listed(present)],
            hint="name them in `mapping`, such as golden=COLUMN,proxy=COLUMN; or distill with an evaluation set",
        )
    return Columns(step=step, of=found)


def _in_one_unit(metric: MetricName, present: set[str]) -> MetricName:
    """The metric per byte where a curve has no other: golden, proxy and baseline are compared with each other."""
    each = [metric, *(metric.against(role) for role in (*STAND_INS, Role.TEACHER))]
    each += [baseline for one in each if (baseline := one.of_baseline) is not None]
    is_per_byte = any(str(one.per_byte) in present and str(one) not in present for one in each)
    return metric.per_byte if is_per_byte else metric


def _asked(column: str, name: str, present: set[str], place: str) -> str:
    for candidate in (column, column.replace(".", "/")):
        if candidate in present:
            return candidate
    raise DataError(
        f"{place} has no column {column!r} (for {name})", details=[_listed(present)], hint=_closest(column, present)
    )


def _step(mapping: Mapping[str, str], present: set[str], place: str) -> str:
    if "step" in mapping:
        return _asked(mapping["step"], "step", present, place)
    found = next((column for column in _STEPS if column in present), None)
    if found is None:
        raise DataError(
            f"{place} has no column for the step",
            details=[_listed(present)],
            hint="name it in `mapping`, such as step=COLUMN",
        )
    return found


def _stand_in(golden: MetricName, present: set[str]) -> str | None:
    """The judge's or the human column in golden's place."""
    columns = [str(golden.against(role)) for role in STAND_INS]
    return next((column for column in columns if column in present), None)


def _baseline_of(golden: str | None, present: set[str]) -> str | None:
    """The baseline of golden's column, of the same divergence; None for another trainer's columns."""
    metric = GOLDEN if golden is None else find_metric(golden)
    baseline = str(metric.of_baseline) if metric is not None else ""
    return baseline if baseline in present else None


def _listed(present: set[str]) -> str:
    return f"it has: {', '.join(sorted(present)[:40])}"


def _closest(name: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}?" if close else None
