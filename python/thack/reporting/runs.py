"""What a report is about: runs, each with its curves, verdict and facts, gathered into arms over seeds."""

from __future__ import annotations

import json
import re
import statistics
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from thack.detection import Curves, Margins, OracleFreeVerdict, Verdict, verdict, verdict_without_oracle
from thack.errors import DataError, UsageError
from thack.files import flattened, read_json
from thack.runtime import runlog
from thack.runtime.status import read_status
from thack.schema.run import Status

_SEED = re.compile(r"^(?P<arm>.*?)[-_./ ]*seed[-_ ]?(?P<seed>\d+)$")
COSTS = {
    "generated_tokens": "tokens generated",
    "teacher_tokens": "teacher tokens scored",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class Run:
    """One run directory, judged."""

    path: Path
    name: str
    arm: str
    seed: int | None
    curves: Curves
    verdict: Verdict
    suspicion: OracleFreeVerdict
    config: Mapping[str, object]  # flat: "source.kind" → "offline"
    environment: Mapping[str, object]
    examples: tuple[Mapping[str, str], ...]
    status: Status | None  # None where there is no STATUS.json

    @property
    def has_oracle(self) -> bool:
        """Whether golden, or what stands in for it, was measured; a short run may still have nothing to judge."""
        return self.curves.has("golden")

    @property
    def costs(self) -> dict[str, float]:
        found = {column: self.curves.last(column) for column in COSTS}
        return {column: value for column, value in found.items() if value is not None}


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed only."""

    name: str
    runs: tuple[Run, ...]

    @cached_property
    def verdicts(self) -> dict[str, int]:
        """How many runs got which name, the most frequent first."""
        names = [run.verdict.name for run in self.runs]
        return dict(sorted(((name, names.count(name)) for name in set(names)), key=lambda item: (-item[1], item[0])))

    @property
    def verdict(self) -> str:
        """The name that more than half of the runs got; inconclusive if there is none."""
        name, count = next(iter(self.verdicts.items()))
        return name if 2 * count > len(self.runs) else "inconclusive"

    @property
    def rises(self) -> list[float]:
        return [run.verdict.golden.rise for run in self.runs if run.verdict.golden is not None]

    @property
    def onsets(self) -> list[float]:
        return [run.verdict.onset_step for run in self.runs if run.verdict.onset_step is not None]

    @property
    def median_rise(self) -> float | None:
        return statistics.median(self.rises) if self.rises else None


@dataclass(frozen=True)
class Subject:
    """Everything one report shows."""

    title: str | None
    arms: tuple[Arm, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for arm in self.arms for run in arm.runs)

    @property
    def golden_column(self) -> str:
        return golden_column(self.arms)


def golden_column(arms: Sequence[Arm]) -> str:
    """What plays golden in these runs: the oracle's column, or a stand-in's; empty where nothing does."""
    return next((run.curves.words["golden"] for arm in arms for run in arm.runs if run.has_oracle), "")


def load(paths: Sequence[Path], out: Path, *, title: str | None = None, margins: Margins | None = None) -> Subject:
    """Read and judge the runs. An `experiment.json` beside the report or the runs names arms and seeds."""
    if not paths:
        raise UsageError("a report needs at least one run", hint="thack report runs/a runs/b")
    resolved = [Path(path) for path in paths]
    experiment = _experiment(resolved, out)
    places = _places(experiment, resolved)
    runs = [read_run(path, places.get(path.resolve()), margins) for path in resolved]
    if len({run.name for run in runs}) < len(runs):  # a/offline and b/offline
        names = [str(path) for path in resolved]
        runs = [_renamed(run, name) for run, name in zip(runs, names, strict=True)]
    gathered: dict[str, list[Run]] = {}
    for run in runs:
        gathered.setdefault(run.arm, []).append(run)
    arms = tuple(Arm(name, tuple(found)) for name, found in gathered.items())
    return Subject(title=title or _text(experiment.get("title")), arms=arms)


def _experiment(paths: Sequence[Path], out: Path) -> Mapping[str, Any]:
    parents = {path.resolve().parent for path in paths}
    for directory in (out.resolve().parent, *sorted(parents), *sorted({p.parent for p in parents})):
        path = directory / "experiment.json"
        if path.is_file():
            content = read_json(path)
            if isinstance(content, dict):
                return content
    return {}


def _places(experiment: Mapping[str, Any], paths: Sequence[Path]) -> dict[Path, tuple[str, int | None]]:
    """Arm and seed by run directory; paths in experiment.json may be relative, or of a directory moved since."""
    places: dict[Path, tuple[str, int | None]] = {}
    entries = [entry for entry in experiment.get("runs", []) if isinstance(entry, dict) and "arm" in entry]
    for path in paths:
        for entry in entries:
            told = Path(str(entry.get("path", "")))
            tail = told.parts[-2:]
            if told.resolve() == path.resolve() or (tail and path.resolve().parts[-len(tail) :] == tail):
                places[path.resolve()] = (str(entry["arm"]), entry.get("seed"))
    return places


def read_run(path: Path, place: tuple[str, int | None] | None, margins: Margins | None) -> Run:
    """Read and judge one run; `place` names its arm and seed where its directory does not."""
    curves = Curves.from_run(path) if path.is_dir() else Curves.from_jsonl(path)
    directory = path if path.is_dir() else path.parent
    name = path.resolve().name if path.is_dir() else path.stem
    found = _SEED.match(name)
    arm, seed = place or ((found["arm"] or name, int(found["seed"])) if found else (name, None))
    return Run(
        path=path,
        name=name,
        arm=arm,
        seed=seed,
        curves=curves,
        verdict=verdict(curves, margins),
        suspicion=verdict_without_oracle(curves),
        config=_config(directory / "config.toml"),
        environment=_json(directory / "environment.json"),
        examples=_examples(directory / "examples.jsonl"),
        status=read_status(directory),
    )


def _renamed(run: Run, name: str) -> Run:
    arm = name if run.arm == run.name else run.arm
    return Run(**{**run.__dict__, "name": name, "arm": arm})


def _config(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        return flattened(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not TOML ({error})") from error


def _json(path: Path) -> dict[str, object]:
    found = read_json(path) if path.is_file() else {}
    return flattened(found) if isinstance(found, dict) else {}


def _examples(path: Path) -> tuple[Mapping[str, str], ...]:
    """Rows of prompt, and what each role answered; anything else in a row is left out."""
    if not path.is_file():
        return ()
    rows = runlog.read(path)
    return tuple({key: value for key, value in row.items() if isinstance(value, str)} for row in rows[:12])


def shown(value: object) -> str:
    """A setting as one would type it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
