"""Parts of an evaluation that is not complete: committed one by one, so that a stop loses only the open one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from thack.errors import DataError
from thack.reading import BadJson, lines, parse_line
from thack.runtime.runlog import RunLog
from thack.schema.metric_rows import PerPromptRow, PromptSums
from thack.schema.metrics import HealthName, MetricName, find_column


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one pass over some responses gives."""

    sums: Mapping[MetricName, PromptSums]
    health: Mapping[HealthName, float] = field(default_factory=dict)
    generated_tokens: int = 0


class KeptParts:
    """The parts of one evaluation in a file beside its result; those of an earlier start are found again.

    Args:
        path: of the file.
        key: a hash of all that the evaluation depends on. Parts of another evaluation are dropped.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key
        self._parts = {name: part for name, part in _read(path, key)}
        path.unlink(missing_ok=True)
        self._log = RunLog(path)
        for name, part in self._parts.items():
            self._log.append(_dump(name, key, part))

    def of(self, name: str, measure: Callable[[], Part]) -> Part:
        """A part, measured now unless it is kept."""
        if name not in self._parts:
            self._parts[name] = part = measure()
            if all(math.isfinite(value) for value in part.health.values()):  # JSON has no name for others
                self._log.append(_dump(name, self._key, part))
                self._log.sync()
        return self._parts[name]

    def names(self) -> list[str]:
        """Of the parts so far."""
        return list(self._parts)

    def close(self) -> None:
        """Keep the file for the next start."""
        self._log.close()

    def remove(self) -> None:
        """The evaluation is complete."""
        self._log.close()
        self._path.unlink(missing_ok=True)


def _dump(name: str, key: str, part: Part) -> dict[str, object]:
    health = {str(column): value for column, value in part.health.items()}
    sums = PerPromptRow(step=None, metrics=part.sums).dump()
    return {"key": key, "part": name, "sums": sums, "health": health, "generated_tokens": part.generated_tokens}


def _read(path: Path, key: str) -> list[tuple[str, Part]]:
    """The parts up to the first line that is damaged."""
    found: list[tuple[str, Part]] = []
    if not path.is_file():
        return found
    try:
        for _, line in lines(path):
            raw = parse_line(line)
            if isinstance(raw, dict) and raw.get("key") == key:
                found.append((str(raw["part"]), _part(raw)))
    except (BadJson, DataError, KeyError, TypeError):
        pass
    return found


def _part(raw: Mapping[str, object]) -> Part:
    sums, health, tokens = raw["sums"], raw["health"], raw["generated_tokens"]
    if not isinstance(sums, Mapping) or not isinstance(health, Mapping) or not isinstance(tokens, int):
        raise DataError("not a part of an evaluation")
    columns = {
        column: float(value) for name, value in health.items() if isinstance(column := find_column(name), HealthName)
    }
    return Part(sums=PerPromptRow.parse(sums).metrics, health=columns, generated_tokens=tokens)
