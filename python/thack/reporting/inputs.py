"""What a report is about: runs, each with its curves, verdict and facts, gathered into arms over seeds."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from thack.detection import Curves, Margins, OracleFreeVerdict, Verdict, verdict, verdict_without_oracle
from thack.errors import DataError, UsageError
from thack.files import flattened
from thack.reading import read_json, read_toml
from thack.runtime import runlog
from thack.runtime.status import read_status
from thack.schema.experiment import SUMMARY_FILE, RunLabel, RunLabels
from thack.schema.metrics import GOLDEN, CurveName, MetricName, unit_of
from thack.schema.run import Manifest, RunFacts, Status
from thack.schema.samples import PROMPTS_FILE, SAMPLES_FILE, PromptRow, SampleRow

_SEED = re.compile(r"^(?P<arm>.*?)[-_./ ]*seed[-_ ]?(?P<seed>\d+)$")
_JUDGED: tuple[CurveName, ...] = ("golden", "proxy")
COSTS = {
    "generated_tokens": "tokens generated",
    "teacher_tokens": "tokens scored by the teacher",
    "evaluation_generated_tokens": "tokens generated to evaluate",
    "evaluation_scored_tokens": "tokens scored to evaluate",
    "eval_set_tokens": "tokens generated for the evaluation set",
    "cache_tokens": "tokens scored for the cache",
    "cache_seconds": "seconds of the cache",
    "seconds_evaluation": "seconds of evaluations",
    "seconds": "seconds in all",
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
    samples: tuple[SampleRow, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)  # held-out ones: text by id, in the evaluation set's order
    facts: RunFacts | None = None  # None where there is no manifest of a run
    status: Status | None  # None where there is no STATUS.json

    @property
    def has_oracle(self) -> bool:
        """Whether golden, or what replaces it, was measured; a short run may still have nothing to judge."""
        return self.curves.has("golden")

    @property
    def answer(self) -> str:
        """The name of its verdict; without an oracle, of what is suspected."""
        return self.verdict.name if self.has_oracle else self.suspicion.name

    @property
    def costs(self) -> dict[str, float]:
        """The last value of each column of costs that the run has, with what evaluation set and cache had cost."""
        found = {column: self.curves.last(column) for column in COSTS}
        if self.facts is not None and self.facts.eval_prompts is not None:
            found["eval_set_tokens"] = self.facts.eval_tokens
        if self.facts is not None and (cache := self.facts.cache_costs) is not None:
            found |= {"cache_tokens": cache.tokens, "cache_seconds": cache.seconds}
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
        names = [run.answer for run in self.runs]
        return dict(sorted(((name, names.count(name)) for name in set(names)), key=lambda item: (-item[1], item[0])))

    @property
    def verdict(self) -> str:
        """The verdict that more than half of the runs got; inconclusive if there is none."""
        name, count = next(iter(self.verdicts.items()))
        return name if 2 * count > len(self.runs) else "inconclusive"

    @property
    def rises(self) -> list[float]:
        """Golden's rise in every run that has one."""
        found = (run.verdict.golden.rise for run in self.runs if run.verdict.golden is not None)
        return [rise for rise in found if rise is not None]

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


def unit(arms: Sequence[ArmRuns]) -> str:
    """What golden and proxy are in, in these runs."""
    return next(iter(units(arms)), "nats per token")


def units(arms: Sequence[ArmRuns]) -> dict[str, str]:
    """Every unit of golden or proxy in these runs, with the first run that has it."""
    found: dict[str, str] = {}
    for run in (run for arm in arms for run in arm.runs):
        column = run.curves.column_of.get("golden", run.curves.column_of.get("proxy"))
        if column is not None:
            found.setdefault(unit_of(column), run.label)
    return found


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
    runs = in_one_unit([partial(read_run, path, _label_of(path, labels), margins) for path in paths])
    if len({run.name for run in runs}) < len(runs):  # a/offline and b/offline
        runs = [_renamed(run, str(path)) for run, path in zip(runs, paths, strict=True)]
    gathered: dict[str, list[JudgedRun]] = {}
    for run in runs:
        gathered.setdefault(run.arm, []).append(run)
    arms = tuple(ArmRuns(name, tuple(found)) for name, found in gathered.items())
    return ReportInput(title=title or labels.title or None, arms=arms)


