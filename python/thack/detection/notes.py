"""What else is to be known of a run's curves: values that are missing, a guard that acted, an end not yet reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from thack.runtime.status import read_status
from thack.schema.metric_rows import GuardRow
from thack.schema.metrics import CurveName, Floats

_JUDGED: tuple[CurveName, ...] = ("golden", "proxy")


def missing_values(
    columns: Mapping[str, Floats], column_of: Mapping[CurveName, str], without_end: Sequence[CurveName]
) -> tuple[str, ...]:
    """Evaluations without a finite golden or proxy."""
    notes = [f"the last value of {name} is no number: where the student ends is not known" for name in without_end]
    present = [(name, columns[column_of[name]]) for name in _JUDGED if name in column_of]
    for name, value_E in present:
        if missing := int(np.sum(~np.isfinite(value_E))):
            notes.append(f"{missing} of {len(value_E)} evaluations have no finite {name} and are left out")
    if len(present) == len(_JUDGED) and not np.isfinite(sum(value_E for _, value_E in present)).any():
        notes.append("golden and proxy were never measured at the same step")
    return tuple(notes)


def of_guard(rows: Sequence[GuardRow]) -> tuple[str, ...]:
    """What a guard did in the run."""
    alarm = next((row for row in rows if row.action == "alarm"), None)
    if alarm is None:
        return ()
    value, threshold = (np.nan if number is None else number for number in (alarm.value, alarm.threshold))
    text = (
        f"a guard was on: {alarm.detector} {value:.2g} (alarm at {threshold:.2g}) at step {alarm.step}; "
        f"the checkpoint of step {alarm.kept_step} was kept"
    )
    added = [row for row in rows if row.action == "refresh"]
    if added:
        tokens = sum(row.fresh_tokens or 0 for row in added)
        epochs = ", ".join(str(row.epoch) for row in added)
        text += f"; {len(added)} newly sampled responses per prompt ({tokens:,} tokens) joined in epochs {epochs}"
    if any(row.action == "stop" for row in rows):
        text += "; then it stopped"
    return (text,)


def of_status(directory: Path) -> tuple[str, ...]:
    """A run that still runs, was stopped or failed: its last value is not its end."""
    status = read_status(directory)
    if status is None or status.state == "finished":
        return ()
    step = "?" if status.step is None else status.step
    return (f"the run is not finished ({status.state} at step {step}): these numbers may still change",)
