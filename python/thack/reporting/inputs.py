"""What a report is about: runs, each with its curves, verdict and facts, gathered into arms over seeds."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from thack.detection import Curves, Margins, OracleFreeVerdict, Verdict, verdict, verdict_without_oracle
from thack.errors import DataError, UsageError
from thack.files import flattened
from thack.reading import read_json, read_toml
from thack.runtime import runlog
from thack.runtime.status import read_status
from thack.schema.experiment import SUMMARY_FILE, RunLabel, RunLabels
from thack.schema.run import Manifest, Status

_SEED = re.compile(r"^(?P<arm>.*?)[-_./ ]*seed[-_ ]?(?P<seed>\d+)$")
COSTS = {
    "generated_tokens": "tokens generated",
    "teacher_tokens": "teacher tokens scored",
    "seconds": "seconds",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRun:
    """One run directory, read and judged."""

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
        """Whether golden, or what replaces it, was measured; a short run may still have nothing to judge."""
        return self.curves.has("golden")

    @property
    def costs(self) -> dict[str, float]:
        """The last value of each column of costs that the run has."""
        found = {column: self.curves.last(column) for column in COSTS}
        return {column: value for column, value in found.items() if value is not None}

    @property
    def label(self) -> str:
        """Its arm, and its seed if it has one."""
        return self.arm if self.seed is None else f"{self.arm}, seed {self.seed}"


@dataclass(frozen=True)
class ArmRuns:
    """The runs of one experiment arm: they differ in their seed only."""

    name: str
    runs: tuple[JudgedRun, ...]

    @cached_property
    def verdicts(self) -> dict[str, int]:
        """How many runs got which verdict, the most frequent first."""
        names = [run.verdict.name for run in self.runs]
        return dict(sorted(((name, names.count(name)) for name in set(names)), key=lambda item: (-item[1], item[0])))

    @property
    def verdict(self) -> str:
        """The verdict that more than half of the runs got; inconclusive if there is none."""
        name, count = next(iter(self.verdicts.items()))
        return name if 2 * count > len(self.runs) else "inconclusive"

    @property
    def rises(self) -> list[float]:
        """Golden's rise in every run that has one."""
        return [run.verdict.golden.rise for run in self.runs if run.verdict.golden is not None]

    @property
    def onsets(self) -> list[float]:
        """The step of the onset in every run that has one."""
        return [run.verdict.onset_step for run in self.runs if run.verdict.onset_step is not None]

    @property
    def median_rise(self) -> float | None:
        """The median of `rises`; None without any."""
        return statistics.median(self.rises) if self.rises else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInput:
    """Everything that one report shows."""

    title: str | None
    arms: tuple[ArmRuns, ...]

    @property
    def runs(self) -> tuple[JudgedRun, ...]:
        """Every run, arm by arm."""
        return tuple(run for arm in self.arms for run in arm.runs)

    @property
    def has_seeds(self) -> bool:
        """Whether an arm has more than one run."""
        return len(self.runs) > len(self.arms)

    @property
    def golden_column(self) -> str:
        """The column of golden, or of what replaces it."""
        return golden_column(self.arms)


def golden_column(arms: Sequence[ArmRuns]) -> str:
    """Golden's column in these runs: the oracle's, or of what replaces it; empty if there is none."""
    return next((run.curves.column_of["golden"] for arm in arms for run in arm.runs if run.has_oracle), "")


def load(paths: Sequence[Path], out: Path, *, title: str | None = None, margins: Margins | None = None) -> ReportInput:
    """Read and judge runs; an `experiment.json` beside the report or the runs names their arms and seeds.

    Args:
        paths: Run directories, or metrics logs of other trainers.
        out: Where the report is to be written.
        title: Of the report; by default that of experiment.json.
        margins: Of the verdicts; by default `Margins()`.

    Raises:
        UsageError: there is no path.
        DataError: a path is not a run, or a file of it cannot be read.
    """
    if not paths:
        raise UsageError("a report needs at least one run", hint="thack report runs/a runs/b")
    labels = _labels(paths, out)
    runs = [read_run(path, _label_of(path, labels), margins) for path in paths]
    if len({run.name for run in runs}) < len(runs):  # a/offline and b/offline
        runs = [_renamed(run, str(path)) for run, path in zip(runs, paths, strict=True)]
    gathered: dict[str, list[JudgedRun]] = {}
    for run in runs:
        gathered.setdefault(run.arm, []).append(run)
    arms = tuple(ArmRuns(name, tuple(found)) for name, found in gathered.items())
    return ReportInput(title=title or labels.title or None, arms=arms)


def _labels(paths: Sequence[Path], out: Path) -> RunLabels:
    """Those of the nearest experiment.json; a file of that name that is not thack's has none."""
    parents = {path.resolve().parent for path in paths}
    for directory in (out.resolve().parent, *sorted(parents), *sorted({p.parent for p in parents})):
        path = directory / SUMMARY_FILE
        if path.is_file():
            with suppress(DataError):
                return RunLabels.parse(read_json(path), str(path))
    return RunLabels()


def _label_of(path: Path, labels: RunLabels) -> RunLabel | None:
    """The last one of this run; its path may be relative, or of a directory that was moved since."""
    found, parts = None, path.resolve().parts
    for label in labels.runs:
        tail = Path(label.path).parts[-2:]
        if Path(label.path).resolve() == path.resolve() or (tail and parts[-len(tail) :] == tail):
            found = label
    return found


def read_run(path: Path, label: RunLabel | None, margins: Margins | None) -> JudgedRun:
    """Read and judge one run; `label` names its arm and seed where its directory does not."""
    curves = Curves.from_run(path) if path.is_dir() else Curves.from_log(path)
    directory = path if path.is_dir() else path.parent
    name = path.resolve().name if path.is_dir() else path.stem
    found = _SEED.match(name)
    arm, seed = (found["arm"] or name, int(found["seed"])) if found else (name, None)
    if label is not None:
        arm, seed = label.arm, label.seed
    return JudgedRun(
        path=path,
        name=name,
        arm=arm,
        seed=seed,
        curves=curves,
        verdict=verdict(curves, margins),
        suspicion=verdict_without_oracle(curves),
        config=_config(directory / "config.toml"),
        environment={**_json(directory / "environment.json"), **_precisions(directory / "manifest.json")},
        examples=_examples(directory / "examples.jsonl"),
        status=read_status(directory),
    )


def _renamed(run: JudgedRun, name: str) -> JudgedRun:
    return replace(run, name=name, arm=name if run.arm == run.name else run.arm)


def _config(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    return flattened(read_toml(path))


def _json(path: Path) -> dict[str, object]:
    found = read_json(path) if path.is_file() else {}
    return flattened(found) if isinstance(found, dict) else {}


def _precisions(path: Path) -> dict[str, object]:
    """Number format of each model's products; none where the manifest is not a run's of this version."""
    with suppress(DataError):
        if path.is_file():
            found = Manifest.parse(read_json(path), str(path)).facts.precision
            return {f"precision.{role}": text for role, text in found.items()}
    return {}


def _examples(path: Path) -> tuple[Mapping[str, str], ...]:
    """Rows of a prompt and the answer of each role; anything else in a row is left out."""
    if not path.is_file():
        return ()
    rows = runlog.read(path)
    return tuple({key: value for key, value in row.items() if isinstance(value, str)} for row in rows[:12])


def typed(value: object) -> str:
    """A setting as one would type it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