def in_one_unit(readers: Sequence[Callable[..., JudgedRun]]) -> list[JudgedRun]:
    """Runs, all per byte where one of them is measured so alone, and the others are measured so too.

    Args:
        readers: `read_run` of each, but for its `metric`.
    """
    runs = [read() for read in readers]
    if not any(run.curves.is_per_byte for run in runs):
        return runs
    return [
        read(metric=GOLDEN.per_byte) if _has_per_byte(run) else run for read, run in zip(readers, runs, strict=True)
    ]


def _has_per_byte(run: JudgedRun) -> bool:
    """Whether a run that is read in another unit has its golden and its proxy per byte too."""
    metrics = [metric for name in _JUDGED if (metric := run.curves.metric(name)) is not None]
    return (
        not run.curves.is_per_byte
        and run.path.is_dir()
        and all(str(metric.per_byte) in run.curves.columns for metric in metrics)
    )


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


def read_run(
    path: Path,
    label: RunLabel | None,
    margins: Margins | None,
    *,
    online: Path | None = None,
    metric: MetricName = GOLDEN,
) -> JudgedRun:
    """Read and judge one run.

    Args:
        path: Its directory, or a log.
        label: Names its arm and seed where its directory does not.
        margins: Of the verdict; None: `Margins()`.
        online: Its online path.
        metric: Golden's.
    """
    curves = Curves.from_run(path, metric=metric) if path.is_dir() else Curves.from_log(path)
    directory = path if path.is_dir() else path.parent
    name = path.resolve().name if path.is_dir() else path.stem
    found = _SEED.match(name)
    arm, seed = (found["arm"] or name, int(found["seed"])) if found else (name, None)
    if label is not None:
        arm, seed = label.arm, label.seed
    facts = _facts(directory / "manifest.json")
    return JudgedRun(
        path=path,
        name=name,
        arm=arm,
        seed=seed,
        curves=curves,
        verdict=verdict(curves, margins, online=None if online is None else curves.like(online)),
        suspicion=verdict_without_oracle(curves),
        config=_with_target(_config(directory / "config.toml"), facts),
        environment={**_json(directory / "environment.json"), **_precisions(facts)},
        samples=tuple(SampleRow.parse(row, str(directory / SAMPLES_FILE)) for row in _lines(directory / SAMPLES_FILE)),
        prompts=_prompts(directory / PROMPTS_FILE),
        facts=facts,
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


def _facts(path: Path) -> RunFacts | None:
    """What went into a run; None where the manifest is not a run's of this version."""
    with suppress(DataError):
        if path.is_file():
            return Manifest.parse(read_json(path), str(path)).facts
    return None


def _precisions(facts: RunFacts | None) -> dict[str, object]:
    """Number format of each model's products."""
    return {f"precision.{role}": text for role, text in facts.precision.items()} if facts else {}


def _with_target(config: dict[str, object], facts: RunFacts | None) -> dict[str, object]:
    """The settings, with the target that was used: the settings of a live teacher's say nothing of a cache's."""
    if not config.get("cache"):
        return config
    kept = {key: value for key, value in config.items() if not key.startswith("target.")}
    return kept | ({"target, of the cache": facts.target} if facts and facts.target else {})


def _lines(path: Path) -> list[dict[str, object]]:
    return runlog.read(path) if path.is_file() else []


def _prompts(path: Path) -> dict[str, str]:
    rows = [PromptRow.parse(row, str(path)) for row in _lines(path)]
    return {row.prompt_id: row.text for row in rows}


def typed(value: object) -> str:
    """A setting as one would type it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
